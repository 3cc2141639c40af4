"""What every method must keep, each a function that raises `ContractBroken`, at a tiny random model of each family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tokenbench.backbones import Backbone
from tokenbench.core.block import Output, Reducer
from tokenbench.errors import ContractBroken, TokenbenchError, first_line, place
from tokenbench.measure import flops
from tokenbench.methods.base import Method
from tokenbench.methods.dense import Dense
from tokenbench.model import Model
from tokenbench.tiny import CLASSES, FAMILIES


@dataclass(frozen=True)
class Subject:
    """A setting of a method on a tiny random model of a family that it serves."""

    family: str
    method: Method

    def backbone(self, seed: int = 0, **options: Any) -> Backbone:
        """The tiny backbone; takes options of the family's timm class."""
        return Backbone(FAMILIES[self.family](seed, **options), "tiny")

    def model(self, seed: int = 0) -> Model:
        """It with the method, in eval mode."""
        return Model(self.backbone(seed), self.method).eval()

    def shallow(self) -> Backbone:
        """One of three or six blocks if the method does all there that it does in twelve: long graphs take long."""
        deep = self.backbone()
        for depth in () if self.family == "swin" else (3, 6):
            backbone = self.backbone(depth=depth)
            if self.method.refusal(backbone) is None and self._kinds(backbone) == self._kinds(deep):
                return backbone
        return deep

    def _kinds(self, backbone: Backbone) -> set[type[Reducer]]:
        """Of the reducers; of none, where one has no block to go to."""
        reducers = self.method.reducers(self.method.wrap(backbone))
        fit = max(reducers, default=0) < backbone.depth
        return {type(one) for several in reducers.values() for one in several} if fit else set()

    @property
    def images(self) -> Tensor:
        """Four random images."""
        return torch.randn(4, *self.backbone().shape, generator=torch.Generator().manual_seed(1))

    def run(self, method: Method | None = None, **options: Any) -> Output:
        """What comes of the images, traced, with this method or another."""
        with torch.inference_mode():
            return Model(self.backbone(**options), method or self.method).eval().run(self.images, trace=True)


Check = Callable[[Subject], str | None]  # gives the reason where it does not apply


def subjects(method: Method) -> list[Subject]:
    """One for each family that serves the setting; raises `ContractBroken` where none does."""
    refusals = {family: method.refusal(Backbone(make(), "tiny")) for family, make in FAMILIES.items()}
    found = [Subject(family, method) for family, reason in refusals.items() if reason is None]
    if not found:
        reasons = "; ".join(f"{family}: {reason}" for family, reason in refusals.items())
        raise ContractBroken(f"no tiny model serves {method.label} ({reasons})")
    return found


def neutral_setting_equals_dense(subject: Subject) -> str | None:
    """Bit for bit, and timm's model itself."""
    method = subject.method
    if method.neutral is None:
        return f"{method.name} has no neutral setting"
    backbone = subject.backbone()
    with torch.inference_mode():
        neutral = Model(backbone, type(method)(**method.neutral)).eval()(subject.images)
        _holds(torch.equal(neutral, backbone.vit(subject.images)), f"{dict(method.neutral)} differs from timm's model")
    return None


def shapes_and_counts(subject: Subject) -> None:
    """Logits are finite; tokens get fewer and never more, unless the method skips or recovers them."""
    method, out, dense = subject.method, subject.run(), subject.run(Dense())
    _holds(out.logits.shape == (4, CLASSES), f"logits are {tuple(out.logits.shape)} and not (4, {CLASSES})")
    _holds(bool(out.logits.isfinite().all()), "logits are NaN or infinite")
    counts, full = [step.count for step in out.trace], [step.count for step in dense.trace]
    _holds(len(counts) == len(full), f"{len(counts)} blocks were run and not {len(full)}")
    skips = method.kind == "skips" or any(step.paths is not None for step in out.trace)  # all stay, at less cost
    stays, reduces = skips or method.kind == "recovers", method.name != Dense.name and not method.control
    _holds(stays or counts == sorted(counts, reverse=True), f"the number of tokens grows: {counts}")
    _holds(all(c <= f for c, f in zip(counts, full, strict=True)), f"more tokens than the dense model has: {counts}")
    _holds(reduces == (counts != full or skips), f"no token is saved: {counts}")
    _holds(stays or not reduces or counts[-1] < full[-1], f"all tokens are there at the end: {counts}")


