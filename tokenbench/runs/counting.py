"""GMACs, parameters and tokens of each setting, alone."""

from __future__ import annotations

from contextlib import suppress

from torch import Tensor

from tokenbench.errors import DataError
from tokenbench.measure import flops, memory, parts, tokens
from tokenbench.runs import exported
from tokenbench.runs.candidates import Group, failing
from tokenbench.runs.scoring import Note
from tokenbench.runs.watch import Watch

COSTS = ("gmacs", "gmacs_fvcore", "gmacs_by_block", "gmacs_by_part", "tokens_mean", "tokens_std")


def count(group: Group, note: Note, watch: Watch) -> None:
    """GMACs, parameters, tokens and why nothing will be scored."""
    live = [(candidate, model) for candidate, model in group.live() if "gmacs" not in candidate.measured]
    if not live:
        return
    images = _some_images(group).to(group.plan.device)
    watch.stretch(f"{group.backbone.name}: counting", len(live))
    for done, (candidate, model) in enumerate(live, 1):
        with failing(candidate):
            hidden = exported.hidden(group.plan, candidate)
            if hidden is not None:
                candidate.measured |= dict.fromkeys(COSTS) | {"params_m": memory.parameters(model) / 1e6}
                candidate.notes.append(f"{hidden}, so no GMACs")
                continue
            counted = flops.over(group.plan.task.counted(model), images)
            left = tokens.per_block(model, images[: flops.PROBED].split(1))  # a batch may not fit
            if left is not None and (counted.images > 1 or any(left.std)):
                left = tokens.per_block(model, images.split(1))
            candidate.measured |= {
                "gmacs": counted.gmacs,
                "gmacs_fvcore": counted.fvcore_gmacs,
                "gmacs_by_block": list(counted.by_block),
                "gmacs_by_part": dict(counted.by_part),
                "params_m": memory.parameters(model) / 1e6,
                "params_by_part": parts.parameters(model),
                "tokens_mean": None if left is None else list(left.mean),
                "tokens_std": None if left is None else list(left.std),
            }
            why = group.no_accuracy(candidate)
            candidate.notes += [*([why] if why else []), *counted.notes]
        note(group, candidate)
        watch.step(done)


def _some_images(group: Group) -> Tensor:
    """Images to count on, which matter where counts depend on them; noise where there are none that can be read."""
    with suppress(DataError, RuntimeError, OSError):  # told when the data is passed over
        for images, _ in group.few or ():
            return images
    return group.timed(1)
