"""Hard pruning and merging, one image and one token at a time: what every option of these methods should do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from equations import ffn
from formulas import QUARTERS, STUDENT, TARGET, TEACHER, Pairs, images, kl, logits, made, options
from torch import Tensor

from tokenbench.methods import get

Merged = tuple[Tensor, Tensor]  # tokens (N, C) and their sizes (N,)


def same(x: Tensor, size: Tensor, *_: Any) -> Merged:
    return x, size


def unchanged(x: Tensor, size: Tensor, weights: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return x, size, weights


@torch.no_grad()
def walked(
    model: Any,
    between: Callable[..., Merged] = same,
    before: Callable[..., Merged] = same,
    ahead: Callable[..., tuple[Tensor, Tensor, Tensor]] = unchanged,
    proportional: bool = False,
) -> Tensor:
    """Logits of a ViT whose tokens change before blocks, once attention is known, or between attention and MLP.

    `before` gets tokens, sizes, block, and the last attention; `ahead` tokens, sizes, attention (H, N, N) and block;
    `between` tokens, sizes, attention, keys and values (H, N, d), and block.
    """
    vit, found = model.vit, []
    for x in vit._pos_embed(vit.patch_embed(images())):
        size, weights = torch.ones(len(x)), torch.empty(0)
        for i, block in enumerate(vit.blocks):
            x, size = before(x, size, i, weights)
            attn = block.attn
            q, k, v = attn.qkv(block.norm1(x)).unflatten(1, (3, attn.num_heads, -1)).permute(1, 2, 0, 3)
            scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])
            weights = (scores + size.log() if proportional else scores).softmax(-1)
            length = len(x)
            x, size, weights = ahead(x, size, weights, i)
            if len(x) < length:
                v = attn.qkv(block.norm1(x)).unflatten(1, (3, attn.num_heads, -1)).permute(1, 2, 0, 3)[2]
            x = x + attn.proj((weights @ v).transpose(0, 1).flatten(1))
            x, size = between(x, size, weights, k, v, i)
            x = ffn(block, x[None])[0]
        found.append(vit.head(vit.norm(x)[0]))
    return torch.stack(found)


def joined(x: Tensor, size: Tensor, members: Sequence[Sequence[int]], share: Tensor | None = None) -> Merged:
    """Tokens made of others, each the mean by size or by other shares; sizes add up."""
    share = size if share is None else share
    made = [(x[m] * share[m, None]).sum(0) / share[m].sum() if len(m) > 1 else x[m[0]] for m in map(list, members)]
    return torch.stack(made), torch.stack([size[list(m)].sum() for m in members])


def unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True)


def tome_members(keys: Tensor, r: int) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """ToMe's groups in their order, the first of each the token that others go to; and who goes where."""
    key, n = unit(keys.mean(0)), keys.shape[1]
    even, odd = range(0, n, 2), range(1, n, 2)
    best = {a: max((float(key[a] @ key[b]), -b) for b in odd) for a in even if a}
    going = sorted(best, key=lambda a: best[a][0], reverse=True)[: min(r, (n - 1) // 2)]
    pairs = [(a, -best[a][1]) for a in going]
    groups = [[t, *(a for a, b in pairs if b == t)] for t in (*(a for a in even if a not in going), *odd)]
    return groups, pairs


def class_row(weights: Tensor) -> Tensor:
    return weights[:, 0].mean(0)


def shares(rate: float, total: int = 36) -> list[int]:
    return [int(total * rate ** (stage + 1)) for stage in range(12)]


# PiToMe


def energetic(ratio: float = 0.925, margin: float = 0.75, first: str = "all") -> tuple[Tensor, Tensor]:
    def between(x: Tensor, size: Tensor, _: Tensor, keys: Tensor, __: Tensor, block: int) -> Merged:
        n = len(x) - 1
        r, key = min(math.floor(n - n * ratio), n // 2), unit(keys.mean(0)[1:])
        if not r:
            return x, size
        near, limit = key @ key.T, margin * (1 - block / 12)
        energy = [
            float(sum(s - limit if s >= limit else math.exp(s - limit) - 1 for s in row)) for row in near.tolist()
        ]
        rank = sorted(range(n), key=lambda i: -energy[i])
        whole = (block < 6) == (first == "all")
        pairs, rest = (rank, []) if whole else (rank[: 2 * r], rank[2 * r :])
        even, odd = pairs[::2], pairs[1::2]
        best = {a: max((float(near[a, b]), -j) for j, b in enumerate(odd)) for a in even}
        order = sorted(even, key=lambda a: -best[a][0])
        groups = [[t] for t in (*order[r:], *rest)]
        groups += [[b, *(a for a in order[:r] if -best[a][1] == j)] for j, b in enumerate(odd)]
        return joined(x, size, [[0], *([1 + t for t in group] for group in groups)])

    model = made(get("pitome")(ratio=ratio, margin=margin, first=first))
    return logits(model), walked(model, between)


@options("pitome.ratio")
def pitome_ratio() -> Pairs:
    for ratio in (0.95, 0.8, 0.45):
        yield energetic(ratio)


@options("pitome.margin")
def pitome_margin() -> Pairs:
    for margin in (0.9, 0.2):
        yield energetic(0.9, margin)


@options("pitome.first")
def pitome_first() -> Pairs:
    for first in ("all", "energetic"):
        yield energetic(0.9, first=first)


# ToFu and ToMeCIS


def token_fusion(r: Any = 3, ratio: float | None = None, norm: str = "paper") -> tuple[Tensor, Tensor]:
    def between(x: Tensor, size: Tensor, _: Tensor, keys: Tensor, __: Tensor, block: int) -> Merged:
        rate = r if isinstance(r, int) else (*r, *[0] * 12)[block]
        rate = rate if ratio is None else math.floor(len(x) - len(x) * ratio)
        if not rate:
            return x, size
        groups, _pairs = tome_members(keys, rate)
        if block <= 6:
            return x[[group[0] for group in groups]], size[: len(groups)]
        mean, _size = joined(x, torch.ones(len(x)), groups)
        for place, group in enumerate(groups):
            own = mean[place] if norm == "paper" else x[group[0]]
            mean[place] *= x[group].norm(dim=1).max() / own.norm()
        return mean, size[: len(groups)]

    model = made(get("tofu")(r=r, ratio=ratio, norm=norm))
    return logits(model), walked(model, between)


@options("tofu.r")
def tofu_r() -> Pairs:
    for r in (1, 3, (4, 0, 0, 0, 2, 0, 0, 3)):
        yield token_fusion(r)


@options("tofu.ratio")
def tofu_ratio() -> Pairs:
    for ratio in (0.95, 0.8):
        yield token_fusion(ratio=ratio)


@options("tofu.norm")
def tofu_norm() -> Pairs:
    for norm in ("paper", "toolbox"):
        yield token_fusion(norm=norm)


@options("tomecis.r")
def tomecis_r() -> Pairs:
    for r in (1, 3, (4, 0, 2)):

        def between(
            x: Tensor, size: Tensor, weights: Tensor, keys: Tensor, values: Tensor, block: int, r: Any = r
        ) -> Merged:
            rate = r if isinstance(r, int) else (*r, *[0] * 12)[block]
            groups = tome_members(keys, rate)[0] if rate else [[i] for i in range(len(x))]
            return joined(x, size, groups, class_row(weights) * values.mean(0).norm(dim=1))

        yield logits(model := made(get("tomecis")(r=r))), walked(model, between, proportional=True)


# PPT


def pruned_or_pooled(r: Any = 6, threshold: float = 0.0, blocks: Any = None) -> tuple[Tensor, Tensor]:
    places = blocks or QUARTERS

    def between(x: Tensor, size: Tensor, weights: Tensor, keys: Tensor, values: Tensor, block: int) -> Merged:
        if block not in places:
            return x, size
        rate = min(r if isinstance(r, int) else r[places.index(block)], (len(x) - 1) // 2)
        score = (weights[:, 0].sum(0) * values.permute(1, 0, 2).flatten(1).norm(dim=1))[1:]
        score = score / score.sum()
        if score.var() < threshold:
            return joined(x, size, tome_members(keys, rate)[0])
        stay = [0, *(1 + score.argsort(descending=True)[: len(score) - rate]).tolist()]
        return x[stay], size[stay]

    model = made(get("ppt")(r=r, threshold=threshold, blocks=blocks))
    return logits(model), walked(model, between, proportional=True)


@options("ppt.r")
def ppt_r() -> Pairs:
    for r in (3, 8, (9, 2, 5)):
        yield pruned_or_pooled(r)


@options("ppt.threshold")
def ppt_threshold() -> Pairs:
    for threshold in (0.0, 0.004, 1.0):
        yield pruned_or_pooled(threshold=threshold)


@options("ppt.blocks")
def ppt_blocks() -> Pairs:
    for blocks in ((3, 6, 9), (0, 5), (1, 2, 3, 4)):
        yield pruned_or_pooled(blocks=blocks, threshold=0.004)


# MCTF


def multi_criteria(
    r: float = 4,
    blocks: Any = None,
    tau_sim: float = 1.0,
    tau_info: float = 20.0,
    tau_size: float = 40.0,
    bidirectional: bool = True,
) -> tuple[Tensor, Tensor]:
    usual = tuple(range(1, 12)) if r >= 1 else QUARTERS

    def ahead(x: Tensor, size: Tensor, weights: Tensor, block: int) -> tuple[Tensor, Tensor, Tensor]:
        n = len(x)
        rate = n - 10 if n - r < 10 else r
        rate = min(int((n - 1) * rate) if rate < 1 else int(rate), (n - 1) // 2)
        if block not in (blocks or usual) or rate <= 0:
            return x, size, weights
        w, way = weights.mean((0, 1)), unit(x)
        u, z = (1 / w) / (1 / w).max(), (1 / size) / (1 / size).max()

        def score(a: int, b: int) -> float:
            if a == 0:
                return -math.inf
            like = (float(way[a] @ way[b]) + 1) / 2
            return like ** (1 / tau_sim) * float(u[a] * u[b]) ** (1 / tau_info) * float(z[a] * z[b]) ** (1 / tau_size)

        even, odd = list(range(0, n, 2)), list(range(1, n, 2))
        table = {(a, b): score(a, b) for a in even for b in odd}
        one = rate // 2 if bidirectional else rate
        to_b = {a: max(odd, key=lambda b, a=a: table[a, b]) for a in even}
        going = sorted(even, key=lambda a: -table[a, to_b[a]])[:one]
        left = [a for a in even if a not in going]
        asked = left if bidirectional else even
        to_a = {b: max(asked, key=lambda a, b=b: table[a, b]) for b in odd}
        order = sorted(odd, key=lambda b: -table[to_a[b], b])
        taken = {b: [b, *(a for a in going if to_b[a] == b)] for b in odd}
        back = order[: rate - one]
        groups = [[a, *(t for b in back if to_a[b] == a for t in taken[b])] for a in left]
        groups += [taken[b] for b in order[rate - one :]]
        share = w * size / size.max()
        merged, sizes = joined(x, size, groups, share)
        columns = torch.stack([weights[:, :, group].sum(2) for group in groups], 2)
        rows = [(columns[:, g] * share[g, None]).sum(1) / share[g].sum() for g in groups]
        return merged, sizes, torch.stack(rows, 1)

    knobs = dict(tau_sim=tau_sim, tau_info=tau_info, tau_size=tau_size, bidirectional=bidirectional)
    model = made(get("mctf")(r=r, blocks=blocks, **knobs))
    return logits(model), walked(model, ahead=ahead, proportional=True)


@options("mctf.r")
def mctf_r() -> Pairs:
    """So many, or that share at three stages; never fewer than ten tokens are left."""
    for r in (2, 9, 0.3):
        yield multi_criteria(r)


@options("mctf.blocks")
def mctf_blocks() -> Pairs:
    for blocks in ((3, 6, 9), (0, 4)):
        yield multi_criteria(5, blocks)


@options("mctf.tau_sim", "mctf.tau_info", "mctf.tau_size")
def mctf_tau() -> Pairs:
    for taus in ((1.0, 20.0, 40.0), (5.0, 20.0, 40.0), (1.0, 1.0, 40.0), (1.0, 20.0, 1.0)):
        yield multi_criteria(4, None, *taus)


@options("mctf.bidirectional")
def mctf_bidirectional() -> Pairs:
    for both in (True, False):
        yield multi_criteria(bidirectional=both)


@options("mctf.consistency", "mctf.confidence")
def mctf_consistency() -> Pairs:
    """The mean over images whose label is likely enough, here both or the second alone."""
    sure = STUDENT.logits.softmax(-1)[[0, 1], TARGET]
    apart = ((STUDENT.features[:, 0] - TEACHER.features[:, 0]) ** 2).mean(1)
    low = float(sure.min()) + 1e-3
    assert low < float(sure.max())
    for weight, limit in ((3.0, 0.0), (1.0, 0.0), (3.0, low)):
        terms = get("mctf")(consistency=weight, confidence=limit).losses(replace(STUDENT, twin=TEACHER), TARGET)
        yield terms["consistency"], weight * apart[sure > limit].mean()


# LTMP


def thresholded(merge_from: float = 0.5, prune_to: float = 0.0) -> tuple[Tensor, Tensor]:
    def between(x: Tensor, size: Tensor, weights: Tensor, keys: Tensor, _: Tensor, __: int) -> Merged:
        n, key, importance = len(x), unit(keys.mean(0)), weights.mean((0, 1))
        even, odd = range(0, n, 2), range(1, n, 2)
        best = {a: max((float(key[a] @ key[b]), -b) for b in odd) for a in even if a} if n > 1 else {}
        going = {a: -b for a, (like, b) in best.items() if like > merge_from}
        groups = [[a] for a in even if a not in going]
        groups += [[b, *(a for a in even if going.get(a) == b)] for b in odd]
        stay = [g for g in groups if g == [0] or max(importance[i] for i in g) > prune_to]
        return joined(x, size, stay)

    model = made(get("ltmp")(merge_from=merge_from, prune_to=prune_to))
    for block in model.blocks:
        block.reducers[0].merge_masker.threshold.data.fill_(merge_from)
        block.reducers[0].prune_masker.threshold.data.fill_(prune_to)
    return logits(model), walked(model, between, proportional=True)


@options("ltmp.merge_from", "ltmp.prune_to")
def ltmp_thresholds() -> Pairs:
    for merge_from, prune_to in ((0.7, 0.0), (0.4, 0.0), (2.0, 0.01), (0.7, 0.02)):
        yield thresholded(merge_from, prune_to)


@options("ltmp.target", "ltmp.budget_weight")
def ltmp_budget() -> Pairs:
    """Two blocks of six tokens of width 8, of which four and then three are left in the mean."""
    n, dim = 6, 8
    one, two = (
        2 * m * n * dim**2 + m**2 * n**2 * dim + 4 * after * n * dim**2 for m, after in ((1, 4 / 6), (4 / 6, 3 / 6))
    )
    share = (one + two) / 2 / (6 * n * dim**2 + n**2 * dim)
    for target, weight in ((0.75, 10.0), (0.3, 10.0), (0.75, 100.0)):
        terms = get("ltmp")(target=target, budget_weight=weight).losses(STUDENT, TARGET)
        yield terms["budget"], torch.tensor(weight * (share - target) ** 2)


# ATS


def sampled(program: str = "official", keep_rate: float = 0.7, blocks: Any = None) -> tuple[Tensor, Tensor]:
    places = blocks or (tuple(range(3, 12)) if program == "official" else QUARTERS)

    def between(x: Tensor, size: Tensor, weights: Tensor, _: Tensor, values: Tensor, block: int) -> Merged:
        if block not in places or len(x) == 2:  # one patch is not sampled
            return x, size
        if program == "official":
            score = (weights[:, 0].sum(0) * values.permute(1, 0, 2).flatten(1).norm(dim=1))[1:].double()
            order = score.argsort()
            sums = (score / score.sum())[order].cumsum(0)
            sums = (sums - sums.min()) / (sums.max() - sums.min())
            first = sums[sums > 0].min()
            points = [first + (1 - first) * i / 35 for i in range(36)]
        else:
            score = (weights[:, 0] * values.norm(dim=2)).sum(0)[1:].double()
            order, sums = torch.arange(len(score)), (score / (score.sum() + 1e-6)).cumsum(0)
            count = int(36 * keep_rate ** (places.index(block) + 1)) + 1
            points = torch.arange(1 / (2 * count), (2 * count - 1) / (2 * count), 1 / count).double()
        hits = sorted({int((sums - point).abs().argmin()) for point in points})
        stay = [0, *(1 + order[hits]).tolist()]
        return x[stay], size[stay]

    model = made(get("ats")(program=program, keep_rate=keep_rate, blocks=blocks))
    return logits(model), walked(model, between)


@options("ats.program")
def ats_program() -> Pairs:
    for program in ("official", "suite"):
        yield sampled(program)


@options("ats.keep_rate")
def ats_keep_rate() -> Pairs:
    for rate in (1.0, 0.8, 0.3):
        yield sampled("suite", rate)


@options("ats.blocks")
def ats_blocks() -> Pairs:
    for blocks in ((3, 6, 9), (0, 1), (2, 10)):
        yield sampled(blocks=blocks)
        yield sampled("suite", 0.6, blocks)


# ATC


def clusters(apart: Tensor, count: int, linkage: str) -> list[list[int]]:
    """By its definition: over all pairs of patches of two clusters."""
    groups = [[i] for i in range(len(apart))]
    how = {"average": torch.mean, "complete": torch.max, "single": torch.min}[linkage]
    while len(groups) > count:
        pairs = [(float(how(apart[g][:, h])), i, j) for i, g in enumerate(groups) for j, h in enumerate(groups[:i])]
        _, one, other = min(pairs)
        groups[other] += groups.pop(one)
    return groups


def agglomerated(
    keep_rate: float = 0.7,
    linkage: str = "average",
    prop_attn: bool = True,
    blocks: Any = None,
    r: Any = None,
    inflect: float = 0.0,
) -> tuple[Tensor, Tensor]:
    places = blocks or QUARTERS

    def between(x: Tensor, size: Tensor, _: Tensor, keys: Tensor, __: Tensor, block: int) -> Merged:
        n = len(x) - 1
        if r is None:
            count = shares(keep_rate)[places.index(block)] if block in places else n
        elif isinstance(r, tuple):
            count = n - (*r, *[0] * 12)[block]
        else:
            low = int(r * (1 - inflect))
            count = n - int(low + (2 * r - 2 * low) / 11 * block)
        if count >= n:
            return x, size
        key = unit(keys.mean(0)[1:])
        groups = [[0], *([1 + t for t in g] for g in clusters(1 - key @ key.T, count, linkage))]
        x, size = joined(x, size, groups)
        return x, size if prop_attn else torch.ones(len(x))

    knobs = dict(keep_rate=keep_rate, linkage=linkage, prop_attn=prop_attn, blocks=blocks, r=r, inflect=inflect)
    model = made(get("atc")(**knobs))
    return logits(model), walked(model, between, proportional=prop_attn)


@options("atc.keep_rate")
def atc_keep_rate() -> Pairs:
    for rate in (1.0, 0.8, 0.4):
        yield agglomerated(rate)


@options("atc.linkage")
def atc_linkage() -> Pairs:
    for linkage in ("average", "complete", "single"):
        yield agglomerated(linkage=linkage)


@options("atc.prop_attn")
def atc_prop_attn() -> Pairs:
    for proportional in (True, False):
        yield agglomerated(0.5, prop_attn=proportional)


@options("atc.blocks")
def atc_blocks() -> Pairs:
    for blocks in ((3, 6, 9), (0, 8)):
        yield agglomerated(blocks=blocks)


@options("atc.r")
def atc_r() -> Pairs:
    for r in (1, 2, (5, 0, 3)):
        yield agglomerated(r=r)


@options("atc.inflect")
def atc_inflect() -> Pairs:
    for inflect in (-1.0, 0.5):
        yield agglomerated(r=2, inflect=inflect)


# DiffRate


def compressed(model: Any, counts: Sequence[tuple[int, int]]) -> Tensor:
    def between(x: Tensor, size: Tensor, weights: Tensor, _: Tensor, __: Tensor, block: int) -> Merged:
        prune, merge = counts[block]
        order = [0, *(1 + class_row(weights)[1:].argsort(descending=True)).tolist()][:prune]
        x, size = x[order], size[order].clone()
        if merge >= len(x):
            return x, size
        way, groups = unit(x), [[i] for i in range(merge)]
        grown = size.clone()
        for i in range(merge, len(x)):
            near, to = max((float(way[i] @ way[j]), j) for j in range(1, merge))
            groups[to].append(i)
            grown[to] += size[i] * near
        return joined(x, size, groups, torch.ones(len(x)))[0], grown[:merge].clamp(min=1)

    return walked(model, between, proportional=True)


@options("diffrate.table")
def diffrate_table() -> Pairs:
    """Counts of 196 patches, scaled to 36."""
    for table in ("deit_s-2.9", "deit_t-0.6"):
        model = made(get("diffrate")(table=table))
        prune, merge = TABLES[table]
        scaled = [tuple(max(1, round((c - 1) * 36 / 196)) + 1 for c in pair) for pair in zip(prune, merge, strict=True)]
        yield logits(model), compressed(model, scaled)  # type: ignore[arg-type]


TABLES = {
    "deit_s-2.9": (
        (197, 196, 190, 168, 150, 139, 129, 117, 99, 78, 58, 3),
        (197, 194, 176, 156, 141, 133, 121, 107, 88, 64, 56, 3),
    ),
    "deit_t-0.6": (
        (197, 196, 180, 157, 130, 107, 86, 73, 63, 51, 40, 3),
        (197, 187, 167, 139, 114, 90, 76, 66, 57, 45, 37, 3),
    ),
}


@options("diffrate.prune", "diffrate.merge")
def diffrate_counts() -> Pairs:
    falling = tuple(range(37, 13, -2))
    for prune, merge in ((falling, falling), ((37,) * 12, falling), (falling, tuple(n - 2 for n in falling))):
        model = made(get("diffrate")(prune=prune, merge=merge))
        yield logits(model), compressed(model, list(zip(prune, merge, strict=True)))


@options("diffrate.search", "diffrate.step")
def diffrate_search() -> Pairs:
    """The mean over candidates, rounded up, and the class token; none but in the first block, which leaves all."""
    for step in (1, 4, 11):
        model, counts = made(get("diffrate")(search=True, step=step)), [(37, 37)]
        for i, block in enumerate(model.blocks[1:]):
            pair = []
            for learnt, near in ((block.reducers[0].prune_ddp, 33 - 2 * i), (block.reducers[0].merge_ddp, 32 - 2 * i)):
                candidates = range(36, 0, -step)
                learnt.selected_probability.data = torch.tensor([-abs(c - near) / 4 for c in candidates])
                likely = [math.exp(-abs(c - near) / 4) for c in candidates]
                mean = sum(p * c for p, c in zip(likely, candidates, strict=True)) / sum(likely)
                pair.append(math.ceil(mean) + 1)
            counts.append((min(counts[-1][1], pair[0]), min(counts[-1][1], *pair)))
        yield logits(model), compressed(model, counts)


@options("diffrate.target", "diffrate.target_weight")
def diffrate_target() -> Pairs:
    for target, weight in ((1.0, 5.0), (2.5, 5.0), (1.0, 1.0)):
        out = replace(STUDENT, tokens=STUDENT.tokens.store("gflops", torch.tensor(1.5)))
        terms = get("diffrate")(target=target, target_weight=weight).losses(out, TARGET)
        yield terms["target"], torch.tensor(weight * (1.5 - target) ** 2)


# DPC-KNN, k-medoids, radial


def dense_peaks(keep_rate: float = 0.6, k: int = 5, equal: bool = False, blocks: Any = (1, 2)) -> tuple[Tensor, Tensor]:
    model = made(get("dpcknn")(keep_rate=keep_rate, k=k, equal_weight=equal, blocks=blocks))
    if not equal:
        for block in blocks:
            model.blocks[block].reducers[0].score.weight.data *= 0.2

    def before(x: Tensor, size: Tensor, block: int, _: Tensor) -> Merged:
        if block not in blocks:
            return x, size
        stage, p = blocks.index(block), x[1:]
        apart = (p[:, None] - p[None]).norm(dim=2) / math.sqrt(p.shape[1])
        density = [math.exp(-float((row.sort().values[:k] ** 2).mean())) for row in apart]
        most = float(apart.max())
        far = [
            min([most, *(float(apart[i, j]) for j in range(len(p)) if density[j] > density[i])]) for i in range(len(p))
        ]
        centre = sorted(range(len(p)), key=lambda i: -density[i] * far[i])[: shares(keep_rate)[stage]]
        home = [centre.index(i) if i in centre else int(apart[i, centre].argmin()) for i in range(len(p))]
        score = None if equal else model.blocks[block].reducers[0].score
        w = torch.ones(len(p)) if score is None else score(p)[:, 0].exp()
        new = [[i for i, h in enumerate(home) if h == c] for c in range(len(centre))]
        made = [(w[m, None] * p[m]).sum(0) / (w[m].sum() + 1e-6) for m in new]
        return torch.stack([x[0], *made]), size[: 1 + len(centre)]

    return logits(model), walked(model, before=before)


@options("dpcknn.keep_rate")
def dpcknn_keep_rate() -> Pairs:
    for rate in (0.9, 0.5):
        yield dense_peaks(rate)


@options("dpcknn.k")
def dpcknn_k() -> Pairs:
    for k in (2, 5, 20):
        yield dense_peaks(0.4, k)


@options("dpcknn.equal_weight")
def dpcknn_equal_weight() -> Pairs:
    for equal in (True, False):
        yield dense_peaks(equal=equal)


@options("dpcknn.blocks")
def dpcknn_blocks() -> Pairs:
    for blocks in ((0, 2), (1, 3)):
        yield dense_peaks(blocks=blocks)


def middles(
    keep_rate: float = 0.6, rounds: int = 3, equal: bool = False, seed: int = 0, blocks: Any = None
) -> tuple[Tensor, Tensor]:
    places = blocks or QUARTERS
    model = made(get("kmedoids")(keep_rate=keep_rate, rounds=rounds, equal_weight=equal, seed=seed, blocks=blocks))

    def before(x: Tensor, size: Tensor, block: int, weights: Tensor) -> Merged:
        if block not in places:
            return x, size
        stage, p = places.index(block), x[1:]
        apart, count = (p[:, None] - p[None]).norm(dim=2), shares(keep_rate)[stage]
        w = torch.ones(len(p)) if equal else weights.sum((0, 1))[1:]
        if equal:
            reducer = next(r for r in model.blocks[block].reducers if hasattr(r, "start"))
            chosen = [int(reducer.start * len(p))]
            while len(chosen) < count:
                reach = {i: max(float(apart[i, c]) for c in chosen) for i in range(len(p)) if i not in chosen}
                chosen.append(max(reach, key=lambda i: reach[i]))
        else:
            chosen = w.argsort(descending=True)[:count].tolist()
        for _ in range(rounds):
            home = [chosen.index(i) if i in chosen else int(apart[i, chosen].argmin()) for i in range(len(p))]
            cost = [float(w[i] * apart[i].sum()) for i in range(len(p))]
            chosen = [min((i for i, h in enumerate(home) if h == c), key=lambda i: cost[i]) for c in range(count)]
        stay = [0, *(1 + i for i in chosen)]
        return x[stay], size[stay]

    return logits(model), walked(model, before=before)


@options("kmedoids.keep_rate")
def kmedoids_keep_rate() -> Pairs:
    for rate in (0.9, 0.5):
        yield middles(rate)


@options("kmedoids.rounds")
def kmedoids_rounds() -> Pairs:
    for rounds in (0, 1, 3):
        yield middles(rounds=rounds)


@options("kmedoids.equal_weight", "kmedoids.seed")
def kmedoids_equal_weight() -> Pairs:
    yield middles()
    for seed in (0, 3):
        yield middles(0.4, 1, equal=True, seed=seed)


@options("kmedoids.blocks")
def kmedoids_blocks() -> Pairs:
    for blocks in ((3, 6, 9), (1, 2)):
        yield middles(blocks=blocks)


def rings(blocks: Any = None, **knobs: Any) -> tuple[Tensor, Tensor]:
    """6x6 patches at half steps from the middle, by the formula in floats."""
    norm, rate = knobs.get("norm", "l2"), knobs.get("keep_rate", 0.7)
    spots = [(i - 2.5, j - 2.5) for i in range(6) for j in range(6)]
    how = {"l1": lambda y, x: abs(y) + abs(x), "l2": math.hypot, "linf": lambda y, x: max(abs(y), abs(x))}[norm]
    z = [round(how(*spot), 6) for spot in spots]
    places = blocks or QUARTERS
    if knobs.get("contiguous"):
        places = tuple(range(places[0], places[-1] + 1))
        h, steps, least = 3 / 5 * 2, len(places) + 1, knobs.get("least", 1.0)  # the patches' distance from each other
        corner = {"l1": 6.0, "l2": math.hypot(3, 3), "linf": 3.0}[norm]
        limit = [(corner + (least - corner) * (i + 1) / steps) / h + 1e-6 for i in range(len(places))]
    else:
        limit = []
        for want in shares(rate)[: len(places)]:
            limit.append(min(sorted(set(z)), key=lambda ring: (abs(sum(v <= ring for v in z) - want), ring)))
    left = list(range(36))
    index = {}
    for place, radius in zip(places, limit, strict=True):
        index[place] = [n for n, patch in enumerate(left) if z[patch] <= radius]
        left = [left[n] for n in index[place]]

    def before(x: Tensor, size: Tensor, block: int, _: Tensor) -> Merged:
        stay = [0, *(1 + i for i in index[block])] if block in index else list(range(len(x)))
        return x[stay], size[stay]

    model = made(get("radial")(blocks=blocks, **knobs))
    return logits(model), walked(model, before=before)


@options("radial.norm")
def radial_norm() -> Pairs:
    for norm in ("l1", "l2", "linf"):
        yield rings(norm=norm)


@options("radial.keep_rate")
def radial_keep_rate() -> Pairs:
    for rate in (0.9, 0.5):
        yield rings(keep_rate=rate)


@options("radial.contiguous", "radial.least")
def radial_contiguous() -> Pairs:
    for norm in ("l1", "l2", "linf"):
        yield rings(norm=norm, contiguous=True)
    yield rings(contiguous=True, least=2.0)


@options("radial.blocks")
def radial_blocks() -> Pairs:
    for blocks in ((3, 6, 9), (0, 1)):
        yield rings(blocks=blocks)


# dTPS, eTPS, IdleViT


def pressed(x: Tensor, order: list[int], count: int) -> Tensor:
    """The first of the patches x (n, C) in this order, with the others in those most like them."""
    way = x / (x.norm(dim=1, keepdim=True) + 1e-6)
    sums, weights = math.e * x[order[:count]], torch.full((count,), math.e)
    for i in order[count:]:
        alike = way[order[:count]] @ way[i]
        host = int(alike.argmax())
        sums[host] += alike[host].exp() * x[i]
        weights[host] += alike[host].exp()
    return sums / weights[:, None]


def predicted_and_pressed(keep_rate: float = 0.7, blocks: Any = None) -> tuple[Tensor, Tensor]:
    places = blocks or QUARTERS
    model = made(get("dtps")(keep_rate=keep_rate, blocks=blocks))

    def before(x: Tensor, size: Tensor, block: int, _: Tensor) -> Merged:
        if block not in places:
            return x, size
        predictor = model.blocks[block].reducers[0].predictor
        z = F.gelu(predictor.in_conv[1](predictor.in_conv[0](x[1:])))
        half = z.shape[1] // 2
        z = torch.cat([z[:, :half], z[:, half:].mean(0, keepdim=True).expand(len(z), -1)], 1)
        order = predictor.out_conv(z).log_softmax(-1)[:, 0].argsort(descending=True).tolist()
        new = pressed(x[1:], order, shares(keep_rate)[places.index(block)])
        return torch.cat([x[:1], new]), size[: 1 + len(new)]

    return logits(model), walked(model, before=before)


@options("dtps.keep_rate")
def dtps_keep_rate() -> Pairs:
    for rate in (0.9, 0.5):
        yield predicted_and_pressed(rate)


@options("dtps.blocks")
def dtps_blocks() -> Pairs:
    for blocks in ((3, 6, 9), (0, 7)):
        yield predicted_and_pressed(blocks=blocks)


@options("dtps.ratio_weight")
def dtps_ratio_weight() -> Pairs:
    """Mean over stages and images of (share - rate)^2: shares .8, .4 of a half, then .6, .2 of a quarter."""
    mean = ((0.3**2 + 0.1**2) / 2 + (0.35**2 + 0.05**2) / 2) / 2
    for weight in (2.0, 5.0):
        found = get("dtps")(keep_rate=0.5, ratio_weight=weight).losses(STUDENT, TARGET, TEACHER)
        yield found["ratio"], torch.tensor(weight * mean)


@options("dtps.distill_weight", "dtps.token_mse")
def dtps_distillation() -> Pairs:
    """Over the tokens kept to the end: 0 and 2 of the first image, 4 of it too, and 0 of the second."""
    rows, places = [0, 0, 0, 1], [0, 2, 4, 0]
    own, theirs = (o.features[:, 1:][rows, places] for o in (STUDENT, TEACHER))
    for weight, mse in ((0.5, False), (2.0, False), (0.5, True)):
        found = get("dtps")(distill_weight=weight, token_mse=mse).losses(STUDENT, TARGET, TEACHER)
        tokens = ((own - theirs) ** 2).mean() if mse else kl(own, theirs)
        both = torch.stack([found["distill_logits"], found["distill_tokens"]])
        yield both, weight * torch.stack([kl(STUDENT.logits, TEACHER.logits), tokens])


def ranked_and_pressed(keep_rate: float = 0.7, blocks: Any = None) -> tuple[Tensor, Tensor]:
    def between(x: Tensor, size: Tensor, weights: Tensor, _: Tensor, __: Tensor, block: int) -> Merged:
        if block not in (blocks or QUARTERS):
            return x, size
        order = class_row(weights)[1:].argsort(descending=True).tolist()
        new = pressed(x[1:], order, math.ceil(keep_rate * len(order)))
        return torch.cat([x[:1], new]), size[: 1 + len(new)]

    model = made(get("etps")(keep_rate=keep_rate, blocks=blocks))
    return logits(model), walked(model, between)


@options("etps.keep_rate")
def etps_keep_rate() -> Pairs:
    for rate in (0.9, 0.5):
        yield ranked_and_pressed(rate)


@options("etps.blocks")
def etps_blocks() -> Pairs:
    for blocks in ((3, 6, 9), (0, 7)):
        yield ranked_and_pressed(blocks=blocks)


@torch.no_grad()
def idling(keep_rate: float = 0.7, blocks: Any = None) -> tuple[Tensor, Tensor]:
    model = made(get("idlevit")(keep_rate=keep_rate, blocks=blocks))
    vit, places, found = model.vit, blocks or tuple(range(3, 12)), []
    for x in vit._pos_embed(vit.patch_embed(images())):
        for i, block in enumerate(vit.blocks):
            rows = list(range(len(x)))
            if i in places:
                qkv = block.attn.qkv(block.norm1(x)).unflatten(1, (3, block.attn.num_heads, -1))
                score = (qkv[0, 0] * qkv[1:, 1]).sum(2).mean(1)
                rows = [0, *(1 + score.argsort(descending=True)[: shares(keep_rate)[places.index(i) // 3]]).tolist()]
            x = x.clone()
            x[rows] = block(x[None, rows])[0]
        found.append(vit.head(vit.norm(x)[0]))
    return logits(model), torch.stack(found)


@options("idlevit.keep_rate")
def idlevit_keep_rate() -> Pairs:
    for rate in (0.9, 0.5):
        yield idling(rate)


@options("idlevit.blocks")
def idlevit_blocks() -> Pairs:
    for blocks in (tuple(range(3, 12)), tuple(range(4, 12)), (0, 5)):
        yield idling(blocks=blocks)


@options("idlevit.cut_weight", "idlevit.distill_weight")
def idlevit_losses() -> Pairs:
    """The mean of the cut losses, KL of logits, and distance of the class tokens' directions."""
    cuts = (torch.tensor(0.3), torch.tensor(0.1))
    student = replace(STUDENT, tokens=STUDENT.tokens.store("cut losses", cuts))
    apart = ((unit(STUDENT.features[:, 0]) - unit(TEACHER.features[:, 0])) ** 2).mean()
    for cut, distill in ((20.0, 5.0), (4.0, 5.0), (20.0, 10.0)):
        terms = get("idlevit")(cut_weight=cut, distill_weight=distill).losses(student, TARGET, TEACHER)
        want = [cut * torch.tensor(0.2), distill * kl(STUDENT.logits, TEACHER.logits), 100 * distill * apart]
        yield torch.stack([terms[n] for n in ("cut", "distill_logits", "distill_class")]), torch.stack(want)
