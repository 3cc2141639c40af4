"""Soft tokens, learned merging, tokens that wait or halt: what every option of these methods should do."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from formulas import QUARTERS, STUDENT, TARGET, TEACHER, Pairs, images, kl, logits, made, options
from formulas_hard import Merged, class_row, joined, shares, tome_members, unit, walked
from torch import Tensor

from tokenbench.methods import get
from tokenbench.methods.avit import SO_FAR, SoFar

Step = Callable[[Tensor, int], Tensor]  # tokens (B, N, C) and the block


def unmoved(x: Tensor, _: int) -> Tensor:
    return x


@torch.no_grad()
def through(model: Any, before: Step = unmoved, after: Step = unmoved) -> Tensor:
    """Logits of a ViT whose tokens change before and after blocks."""
    vit = model.vit
    x = vit._pos_embed(vit.patch_embed(images()))
    for i, block in enumerate(vit.blocks):
        x = after(block(before(x, i)), i)
    return vit.head(vit.norm(x)[:, 0])  # type: ignore[no-any-return]


def normed(norm: Any, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias, eps)


def terms(found: dict[str, Tensor], *names: str) -> Tensor:
    """Terms of a loss, 0 where there is none."""
    return torch.stack([found.get(name, torch.tensor(0.0)) for name in names])


def wrong(logits: Tensor) -> Tensor:
    """Cross-entropy."""
    return -logits.softmax(-1)[[0, 1], TARGET].log().mean()


# PatchMerger, Sinkhorn, SiT


def condensed(
    name: str,
    sums: Callable[[Any, Tensor], Tensor],
    keep_rate: float = 0.7,
    tokens: Any = None,
    blocks: Any = None,
    **knobs: Any,
) -> tuple[Tensor, Tensor]:
    """The class token set aside, new tokens made of each image's patches."""
    places = QUARTERS if blocks is None else blocks
    counts = tokens or shares(keep_rate)
    model = made(get(name)(keep_rate=keep_rate, tokens=tokens, blocks=blocks, **knobs))

    def before(x: Tensor, block: int) -> Tensor:
        if block not in places:
            return x
        new = torch.stack([sums(model.blocks[block].reducers[0], image[1:]) for image in x])
        assert new.shape[1] == counts[places.index(block)]
        return torch.cat([x[:, :1], new], 1)

    return logits(model), through(model, before)


def gathered(scaled: bool = False) -> Callable[[Any, Tensor], Tensor]:
    def sums(merger: Any, x: Tensor) -> Tensor:
        y, found = normed(merger.norm, x, 1e-5), []
        for query in merger.queries:
            weights = (y @ query / (math.sqrt(x.shape[1]) if scaled else 1)).softmax(0)
            found.append((weights[:, None] * y).sum(0))
        return torch.stack(found)

    return sums


def transported(epsilon: float = 1.0, iterations: int = 3) -> Callable[[Any, Tensor], Tensor]:
    """Sinkhorn's iteration without logarithms, rows first, each of K + N having as much."""

    def sums(centres: Any, x: Tensor) -> Tensor:
        way = unit(x)
        plan = (unit(centres.v) @ way.T / epsilon).double().exp()
        mass, columns = 1 / sum(plan.shape), torch.ones(len(x), dtype=torch.float64)
        for _ in range(iterations):
            rows = mass / (plan @ columns)
            columns = mass / (rows @ plan)
        return (rows[:, None] * plan * columns / mass).float() @ way

    return sums


def slimmed(slim: Any, x: Tensor) -> Tensor:
    norm, first, _, second = slim.weight
    assert first.out_features == x.shape[1] // 2
    weights = slim.scale[0, 0, 0] * second(F.gelu(first(normed(norm, x, 1e-5))))  # (N, K)
    return torch.stack([(column.softmax(0)[:, None] * x).sum(0) for column in weights.T])


SOFT: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "patchmerger": gathered(),
    "sinkhorn": transported(),
    "sit": slimmed,
}


@options(*(f"{name}.keep_rate" for name in SOFT))
def soft_keep_rate() -> Pairs:
    """int(36 rate^(stage + 1)) tokens."""
    for name, sums in SOFT.items():
        for rate in (1.0, 0.8, 0.4):
            yield condensed(name, sums, rate)


@options(*(f"{name}.tokens" for name in SOFT))
def soft_tokens() -> Pairs:
    for name, sums in SOFT.items():
        for tokens in ((20, 9, 3), (36, 35, 1)):
            yield condensed(name, sums, tokens=tokens)


