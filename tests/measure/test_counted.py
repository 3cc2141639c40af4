"""Every short name and every method that go together are counted, twice and without a rest."""

from __future__ import annotations

import pytest
import timm
import torch

from tokenbench.backbones import SHORT_NAMES, Backbone, random_images
from tokenbench.measure.flops import count
from tokenbench.methods import all_methods
from tokenbench.methods.sweep import parse
from tokenbench.model import Model

SIZES = {
    "vit": {"embed_dim": 12, "num_heads": 1, "depth": 12},
    "swin": {"embed_dim": 8, "num_heads": (1, 1, 2, 2), "depths": (1, 1, 6, 1)},
}
IMAGES = [name for name in SHORT_NAMES if not name.startswith("swin3d")]  # clips are counted with their backbones
SETTINGS = [*(cls() for cls in all_methods().values()), *parse("stvit[centres=global]")]


def narrow(name: str) -> Backbone:
    """A backbone of that kind, but of the smallest width."""
    return Backbone(timm.create_model(SHORT_NAMES[name], **SIZES["swin" if name.startswith("swin") else "vit"]), name)


def kinds() -> dict[str, str]:
    """One short name of each kind that is left when widths are made equal."""
    with torch.device("meta"):
        return {str(narrow(name).vit): name for name in reversed(IMAGES)}


KINDS = list(kinds().values())


@pytest.mark.parametrize("share", [12, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", KINDS)
def test_counted(name: str, share: int) -> None:
    """In every run of the tests a twelfth of the methods with each kind, others with the next: all take long."""
    backbone = narrow(name)
    images, dense = random_images(backbone, 1), None
    first, *others = (method for method in SETTINGS if method.refusal(backbone) is None)
    assert others and first.name == "dense"
    for method in (first, *others[KINDS.index(name) % share :: share]):
        found = count(Model(backbone, method), images)
        dense = dense or found.gmacs
        assert 0 < found.gmacs - found.by_part["selection"] <= 1.2 * dense, (
            method.label
        )  # widths this small save little
        assert found.fvcore_gmacs is not None and found.notes == () and not found.uncounted, method.label
        assert sum(found.by_part.values()) == pytest.approx(found.gmacs), method.label
