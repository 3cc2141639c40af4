"""Cascade heads against cases made by hand: what goes from stage to stage, what is averaged, and the losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection._utils import BalancedPositiveNegativeSampler, BoxCoder, Matcher  # private: pinned
from torchvision.ops import generalized_box_iou_loss, roi_align

from tokenbench.heads import cascade
from tokenbench.heads.detector import Design, _heads
from tokenbench.heads.regions import Pool, Sampling

SHAPE = (64, 96)
MAPS = {str(level): torch.zeros(1, 8, 16 // 2**level, 24 // 2**level) for level in range(4)}


def heads(masks: bool = False, **design: Any) -> cascade.CascadeHeads:
    """Of two classes; what the predictors say is their biases alone."""
    torch.manual_seed(0)
    small = Design(width=8, box_convs=1, fc=8, mask_convs=1, masks=masks, **design)
    made = _heads(small, 3, Sampling(regions=16))
    assert isinstance(made, cascade.CascadeHeads)
    for stage in made.stages:
        for module in (stage.box_predictor, *([stage.mask_predictor] if masks else [])):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
    return made


def say(stage: Any, logits: list[float], deltas: dict[int, list[float]] | None = None) -> None:
    with torch.no_grad():
        stage.box_predictor.cls_score.bias.copy_(torch.tensor(logits))
        for label, delta in (deltas or {}).items():
            stage.box_predictor.bbox_pred.bias[4 * label : 4 * label + 4] = torch.tensor(delta)


def test_parts_of_torchvision_are_as_they_were() -> None:
    stage = heads().stages[1]
    assert isinstance(stage.proposal_matcher, Matcher) and isinstance(stage.box_coder, BoxCoder)
    assert isinstance(stage.fg_bg_sampler, BalancedPositiveNegativeSampler)
    matched = stage.proposal_matcher(torch.tensor([[0.59, 0.6, 0.2]]))
    assert matched.tolist() == [-1, 0, -1], "from 0.6 on it is an object, and nothing lies between"
    assert stage.box_coder.weights == pytest.approx((20, 20, 10, 10))


@pytest.mark.parametrize(
    ("side", "level"), [(1, 0), (111, 0), (112, 1), (223, 1), (224, 2), (447, 2), (448, 3), (5000, 3)]
)
def test_level_of_a_region(side: int, level: int) -> None:
    """By the square root of its area, 56 pixels on the finest map; features are RoIAlign's, aligned, of that map."""
    maps = {str(i): torch.randn(1, 2, 64 >> i, 64 >> i) for i in range(5)}
    box = torch.tensor([[3.0, 5.0, 3.0 + side, 5.0 + side]])
    where = torch.cat([torch.zeros(1, 1), box], dim=1)
    wanted = roi_align(maps[str(level)], where, (7, 7), 1 / (4 << level), -1, aligned=True)
    torch.testing.assert_close(Pool(7)(maps, [box]), wanted)


def test_boxes_move_from_stage_to_stage_and_logits_are_averaged() -> None:
    """Each stage moves the box by its own best class, the last by every class; scores are of the mean of logits."""
    made = heads(min_score=0.0, nms=1.0).eval()
    first, second, third = made.stages
    say(first, [5.0, 1.0, 0.0], {1: [1.0, 0, 0, 0], 2: [-50.0, 0, 0, 0]})
    say(second, [5.0, 0.0, 3.0], {1: [-50.0, 0, 0, 0], 2: [0, 2.0, 0, 0]})
    say(third, [-1.0, 2.0, 0.0], {1: [1.0, 0, 0, 0], 2: [0, 1.0, 0, 0]})
    found, losses = made(MAPS, [torch.tensor([[10.0, 20.0, 30.0, 40.0]])], [SHAPE], None)
    assert losses == {}
    scores = torch.tensor([9.0, 3.0, 3.0]).div(3).softmax(0)[1:]
    torch.testing.assert_close(found[0]["scores"].sort().values, scores.sort().values)
    x, y = 10 + 20 * 0.1, 20 + 20 * 0.05 * 2
    wanted = {1: [x + 20 * 0.033, y], 2: [x, y + 20 * 0.033]}
    for box, label in zip(found[0]["boxes"], found[0]["labels"], strict=True):
        torch.testing.assert_close(
            box,
            torch.tensor([*wanted[int(label)], 0, 0])
            + torch.tensor([0, 0, *(side + 20 for side in wanted[int(label)])]),
        )


