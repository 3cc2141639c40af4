"""Throughput and latency, interleaved: every round runs every model once, so ratios hold on a noisy machine."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tokenbench.errors import UsageError
from tokenbench.measure import machine
from tokenbench.measure.compiling import Compiled, compiled
from tokenbench.measure.running import OutOfMemory, blocks_of, clocks, evaluating, forward

__all__ = ["OutOfMemory", "Share", "Speed", "measure", "median_interval", "reduction_share"]


Pair = tuple[float, float | None]  # seconds of a model, and of the reference in the same round
SURE = 0.99  # of each look at the ratios: looking on until they are close together costs some of it, and 95 % are left


@dataclass(frozen=True)
class Speed:
    """How fast one model runs. The speed-ups are None where the reference was not measured along with it; their
    interval is also None after fewer rounds than any interval can be sure with (8).
    """

    batch: int
    runs: int
    images_per_s: float  # batch / median time
    latency_p10_ms: float  # of a whole batch
    latency_p50_ms: float
    latency_p90_ms: float
    spread: float  # interquartile range of the times / their median
    speedup: float | None  # median over rounds of reference time / own time in that round
    speedup_low: float | None  # 95 % interval of that median, by `median_interval`
    speedup_high: float | None
    goal: float  # half the width that the interval was to have at most, relative to the speed-up
    noisy: bool  # whether the interval (of the reference, that of its median time) is wider than that
    compile_s: float | None  # seconds of the first run, which compiled it; None where it runs as it is
    machine: dict[str, float | None]  # what else the machine did meanwhile: `tokenbench.measure.machine.since`


@dataclass(frozen=True)
class Share:
    """How much of a forward pass is spent in reducers, of the model as it is, not compiled."""

    median: float  # over runs, 0 to 1
    spread: float  # interquartile range over runs, in the same unit
    runs: int


def measure(
    models: Mapping[str, nn.Module],
    images: Tensor,
    *,
    reference: str = "dense",
    precision: str = "fp32",
    compile: bool = False,
    shaped: bool = False,
    min_rounds: int = 10,
    max_rounds: int = 200,
    goal: float = 0.02,
    max_seconds: float = 20.0,
    warmup: int = 3,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
    before: Mapping[str, Sequence[Pair]] | None = None,
    keep: Callable[[str, Sequence[Pair]], None] | None = None,
) -> dict[str, Speed]:
    """Time a forward pass of every model, in eval mode and without gradients, one round after the other.

    Each round runs all models once, the reference first, the others in an order drawn anew. Rounds are added until all
    speed-ups are known to `goal` or the time is spent, so their number says how noisy the machine was. Times are from
    CUDA events on a GPU, each run awaited before the next begins, and from the wall clock elsewhere; the images already
    lie on the device. On a CPU the process keeps what memory it frees from then on (`measure.allocator`).

    Args:
        models: modules from images to logits, by name, on the device of the images.
        images: (B, channels, H, W), the same for every run.
        reference: the name of the model that speed-ups are relative to.
        precision: "fp32", "bf16" or "fp16"; see `tokenbench.measure.running.forward`.
        compile: run every model under `torch.compile`, unless it is a `Compiled` already; compiling falls into the
            warm-up, so keep that at 1 or more.
        shaped: models make themselves ready for each size of batch, as those in other runtimes do.
        min_rounds: rounds to run in any case.
        max_rounds: rounds to stop after in any case.
        goal: half the width of the interval of each speed-up, relative to it, to stop at between the two.
        max_seconds: when to stop between the two in any case.
        warmup: runs of each model before its first that counts. Where an earlier call is gone on with, one run, on a
            CPU of one image: there a first run costs no more once the process is warm, unless it compiles or is shaped.
        seed: of the order.
        progress: called after each round with the number of rounds done so far.
        before: the pairs of an earlier call that was cut short, as `keep` got them; the rounds go on from there.
        keep: called after each run with the name of the model and its pairs so far.

    Raises:
        OutOfMemory: the batch does not fit.
        UsageError: there is no model or image, or the numbers of rounds are out of range.
    """
    if not models or not images.shape[0]:
        raise UsageError(f"{len(models)} models on {images.shape[0]} images cannot be timed; give one or more of both.")
    if not 1 <= min_rounds <= max_rounds or warmup < 0:
        raise UsageError(
            f"min_rounds={min_rounds}, max_rounds={max_rounds} and warmup={warmup} cannot be run; "
            f"give 1 <= min_rounds <= max_rounds and 0 <= warmup."
        )
    pairs: dict[str, list[Pair]] = {name: list((before or {}).get(name, ())) for name in models}
    others = [name for name in models if name != reference]
    shuffle = random.Random(seed).shuffle

    begin = machine.now()
    with evaluating(*models.values()), compiled(models) if compile else nullcontext(models) as run:
        warm: set[str] = set()
        first = images[:1] if images.device.type == "cpu" and not (compile or shaped) else images

        def time(name: str) -> float:
            nonlocal begin
            if name not in warm:
                pause = machine.now()
                for _ in range(min(1, warmup) if pairs[name] else warmup):
                    _time(run[name], first if pairs[name] else images, precision, name)
                begin = machine.without(begin, pause)  # compilers are processes of their own, but not of others
                warm.add(name)
            return _time(run[name], images, precision, name)

        done = min(map(len, pairs.values()))
        look = max(done, min_rounds)
        while done < max_rounds:
            spent = sum(own for runs in pairs.values() for own, _ in runs)
            if done >= min_rounds and spent >= max_seconds:
                break
            if done >= look:
                look = 5 * done // 4 + 1  # a look at each round would be more looks than `SURE` pays for
                if all(_width(runs, name == reference) <= goal for name, runs in pairs.items()):
                    break
            done += 1
            shuffle(others)
            beside: float | None = None
            for name in [reference, *others] if reference in models else others:
                if name == reference or len(pairs[name]) < done:  # more only where a round was cut short before
                    own = time(name)
                    beside = own if name == reference else beside
                    if len(pairs[name]) < done:
                        pairs[name].append((own, beside))
                    if keep is not None:
                        keep(name, pairs[name])
            if progress is not None:
                progress(done)
    meanwhile = {**machine.since(begin), **(clocks(images.device) if images.device.type == "cuda" else {})}
    batch = images.shape[0]
    return {name: _summary(run[name], batch, runs, name == reference, goal, meanwhile) for name, runs in pairs.items()}


def median_interval(values: Sequence[float], level: float = SURE) -> tuple[float, float] | None:
    """An interval for the median of what values are drawn from, whatever its shape: the sign test turned round.

    Each value lies above that median or below it like a fair coin, so the k-th smallest and the k-th largest hold it
    between them unless fewer than k of n coins fall to one side.

    Returns:
        The narrowest of these intervals that is at least so sure; None if even all values together are not.
    """
    n, k, term, tail = len(values), 0, 1, 0
    while 2 * (tail + term) / (1 << n) <= 1 - level:
        tail, term, k = tail + term, term * (n - k) // (k + 1), k + 1
    ordered = sorted(values)
    return (ordered[k - 1], ordered[n - k]) if k else None


def reduction_share(
    model: nn.Module, images: Tensor, precision: str = "fp32", runs: int = 10, warmup: int = 3
) -> Share | None:
    """The share of a forward pass spent in reducers; None for a model that has none.

    Args:
        model: a `tokenbench.model.Model`; any other module has no reducers.
        images: (B, channels, H, W) on the model's device.
        precision: "fp32", "bf16" or "fp16".
        runs: passes that count.
        warmup: passes before them.

    Raises:
        OutOfMemory: the batch does not fit.
    """
    reducers = dict.fromkeys(reducer for block in blocks_of(model) for reducer in block.reducers)
    if not reducers:
        return None
    marks: list[Any] = []  # begin, end, begin, end, ...

    def mark(*_: Any) -> None:
        marks.append(_now(images.device))

    hooks = [hook(mark) for r in reducers for hook in (r.register_forward_pre_hook, r.register_forward_hook)]
    shares = []
    try:
        with evaluating(model):
            for _ in range(warmup + runs):
                marks.clear()
                whole = _time(model, images, precision)
                inside = sum(_between(begin, end) for begin, end in zip(marks[::2], marks[1::2], strict=True))
                shares.append(inside / whole)
    finally:
        for handle in hooks:
            handle.remove()
    p25, p50, p75 = (float(q) for q in np.percentile(shares[warmup:], [25, 50, 75]))
    return Share(p50, p75 - p25, runs)


def _time(model: nn.Module, images: Tensor, precision: str, name: str | None = None) -> float:
    """Seconds of one forward pass, on CUDA from a second-level cache in which nothing of the model is left."""
    if images.device.type == "cuda":
        size = torch.cuda.get_device_properties(images.device).L2_cache_size
        torch.empty(2 * size, dtype=torch.uint8, device=images.device).zero_()
        torch.cuda.synchronize(images.device)  # or kernels would be launched while this still runs, and their cost hide
    begin = _now(images.device)
    forward(model, images, precision, name)
    return _between(begin, _now(images.device))


def _now(device: torch.device) -> Any:
    """A moment on the device's own time line: a recorded event on CUDA, else seconds by the wall clock."""
    if device.type == "cuda":
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        return event
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return perf_counter()