@options(*(f"{name}.blocks" for name in SOFT))
def soft_blocks() -> Pairs:
    for name, sums in SOFT.items():
        for blocks in ((3, 6, 9), (0, 11), (6,), ()):
            if blocks or name == "sit":  # once: none is the dense model, whatever the method
                yield condensed(name, sums, blocks=blocks)


@options("patchmerger.scaled")
def patchmerger_scaled() -> Pairs:
    for scaled in (True, False):
        yield condensed("patchmerger", gathered(scaled), scaled=scaled)


@options("sinkhorn.epsilon")
def sinkhorn_epsilon() -> Pairs:
    for epsilon in (1.0, 0.1):
        yield condensed("sinkhorn", transported(epsilon), epsilon=epsilon)


@options("sinkhorn.iterations")
def sinkhorn_iterations() -> Pairs:
    for iterations in (1, 2, 5):
        yield condensed("sinkhorn", transported(0.1, iterations), epsilon=0.1, iterations=iterations)


@torch.no_grad()
def recycled(token_weight: float = 2.0, logit_weight: float = 2.0, reverse: bool = True) -> tuple[Tensor, Tensor]:
    """Each block's tokens, as they leave for the next, against a teacher's; the few are first made 36 again."""
    method = get("sit")(reverse=reverse, token_weight=token_weight, logit_weight=logit_weight)
    model, teacher = made(method).train(), made(get("dense")())
    for parameter in teacher.parameters():
        parameter.data *= 0.9
    taught = teacher.run(images())
    found = terms(method.losses(model.run(images()), TARGET, taught), "class", "tokens", "logits")
    outputs: list[Tensor] = []

    def keep(x: Tensor, reducers: Any) -> None:
        z = x[:, 1:]
        for back in (reducer for reducer in reducers if hasattr(reducer, "mlp1")):
            assert back.mlp1[0].out_features == 4 * 36 and back.mlp2[0].out_features == 4 * 32
            z = back.mlp1(normed(back.norm1, z, 1e-5).transpose(1, 2)).transpose(1, 2)
            z = z + back.mlp2(normed(back.norm2, z, 1e-5))
        outputs.append(z)

    def before(x: Tensor, block: int) -> Tensor:
        reducers = list(model.blocks[block].reducers)
        if block in QUARTERS:
            new = torch.stack([slimmed(reducers[0], image[1:]) for image in x])
            x = torch.cat([x[:, :1], new], 1)
        if block:
            keep(x, [r for r in reducers if r.where == "before"])
        return x

    def after(x: Tensor, block: int) -> Tensor:
        if block == 11:
            keep(x, [r for r in model.blocks[block].reducers if r.where == "after"])
        return x

    out = through(model, before, after)
    if not reverse:
        return found, torch.stack([wrong(out), torch.tensor(0.0), torch.tensor(0.0)])
    far = [((z - step.x[:, 1:]) ** 2).mean() for z, step in zip(outputs, taught.trace, strict=True)]
    return found, torch.stack([wrong(out), token_weight * sum(far) / 12, logit_weight * kl(out, taught.logits)])


@options("sit.reverse", "sit.token_weight", "sit.logit_weight")
def sit_recycling() -> Pairs:
    for knobs in ({"reverse": False}, {}, {"token_weight": 0.5}, {"logit_weight": 0.5}):
        yield recycled(**knobs)  # type: ignore[arg-type]


# GTP


