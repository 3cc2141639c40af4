"""Every option of every method, held to its formula: at two or more values of it, outputs worked out line by line.

What is written here follows the papers' equations, in loops where that is plainer, and shares nothing with the methods
but the parameters. Weights are large, so that an option that does nothing would be seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import formulas_hard  # noqa: F401  the options of hard pruning and merging
import formulas_soft  # noqa: F401  the options of soft tokens, learned merging, waiting and halting
import pytest
import torch
import torch.nn.functional as F
from conftest import tiny_swin
from equations import ffn, mha
from formulas import (
    KEPT,
    OPTIONS,
    QUARTERS,
    STUDENT,
    TARGET,
    TEACHER,
    Choose,
    Pairs,
    images,
    kl,
    logits,
    made,
    options,
    reduced,
    taken,
)
from torch import Tensor

from tokenbench.measure import flops
from tokenbench.methods import all_methods, get

EViT, TopK, Random, ToMe, DynamicViT, STViT, STViTR = (
    get(name) for name in ("evit", "topk", "random", "tome", "dynamicvit", "stvit", "stvit_r")
)


def test_every_option_is_held_to_its_formula() -> None:
    assert set(OPTIONS) == {f"{name}.{knob}" for name, cls in all_methods().items() for knob in cls.model_fields}


# plain ViTs: what is kept


def attentive(count: Callable[[int, int], int], fuse: bool = True) -> Choose:
    def choose(stage: int, x: Tensor, scores: Tensor) -> Tensor:
        n = scores.shape[1]
        keep = count(stage, n)
        if keep >= n:
            return x
        order = scores.argsort(dim=1, descending=True)
        out = taken(x, order[:, :keep])
        rest = [sum(s[i] * t[1 + i] for i in o[keep:]) for t, s, o in zip(x, scores, order, strict=True)]
        return torch.cat([out, torch.stack(rest)[:, None]], 1) if fuse else out  # type: ignore[arg-type]

    return choose


@options("evit.keep_rate")
def evit_keep_rate() -> Pairs:
    """ceil(rate * n) of the current patches, the fused one among them."""
    for rate in (1.0, 0.75, 0.4):
        model = made(EViT(keep_rate=rate))
        yield logits(model), reduced(model, QUARTERS, attentive(lambda _, n, r=rate: math.ceil(r * n)))


@options("evit.tokens")
def evit_tokens() -> Pairs:
    for counts in ((20, 9, 3), (30, 29, 28)):
        model = made(EViT(tokens=counts))
        yield logits(model), reduced(model, QUARTERS, attentive(lambda stage, n, c=counts: c[stage]))


@options("evit.fuse")
def evit_fuse() -> Pairs:
    for fuse in (True, False):
        model = made(EViT(keep_rate=0.6, fuse=fuse))
        yield logits(model), reduced(model, QUARTERS, attentive(lambda _, n: math.ceil(0.6 * n), fuse))


@options("evit.blocks")
def evit_blocks() -> Pairs:
    for blocks in ((3, 6, 9), (0, 11), (2, 4, 6, 8)):
        model = made(EViT(keep_rate=0.6, blocks=blocks))
        yield logits(model), reduced(model, blocks, attentive(lambda _, n: math.ceil(0.6 * n)))


@options("evit.shrink_start", "evit.shrink_epochs")
def evit_schedule() -> Pairs:
    """1, a cosine from 1 to the rate, the rate; and what runs is what the schedule says."""
    for start, epochs in ((0, 0), (4, 0), (2, 8), (6, 8)):
        method = EViT(keep_rate=0.5, shrink_start=start, shrink_epochs=epochs)
        found, wanted = [], []
        for epoch in (0, 1.9, 3, 5, 7.5, 20):
            rate = 1.0 if epoch < start else 0.5
            if start <= epoch < start + epochs:
                rate = 0.75 + 0.25 * math.cos(math.pi * (epoch - start) / epochs)
            found.append(method.at(epoch).keep_rate)
            wanted.append(rate)
        yield torch.tensor(found), torch.tensor(wanted)


@options("topk.keep_rate")
def topk_keep_rate() -> Pairs:
    """int(n0 * rate^stage) of the 36 patches at first."""
    for rate in (1.0, 0.8, 0.5):
        model = made(TopK(keep_rate=rate))
        choose = attentive(lambda stage, _, r=rate: int(36 * r ** (stage + 1)), fuse=False)
        yield logits(model), reduced(model, QUARTERS, choose)


@options("topk.blocks")
def topk_blocks() -> Pairs:
    for blocks in ((3, 6, 9), (1, 2), (0, 5, 7, 11)):
        model = made(TopK(keep_rate=0.7, blocks=blocks))
        yield logits(model), reduced(model, blocks, attentive(lambda s, _: int(36 * 0.7 ** (s + 1)), fuse=False))


@torch.no_grad()
def drawn(blocks: tuple[int, ...], **knobs: Any) -> tuple[Tensor, Tensor]:
    """Random's logits, and those at the places its maps show, which must be as many as they should be, and in order."""
    method = Random(blocks=blocks, **knobs)
    model = made(method)
    trace = model.run(images(), trace=True).trace
    left, places = list(range(36)), []
    for stage, block in enumerate(blocks):
        kept = trace[block].source.argmax(2)  # (B, K) patches
        assert kept.shape[1] == int(36 * method.keep_rate ** (stage + 1))
        assert (kept[0] == kept[1]).all() and (kept[0].diff() > 0).all(), "the same for every image, in their order"
        places.append(torch.tensor([left.index(patch) for patch in kept[0].tolist()]))
        left = kept[0].tolist()
    return logits(model), reduced(model, blocks, lambda stage, x, _: taken(x, places[stage].expand(2, -1)))


