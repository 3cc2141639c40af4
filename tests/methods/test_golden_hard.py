"""Hard pruning and merging against the published implementations: logits, tokens after every block, what merged."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import tiny_vit
from golden import GRADIENTS, VALUES, Case, close, close_logits, close_trace
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.core.block import Output
from tokenbench.methods import get, kmedoids
from tokenbench.methods.base import Method
from tokenbench.methods.diffrate.search import COST
from tokenbench.methods.dpcknn import DPCKNN
from tokenbench.methods.dtps import squeezed_softly
from tokenbench.methods.idlevit import cut_loss
from tokenbench.methods.mctf import folded
from tokenbench.methods.released import Stored
from tokenbench.model import Model

RUNS: dict[tuple[str, str], tuple[str, dict[str, Any]]] = {
    **{("pitome/vit64_96p8", f"ratio{r}"): ("pitome", {"ratio": r}) for r in (0.925, 0.9)},
    **{("tofu/vit64_96p8", f"r{r}"): ("tofu", {"r": r, "norm": "toolbox"}) for r in (8, 5)},
    **{("tomecis/vit64_96p8", f"r{r}"): ("tomecis", {"r": r}) for r in (8, 5)},
    ("mctf/vit64_96p8", "r10"): ("mctf", {"r": 10}),
    ("mctf/vit64_96p8", "fast0.35"): ("mctf", {"r": 0.35}),
    ("ppt/vit64_96p8", "mixed"): ("ppt", {"r": 24, "threshold": 1.7e-5}),
    ("ppt/vit64_96p8", "merge_all"): ("ppt", {"r": 30, "threshold": 1.0}),
    ("atc/vit64_96p8", "avg0.7"): ("atc", {}),
    ("atc/vit64_96p8", "complete0.5"): ("atc", {"keep_rate": 0.5, "linkage": "complete"}),
    ("atc/vit64_96p8", "single0.7_noprop"): ("atc", {"linkage": "single", "prop_attn": False}),
    **{("diffrate/vit64_96p8", run): ("diffrate", {}) for run in ("mixed", "merge_only", "prune_only")},
    **{("ats/vit64_112p8", f"k{k}"): ("ats", {"program": "suite", "keep_rate": k}) for k in (0.5, 0.25)},
    ("ats_official/vit64_96p8", "blocks3-11"): ("ats", {}),
    ("ats_official/vit64_96p8", "blocks3_6_9"): ("ats", {"blocks": (3, 6, 9)}),
    ("dpcknn/vit64_96p8", "k0.7"): ("dpcknn", {}),
    ("dpcknn/vit64_96p8", "k0.5_equal"): ("dpcknn", {"keep_rate": 0.5, "equal_weight": True}),
    ("kmedoids/vit64_96p8", "k0.7"): ("kmedoids", {}),
    ("heuristic/vit64_112p8", "l1"): ("radial", {"norm": "l1", "keep_rate": 0.9}),
    ("heuristic/vit64_112p8", "l2"): ("radial", {"norm": "l2", "keep_rate": 0.5}),
    ("heuristic/vit64_112p8", "linf"): ("radial", {"norm": "linf", "keep_rate": 0.7}),
    ("heuristic/vit64_112p8", "l2_contiguous"): ("radial", {"norm": "l2", "contiguous": True}),
    **{("topk/vit64_112p8", f"k{k}"): ("topk", {"keep_rate": k}) for k in (0.7, 0.5)},
    ("evit_fixed/vit64_112p8", "k0.7"): ("evit", {"tokens": (137, 96, 67)}),
    ("evit_fixed/vit64_112p8", "k0.5"): ("evit", {"tokens": (98, 49, 24)}),
    ("dtps/vit64_96p8", "k0.7"): ("dtps", {}),
    ("dtps/vit64_96p8", "k0.5"): ("dtps", {"keep_rate": 0.5}),
    ("ltmp/vit64_96p8", "eval"): ("ltmp", {}),
    ("idlevit/vit64_96p8", "k0.7"): ("idlevit", {}),
    ("idlevit/vit64_96p8", "k0.5"): ("idlevit", {"keep_rate": 0.5, "blocks": tuple(range(4, 12))}),
}
LOSSES = 1e-5  # relative
SORTED = ("atc",)  # whose published order of tokens is arbitrary


def setting(case: Case, run: str, name: str, knobs: dict[str, Any]) -> Method:
    if name == "diffrate":
        knobs = {key: tuple(case.runs[run][key]) for key in ("prune", "merge")}
    return get(name)(**knobs)


def model_of(case: Case, method: Method) -> Model:
    """With the weights that the case has of the method's own."""
    model = Model(case.backbone(), method).eval()
    names = {published: name for name, published in method.published(list(model.state_dict())).items()}
    own = {names[key]: value for key, value in case.weights.items() if key in names}
    model.load_state_dict(own, strict=False)
    return model