def prefix_survives(subject: Subject) -> str | None:
    """Class and register tokens are never merged or dropped, unless a method does without any."""
    if subject.backbone().prefix == 0:
        return "this family has no prefix tokens"
    more: dict[str, Any] = {"reg_tokens": 2} if subject.family == "vit" else {}
    out, first = subject.run(**more), subject.backbone(**more).prefix
    prefixes = {step.prefix for step in out.trace}
    _holds(prefixes in ({first}, {0}), f"of {first} prefix tokens {sorted(prefixes)} are left")
    if out.tokens.size is not None:
        _holds(bool((out.tokens.size[:, : out.tokens.prefix] == 1).all()), "prefix tokens are merged with others")
    return None


def maps_sum_as_they_must(subject: Subject) -> None:
    """Each patch is in one token or dropped; shares of soft tokens are those of whole patches."""
    rows, cols = subject.backbone().grid
    for block, step in enumerate(subject.run().trace):
        source, share, where = step.source, step.share, f"after block {block} "
        if source is None or share is None:
            raise ContractBroken(where + "the map from patches to tokens is lost; change tokens by their verbs only")
        shape = (4, step.count - step.prefix, rows * cols)
        _holds(source.shape == shape, f"{where}the map is {tuple(source.shape)} and not {shape}")
        laid = step.layout is None or step.layout[0] * step.layout[1] == shape[1]
        _holds(laid, f"{where}the layout {step.layout} is not that of {shape[1]} tokens")
        share = share.sum(dim=1)  # of each patch, over the tokens
        _holds(bool((share <= 1 + 1e-5).all()), f"{where}tokens hold {share.max():g} of a patch")
        _holds(bool((share >= -1e-6).all()), f"{where}tokens hold {share.min():g} of a patch")
        if ((source == 0) | (source == 1)).all():
            _holds(bool((source.sum(dim=1) <= 1).all()), f"{where}a patch is in several tokens")
        else:
            taken = source.sum(dim=2)  # one patch's worth, or that of as many as were merged before
            even = torch.allclose(taken, torch.full_like(taken, round(taken.mean().item())), rtol=1e-4, atol=1e-4)
            most = source.sum(dim=1).max().item()  # or tokens share out patches, and none more than there is
            _holds(even or most <= 1 + 1e-4, f"{where}tokens hold {most:.4g} of a patch, and not as much each")


def tracing_changes_nothing(subject: Subject) -> None:
    """Bit for bit."""
    model = subject.model()
    with torch.inference_mode():
        traced = model.run(subject.images, trace=True).logits
        _holds(torch.equal(model(subject.images), traced), "logits are others when tokens are traced")


def one_image_alone_equals_itself_in_a_batch(subject: Subject) -> None:
    """Images say nothing of each other."""
    model, images = subject.model(), subject.images
    with torch.inference_mode():
        _close(model(images)[2:3], model(images[2:3]), "logits of an image in a batch and alone")


def dense_weights_load(subject: Subject) -> None:
    """Into a model with the method, with only the method's own parameters missing; all of them where it has no others.

    A method that brings modules of its own in place of the model's takes the rest.
    """
    backbone = subject.backbone(seed=1)
    model = Model(backbone, subject.method)
    dense = {f"vit.{k}": v for k, v in subject.backbone(seed=2).vit.state_dict().items()}
    missing, unexpected = model.load_state_dict(dense, strict=False)
    if model.vit is backbone.vit:
        _holds(not unexpected, f"dense weights have no place: {', '.join(unexpected)}")
        odd = [key for key in missing if not key.startswith("blocks.")]
        _holds(not odd, f"dense weights are missing: {', '.join(odd)}")
    else:
        shared = set(dense) & set(model.state_dict())
        _holds(bool(shared) and len(missing) < len(model.state_dict()), "dense weights do not load at all")


def gradients_reach_every_parameter(subject: Subject) -> None:
    """In training, with the method's own losses; none where the method says that a parameter is idle."""
    model = Model(subject.backbone(), subject.method).train()
    teacher = Model(subject.backbone(), Dense()).run(subject.images)
    losses = subject.method.losses(model.run(subject.images), torch.tensor([0, 1, 2, 3]), teacher)
    torch.stack(list(losses.values())).sum().backward()
    idle, last = {id(parameter) for parameter in model.idle()}, f"blocks.{len(model.blocks) - 1}."
    for name, parameter in model.named_parameters():
        if id(parameter) in idle:
            _holds(parameter.grad is None, f"{name} is not idle")
            continue
        if parameter.grad is None:
            raise ContractBroken(f"no gradient reaches {name}")
        _holds(bool(parameter.grad.isfinite().all()), f"the gradient of {name} is NaN or infinite")
        # in the last block only what the head reads counts, which may be the class token alone
        if name.startswith("blocks.") and not name.startswith(last) and not name.endswith(".bias"):
            _holds(bool(parameter.grad.any()), f"the gradient of {name} is 0")