@options("random.keep_rate")
def random_keep_rate() -> Pairs:
    for rate in (0.9, 0.5):
        yield drawn(QUARTERS, keep_rate=rate)


@options("random.blocks")
def random_blocks() -> Pairs:
    for blocks in ((3, 6, 9), (0, 1, 11)):
        yield drawn(blocks)


@options("random.seed")
def random_seed() -> Pairs:
    for seed in (0, 1, 7):
        yield drawn(QUARTERS, seed=seed)
    assert torch.equal(*(drawn(QUARTERS, seed=1)[0] for _ in range(2)))


# ToMe


@torch.no_grad()
def merged(model: Any, per_block: Sequence[int], proportional: bool) -> Tensor:
    """Logits by arXiv 2210.09461, one image and one pair at a time."""
    vit, found = model.vit, []
    for x in vit._pos_embed(vit.patch_embed(images())):
        size = torch.ones(len(x))
        for r, block in zip(per_block, vit.blocks, strict=True):
            attn = block.attn
            q, k, v = attn.qkv(block.norm1(x)).unflatten(1, (3, attn.num_heads, -1)).permute(1, 2, 0, 3)
            scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
            weights = (scores + size.log() if proportional else scores).softmax(-1)
            x = x + attn.proj((weights @ v).transpose(0, 1).flatten(1))
            x, size = paired(x, size, k.mean(0), min(r, (len(x) - 1) // 2))
            x = ffn(block, x[None])[0]
        found.append(vit.head(vit.norm(x)[0]))
    return torch.stack(found)


def paired(x: Tensor, size: Tensor, key: Tensor, r: int) -> tuple[Tensor, Tensor]:
    """The r most similar pairs of even and odd places merged, the class token left alone."""
    if not r:
        return x, size
    key = key / key.norm(dim=1, keepdim=True)
    even, odd = range(0, len(x), 2), range(1, len(x), 2)
    best = {a: max((float(key[a] @ key[b]), -b) for b in odd) for a in even if a}
    going = sorted(best, key=lambda a: best[a][0], reverse=True)[:r]
    sums, sizes = x * size[:, None], size.clone()
    for a in going:
        b = -best[a][1]
        sums[b] += x[a] * size[a]
        sizes[b] += size[a]
    stay = [*(a for a in even if a not in going), *odd]
    return sums[stay] / sizes[stay, None], sizes[stay]


@options("tome.r")
def tome_r() -> Pairs:
    """So many a block; a list block by block, and none after it; at most half of the tokens."""
    for r, per_block in ((2, [2] * 12), (7, [7] * 12), ((5, 0, 3), [5, 0, 3, *[0] * 9])):
        yield logits(model := made(ToMe(r=r))), merged(model, per_block, True)


@options("tome.inflect")
def tome_inflect() -> Pairs:
    """From int(r (1 - inflect)) to 2 r less that, on a line over the blocks."""
    for inflect, low in ((-1.0, 6), (-0.5, 4), (0.5, 1), (1.0, 0)):  # int(3 * 1.5) = 4, int(3 * 0.5) = 1
        per_block = [int(low + (6 - 2 * low) / 11 * i) for i in range(12)]
        yield logits(model := made(ToMe(r=3, inflect=inflect))), merged(model, per_block, True)


@options("tome.prop_attn")
def tome_prop_attn() -> Pairs:
    for proportional in (True, False):
        yield logits(model := made(ToMe(r=2, prop_attn=proportional))), merged(model, [2] * 12, proportional)


# DynamicViT


def keeps(predictor: Any, x: Tensor) -> Tensor:
    """How much each token (B, n, C) is to be kept, while all are."""
    z = F.gelu(predictor.in_conv[1](predictor.in_conv[0](x)))
    half = z.shape[-1] // 2
    z = torch.cat([z[..., :half], z[..., half:].mean(1, keepdim=True).expand(-1, z.shape[1], -1)], -1)
    return predictor.out_conv(z).log_softmax(-1)[..., 0]  # type: ignore[no-any-return]


def predicted(model: Any, blocks: Sequence[int], shares: Sequence[float]) -> Tensor:
    def choose(stage: int, x: Tensor, _: Tensor) -> Tensor:
        predictor = model.blocks[blocks[stage]].reducers[0].predictor
        order = keeps(predictor, x[:, 1:]).argsort(dim=1, descending=True)
        return taken(x, order[:, : int(36 * shares[stage])])

    return reduced(model, blocks, choose, before=True)


@options("dynamicvit.keep_rate")
def dynamicvit_keep_rate() -> Pairs:
    for rate in (0.9, 0.6):
        yield logits(model := made(DynamicViT(keep_rate=rate))), predicted(model, QUARTERS, [rate, rate**2, rate**3])


@options("dynamicvit.blocks")
def dynamicvit_blocks() -> Pairs:
    for blocks in ((3, 6, 9), (1, 10), (0, 2, 4, 6)):
        yield logits(model := made(DynamicViT(blocks=blocks))), predicted(model, blocks, [0.7**s for s in (1, 2, 3, 4)])


@options("dynamicvit.ratios")
def dynamicvit_ratios() -> Pairs:
    """As many stages as one likes; on Swin that share of all 100 tokens goes through the MLP."""
    for ratios, blocks in (((0.9, 0.5, 0.1), QUARTERS), ((0.8, 0.6, 0.4, 0.2), (0, 1, 5, 11))):
        model = made(DynamicViT(ratios=ratios, blocks=blocks))
        yield logits(model), predicted(model, blocks, ratios)
    swin = made(DynamicViT(ratios=(0.8, 0.8, 0.2)), tiny_swin)
    yield logits(swin, 160), asymmetric(swin, (80, 80, 20))


@options("dynamicvit.fall")
def dynamicvit_fall() -> Pairs:
    """On Swin: rate, rate - fall, rate - 2 fall of all 100 tokens go through the MLP, the others a linear layer."""
    for fall, counts in ((0.0, (80, 80, 80)), (0.1, (80, 70, 60)), (0.3, (80, 50, 20))):
        model = made(DynamicViT(keep_rate=0.8, fall=fall), tiny_swin)
        yield logits(model, 160), asymmetric(model, counts)


@torch.no_grad()
def asymmetric(model: Any, counts: Sequence[int]) -> Tensor:
    vit = model.vit
    x = vit.layers[1](vit.layers[0](vit.patch_embed(images(160))))
    x = vit.layers[2].downsample(x).flatten(1, 2)
    slow: list[list[int]] = []
    for i, block in enumerate(vit.layers[2].blocks):
        turn = model.blocks[2 + i]
        if 1 <= i <= 3:
            order = keeps(turn.reducers[0].predictor, x).argsort(dim=1, descending=True)
            slow = order[:, : counts[i - 1]].tolist()
        x = x + block._attn(block.norm1(x).unflatten(1, (10, 10))).flatten(1, 2)
        mlp = block.mlp(block.norm2(x))
        if slow:
            path = turn.fast.linear(turn.fast.norm(x))
            told = torch.tensor([[place in image for place in range(100)] for image in slow])
            mlp = torch.where(told[..., None], mlp, path)
        x = x + mlp
    return vit.head(vit.norm(vit.layers[3](x.unflatten(1, (10, 10)))))


def taught(**knobs: Any) -> dict[str, Tensor]:
    """DynamicViT's losses of two images of five patches, and a teacher's."""
    return DynamicViT(keep_rate=0.5, **knobs).losses(STUDENT, TARGET, TEACHER)  # type: ignore[no-any-return]


@options("dynamicvit.class_weight")
def class_weight() -> Pairs:
    right = STUDENT.logits.softmax(-1)[[0, 1], TARGET]
    for weight in (1.0, 0.25):
        yield taught(class_weight=weight)["class"], weight * -right.log().mean()


@options("dynamicvit.ratio_weight")
def ratio_weight() -> Pairs:
    """Mean over stages and images of (share - rate)^2: shares .8, .4 of a half, then .6, .2 of a quarter."""
    mean = ((0.3**2 + 0.1**2) / 2 + (0.35**2 + 0.05**2) / 2) / 2
    for given, weight in ((None, 2.0), (5.0, 5.0)):
        yield taught(ratio_weight=given)["ratio"], torch.tensor(weight * mean)


@options("dynamicvit.batch_ratio")
def batch_ratio() -> Pairs:
    """Of the whole batch: shares .6 of a half, .4 of a quarter."""
    each = ((0.3**2 + 0.1**2) / 2 + (0.35**2 + 0.05**2) / 2) / 2
    for over_batch, mean in ((False, each), (True, (0.1**2 + 0.15**2) / 2)):
        yield taught(batch_ratio=over_batch)["ratio"], torch.tensor(2 * mean)


@options("dynamicvit.distill_weight")
def distill_weight() -> Pairs:
    rows = KEPT[-1].bool()
    far = ((STUDENT.features[:, 1:][rows] - TEACHER.features[:, 1:][rows]) ** 2).mean()
    for weight in (0.5, 2.0):
        terms = taught(distill_weight=weight)
        found = torch.stack([terms["distill_logits"], terms["distill_tokens"]])
        yield found, weight * torch.stack([kl(STUDENT.logits, TEACHER.logits), far])


@options("dynamicvit.token_mse")
def token_mse() -> Pairs:
    student, teacher = (out.features[:, 1:][KEPT[-1].bool()] for out in (STUDENT, TEACHER))
    yield taught(token_mse=True)["distill_tokens"], 0.5 * ((student - teacher) ** 2).mean()
    yield taught(token_mse=False)["distill_tokens"], 0.5 * kl(student, teacher)


# STViT in a plain ViT


def pooled(grid: Tensor, side: int, pool: str, branch: Any = None) -> Tensor:
    """Centres (B, side * side, C) of a map (B, rows, columns, C), each bin on its own."""
    rows, cols = grid.shape[1:3]
    if pool == "learned":
        return torch.stack([learned(image, side, branch) for image in grid])
    bins = []
    for i in range(side):
        for j in range(side):
            top, bottom = i * rows // side, -(-(i + 1) * rows // side)
            left, right = j * cols // side, -(-(j + 1) * cols // side)
            cell = grid[:, top:bottom, left:right].flatten(1, 2)
            bins.append(cell.amax(1) if pool == "max" else cell.mean(1))
    return torch.stack(bins, 1)


def learned(grid: Tensor, side: int, branch: Any) -> Tensor:
    """A branch gives a mask and, for each window, how far it moves down and to the right; read between cells."""
    rows, cols = grid.shape[:2]
    z = branch.norm(branch.depthwise(grid.permute(2, 0, 1)[None])[0].permute(1, 2, 0))
    z = F.linear(F.gelu(z), branch.point.weight[:, :, 0, 0], branch.point.bias)  # (rows, columns, 3)
    moves = pooled(z[None, ..., 1:], side, "avg")[0].tanh()
    both = torch.cat([grid, z[..., :1]], -1)
    height, width = -(-rows // side), -(-cols // side)
    found = []
    for window in range(side * side):
        middle = ((window // side + 0.5) * rows / side - 0.5, (window % side + 0.5) * cols / side - 0.5)
        down, right = float(moves[window, 0]) * height, float(moves[window, 1]) * width
        cells = [
            between(both, middle[0] + down + i - (height - 1) / 2, middle[1] + right + j - (width - 1) / 2)
            for i in range(height)
            for j in range(width)
        ]
        seen = torch.stack(cells)
        found.append((seen[:, :-1] * seen[:, -1:].softmax(0)).sum(0))
    return torch.stack(found)


def between(grid: Tensor, y: float, x: float) -> Tensor:
    """The map at a place between its cells; beyond the border, that of the border."""
    y, x = (min(max(place, 0.0), length - 1.0) for place, length in ((y, grid.shape[0]), (x, grid.shape[1])))
    (top, left), down, right = (int(y), int(x)), y - int(y), x - int(x)
    bottom, far = min(top + 1, grid.shape[0] - 1), min(left + 1, grid.shape[1] - 1)
    upper = grid[top, left] * (1 - right) + grid[top, far] * right
    lower = grid[bottom, left] * (1 - right) + grid[bottom, far] * right
    return upper * (1 - down) + lower * down


@torch.no_grad()
def semantic(
    model: Any, side: int = 4, base: int = 4, generating: int = 2, pool: str = "max", centres: str = "both"
) -> Tensor:
    vit = model.vit
    x = vit._pos_embed(vit.patch_embed(images()))[:, 1:]
    for block in vit.blocks[:base]:
        x = block(x)
    s = keys = x
    for i in range(base, base + generating):
        block, makers = vit.blocks[i], [r for r in model.blocks[i].reducers if hasattr(r, "centres")]
        if i == base and centres == "global":
            s = makers[0].centres.weight.expand(2, -1, -1)
        elif i == base:
            s = pooled(x.unflatten(1, (6, 6)), side, pool, makers[0].pool)
        elif centres == "both":
            s = s + makers[0].centres.weight
        s = ffn(block, s + mha(block, s, x if i == base else torch.cat([keys, x], 1))[0])
        keys = s  # of the next block, without the centres that are added to its queries
    for block in vit.blocks[base + generating :]:
        s = block(s)
    return vit.head(vit.norm(s).mean(1))


@options("stvit.tokens")
def stvit_tokens() -> Pairs:
    for side in (2, 3, 4):
        yield logits(model := made(STViT(tokens=side**2))), semantic(model, side)


@options("stvit.base")
def stvit_base() -> Pairs:
    for base in (0, 3, 9):
        yield logits(model := made(STViT(base=base))), semantic(model, base=base)
    yield logits(model := made(STViT())), semantic(model, base=4)


@options("stvit.generating")
def stvit_generating() -> Pairs:
    for generating in (1, 2, 4):
        yield logits(model := made(STViT(generating=generating))), semantic(model, generating=generating)


@options("stvit.pool")
def stvit_pool() -> Pairs:
    for pool in ("max", "avg", "learned"):
        yield logits(model := made(STViT(pool=pool))), semantic(model, pool=pool)


@options("stvit.centres")
def stvit_centres() -> Pairs:
    for centres in ("both", "spatial", "global"):
        yield logits(model := made(STViT(centres=centres))), semantic(model, centres=centres)


# STViT in Swin's windows: a third stage of 10x10 tokens in 2x2 windows, whose last two blocks of six generate


def seen(row: int, col: int, reach: int) -> Tensor:
    """Places of the map that a window looks at: its sides longer by `reach`, moved to lie inside."""
    length = min(10, 5 + reach)
    rows, cols = ([min(max(5 * start - reach // 2, 0), 10 - length) + i for i in range(length)] for start in (row, col))
    return torch.tensor([10 * r + c for r in rows for c in cols])


def inner(row: int, col: int) -> Tensor:
    """Places of a window's 3x3 semantic tokens in all 6x6."""
    return torch.tensor([6 * (3 * row + i) + 3 * col + j for i in range(3) for j in range(3)])


WINDOWS = [(row, col) for row in range(2) for col in range(2)]


@torch.no_grad()
def third_stage(model: Any) -> tuple[Any, Tensor]:
    """The third stage, and the map (B, 100, C) that enters it, by timm."""
    vit = model.vit
    x = vit.layers[1](vit.layers[0](vit.patch_embed(images(160))))
    return vit.layers[2], vit.layers[2].downsample(x).flatten(1, 2)


@torch.no_grad()
def windowed(model: Any, keys: str, reach: int) -> Tensor:
    """The semantic tokens after both generating blocks."""
    stage, x = third_stage(model)
    for block in stage.blocks[:4]:
        x = block(x.unflatten(1, (10, 10))).flatten(1, 2)
    first, second = stage.blocks[4:]
    near = 0 if keys == "own" else reach
    s = x.new_zeros(2, 36, x.shape[-1])
    for row, col in WINDOWS:
        window = x.unflatten(1, (10, 10))[:, 5 * row : 5 * row + 5, 5 * col : 5 * col + 5]
        centres = pooled(window, 3, "max")
        s[:, inner(row, col)] = centres + mha(first, centres, x[:, seen(row, col, near)])[0]
    s = ffn(first, s)
    asking, found = s + model.blocks[7].reducers[0].centres.weight, torch.zeros_like(s)
    for row, col in WINDOWS:
        places = inner(row, col)
        context = torch.cat([s, x] if keys == "global" else [s[:, places], x[:, seen(row, col, near)]], 1)
        found[:, places] = mha(second, asking[:, places], context)[0]
    return ffn(second, asking + found)


@torch.no_grad()
def generated(**knobs: Any) -> tuple[Tensor, Tensor]:
    model = made(STViT(tokens=9, **knobs), tiny_swin)
    out = model.run(images(160))
    return out.trace[7].x, windowed(model, knobs.get("keys", "global"), knobs.get("reach", 3))


@options("stvit.keys")
def stvit_keys() -> Pairs:
    for keys in ("global", "enlarged", "own"):
        yield generated(keys=keys)


@options("stvit.reach")
def stvit_reach() -> Pairs:
    for reach in (0, 2, 3, 5, 9):
        if reach != 9:
            yield generated(keys="enlarged", reach=reach)
    (far, _), (farther, _) = (generated(keys="enlarged", reach=reach) for reach in (5, 9))
    assert torch.equal(far, farther), "windows end at the border"


@options("stvit.projection")
def stvit_projection() -> Pairs:
    """The keys are the same and projected more often: counted, in thousands of multiply-adds."""
    (one, expected), (other, _) = (generated(keys="enlarged", projection=how) for how in ("crops", "once"))
    torch.testing.assert_close(other, one)
    torch.testing.assert_close(other, expected, rtol=1e-4, atol=1e-4)
    crops, once = (made(STViT(tokens=9, keys="enlarged", projection=how), tiny_swin) for how in ("crops", "once"))
    often, few = (1e6 * torch.tensor(flops.count(model, images(160)[:1]).gmacs) for model in (crops, once))
    # each of four windows looks at 64 of 100 tokens, and in the second block at its own 9 of 36 too
    dim, (inside, all_of_it) = third_stage(crops)[1].shape[-1], (4 * 64 + 4 * (9 + 64), 100 + 36 + 100)
    more = 2e-3 * dim * dim * (inside - all_of_it)
    yield often, few + more
    yield few, often - more


# STViT-R in a plain ViT


@torch.no_grad()
def recovered(model: Any, side: int = 3, base: int = 4, unit: int = 4) -> Tensor:
    """Logits: generate, refine, work on semantic tokens alone, recover, unit after unit."""
    vit = model.vit
    x = vit._pos_embed(vit.patch_embed(images()))[:, 1:]
    for block in vit.blocks[:base]:
        x = block(x)
    for start in range(base, 12, unit):
        blocks = vit.blocks[start : start + unit]
        s = pooled(x.unflatten(1, (6, 6)), side, "max")
        s = ffn(blocks[0], s + mha(blocks[0], s, x)[0])
        (refine,) = model.blocks[start + 1].reducers
        assert (refine.centres is not None) == (start == base and model.method.use_global)
        asking = s if refine.centres is None else s + refine.centres.weight
        s = ffn(blocks[1], asking + mha(blocks[1], asking, torch.cat([s, x], 1))[0])
        for block in blocks[2:-1]:
            s = block(s)
        x = ffn(blocks[-1], x + mha(blocks[-1], x, s)[0])
    return vit.head(vit.norm(x).mean(1))


@options("stvit_r.tokens")
def stvit_r_tokens() -> Pairs:
    for side in (1, 2, 3, 4):
        yield logits(model := made(STViTR(tokens=side**2))), recovered(model, side)


@options("stvit_r.base")
def stvit_r_base() -> Pairs:
    for base in (0, 4, 8):
        yield logits(model := made(STViTR(base=base))), recovered(model, base=base)


@options("stvit_r.unit")
def stvit_r_unit() -> Pairs:
    for unit in (3, 4, 6):
        yield logits(model := made(STViTR(base=0, unit=unit))), recovered(model, base=0, unit=unit)


# STViT-R in Swin


@options("stvit_r.use_global", "stvit_r.conv_pos", "stvit_r.relative_pos", "stvit_r.layer_scale", "stvit_r.shortcut")
def stvit_r_in_swin() -> Pairs:
    knobs = ("use_global", "conv_pos", "relative_pos", "layer_scale", "shortcut")
    for on in ((), *((knob,) for knob in knobs), knobs):
        model = made(STViTR(**dict.fromkeys(on, True)), tiny_swin)
        yield logits(model, 160), whole_swin(model, on)
    model = made(STViTR(use_global=True))
    yield logits(model), recovered(model)


@torch.no_grad()
def whole_swin(model: Any, on: Sequence[str]) -> Tensor:
    vit = model.vit
    x = vit.patch_embed(images(160))
    for number, stage in enumerate(vit.layers):
        x = stage.downsample(x)
        if number == 2:
            x = unit_of_six(stage, x.flatten(1, 2), on).unflatten(1, (10, 10))
            continue
        for i, block in enumerate(stage.blocks):
            one, two = (1.0, 1.0)
            if "layer_scale" in on:
                one, two = stage.scales[i].layer_scale_1, stage.scales[i].layer_scale_2
            x = x + one * block._attn(block.norm1(x))
            x = x + two * block.mlp(block.norm2(x))
    return vit.head(vit.norm(x))


def unit_of_six(stage: Any, x: Tensor, on: Sequence[str]) -> Tensor:
    plain, generate, refine, local, every, recover = stage.blocks
    x = plain(x.unflatten(1, (10, 10))).flatten(1, 2)
    s = x.new_zeros(2, 36, x.shape[-1])
    for row, col in WINDOWS:
        window = x.unflatten(1, (10, 10))[:, 5 * row : 5 * row + 5, 5 * col : 5 * col + 5]
        p = pooled(window, 3, "max")
        if "conv_pos" in on:
            grid = p.transpose(1, 2).unflatten(2, (3, 3))
            conv = generate.conv_pos.proj[0]
            p = p + F.conv2d(grid, conv.weight, conv.bias, padding=1, groups=len(conv.weight)).flatten(2).transpose(
                1, 2
            )
        found = generate.layer_scale_1 * cross(generate, p, torch.cat([p, x[:, seen(row, col, 3)]], 1))
        s[:, inner(row, col)] = p + found if "shortcut" in on else found
    s = scaled_ffn(generate, s)
    asking = s + stage.semantic_token2 if "use_global" in on else s
    s = scaled_ffn(refine, asking + refine.layer_scale_1 * cross(refine, asking, torch.cat([s, x], 1)))
    within = s.clone()
    for row, col in WINDOWS:
        places = inner(row, col)
        bias = distances(local, 3) if "relative_pos" in on else None
        within[:, places] += local.layer_scale_1 * cross(local, s[:, places], s[:, places], bias)
    s = scaled_ffn(local, within)
    s = scaled_ffn(
        every, s + every.layer_scale_1 * cross(every, s, s, distances(every, 6) if "relative_pos" in on else None)
    )
    return scaled_ffn(recover, x + recover.layer_scale_1 * cross(recover, x, s))


def cross(block: Any, queries: Tensor, keys: Tensor, bias: Tensor | None = None) -> Tensor:
    """Attention (B, M, C) with one norm for both, head by head; bias (heads, M, N)."""
    attn, found = block.attn, []
    q = attn.q(block.norm1(queries))
    k, v = attn.kv(block.norm1(keys)).chunk(2, -1)
    for head, (q_h, k_h, v_h) in enumerate(zip(*(y.chunk(attn.num_heads, -1) for y in (q, k, v)), strict=True)):
        scores = q_h @ k_h.transpose(1, 2) / math.sqrt(q_h.shape[-1])
        found.append((scores if bias is None else scores + bias[head]).softmax(-1) @ v_h)
    return attn.proj(torch.cat(found, -1))  # type: ignore[no-any-return]


def scaled_ffn(block: Any, x: Tensor) -> Tensor:
    return x + block.layer_scale_2 * block.mlp(block.norm2(x))  # type: ignore[no-any-return]


def distances(block: Any, side: int) -> Tensor:
    """A bias (heads, M, M) for each distance between two tokens of a square."""
    table, places = block.attn.relative_position_bias_table, [(i, j) for i in range(side) for j in range(side)]
    rows = [[table[(a - c + side - 1) * (2 * side - 1) + b - d + side - 1] for c, d in places] for a, b in places]
    return torch.stack([torch.stack(row) for row in rows]).permute(2, 0, 1)


@pytest.mark.parametrize("pairs", list(dict.fromkeys(OPTIONS.values())), ids=lambda pairs: pairs.__name__)
def test_option(pairs: Callable[[], Pairs]) -> None:
    found = list(pairs())
    for ours, wanted in found:
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-4)
    for (_, one), (_, other) in combinations(found, 2):
        assert (one - other).abs().max() > 0.01, "this option is to make a difference"