def groups(out: Output) -> Tensor:
    """The row of the final token that holds each original token, class token first; -1 where it was dropped."""
    source = out.tokens.source
    assert source is not None
    row = source.argmax(dim=1) + 1
    return torch.cat([torch.zeros_like(row[:, :1]), row.where(source.any(dim=1), -1)], dim=1)


def together(group: Tensor) -> Tensor:
    """Which tokens share one, whatever its number."""
    return group.unsqueeze(1) == group.unsqueeze(2)


@pytest.mark.parametrize(("name", "run"), RUNS)
def test_outputs(name: str, run: str) -> None:
    case = Case(name, run)
    method = setting(case, run, *RUNS[name, run])
    with torch.inference_mode():
        out = model_of(case, method).run(case.io["in/input"], trace=True)
    close_logits(out.logits, case.out(run, "logits"))
    counts = case.out(run, "token_counts")
    if counts.dim() == 2:  # images differ
        assert torch.stack([step.counts for step in out.trace]).tolist() == counts.tolist()
        real = [step.real if step.real is not None else torch.ones_like(step.x[..., 0]).bool() for step in out.trace]
        means = [(s.x * r.unsqueeze(-1)).sum(1) / r.sum(1, keepdim=True) for s, r in zip(out.trace, real, strict=True)]
        close(torch.stack([step.x[:, 0] for step in out.trace]), case.out(run, "cls_per_layer"))
        close(torch.stack(means), case.out(run, "token_mean_per_layer"))
    elif name.startswith("heuristic"):
        assert [step.count for step in out.trace] == counts.tolist()
    else:
        close_trace(out.trace, case, run)
    has = {key.removeprefix(f"out/{run}/") for key in case.io if key.startswith(f"out/{run}/")}
    if "group_of_token" in has:
        wanted, found = case.out(run, "group_of_token"), groups(out)
        assert torch.equal(together(found), together(wanted))
        if method.name not in SORTED:
            assert torch.equal(found, wanted)
    if "final_tokens" in has and method.name not in SORTED:
        close(out.features, case.out(run, "final_tokens"))
    if "size" in has and method.proportional:
        close(out.tokens.sizes().unsqueeze(-1), case.out(run, "size"), VALUES)


def test_equal_weight_medoids() -> None:
    """The published first medoid is drawn anew each time; here it is the one that the case was made with."""
    case = Case("kmedoids/vit64_96p8")
    run = "k0.5_equal"
    method = get("kmedoids")(keep_rate=0.5, equal_weight=True)
    model = Model(case.backbone(), method).eval()
    starts, before = iter(case.runs[run]["start"]), kmedoids.spread
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(kmedoids, "spread", lambda apart, count, _: before(apart, count, next(starts)))
        out = model.run(case.io["in/input"])
    close_logits(out.logits, case.out(run, "logits"))
    close_trace(out.trace, case, run)
    close(out.features, case.out(run, "final_tokens"))


def test_squeezing_in_training() -> None:
    """dTPS: tokens, and the gradients of tokens and decisions."""
    case = Case("dtps/squeeze_train")
    x, keep = (case.io[f"in/{name}"].clone().requires_grad_() for name in ("x", "keep"))
    out = squeezed_softly(x, keep.squeeze(2), case.io["in/previous"].squeeze(2))
    close(out.detach(), case.out("squeeze", "out"))
    (out * case.io["in/weight"]).sum().backward()
    close(x.grad, case.out("squeeze", "grad_x"), GRADIENTS)
    close(keep.grad, case.out("squeeze", "grad_keep"), GRADIENTS)


def test_the_cut_loss_is_the_formula() -> None:
    """By its sums, over one image of four tokens."""
    logit = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(0))
    mu, w = [1.0, 0.0, 1.0, 0.0], logit[0].softmax(-1).tolist()
    between = [sum(abs(mu[i] - mu[j]) * w[i][j] for j in range(1, 4)) ** 2 for i in range(4)]
    within = [(sum(mu[i] * mu[j] * w[i][j] for j in range(4)) - mu[i]) ** 2 for i in range(4)]
    want = torch.tensor((sum(between) + sum(within)) / 4)
    torch.testing.assert_close(cut_loss(logit, torch.tensor([mu])), want)


