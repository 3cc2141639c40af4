"""Settings that could only be half done are refused, or said; never silent."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from conftest import FAMILIES, tiny_vit
from reducing import Half, model

import tokenbench
from tokenbench.backbones import Backbone
from tokenbench.core.block import Reducer
from tokenbench.errors import Unsupported
from tokenbench.methods import get
from tokenbench.methods.base import Method
from tokenbench.methods.sweep import parse
from tokenbench.model import Model

Tiny = Callable[..., Backbone]

REFUSED = {  # of 36 patches, blocks 0 to 11
    "tome[r=500]": "block 0 merges at most half of its 36 patches, and r=500 is more",
    "tome[r=19]": "r=19 is more",
    "evit[blocks=3/3/3]": "its stages are in blocks 3/3/3, and each must lie in a later block than the one before",
    "evit[blocks=9/3]": "its stages are in blocks 9/3",
    "topk[blocks=3/3]": "its stages are in blocks 3/3",
    "random[blocks=6/3]": "its stages are in blocks 6/3",
    "dynamicvit[ratios=0.8/0.6]": "it has 2 ratios and 3 blocks (3/6/9), and each stage needs both",
    "dynamicvit[blocks=3/6/6]": "its stages are in blocks 3/6/6",
    "evit[blocks=3/99]": "block 99 does not exist, blocks are 0 to 11",
    "evit[tokens=37/20/10]": "of its 36 patches tokens keeps 37/20/10, more than are left",
    "evit[tokens=10/20/5]": "of its 36 patches tokens keeps 10/20/5, more than are left",
    "stvit[base=11]": "block 12 does not exist",
    "tofu[r=19]": "block 0 merges at most half of its 36 patches, and r=19 is more",
    "tomecis[r=19]": "block 0 merges at most half of its 36 patches, and r=19 is more",
    "ppt[r=3/4]": "r gives 2 numbers for 3 stages",
    "mctf[r=1.5]": "r=1.5 is no whole number of tokens, nor a share of them, which is below 1",
    "mctf[blocks=3/12]": "block 12 does not exist",
    "ats[keep_rate=0.5]": "its official program has no keep_rate",
    "ats[blocks=6/3]": "its stages are in blocks 6/3",
    "atc[r=3]": "r takes 36 of its 36 patches in all",
    "atc[r=1,blocks=3/6]": "with r it merges in every block",
    "diffrate[table=mae_l-31.0]": "it counts 24 blocks, and this backbone has 12",
    "diffrate[table=caformer_s36-5.2]": "is of a model with convolutions",
    "diffrate[prune=30/20,merge=30/20]": "it counts 2 blocks, and this backbone has 12",
    "dpcknn[k=37]": "density is measured on k=37 patches, and it has 36",
    "kmedoids[blocks=0/4]": "before block 0 no attention has been received",
    "radial[contiguous=true,keep_rate=0.5]": "contiguous shrinking has no keep_rate",
}


@pytest.mark.parametrize("setting", REFUSED)
def test_refused_with_the_reason(setting: str, tiny: Tiny) -> None:
    (method,) = parse(setting)
    assert REFUSED[setting] in (method.refusal(tiny()) or "")


def test_stages_of_swin_too() -> None:
    swin = Backbone(FAMILIES["swin"]())
    assert "its stages are in blocks 5/3" in (get("dynamicvit")(blocks=(5, 3), fall=0.0).refusal(swin) or "")
    assert get("dynamicvit")(blocks=(3, 5), fall=0.0).refusal(swin) is None


def test_a_search_counts_a_stem_of_one_convolution(tiny: Tiny) -> None:
    search = get("diffrate")(search=True)
    assert search.refusal(tiny()) is None
    assert "a stem of one convolution" in (search.refusal(Backbone(FAMILIES["lvvit"]())) or "")


@pytest.mark.parametrize("setting", ["tome[r=18]", "evit[tokens=36/36/36]", "evit[blocks=0/11]", "tome[r=0/0/18]"])
def test_the_last_that_can_be_done_is_done(setting: str, tiny: Tiny) -> None:
    assert parse(setting)[0].refusal(tiny()) is None


def test_merging_that_runs_out_of_tokens_is_said(tiny: Tiny) -> None:
    """As ToMe's own code, r is capped at half of the tokens; the first block where that matters is named."""
    # 36, 26, 16, 8: half of 16 is 8
    said = "from block 2 on fewer than r merge, for at most half of 16 tokens can, and r is 10 there"
    method = get("tome")(r=10)
    assert method.caveat(tiny()) == said
    with torch.inference_mode():
        trace = Model(tiny(), method).eval().run(torch.randn(1, *tiny().input_size)).trace
    assert [step.count - 1 for step in trace[:4]] == [26, 16, 8, 4]
    with pytest.warns(UserWarning, match=re.escape(f"tome[r=10] on VisionTransformer: {said}")):
        tokenbench.build("tome", tiny_vit(), r=10)
    assert get("tome")(r=2).caveat(tiny()) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tokenbench.build("tome", tiny_vit(), r=2)


@pytest.mark.parametrize("block", [-1, 12, 99, "3", 2.5])
def test_reducers_where_there_is_no_block(block: Any, tiny: Tiny) -> None:
    with pytest.raises(
        Unsupported, match=rf"given puts a reducer into block {block} of tiny, whose blocks are 0 to 11"
    ):
        model(tiny(), {3: [Half()], block: [Half()]})


def test_reducers_that_stand_nowhere(tiny: Tiny) -> None:
    class Nowhere(Half):
        where = "inside"  # type: ignore[assignment]

    with pytest.raises(Unsupported, match="stands 'inside'; it may stand before, attention, between, after"):
        model(tiny(), {3: [Nowhere()]})


def test_reducers_that_are_none(tiny: Tiny) -> None:
    class Loose(Method):
        name = "loose"

        def reducers(self, vit: Backbone) -> dict[int, Sequence[Reducer]]:
            return {3: Half()}  # type: ignore[dict-item]

    with pytest.raises(Unsupported, match=r"loose gives block 3 a Half; give a list of reducers"):
        Model(tiny(), Loose())


def test_stvit_may_generate_to_the_end(tiny: Tiny) -> None:
    """Then nothing is left to settle for."""
    with torch.inference_mode():
        out = Model(tiny(), get("stvit")(base=10)).eval().run(torch.randn(1, *tiny().input_size))
    assert out.tokens.count == 16 and out.logits.isfinite().all()


def test_swin_refuses_to_change_attention() -> None:
    class Within(Reducer):
        where = "attention"

    swin = Backbone(FAMILIES["swin"]())
    tokens = swin.embed(torch.randn(1, 3, 160, 160))
    with pytest.raises(ValueError, match="Attention within windows cannot be asked for"):
        swin.turn(0, [Within()], False)(tokens)


def test_a_list_of_r_that_asks_for_more_is_said(tiny: Callable[..., Backbone]) -> None:
    (method,) = parse("tome[r=0/0/19]")
    assert method.refusal(tiny()) is None
    assert (
        method.caveat(tiny())
        == "from block 2 on fewer than r merge, for at most half of 36 tokens can, and r is 19 there"
    )
