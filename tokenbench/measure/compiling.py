"""Models under `torch.compile`: one graph for batches of one image, and one for all larger ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn


class Compiled(nn.Module):
    """A model under `torch.compile`, in which the size of the batch is dynamic unless it is 1.

    A model that cannot be one graph for all sizes is compiled for each. With `freezing` its weights are constants of
    the graph, which a CPU's kernels may lay out anew and join with what follows; later changes of them do not show.
    """

    def __init__(self, model: nn.Module, freezing: bool = False) -> None:
        super().__init__()
        self.model = model
        self.freezing = freezing
        self._run: Any = torch.compile(model, dynamic=False)  # all that is not marked
        self._took: dict[bool, float] = {}

    def forward(self, images: Tensor) -> Any:
        """What the model gives; its first runs compile."""
        from torch._dynamo import maybe_mark_dynamic

        one = images.shape[0] == 1
        if not one:
            maybe_mark_dynamic(images, 0)
        if one in self._took:
            return self._run(images)
        from torch._inductor import config

        began = perf_counter()
        with config.patch(freezing=self.freezing):
            out = self._run(images)
        if images.device.type != "cpu":
            torch.accelerator.synchronize(images.device)
        self._took[one] = perf_counter() - began
        return out

    def seconds(self, batch: int) -> float | None:
        """What the first run took that compiled the graph for this size of batch; None if there was none yet."""
        return self._took.get(batch == 1)


@contextmanager
def compiled(models: Mapping[str, nn.Module]) -> Iterator[dict[str, nn.Module]]:
    """The models under `torch.compile`, those that are not so already; they compile on their first run inside."""
    import torch._dynamo as dynamo

    # All models share the code of their forward: past its limit dynamo would run the rest uncompiled without a word.
    with dynamo.config.patch(recompile_limit=4096, accumulated_recompile_limit=4096):
        yield {name: m if isinstance(m, Compiled) else Compiled(m) for name, m in models.items()}
