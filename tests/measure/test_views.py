"""What is said of clips, by all their views and by each, to the last number and type."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from refusals import refused
from torch import Tensor, nn

from tokenbench.errors import DataError, ResultsError, TokenbenchError
from tokenbench.measure.accuracy import Predictions
from tokenbench.measure.running import OutOfMemory
from tokenbench.measure.views import Viewed, answer, gather, join


class Batch(SimpleNamespace):
    """Two clips of three views each, of classes 1 and 3 of four."""

    def __init__(self, **changes: Any) -> None:
        told = {"targets": torch.tensor([1, 3]), "views": 3, "logits": None}
        told |= {"decoded": torch.tensor([9, 8]), "seconds": torch.tensor([0.5, 0.25], dtype=torch.float32)}
        super().__init__(**{**told, **changes})

    def __len__(self) -> int:
        return len(self.targets)


class Says(nn.Module):
    """Gives its input as logits, and remembers how many views came at once and how."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[tuple[int, bool]] = []

    def forward(self, x: Tensor) -> Tensor:
        self.heard.append((len(x), torch.is_autocast_enabled("cpu")))
        return x


# By views: classes 0, 1 and 1; then 3, 2 and 3. By the mean of probabilities: 0 and 2, of which one view is sure.
LOGITS = torch.tensor(
    [[9, 0, 0, 0], [0, 0.1, 0, -1], [0, 0.1, 0, -1], [0, 0, 0.4, 0.5], [-9, 0, 9, 0], [0, 0, 0.4, 0.5]]
)


def test_each_view_and_all_of_them_are_ranked() -> None:
    model = Says()
    whole, alone = answer(model, LOGITS, Batch(), "bf16", "m")
    assert model.heard == [(2, True)] * 3, "as many views at once as there are clips"
    shares = LOGITS.double().softmax(1).view(2, 3, 4).mean(1)
    assert whole.tolist() == shares.argsort(descending=True)[:, :3].tolist() and whole[:, 0].tolist() == [0, 2]
    assert alone[..., 0].tolist() == [[0, 1, 1], [3, 2, 3]] and alone.shape == (2, 3, 3)
    assert (whole.dtype, alone.dtype) == (torch.int32, torch.int32)
    wide = torch.cat([LOGITS[:, [2]], torch.full((6, 1), 99.0), LOGITS[:, [0, 1, 3]]], dim=1)
    narrowed = answer(Says(), wide, Batch(logits=(2, 3, 0, 4)), "fp32", "m")
    assert [part.tolist() for part in narrowed] == [whole.tolist(), alone.tolist()], "of other classes nothing is asked"


def test_what_cannot_be_ranked_is_told_of_the_model_by_its_name() -> None:
    def full(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("out of memory")

    nan = LOGITS.clone()
    nan[0, 0] = torch.nan
    with refused(TokenbenchError, "m gave logits that are NaN or infinite; check its weights and precision."):
        answer(Says(), nan, Batch(), "fp32", "m")
    with refused(DataError, "Class 4 is none of the 4 of m; check data and weights."):
        answer(Says(), LOGITS, Batch(targets=torch.tensor([1, 4])), "fp32", "m")
    model = Says()
    model.register_forward_pre_hook(lambda _, given: full(given[0]))
    with refused(OutOfMemory, "m ran out of memory on cpu at batch 2, use a smaller batch."):
        answer(model, LOGITS, Batch(), "fp32", "m")


def viewed() -> Viewed:
    batches = [Batch(), Batch(targets=torch.tensor([0]), decoded=torch.tensor([7]), seconds=torch.tensor([2.0]))]
    answers = [(torch.tensor([[1], [2]]).int(), torch.tensor([[[1], [0]], [[3], [3]]]).int())]
    answers += [(torch.tensor([[3]]).int(), torch.tensor([[[0], [2]]]).int())]
    return gather(answers, batches)


def told(one: Viewed) -> dict[str, tuple[list[Any], str]]:
    parts = {"top": one.whole.top, "target": one.whole.target}
    parts |= {name: getattr(one, name) for name in ("views", "decoded", "seconds")}
    return {name: (part.tolist(), str(part.dtype)) for name, part in parts.items()}


ALL = {
    "top": ([[1], [2], [3]], "int32"),
    "target": ([1, 3, 0], "int32"),
    "views": ([[[1], [0]], [[3], [3]], [[0], [2]]], "int32"),
    "decoded": ([9, 8, 7], "int64"),
    "seconds": ([0.5, 0.25, 2.0], "float64"),
}


def test_batches_stretches_and_files_keep_all_of_it(tmp_path: Path) -> None:
    one = viewed()
    assert told(one) == ALL and len(one) == 3
    assert one.alone.top.tolist() == [[1], [0], [3], [3], [0], [2]] and one.alone.target.tolist() == [1, 1, 3, 3, 0, 0]
    assert one.decoding == pytest.approx(24 / 2.75)
    assert told(join([one, one])) == {name: (part * 2, kind) for name, (part, kind) in ALL.items()}
    one.save(str(tmp_path / "p.npz"))
    assert told(Viewed.load(str(tmp_path / "p.npz"))) == ALL
    assert Predictions.load(tmp_path / "p.npz").top1 == pytest.approx(100 / 3)


def test_a_file_that_holds_no_clips_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.npz"
    with refused(ResultsError, f"There are no predictions at {path}; run the job that makes them."):
        Viewed.load(path)
    viewed().whole.save(path)
    with refused(ResultsError, f"{path} holds no predictions of clips (…); run its job again."):
        Viewed.load(path)
    with refused(ResultsError, f"{path / 'p.npz'} cannot be written (…); free some space or give another path."):
        viewed().save(path / "p.npz")