def _between(begin: Any, end: Any) -> float:
    """Seconds between two moments."""
    if isinstance(end, torch.cuda.Event):
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1000
    return float(end - begin)


def _width(pairs: Sequence[Pair], is_reference: bool) -> float:
    """Half the width of the interval of the speed-up, or of the time where it is the reference's, relative to it."""
    ratios = _ratios(pairs)
    values = [own for own, _ in pairs] if ratios is None or is_reference else ratios
    found = median_interval(values)
    return math.inf if found is None else (found[1] - found[0]) / 2 / median(values)


def _ratios(pairs: Sequence[Pair]) -> list[float] | None:
    """The speed-up in each round; None where the reference did not run."""
    return None if any(beside is None for _, beside in pairs) else [beside / own for own, beside in pairs if beside]


def _summary(
    model: nn.Module,
    batch: int,
    pairs: Sequence[Pair],
    is_reference: bool,
    goal: float,
    machine: dict[str, float | None],
) -> Speed:
    own = [seconds for seconds, _ in pairs]
    p10, p25, p50, p75, p90 = (float(q) for q in np.percentile(own, [10, 25, 50, 75, 90]))
    ratios = _ratios(pairs)
    low, high = (ratios and median_interval(ratios)) or (None, None)
    return Speed(
        batch=batch,
        runs=len(own),
        images_per_s=batch / p50,
        latency_p10_ms=1000 * p10,
        latency_p50_ms=1000 * p50,
        latency_p90_ms=1000 * p90,
        spread=(p75 - p25) / p50,
        speedup=median(ratios) if ratios else None,
        speedup_low=low,
        speedup_high=high,
        goal=goal,
        noisy=_width(pairs, is_reference) > goal,
        compile_s=model.seconds(batch) if isinstance(model, Compiled) else None,
        machine=machine,
    )
