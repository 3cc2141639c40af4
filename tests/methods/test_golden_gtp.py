"""GTP against the published implementation: models, graph, kept tokens and what they hold."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from golden import Case, close, close_logits, close_trace

from tokenbench.methods.gtp import GRAPH, GTP
from tokenbench.model import Model

CASE = "gtp/vit48_128"


def settings(run: dict[str, Any]) -> GTP:
    return GTP(
        p=run["num_prop"],
        sparsity=run["sparsity"],
        alpha=run["alpha"],
        selection={"MixedAttnMax": "mixed", "CLSAttnMean": "class"}[run["selection"]],
        graph=run["graph_type"].lower(),
        neighbours=run["num_neighbours"],
        scale=run["token_scale"],
    )


@pytest.mark.parametrize("run", ["mixed_p3", "spatial_p2_dense", "clsmean_prune_p4"])
def test_model(run: str) -> None:
    case = Case(CASE)
    model = Model(case.backbone(), settings(case.runs[run])).eval()
    with torch.inference_mode():
        out = model.run(case.io["in/input"], trace=True)
        if f"out/{run}/graph" in case.io:
            graph = model.blocks[0].reducers[0](model.backbone.embed(case.io["in/input"]), None).state[GRAPH]
            close(graph[:1], case.out(run, "graph"))
    close_logits(out.logits, case.out(run, "logits"))
    close_trace(out.trace, case, run)
    for block in (0, 5, 11):
        step = out.trace[block]
        assert torch.equal(step.source.argmax(-1), case.out(run, f"block{block}.kept_patch"))
        if f"out/{run}/block{block}.scale" in case.io:
            close(step.size, case.out(run, f"block{block}.scale"))