def test_boxes_are_held_to_the_image_between_stages() -> None:
    stage = heads().stages[0]
    deltas = torch.zeros(1, 12, requires_grad=True) + torch.tensor([0.0] * 4 + [100.0, 0, 0, 0] + [0.0] * 4)
    (moved,) = stage.moved([torch.tensor([[80.0, 10.0, 90.0, 20.0]])], deltas, torch.tensor([1]), [SHAPE])
    assert moved.tolist() == [[96.0, 10.0, 96.0, 20.0]] and not moved.requires_grad


def test_masks_are_means_of_sigmoids() -> None:
    made = heads(masks=True, min_score=0.0, nms=1.0).eval()
    for stage, bias in zip(made.stages, (4.0, -1.0, -1.0), strict=True):
        say(stage, [0.0, 1.0, -9.0])
        with torch.no_grad():
            stage.mask_predictor.mask_fcn_logits.bias.fill_(bias)
    found, _ = made(MAPS, [torch.tensor([[10.0, 20.0, 30.0, 40.0]])], [SHAPE], None)
    wanted = torch.tensor([4.0, -1.0, -1.0]).sigmoid().mean()
    torch.testing.assert_close(found[0]["masks"], wanted.expand_as(found[0]["masks"]))
    assert found[0]["masks"].shape == (2, 1, 28, 28)


def target(*boxes: list[float]) -> dict[str, Tensor]:
    masks = torch.zeros(len(boxes), *SHAPE, dtype=torch.uint8)
    return {
        "boxes": torch.tensor(boxes).reshape(-1, 4),
        "labels": torch.full((len(boxes),), 2, dtype=torch.int64),
        "masks": masks,
    }


def test_ground_truth_is_added_and_does_not_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    made = heads().train()
    came: list[Tensor] = []
    sample = cascade.Stage.sample

    def spied(stage: Any, proposals: Any, targets: Any) -> Any:
        came.append(proposals[0])
        found = sample(stage, proposals, targets)
        assert found[3][0].sum() == 1, "the one true box is among those sampled"
        return found

    monkeypatch.setattr(cascade.Stage, "sample", spied)
    proposals = torch.tensor([[10.0, 20.0, 30.0, 41.0], [60.0, 10.0, 70.0, 30.0]])
    say(made.stages[0], [9.0, 5.0, 0.0], {1: [1.0, 0, 0, 0], 2: [0, 1.0, 0, 0]})
    made(MAPS, [proposals], [SHAPE], [target([10.0, 20.0, 30.0, 40.0])])
    assert [len(boxes) for boxes in came] == [2, 2, 2]
    matched, other = came[1]
    torch.testing.assert_close(matched, proposals[0] + torch.tensor([0, 2.1, 0, 2.1]), msg="moved as its target class")
    torch.testing.assert_close(other, proposals[1] + torch.tensor([1.0, 0, 1.0, 0]), msg="moved as its best class")
    assert not matched.requires_grad


def test_losses_by_hand() -> None:
    """One true box and one proposal far away in each stage: 10 GIoU over all sampled, cross-entropy, stage weights."""
    made = heads().train()
    truth, far = [10.0, 20.0, 30.0, 40.0], [60.0, 10.0, 70.0, 30.0]
    for stage in made.stages:
        say(stage, [0.5, 0.0, 1.0], {2: [1.0, 0, 0, 0]})
    _, losses = made(MAPS, [torch.tensor([far])], [SHAPE], [target(truth)])
    for i, (weight, std) in enumerate(zip((1, 0.5, 0.25), (0.1, 0.05, 0.033), strict=True)):
        moved = torch.tensor([truth]) + torch.tensor([20 * std, 0, 20 * std, 0])
        overlap = generalized_box_iou_loss(moved, torch.tensor([truth]), reduction="sum")
        torch.testing.assert_close(losses[f"box{i}"], weight * 10 * overlap / 2)
        kinds = F.cross_entropy(torch.tensor([[0.5, 0.0, 1.0]] * 2), torch.tensor([2, 0]))
        torch.testing.assert_close(losses[f"class{i}"], weight * kinds)


def test_no_objects_and_no_proposals() -> None:
    """Losses are finite and every parameter gets its gradient; in test nothing is found."""
    made = heads(masks=True).train()
    _, losses = made(MAPS, [torch.tensor([[60.0, 10.0, 70.0, 30.0]])], [SHAPE], [target()])
    sum(losses.values()).backward()
    assert all(bool(loss.isfinite()) for loss in losses.values())
    assert [name for name, p in made.named_parameters() if p.grad is None] == []
    found, _ = made.eval()(MAPS, [torch.zeros(0, 4)], [SHAPE], None)
    assert len(found[0]["boxes"]) == 0 and found[0]["masks"].shape[0] == 0
