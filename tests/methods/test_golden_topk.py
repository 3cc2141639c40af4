"""Top-K against TokenReduction's: whole models, the tokens kept and their order."""

import pytest
import torch
from golden import Case, close, close_logits, close_trace, same_kept

from tokenbench.methods.topk import TopK
from tokenbench.model import Model


@pytest.mark.parametrize("run", ["k0.7", "k0.5"])
def test_model(run: str) -> None:
    case = Case("topk/vit64_112p8", run)
    (rate,) = case.runs[run]["opt"]["keep_rate"]
    with torch.inference_mode():
        out = Model(case.backbone(), TopK(keep_rate=rate)).eval().run(case.io["in/input"], trace=True)
    close_logits(out.logits, case.out(run, "logits"))
    close(out.features, case.out(run, "final_tokens"))
    close_trace(out.trace, case, run)
    same_kept(out.trace, case, run)
