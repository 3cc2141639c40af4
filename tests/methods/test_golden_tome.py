"""ToMe against the published implementation: matching, schedules, whole models."""

import pytest
import torch
from golden import VALUES, Case, close, close_logits, close_trace

from tokenbench.core.tokens import Tokens
from tokenbench.methods.tome import ToMe, bipartite, schedule
from tokenbench.model import Model

MATCHING = "tome/matching"
RUNS = [(n, ct, dt, r) for n in (50, 51) for ct in (0, 1) for dt in (0, 1) for r in (7, 99)]


def expected_pairs(case: Case, run: str, total: int) -> list[set[tuple[int, int]]]:
    """For each image the (source position, destination position) pairs of the published matching."""
    src, dst = case.out(run, "src_idx"), case.out(run, "dst_idx")
    return [{(2 * int(a), 2 * int(b) + 1) for a, b in zip(s, d, strict=True)} for s, d in zip(src, dst, strict=True)]


@pytest.mark.parametrize(("n", "ct", "dt", "r"), RUNS)
def test_bipartite(n: int, ct: int, dt: int, r: int) -> None:
    run = f"bipartite_n{n}_ct{ct}_dt{dt}_r{r}"
    case = Case(MATCHING, run)
    metric, x, size = (case.io[f"in/{run}/{k}"] for k in ("metric", "x", "size"))
    protected = [p for p, wanted in ((0, ct), (1, dt)) if wanted]
    match = bipartite(metric, r, protected)
    assert n - match.count == case.runs[run]["effective_r"]

    for image, pairs in enumerate(expected_pairs(case, run, n)):
        assign = match.assign[image]
        shared = {(a, int(b)) for a in range(0, n, 2) for b in (assign == assign[a]).nonzero() if int(b) % 2 == 1}
        assert shared == pairs

    tokens = Tokens(x, 0, (1, n), size=size[..., 0])
    merged = tokens.group(match.assign, match.count)
    plain = Tokens(x, 0, (1, n)).traced().group(match.assign, match.count)
    got = {"wavg": merged.x, "wavg_size": merged.size[..., None], "wavg_nosize": plain.x, "source": plain.source}
    for name, value in got.items():
        golden = case.out(run, name).float()
        if protected == [1]:  # no such model exists; the published order puts an unprotected A token first
            value, golden = value.sort(dim=1).values, golden.sort(dim=1).values
        close(value, golden)


def settings(run: dict) -> ToMe:
    r, inflect = run["r"], 0.0
    if isinstance(r, dict):
        r, inflect = r["r"], r["inflect"]
    return ToMe(r=tuple(r) if isinstance(r, list) else r, inflect=inflect, prop_attn=run["prop_attn"])


def test_schedules() -> None:
    table = Case(MATCHING).info["parse_r_table"]
    for row in table:
        r, inflect = row["r"], 0.0
        if isinstance(r, dict):
            r, inflect = r["r"], r["inflect"]
        assert schedule(tuple(r) if isinstance(r, list) else r, inflect, row["num_layers"]) == row["result"]


@pytest.mark.parametrize(
    ("name", "run"),
    [("tome/vit64_224", r) for r in ("r8", "r13_noprop", "r16", "list", "decr8", "incr10half")]
    + [("tome/vit64_rect160x224", r) for r in ("r7", "incr6_noprop", "r25_capped")],
)
def test_model(name: str, run: str) -> None:
    case = Case(name, run)
    method = settings(case.runs[run])
    model = Model(case.backbone(), method).eval()
    with torch.inference_mode():
        out = model.run(case.io["in/input"], trace=True)
    close_logits(out.logits, case.out(run, "logits"))
    close_trace(out.trace, case, run)
    assert schedule(method.r, method.inflect, 12) == case.out(run, "r_schedule").tolist()
    close(out.tokens.size[..., None], case.out(run, "size"), VALUES)
    if f"out/{run}/final_tokens" in case.io:
        close(out.features, case.out(run, "final_tokens"))
    if f"out/{run}/source" in case.io:
        assert torch.equal(out.tokens.source.long(), case.out(run, "source")[:, 1:, 1:])


@pytest.mark.parametrize("name", ["tome/vit64_224", "tome/vit64_rect160x224"])
def test_plain(name: str) -> None:
    case = Case(name, "plain")
    with torch.inference_mode():
        logits = Model(case.backbone(), ToMe(r=0)).eval()(case.io["in/input"])
    close_logits(logits, case.out("plain", "logits"))
