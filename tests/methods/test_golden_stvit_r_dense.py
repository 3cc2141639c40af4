"""STViT-R's blocks for maps of any size, against outputs of the published detection backbone."""

from __future__ import annotations

import pytest
import torch
from golden import Case, close

from tokenbench.methods.stvit_r.blocks import Semantic
from tokenbench.methods.stvit_r.dense import generate, recover

NAMES = [f"det_semantic_{size}_k{k}" for size in ("14x21", "17x24") for k in ("14_conv0", "14_conv1", "21_conv0")]
NAMES += [f"det_restore_{size}" for size in ("14x21", "17x24")]
RUNS = [f"{name}_mask{masked}" for name in NAMES for masked in (0, 1)]


@pytest.mark.parametrize("name", RUNS)
@torch.inference_mode()
def test_dense_blocks(name: str) -> None:
    case = Case("stvit/det_modules", name)
    run = case.runs[name]
    args, layout = run["args"], (run["H"], run["W"])
    block = Semantic(16, 2, 64, conv_pos=args.get("use_conv_pos", False)).eval()
    block.load_state_dict({k.removeprefix(f"{name}/"): v for k, v in case.weights.items() if k.startswith(f"{name}/")})
    x, y = case.io[f"in/{name}/x"], case.io.get(f"in/{name}/y")
    if "restore" in name:
        ours = recover(block, x, layout, y, 7, 3, args["k_window_size"], args["pad_mask"])
    else:
        ours = generate(block, x, layout, 7, 3, args["k_window_size"], y, args["pad_mask"])
    close(ours, case.out(name, "y"))