def weights_are_all_there_is(subject: Subject) -> None:
    """Saved and loaded into another model they give the same logits."""
    first, second = subject.model(seed=1), subject.model(seed=2)
    second.load_state_dict(first.state_dict())
    with torch.inference_mode():
        same = torch.equal(first(subject.images), second(subject.images))
    _holds(same, "logits are others once its weights are saved and loaded")


def same_seed_same_result(subject: Subject) -> None:
    """Bit for bit."""
    _holds(torch.equal(subject.run().logits, subject.run().logits), "two runs give different logits")


def two_flop_counters_agree(subject: Subject) -> None:
    """And the method costs less than dense."""
    model, images = subject.model(), subject.images[:1]
    counted = flops.count(model, images)  # raises where they differ
    dense = flops.count(subject.backbone().vit, images).gmacs
    cost = f"{counted.gmacs:.4g} GMAC, and dense {dense:.4g}"
    if not subject.method.control:
        reduces = subject.method.name != Dense.name
        _holds(counted.gmacs < dense if reduces else counted.gmacs == dense, f"it costs {cost}")
    parts = sum(counted.by_part.values())
    _holds(abs(parts - counted.gmacs) <= 1e-6 * counted.gmacs, f"its parts are {parts:.4g} of {counted.gmacs:.4g} GMAC")


def runs_in_half_precision(subject: Subject) -> None:
    """In bf16 under autocast: logits, and in training losses, are finite."""
    model, images = subject.model(), subject.images[:2]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        _holds(bool(model(images).isfinite().all()), "logits are NaN or infinite in bf16")
    model.train()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        losses = subject.method.losses(model.run(images), torch.tensor([0, 1]))
    _holds(all(bool(loss.isfinite()) for loss in losses.values()), "a loss is NaN or infinite in bf16")


def exports_with_a_dynamic_batch(subject: Subject) -> None:
    """By `torch.export`."""
    model, images = Model(subject.shallow(), subject.method).eval(), subject.images
    program = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},))
    with torch.inference_mode():
        _close(program.module()(images[:3]), model(images[:3]), "logits of the exported model and its own")


def timm_model_stays_untouched(subject: Subject) -> None:
    """It gives the same logits after the method has run on it."""
    backbone, images = subject.backbone(), subject.images
    with torch.inference_mode():
        before = backbone.vit(images)
        Model(backbone, subject.method).eval()(images)
        _holds(torch.equal(backbone.vit(images), before), "timm's model gives other logits afterwards")


def documented(subject: Subject) -> None:
    """A docstring, a label that names it, and a sentence for every knob."""
    method = subject.method
    _holds(bool(type(method).__doc__), "it has no docstring")
    _holds(method.label.startswith(method.name), f"its label '{method.label}' does not begin with its name")
    for knob, field in type(method).model_fields.items():
        _holds(bool(field.description), f"knob {knob} has no description")


CHECKS: tuple[Check, ...] = (
    documented,
    neutral_setting_equals_dense,
    shapes_and_counts,
    prefix_survives,
    maps_sum_as_they_must,
    tracing_changes_nothing,
    one_image_alone_equals_itself_in_a_batch,
    same_seed_same_result,
    timm_model_stays_untouched,
    dense_weights_load,
    gradients_reach_every_parameter,
    weights_are_all_there_is,
    two_flop_counters_agree,
    runs_in_half_precision,
    exports_with_a_dynamic_batch,
)


@dataclass(frozen=True)
class Verdict:
    """What came of one check: "passed", "broken" or "left out", and why."""

    check: str
    family: str
    outcome: str
    why: str


def verdicts(method: Method) -> Iterator[Verdict]:
    """Put a setting through every check on every family that serves it, one after the other.

    Raises:
        ContractBroken: no family serves it.
    """
    for subject in subjects(method):
        for check in CHECKS:
            outcome, why = "passed", ""
            try:
                reason = check(subject)
                if reason is not None:
                    outcome, why = "left out", reason
            except (Exception, SystemExit) as error:  # a plug-in may raise anything
                kind = "" if isinstance(error, TokenbenchError) else f"{type(error).__name__}: "
                outcome, why = "broken", f"{kind}{first_line(error)}{place(error)}"
            yield Verdict(check.__name__.replace("_", " "), subject.family, outcome, why)


def _holds(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ContractBroken(otherwise)


def _close(a: Tensor, b: Tensor, what: str, atol: float = 1e-5) -> None:
    apart = (a - b).abs().max().item()
    _holds(torch.allclose(a, b, rtol=1e-4, atol=atol), f"{what} differ by {apart:.2g}")