def neighbourhood(x: Tensor, kind: str, most: int) -> list[list[float]]:
    """What passes between 6x6 patches: 1 over the root of both ones' numbers of neighbours."""
    n, way = len(x), unit(x)
    like = (way @ way.T).tolist()
    near = []
    for i in range(n):
        touching = {j for j in range(n) if j != i and abs(i // 6 - j // 6) <= 1 and abs(i % 6 - j % 6) <= 1}
        alike = set(sorted((j for j in range(n) if j != i), key=lambda j: -like[i][j])[:most])
        near.append({"spatial": touching, "likeness": alike, "mixed": touching | alike, "none": set()}[kind])
    return [[(j in near[i]) / math.sqrt(len(near[i]) * len(near[j]) or 1) for j in range(n)] for i in range(n)]


def propagated(
    p: Any = 2,
    sparsity: float = 1.0,
    alpha: float = 0.3,
    selection: str = "mixed",
    graph: str = "mixed",
    neighbours: int = 8,
    scale: bool = True,
) -> tuple[Tensor, Tensor]:
    passes: list[list[float]] = []
    left: list[int] = []

    def before(x: Tensor, size: Tensor, block: int, _: Tensor) -> Merged:
        if block == 0:
            passes[:] = neighbourhood(x[1:], graph, neighbours)
            left[:] = range(36)
        return x, size

    def ahead(x: Tensor, size: Tensor, weights: Tensor, _: int) -> tuple[Tensor, Tensor, Tensor]:
        thinned = []
        for head in weights:
            k = int(head.numel() * (1 - sparsity))
            limit = head.flatten().sort().values[k - 1] if k else 0
            thinned.append(torch.where(head < limit, 0.0, head))
        return x, size, torch.stack(thinned)

    def between(x: Tensor, size: Tensor, weights: Tensor, _: Tensor, __: Tensor, block: int) -> Merged:
        count = p if isinstance(p, int) else (*p, *[0] * 12)[block]
        if not count:
            return x, size
        own = torch.stack([weights[:, n, n].max() for n in range(len(x))])
        score = own * weights.sum(1).amax(0) if selection == "mixed" else class_row(weights)
        order = score[1:].argsort(descending=True).tolist()
        kept, gone = order[:-count], order[-count:]
        new, grown = [x[0]], [size[0]]
        for i in kept:
            share = [alpha * passes[left[i]][left[j]] for j in gone]
            new.append(x[1 + i] + sum(w * x[1 + j] for w, j in zip(share, gone, strict=True)))
            grown.append(size[1 + i] + sum(w * size[1 + j] for w, j in zip(share, gone, strict=True)))
        left[:] = [left[i] for i in kept]
        return torch.stack(new), torch.stack(grown)

    knobs = dict(sparsity=sparsity, alpha=alpha, selection=selection, graph=graph, neighbours=neighbours, scale=scale)
    model = made(get("gtp")(p=p, **knobs))
    return logits(model), walked(model, between, before, ahead, proportional=scale)


@options("gtp.p")
def gtp_p() -> Pairs:
    for p in (0, 1, (5, 0, 8)):
        yield propagated(p)


@options("gtp.sparsity")
def gtp_sparsity() -> Pairs:
    """Thinned attention makes features and scores alike."""
    for sparsity in (1.0, 0.7, 0.5):
        yield propagated((14, 0, 10), sparsity)  # more go than have a score of 0


@options("gtp.alpha", "gtp.scale")
def gtp_alpha() -> Pairs:
    for alpha, scale in ((0.3, True), (0.8, True), (0.8, False)):
        yield propagated((8, 8, 8), alpha=alpha, scale=scale)


@options("gtp.selection")
def gtp_selection() -> Pairs:
    for selection in ("mixed", "class"):
        yield propagated(selection=selection)


@options("gtp.graph", "gtp.neighbours")
def gtp_graph() -> Pairs:
    for graph, neighbours in (("mixed", 8), ("spatial", 8), ("likeness", 8), ("none", 8), ("likeness", 2)):
        yield propagated((8, 8, 8), alpha=0.8, graph=graph, neighbours=neighbours)


# TokenLearner


def gelu(x: Tensor) -> Tensor:
    """By its approximation."""
    return 0.5 * x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh())


def learned(
    tokens: int = 8,
    block: int | None = None,
    version: str = "1.1",
    pool: str = "sum",
    fuser: bool = False,
    bottleneck: int = 64,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """In training, with the same numbers drawn for both."""
    knobs = dict(version=version, pool=pool, fuser=fuser, bottleneck=bottleneck, dropout=dropout)
    model = made(get("tokenlearner")(tokens=tokens, block=block, **knobs)).train()
    first, whole = 6 if block is None else block, {}

    def mlp(layers: Any, x: Tensor) -> Tensor:
        assert (layers[0].out_features, layers[-1].out_features) == (bottleneck, tokens)
        hidden = gelu(layers[0](x))
        return layers[-1](hidden * F.dropout(torch.ones_like(hidden), dropout))  # type: ignore[no-any-return]

    def gates(part: Any, x: Tensor) -> Tensor:
        y = normed(part.norm, x, 1e-6)
        if version == "1.1":
            return mlp(part.mlp, y).softmax(1).transpose(1, 2)
        y = y.transpose(1, 2).unflatten(2, (6, 6))
        one, two, three, four = (layer.weight for layer in part.convs[::2])
        for weight in (one, two, three):
            y = gelu(F.conv2d(y, weight, padding=1))
        share = F.conv2d(y, four, padding=1).sigmoid().flatten(2)
        return share / 36 if pool == "mean" else share

    def before(x: Tensor, i: int) -> Tensor:
        if i != first and not (fuser and i > first):
            return x
        whole["x"] = x[:, 1:]
        new = gates(model.blocks[i].reducers[0].gates, x[:, 1:]) @ x[:, 1:]
        assert new.shape[1] == tokens
        return torch.cat([x[:, :1], new], 1)

    def after(y: Tensor, i: int) -> Tensor:
        if not fuser or i < first:
            return y
        part, x = model.blocks[i].reducers[1].fuser, whole["x"]
        z = normed(part.norm1, y[:, 1:], 1e-6)
        z = torch.einsum("kj,bjc->bkc", part.mix.weight, z) + part.mix.bias[:, None]
        given = mlp(part.mlp, normed(part.norm, x, 1e-6)).sigmoid() @ normed(part.norm2, z, 1e-6)
        return torch.cat([y[:, :1], x + given], 1)

    torch.manual_seed(3)
    found = logits(model)
    torch.manual_seed(3)
    return found, through(model, before, after)


@options("tokenlearner.tokens")
def tokenlearner_tokens() -> Pairs:
    for tokens in (1, 8, 36):
        yield learned(tokens)


@options("tokenlearner.block")
def tokenlearner_block() -> Pairs:
    for block in (None, 0, 11):
        yield learned(block=block)


@options("tokenlearner.version", "tokenlearner.pool", "tokenlearner.fuser")
def tokenlearner_version() -> Pairs:
    for version, pool in (("1.1", "sum"), ("1.0", "sum"), ("1.0", "mean")):
        for fuser in (False, True):
            yield learned(block=9, version=version, pool=pool, fuser=fuser)


@options("tokenlearner.bottleneck", "tokenlearner.dropout")
def tokenlearner_mlp() -> Pairs:
    for bottleneck, dropout in ((64, 0.0), (64, 0.3), (10, 0.0), (10, 0.7)):
        yield learned(block=10, fuser=True, bottleneck=bottleneck, dropout=dropout)


# DTEM


def per_block(r: Any, block: int) -> int:
    return int(r if isinstance(r, int) else (*r, *[0] * 12)[block])


def embedded(r: Any = 3, prop_attn: bool = True) -> tuple[Tensor, Tensor]:
    """ToMe by a linear layer of the normalised tokens."""
    model = made(get("dtem")(r=r, prop_attn=prop_attn, train_r=1))
    metric: list[Tensor] = []

    def before(x: Tensor, size: Tensor, block: int, _: Tensor) -> Merged:
        layer = model.blocks[block].reducers[0].metric
        assert layer.weight.shape == (16, 32)  # a head's width
        metric[:] = layer(model.vit.blocks[block].norm1(x))[None]
        return x, size

    def between(x: Tensor, size: Tensor, _: Tensor, __: Tensor, ___: Tensor, block: int) -> Merged:
        rate = per_block(r, block)
        return joined(x, size, tome_members(torch.stack(metric), rate)[0]) if rate else (x, size)

    return logits(model), walked(model, between, before, proportional=prop_attn)


def softly(
    r: Any = 3, train_r: Any = (6,), partners: int = 3, first: float = 0.1, tau: float = 0.1, prop_attn: bool = True
) -> tuple[Tensor, Tensor]:
    """Training: places 1, 3, ... of those that take part give to places 2, 4, ...; nothing goes."""
    knobs = dict(partners=partners, tau_first=first, tau=tau, prop_attn=prop_attn)
    model = made(get("dtem")(r=r, train_r=train_r, **knobs)).train()
    y: list[Tensor] = []
    taking = [0]

    def before(x: Tensor, size: Tensor, block: int, _: Tensor) -> Merged:
        y[:] = [unit(model.blocks[block].reducers[0].metric(model.vit.blocks[block].norm1(x)))]
        taking[0] = taking[0] if block else len(x)
        return x, size

    def between(x: Tensor, size: Tensor, _: Tensor, __: Tensor, ___: Tensor, block: int) -> Merged:
        n = taking[0]
        rate = min(per_block(r if train_r is None else train_r, block), (n - 1) // 2)
        if not rate:
            return x, size
        a, b = list(range(1, n, 2)), list(range(2, n, 2))
        alike = y[0][a] @ y[0][b].T
        z = torch.full_like(alike, -math.inf)
        for row, own in zip(z, alike, strict=True):
            best = own.argsort(descending=True)[:partners]
            row[best] = own[best] / first
        chosen = torch.zeros_like(z)
        for _i in range(rate):
            once = (z / tau).flatten().softmax(0).view_as(z)
            chosen = chosen + once
            z = z + (1 - once.sum(1, keepdim=True)).clamp(min=1.19e-7).log()
        share = chosen / ((chosen.sum(1, keepdim=True) - 1).clamp(min=0) + 1)
        grown = size[b] + share.T @ size[a]
        mixed = (size[b, None] * x[b] + share.T @ (size[a, None] * x[a])) / grown[:, None]
        sizes = torch.cat([size[a] * (1 - share.sum(1)).clamp(1e-38, 1), grown])
        order = sorted(range(n - 1), key=lambda i: -float(sizes[i]))
        taking[0] = n - rate
        new = torch.cat([x[:1], torch.cat([x[a], mixed])[order], x[n:]])
        return new, torch.cat([size[:1], sizes[order], size[n:]])

    return logits(model), walked(model, between, before, proportional=True)


@options("dtem.r", "dtem.prop_attn")
def dtem_r() -> Pairs:
    for r, proportional in ((2, True), (2, False), (7, True), ((5, 0, 3), True)):
        yield embedded(r, proportional)


@options("dtem.train_r")
def dtem_train_r() -> Pairs:
    """As r if unset; sizes weigh keys in any case. Softly over all partners, or in one block: elsewhere ties decide."""
    for r, train_r in ((3, (2,)), ((9,), None), (3, (30,))):
        yield softly(r, train_r)
    for train_r in ((4, 0, 3), (9, 9)):
        yield softly(3, train_r, partners=18, first=0.5, tau=0.5, prop_attn=False)


@options("dtem.partners", "dtem.tau_first", "dtem.tau")
def dtem_partners() -> Pairs:
    for partners, first, tau in ((3, 0.1, 0.1), (1, 0.1, 0.1), (18, 0.1, 1.0), (3, 1.0, 0.1), (3, 0.1, 1.0)):
        yield softly(partners=partners, first=first, tau=tau)


# Cropr


@torch.no_grad()
def cropped(
    r: int = 2,
    fusion: bool = True,
    queries: int = 1,
    norm: bool = False,
    project: bool = False,
    heads: bool = False,
    query_heads: int = 1,
    mlp_ratio: float = 1.0,
) -> tuple[Any, Any]:
    """Logits, and in training the two losses, by the sum over queries of what each finds in a token."""
    parts = dict(queries=queries, norm=norm, project=project)
    method = get("cropr")(r=r, fusion=fusion, heads=heads, query_heads=query_heads, mlp_ratio=mlp_ratio, **parts)
    model = made(method)
    last = 10 if fusion else 11
    waiting: list[Tensor] = []
    guesses: list[Tensor] = []

    def before(x: Tensor, block: int) -> Tensor:
        if block != 11:
            return x
        x = torch.cat([x, *waiting], 1)
        waiting.clear()
        return x

    def after(x: Tensor, block: int) -> Tensor:
        if block >= last or not r:
            return x
        router = model.blocks[block].reducers[0]
        keys = normed(router.attn_norm, x, 1e-6) if norm else x
        keys = keys @ router.k.weight.T + router.k.bias if project else keys
        assert router.queries.shape == (1, queries, 32)
        if heads:
            guesses.append(guessed(router.guess, router.queries[0], keys, x, query_heads, int(32 * mlp_ratio)))
        kept, gone = [], []
        for image, own in zip(x, keys, strict=True):
            score = torch.stack([sum(query @ key for query in router.queries[0]) for key in own[1:]])
            order = 1 + score.argsort(descending=True)
            count = len(order) - r - (block == 0)
            kept.append(image[[0, *order[:count].tolist()]])
            gone.append(image[order[count:]])
        if fusion:
            waiting.append(torch.stack(gone))
        return torch.stack(kept)

    out = through(model, before, after)
    if not heads:
        return logits(model), out
    found = terms(method.losses(model.train().run(images()), TARGET), "class", "modules")
    return found, torch.stack([wrong(out), torch.stack([wrong(guess) for guess in guesses]).sum()])


def guessed(guess: Any, queries: Tensor, keys: Tensor, x: Tensor, heads: int, hidden: int) -> Tensor:
    """Class logits of the mean of what queries (Q, C) attend to."""
    found = []
    for q, k, v in zip(*(t.chunk(heads, -1) for t in (queries, keys, x)), strict=True):
        found.append((q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1) @ v)
    y = torch.cat(found, -1)
    y = guess.proj(y) if heads > 1 else y
    assert guess.mlp[0].out_features == hidden
    y = y + guess.mlp[2](F.gelu(guess.mlp[0](normed(guess.mlp_norm, y, 1e-6))))
    return guess.head(normed(guess.norm, y.mean(1), 1e-5))  # type: ignore[no-any-return]


@options("cropr.r", "cropr.fusion")
def cropr_r() -> Pairs:
    for r, fusion in ((0, True), (1, True), (3, True), (3, False)):
        yield cropped(r, fusion)


@options("cropr.queries", "cropr.norm", "cropr.project")
def cropr_queries() -> Pairs:
    for queries, norm, project in ((1, False, False), (5, False, False), (1, True, False), (1, False, True)):
        yield cropped(3, queries=queries, norm=norm, project=project)
    yield cropped(3, queries=3, norm=True, project=True)


@options("cropr.heads", "cropr.query_heads", "cropr.mlp_ratio")
def cropr_heads() -> Pairs:
    """Without classifiers the loss is the model's alone, as it is in evaluation."""
    with torch.no_grad():
        method = get("cropr")(r=2)
        model = made(method).train()
        found = terms(method.losses(model.run(images()), TARGET), "class", "modules")
        yield found, torch.stack([wrong(cropped()[1]), torch.tensor(0.0)])
    for query_heads, mlp_ratio in ((1, 1.0), (4, 1.0), (1, 2.5)):
        yield cropped(heads=True, queries=2, norm=True, query_heads=query_heads, mlp_ratio=mlp_ratio)


# Evo-ViT


@torch.no_grad()
def evolved(
    model: Any,
    keep_rate: float = 0.5,
    blocks: Any = None,
    tradeoff: float = 0.5,
    update: bool = False,
    leave: bool = False,
    layer_wise: bool = False,
) -> tuple[Tensor, Tensor]:
    """Logits, and the class token in the end, of all 37 places, of which some are updated."""
    vit, places = model.vit, blocks or (4, 8)
    found, classes = [], []
    for x in vit._pos_embed(vit.patch_embed(images())):
        x, g = x.clone(), torch.zeros(37)
        slow, fast = list(range(1, 37)), []
        for i, block in enumerate(vit.blocks):
            if i in places or (layer_wise and i > places[0]):
                order = (1 + g[1:].argsort(descending=True)).tolist()
                count = int(keep_rate * 36)
                slow, fast = order[:count], order[count:]
            y = x[[0, *slow]]
            if update and fast:
                stand_in = (g[fast, None] * x[fast]).sum(0) / g[fast].sum()
                y = torch.cat([y, stand_in[None]])
            attn = block.attn
            q, k, v = attn.qkv(block.norm1(y)).unflatten(1, (3, attn.num_heads, -1)).permute(1, 2, 0, 3)
            weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)
            y = y + attn.proj((weights @ v).transpose(0, 1).flatten(1))
            y = y + block.mlp(block.norm2(y))
            share = tradeoff if i >= places[0] else 1.0
            g[slow] = (1 - share) * g[slow] + share * weights[:, 0].sum(0)[1 : 1 + len(slow)]
            x[[0, *slow]] = y[: 1 + len(slow)]
            if update and fast:
                x[fast] += y[-1] - stand_in
            if (layer_wise or i + 1 in places) and i < 11:
                slow, fast = list(range(1, 37)), []
        left = slow if leave else list(range(1, 37))
        found.append(vit.head(vit.norm(x[left].mean(0))))
        classes.append(x[0])
    return torch.stack(found), torch.stack(classes)


def slow_and_fast(**knobs: Any) -> tuple[Tensor, Tensor]:
    model = made(get("evovit")(**knobs))
    return logits(model), evolved(model, **knobs)[0]


@options("evovit.keep_rate")
def evovit_keep_rate() -> Pairs:
    for rate in (1.0, 0.7, 0.3):
        yield slow_and_fast(keep_rate=rate)


@options("evovit.blocks")
def evovit_blocks() -> Pairs:
    for blocks in ((4, 8), (1,), (2, 3, 9)):
        yield slow_and_fast(blocks=blocks)


@options("evovit.tradeoff")
def evovit_tradeoff() -> Pairs:
    """At the ends; between them at its default, wherever else tokens are parted."""
    for tradeoff in (0.0, 1.0):
        yield slow_and_fast(keep_rate=0.8, layer_wise=True, tradeoff=tradeoff)


@options("evovit.update", "evovit.leave", "evovit.layer_wise")
def evovit_update() -> Pairs:
    for on in ((), ("update",), ("leave",), ("layer_wise",), ("update", "leave"), ("update", "layer_wise")):
        yield slow_and_fast(keep_rate=0.3, **dict.fromkeys(on, True))


@options("evovit.layer_wise_epochs")
def evovit_layer_wise_epochs() -> Pairs:
    for epochs in (0.0, 2.5, 7.0):
        method = get("evovit")(layer_wise_epochs=epochs)
        found = [float(method.at(epoch).layer_wise) for epoch in (0, 2.4, 2.5, 6, 7)]
        yield torch.tensor(found), torch.tensor([float(epoch < epochs) for epoch in (0, 2.4, 2.5, 6, 7)])


@options("evovit.heads")
@torch.no_grad()
def evovit_heads() -> Pairs:
    for heads in (False, True):
        method = get("evovit")(heads=heads)
        model = made(method).train()
        found = terms(method.losses(model.run(images()), TARGET), "class", "class_token")
        out, classes = evolved(model)
        if not heads:
            yield found, torch.stack([wrong(out), torch.tensor(0.0)])
            continue
        second = model.blocks[11].reducers[-1]
        guess = second.head_cls(normed(second.norm_cls, classes, 1e-6))
        yield found, 0.5 * torch.stack([wrong(out), wrong(guess)])


# SPViT


def packaged(predictor: Any, x: Tensor, packages: int) -> Tensor:
    """The class token, patches kept, packages (n, C), and the sum of what goes, by how much it was to be kept."""
    slices, scores, softs = x[1:].chunk(2, -1), [], []
    for part in slices:
        z = F.gelu(predictor.in_conv[1](normed(predictor.in_conv[0], part, 1e-5)))
        half = z.shape[1] // 2
        z = torch.cat([z[:, :half], z[:, half:].mean(0, keepdim=True).expand(len(z), -1)], 1)
        one, _, two, __, three = predictor.out_conv
        choice = three(F.gelu(two(F.gelu(one(z)))))
        scores.append(choice.log_softmax(1))
        softs.append(choice.softmax(1))
    first, _, second, __ = predictor.senet
    gates = second(F.gelu(first(torch.stack([part.mean(1) for part in slices], 1)))).sigmoid()  # (n, H)
    score, soft = (
        sum(gates[:, h, None] * of[h] for h in range(2)) / gates.sum(1, keepdim=True) for of in (scores, softs)
    )
    kept = [i for i, (keep, drop) in enumerate(score) if keep >= drop or i >= len(score) - packages]
    gone = [i for i in range(len(score)) if i not in kept]
    package = sum((soft[i, 0] * x[1 + i] for i in gone), torch.zeros_like(x[0]))
    return torch.cat([x[[0, *(1 + i for i in kept)]], package[None]])


@options("spvit.blocks")
@torch.no_grad()
def spvit_blocks() -> Pairs:
    counts = set()
    for blocks in ((3, 6, 9), (0,), (2, 5), (1, 2, 3, 11)):
        model = made(get("spvit")(blocks=blocks, shares=(0.5,) * len(blocks)))
        vit, found = model.vit, []
        for x in vit._pos_embed(vit.patch_embed(images())):
            for i, block in enumerate(vit.blocks):
                if i in blocks:
                    x = packaged(model.blocks[i].reducers[0].predictor, x, blocks.index(i))
                x = block(x[None])[0]
            counts.add(len(x) - 1 - len(blocks))
            found.append(vit.head(vit.norm(x)[0]))
        yield logits(model), torch.stack(found)
    assert len(counts) > 2, "images are to differ"


@options("spvit.shares", "spvit.ratio_weight")
def spvit_ratio() -> Pairs:
    """Mean over stages of the squared distance of the batch's shares, .6 and .4."""
    for shares_, weight in (((0.5, 0.25), 2.0), ((0.9, 0.1), 2.0), ((0.5, 0.25), 9.0)):
        found = get("spvit")(shares=shares_, ratio_weight=weight).losses(STUDENT, TARGET, TEACHER)["ratio"]
        yield found, torch.tensor(weight * ((0.6 - shares_[0]) ** 2 + (0.4 - shares_[1]) ** 2) / 2)


@options("spvit.distill_weight", "spvit.token_mse")
def spvit_distillation() -> Pairs:
    """Over the tokens kept to the end: 0, 2 and 4 of the first image, and 0 of the second."""
    own, theirs = (o.features[:, 1:][[0, 0, 0, 1], [0, 2, 4, 0]] for o in (STUDENT, TEACHER))
    for weight, mse in ((0.5, True), (2.0, True), (0.5, False)):
        method = get("spvit")(shares=(0.5, 0.25), distill_weight=weight, token_mse=mse)
        tokens = ((own - theirs) ** 2).mean() if mse else kl(own, theirs)
        found = terms(method.losses(STUDENT, TARGET, TEACHER), "distill_logits", "distill_tokens")
        yield found, weight * torch.stack([kl(STUDENT.logits, TEACHER.logits), tokens])


# A-ViT


@torch.no_grad()
def halting(model: Any, scale: float, centre: float, epsilon: float) -> tuple[Tensor, Tensor]:
    """Logits, and the mean over tokens of blocks taken part in and of what remained, one image at a time."""
    vit, found, ponder, depths = model.vit, [], [], set()
    for x in vit._pos_embed(vit.patch_embed(images())):
        left, total, out = list(range(37)), [0.0] * 37, torch.zeros(32)
        for i, block in enumerate(vit.blocks):
            y, going = block(x[None])[0], []
            for place, token in zip(left, y, strict=True):
                h = 1.0 if i == 11 else float((scale * token[0] - centre).sigmoid())
                rest, total[place] = 1 - total[place], total[place] + h
                halts = total[place] > 1 - epsilon
                if place == 0:
                    out = out + (rest if halts else h) * token
                if halts:
                    ponder.append(i + 1 + rest)
                    depths.add(i)
                else:
                    going.append(place)
            x = y[[left.index(place) for place in going]]
            left = going
            if not left:
                break
        found.append(vit.head(vit.norm(out)))
    assert len(ponder) == 74 and len(depths) > (1 if centre < 30 else 0)
    return torch.stack(found), torch.tensor(ponder).mean()


def halted(scale: float, centre: float | None, epsilon: float = 0.01) -> tuple[Tensor, Tensor]:
    model = made(get("avit")(gate_scale=scale, gate_centre=centre, epsilon=epsilon))
    return logits(model), halting(model, scale, 30 if centre is None else centre, epsilon)[0]


@options("avit.gate_scale", "avit.gate_centre", "avit.epsilon")
def avit_gate() -> Pairs:
    """The centre is 30 in models as narrow as this, and 75 from the width of S on."""
    for scale, centre, epsilon in ((1.0, 2.0, 0.01), (0.3, 2.0, 0.01), (1.0, 4.0, 0.01), (1.0, 2.0, 0.3)):
        yield halted(scale, centre, epsilon)
    yield halted(10.0, None)
    assert [get("avit")().centre(width) for width in (192, 384, 768)] == [30, 75, 75]


@options("avit.ponder_weight")
@torch.no_grad()
def avit_ponder() -> Pairs:
    for weight in (0.1, 1.0):
        method = get("avit")(gate_scale=1.0, gate_centre=2.0, ponder_weight=weight)
        model = made(method).train()
        found = terms(method.losses(model.run(images()), TARGET), "class", "ponder")
        out, ponder = halting(model, 1.0, 2.0, 0.01)
        yield found, torch.stack([wrong(out), weight * ponder])


@options("avit.prior_weight", "avit.prior_depth")
def avit_prior() -> Pairs:
    """KL of a Gaussian, .98 of it before its middle, from shares of mean scores, which leave the first image out."""
    scores = torch.rand(12, 2, 6, generator=torch.Generator().manual_seed(1)) ** 4
    student = replace(STUDENT, tokens=STUDENT.tokens.store(SO_FAR, SoFar(0.0, torch.ones(2, 6), tuple(scores))))
    for weight, depth in ((1.0, 8.0), (3.0, 8.0), (1.0, 5.0), (1.0, 3.5)):
        q = scores[:, 1].mean(1)
        q = (q / q.sum()).clamp(0.01, 0.99)
        bell = torch.tensor([math.exp(-((i - depth) ** 2) / 2) / math.sqrt(2 * math.pi) for i in range(12)])
        t = 0.98 * bell / bell[: math.ceil(depth)].sum()
        found = get("avit")(prior_weight=weight, prior_depth=depth).losses(student, TARGET)["prior"]
        yield found, weight * (t * (t / q).log()).sum() / 12