def test_training_of_mctf() -> None:
    """Two passes with the same weights, and the gradient of their loss."""
    case, run = Case("mctf/train_96p8"), "train"
    student, teacher = (get("mctf")(r=case.runs[run][f"r_{who}"], confidence=0.0) for who in ("student", "teacher"))
    model, images = Model(case.backbone(), student).train(), case.io["in/input"]
    out = model.run(images)
    model.use(teacher)
    twin = model.run(images)
    close_logits(out.logits.detach(), case.out(run, "logits_student"))
    close_logits(twin.logits.detach(), case.out(run, "logits_teacher"))
    loss = torch.stack(list(student.losses(replace(out, twin=twin), case.io["in/labels"]).values())).sum()
    close(loss.detach().view(1), case.out(run, "loss"), LOSSES)
    loss.backward()
    params = dict(model.vit.named_parameters())
    names = [k.removeprefix(f"out/{run}/grad/") for k in case.io if k.startswith(f"out/{run}/grad/")]
    assert names
    for name in names:
        close(params[name].grad, case.out(run, f"grad/{name}"), GRADIENTS)


def test_mctf_in_lower_precision() -> None:
    """Attention may come in bf16 and weights in fp32, as under autocast on the CPU."""
    matrix, place, weights = (
        torch.rand(1, 1, 3, 3).softmax(-1),
        torch.tensor([[0, 1, 1]]),
        torch.tensor([[1.0, 2.0, 1.0]]),
    )
    found = folded(matrix.bfloat16(), place, weights, 2)
    torch.testing.assert_close(found, folded(matrix, place, weights, 2), rtol=1e-2, atol=1e-2)


def test_search_of_diffrate() -> None:
    """The masked pass, what it costs, and the gradients of its scores: of the cross entropy and of the GFLOPs."""
    case, run = Case("diffrate/train_96p8"), "train"
    method = get("diffrate")(search=True, step=case.runs[run]["granularity"])
    model = model_of(case, method).train()
    out = model.run(case.io["in/input"])
    close_logits(out.logits.detach(), case.out(run, "logits"))
    cost, entropy = out.tokens.state[COST], method.losses(out, case.io["in/labels"])["class"]
    close(entropy.detach().view(1), case.out(run, "ce"), LOSSES)
    close(cost.detach().view(1) * 1e9, case.out(run, "flops"), LOSSES)
    scores = [p for name, p in model.named_parameters() if name.endswith("selected_probability")]
    for name, value in (("grad_ce", entropy), ("grad_gflops", cost)):
        grads = torch.autograd.grad(value, scores, retain_graph=True, materialize_grads=True)
        close(torch.stack(grads), case.out(run, name), GRADIENTS)
    found, last = method.learnt(model.blocks), int(case.out(run, "mask").sum(1)[0])
    assert not found.search and found.merge[-1] == last
    prune, merge = (case.out(run, f"{name}_kept").long().tolist() for name in ("prune", "merge"))
    searches = [block.reducers[0] for block in model.blocks][1:]
    assert [search.counts() for search in searches] == list(zip(prune, merge, strict=True))[1:]
    assert list(found.prune) == [min(a) for a in zip(prune, [prune[0], *found.merge], strict=False)]
    with torch.inference_mode():
        learning = model.eval().run(case.io["in/input"])
        fixed = Model(Backbone(model.vit, "golden"), found).eval().run(case.io["in/input"])
    assert torch.equal(learning.logits, fixed.logits) and learning.tokens.count == last == fixed.tokens.count
    assert get("diffrate")().losses(out, case.io["in/labels"]).keys() == {"class", "target"}


def test_checkpoints_of_dpcknn_are_known() -> None:
    """By their names; the keep rate by the options of TokenReduction's training."""
    tensors = {
        f"cluster_layers.{stage}.score.{part}": torch.zeros(1) for stage in range(3) for part in ("weight", "bias")
    }
    tensors |= {f"blocks.{block}.norm1.weight": torch.zeros(1) for block in range(12)}
    release = DPCKNN.recognise(Stored(tensors))
    assert release is not None and release.unknown == ("keep_rate",)
    options = {"model": "dpcknn_small_patch16_224", "reduction_loc": [3, 6, 9], "keep_rate": [0.5]}
    release = DPCKNN.recognise(Stored(tensors, options))
    assert release is not None and dict(release.knobs) == {"keep_rate": 0.5} and release.refusal is None
    options["model"] = "topk_small_patch16_224"
    assert DPCKNN.recognise(Stored({"blocks.0.norm1.weight": torch.zeros(1)}, options)) is None
    model = Model(Backbone(tiny_vit(), "tiny"), DPCKNN())
    assert set(DPCKNN().published(list(model.state_dict())).values()) >= set(tensors)
