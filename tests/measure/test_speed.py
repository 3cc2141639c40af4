"""Speed, under a clock that only moves when a model runs."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo
from hypothesis import given
from hypothesis import strategies as st
from reducing import Half, model
from refusals import refused
from torch import Tensor, nn

from tokenbench.backbones import Backbone
from tokenbench.errors import UsageError
from tokenbench.measure import compiling, machine, speed
from tokenbench.measure.compiling import Compiled
from tokenbench.measure.running import OutOfMemory
from tokenbench.measure.speed import Share, measure, median_interval, reduction_share
from tokenbench.measure.verdicts import break_even

IMAGES = torch.zeros(8, 3, 2, 2)


class Clock:
    """Seconds that pass when told to; doubles as the load of the machine, which slows everything in a round alike."""

    def __init__(self) -> None:
        self.now = 0.0
        self.load = 1.0
        self.burst = 0  # passes that other work will slow

    def __call__(self) -> float:
        return self.now

    def spend(self, seconds: float) -> None:
        self.now += seconds * self.load


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(speed, "perf_counter", made)
    return made


class Costs(nn.Module):
    """Takes its time, as many seconds as the next of `seconds`, over and over, and notes that it ran."""

    def __init__(self, clock: Clock, *seconds: float, log: list[nn.Module] | None = None) -> None:
        super().__init__()
        self.clock, self.seconds, self.runs = clock, seconds, 0
        self.log = [] if log is None else log
        self.batches: list[int] = []

    def forward(self, images: Tensor) -> Tensor:
        self.clock.spend(self.seconds[self.runs % len(self.seconds)])
        self.runs += 1
        self.batches.append(len(images))
        self.log.append(self)
        return images.flatten(1)


def test_numbers_of_a_steady_model(clock: Clock) -> None:
    got = measure({"dense": Costs(clock, 0.04), "half": Costs(clock, 0.02)}, IMAGES, warmup=1)
    half = got["half"]
    assert (half.batch, half.runs) == (8, 10)
    assert half.images_per_s == pytest.approx(400.0)
    assert [half.latency_p10_ms, half.latency_p50_ms, half.latency_p90_ms] == pytest.approx([20.0] * 3)
    assert half.spread == pytest.approx(0.0)
    assert [half.speedup, half.speedup_low, half.speedup_high] == pytest.approx([2.0] * 3)
    assert got["dense"].speedup == 1.0


def test_what_runs_while_models_get_warm_is_not_others_work(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compilers are processes of their own; a row whose models they made in the warm-up is not of a busy machine."""
    ran = 0.0  # on the machine's one core, by others

    def moment() -> machine.Moment:
        return machine.Moment(clock.now, 0.0, ran, None, 0.0)

    class Compiles(Costs):
        def forward(self, images: Tensor) -> Tensor:
            nonlocal ran
            ran += 9.0 if self.runs == 0 else 0.1
            self.clock.spend(9.0 if self.runs == 0 else 0.0)
            return super().forward(images)

    monkeypatch.setattr(machine, "now", moment)
    monkeypatch.setattr(machine, "_cores", lambda: {0})
    limits = {"min_rounds": 10, "max_rounds": 10}
    models = {"dense": Compiles(clock, 1.0), "half": Compiles(clock, 0.5)}
    told = measure(models, IMAGES, warmup=1, **limits)["half"].machine
    assert (told["others"], told["stopped"], told["steal"]) == (pytest.approx(2 / 15, abs=1e-4), 0.0, None)
    models = {"dense": Compiles(clock, 1.0), "half": Compiles(clock, 0.5)}
    assert measure(models, IMAGES, warmup=0, **limits)["half"].machine["others"] == pytest.approx(0.6, abs=0.01)


def test_quantiles_and_spread(clock: Clock) -> None:
    it = measure({"it": Costs(clock, *range(1, 12))}, IMAGES, min_rounds=11, max_seconds=0, warmup=0)["it"]
    assert [it.latency_p10_ms, it.latency_p50_ms, it.latency_p90_ms] == pytest.approx([2000.0, 6000.0, 10000.0])
    assert it.spread == pytest.approx((8.5 - 3.5) / 6)
    assert it.images_per_s == pytest.approx(8 / 6)


def test_ratio_holds_while_the_machine_is_noisy(clock: Clock) -> None:
    def worse(done: int) -> None:
        clock.load = 1.5**done

    models = {"dense": Costs(clock, 3.0), "third": Costs(clock, 1.0)}
    both = measure(models, IMAGES, warmup=0, progress=worse)
    got = both["third"]
    assert got.spread > 1.0 and not got.noisy and got.runs == 10
    assert [got.speedup, got.speedup_low, got.speedup_high] == pytest.approx([3.0] * 3)
    assert both["dense"].noisy and both["dense"].speedup_low == both["dense"].speedup_high == 1.0, "its own time varies"


@pytest.mark.parametrize(
    ("dense", "other", "noisy"),
    [((1.0,), (2.0,), (False, False)), ((1.0, 1.2), (2.0,), (True, True)), ((1.0, 1.2), (2.0, 2.4), (True, False))],
)
def test_the_reference_is_known_by_its_time_and_others_by_their_ratio(
    clock: Clock, dense: tuple[float, ...], other: tuple[float, ...], noisy: tuple[bool, bool]
) -> None:
    models = {"dense": Costs(clock, *dense), "it": Costs(clock, *other)}
    got = measure(models, IMAGES, warmup=0, min_rounds=8, max_rounds=14, max_seconds=1e9)
    assert (got["dense"].noisy, got["it"].noisy) == noisy
    assert got["it"].runs == (14 if any(noisy) else 8)


def test_what_is_not_said_is_as_documented(clock: Clock) -> None:
    """At least 10 rounds and at most 200, 20 seconds, 2 %, three runs to warm up, the order of seed 0."""
    short, long = Costs(clock, 1.0, 3.0), Costs(clock, 1.0, 3.0)
    got = measure({"it": short}, IMAGES)["it"]
    assert (got.runs, got.goal, short.runs) == (10, 0.02, 13), "ten rounds are just 20 seconds"
    assert measure({"it": long}, IMAGES, max_seconds=1e9)["it"].runs == 200 and long.runs == 203
    orders = []
    for seed in ({}, {"seed": 0}, {"seed": 1}):
        log: list[nn.Module] = []
        models = {name: Costs(clock, 1.0, log=log) for name in ("dense", "a", "b")}
        measure(models, IMAGES, max_seconds=0, **seed)
        orders.append([next(name for name, model in models.items() if model is ran) for ran in log])
    assert orders[0] == orders[1] != orders[2]
    assert measure({"it": Costs(clock, 1.0)}, IMAGES, min_rounds=1, max_rounds=1, warmup=0)["it"].runs == 1


def test_on_a_gpu_the_cache_is_emptied_first_and_all_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA, played: what is asked of it, in order."""
    asked: list[object] = []
    device = torch.device("cuda", 1)

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            asked.append(("event", enable_timing))

        def record(self, stream: str) -> None:
            asked.append(stream)

        def synchronize(self) -> None:
            asked.append("awaited")

        def elapsed_time(self, end: object) -> float:
            assert isinstance(end, Event) and end is not self
            return 1500.0

    def empty(size: int, dtype: torch.dtype, device: object) -> SimpleNamespace:
        return SimpleNamespace(zero_=lambda: asked.append((size, dtype, device)))

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda d: {device: SimpleNamespace(L2_cache_size=50)}[d])
    monkeypatch.setattr(torch.cuda, "synchronize", lambda d: asked.append(("idle", d)))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda d: ("stream", d))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(speed, "forward", lambda *given: asked.append(given))
    model, images = nn.Identity(), SimpleNamespace(device=device)
    assert speed._time(model, images, "fp16", "it") == 1.5  # type: ignore[arg-type]
    begun = [("event", True), ("stream", device)]
    cold = [(100, torch.uint8, device), ("idle", device)]
    assert asked == [*cold, *begun, (model, images, "fp16", "it"), *begun, "awaited"]
    other = torch.device("mps")
    monkeypatch.setattr(torch.accelerator, "synchronize", lambda d: asked.append(("idle", d)))
    monkeypatch.setattr(speed, "perf_counter", lambda: 7.0)
    assert speed._now(other) == 7.0 and asked[-1] == ("idle", other)
    assert speed._now(torch.device("cpu")) == 7.0 and asked[-1] == ("idle", other)


def test_every_round_runs_all_in_a_new_order(clock: Clock) -> None:
    log: list[nn.Module] = []
    models = {name: Costs(clock, 1.0, log=log) for name in ("dense", "a", "b")}
    measure(models, IMAGES, max_seconds=0, warmup=2, seed=3)
    first, rounds = log[:9], [tuple(log[i : i + 3]) for i in range(9, len(log), 3)]
    assert first[::3] == first[1::3] == first[2::3], "each is warmed up by two runs before its first that counts"
    assert set(first) == set(models.values()) and len(rounds) == 9
    assert all(set(one) == set(models.values()) for one in rounds)
    assert {one[0] for one in rounds} == {models["dense"]}, "so that each run has a ratio at once"
    assert len(set(rounds)) == 2
    log.clear()
    measure(models, IMAGES, max_seconds=0, warmup=2, seed=3)
    assert log[:9] == first and [tuple(log[i : i + 3]) for i in range(9, len(log), 3)] == rounds


def test_what_is_shaped_by_its_batch_is_warmed_by_a_whole_one(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime plans its memory, or compiles, for each size: its first run of another would be counted."""
    for shaped in (False, True):
        it = Costs(clock, 1.0)
        measure({"it": it}, IMAGES, min_rounds=3, max_seconds=0, warmup=1, before={"it": [(1.0, None)]}, shaped=shaped)
        assert it.batches == [len(IMAGES) if shaped else 1, len(IMAGES), len(IMAGES)]
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    it = Costs(clock, 1.0)
    measure({"it": it}, IMAGES, min_rounds=2, max_seconds=0, before={"it": [(1.0, None)]}, compile=True)
    assert it.batches == [len(IMAGES)] * 2, "one run warms what was warm before, of three"


def test_rounds_go_on_where_they_were_cut_short(clock: Clock) -> None:
    def models() -> dict[str, nn.Module]:
        return {name: Costs(clock, seconds) for name, seconds in (("dense", 6.0), ("a", 3.0), ("b", 2.0))}

    kept: dict[str, list[speed.Pair]] = {}
    runs = 0

    def keep(name: str, pairs: Sequence[speed.Pair]) -> None:
        nonlocal runs
        kept[name] = list(pairs)
        runs += 1
        if runs == 11:  # in the fourth round
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(models(), IMAGES, max_seconds=0, warmup=1, keep=keep)
    assert sorted(map(len, kept.values())) == [3, 4, 4]
    later = models()
    got = measure(later, IMAGES, max_seconds=0, warmup=1, before=kept)
    assert {name: one.runs for name, one in got.items()} == dict.fromkeys(later, 10)
    assert {name: one.speedup for name, one in got.items()} == {"dense": 1.0, "a": 2.0, "b": 3.0}
    ran = sorted(model.runs - 1 for model in later.values() if isinstance(model, Costs))
    assert ran == [6, 7, 7], "dense beside what the cut round lacked, and six whole rounds"
    for one in later.values():
        assert isinstance(one, Costs)
        assert one.batches == [1, *[len(IMAGES)] * (one.runs - 1)], "one image warms what was warm before"
    again = models()
    whole = {name: [(6.0 / one.speedup, 6.0)] * 10 for name, one in got.items() if one.speedup}
    assert measure(again, IMAGES, max_seconds=0, before=whole)["a"].runs == 10
    assert not any(model.runs for model in again.values() if isinstance(model, Costs)), "nothing was left to do"


@pytest.mark.parametrize(
    ("max_seconds", "costs", "rounds"),
    [
        (0.0, (1.0, 2.0), 4),  # as many as are asked for, whatever the time
        (6.5, (1.0, 2.0), 5),  # the time is spent, 1.5 seconds a round
        (100.0, (1.0, 2.0), 20),  # never known well
        (100.0, (1.0,), 8),  # known well at the first look that an interval is found at: 4, 6, 8
        (100.0, (1.0, 1.01, 1.02), 8),
        (100.0, (2.0, *[1.0] * 30), 14),  # known from 12 on, which leave one out at either end; looks are at 8, 11, 14
    ],
)
def test_when_it_stops(clock: Clock, max_seconds: float, costs: tuple[float, ...], rounds: int) -> None:
    done: list[int] = []
    it = {"it": Costs(clock, *costs)}
    run = measure(it, IMAGES, min_rounds=4, max_rounds=20, max_seconds=max_seconds, warmup=0, progress=done.append)
    assert run["it"].runs == rounds
    assert done == list(range(1, rounds + 1))
    assert run["it"].noisy == (rounds not in (8, 14))


def test_the_goal_and_the_first_looks_are_the_callers(clock: Clock) -> None:
    def timed(**options: float) -> speed.Speed:
        models = {"dense": Costs(clock, 1.0), "it": Costs(clock, 1.0, 1.2)}
        return measure(models, IMAGES, warmup=0, min_rounds=9, max_rounds=30, max_seconds=1e9, **options)["it"]

    loose, tight = timed(goal=0.1), timed(goal=0.01)
    assert (loose.runs, loose.noisy) == (9, False)
    assert (tight.runs, tight.noisy) == (30, True)
    steady = measure({"dense": Costs(clock, 1.0)}, IMAGES, goal=0.0, min_rounds=9, max_seconds=1e9)["dense"]
    assert (steady.runs, steady.noisy) == (9, False), "it is known as well as it was to be"


@pytest.mark.parametrize(
    ("n", "level", "k"),
    # 2 P(Bin(n, 1/2) < k) <= 1 - level, from tables of the sign test
    [(5, 0.95, 0), (6, 0.95, 1), (9, 0.95, 2), (10, 0.95, 2), (20, 0.95, 6), (7, 0.99, 0), (8, 0.99, 1), (12, 0.99, 2)],
)
def test_interval_of_a_median(n: int, level: float, k: int) -> None:
    values = [float(i * i) for i in range(1, n + 1)]
    expected = (k**2, (n + 1 - k) ** 2) if k else None
    assert median_interval(values[::-1], level) == expected


def test_too_few_rounds_for_an_interval(clock: Clock) -> None:
    models = {"dense": Costs(clock, 2.0), "a": Costs(clock, 1.0)}
    got = measure(models, IMAGES, min_rounds=7, max_rounds=7)["a"]
    assert (got.speedup, got.speedup_low, got.speedup_high, got.noisy) == (2.0, None, None, True)


class Noisy(nn.Module):
    """Takes the time of a machine that other work slows: long tails, drift, bursts that last for a few passes."""

    def __init__(self, clock: Clock, draw: random.Random, cost: float = 1.0) -> None:
        super().__init__()
        self.clock, self.draw, self.cost = clock, draw, cost

    def forward(self, images: Tensor) -> Tensor:
        draw, clock = self.draw, self.clock
        clock.load *= math.exp(draw.gauss(0, 0.01))
        if clock.burst == 0 and draw.random() < 1 / 15:
            clock.burst = 1 + int(draw.expovariate(1 / 6))
        clock.burst -= clock.burst > 0
        tail = 0.02 * draw.paretovariate(1.5) + (draw.expovariate(2) if clock.burst else 0.0)
        clock.spend(self.cost * (1 + tail))
        return images.flatten(1)


def noisy_runs(clock: Clock, seed: int, cost: float, times: Sequence[float]) -> list[speed.Speed]:
    draw, found = random.Random(seed), []
    for run in range(40):
        clock.load = 1.0
        models = {"dense": Noisy(clock, draw), "it": Noisy(clock, draw, cost)}
        found.append(measure(models, IMAGES, seed=run, max_seconds=draw.choice(times))["it"])
    return found


@pytest.mark.parametrize("seed", range(5))
def test_a_model_is_not_called_different_from_itself(clock: Clock, seed: int) -> None:
    runs = noisy_runs(clock, seed, 1.0, [15.0, 40.0, 120.0])
    assert sum(not run.speedup_low <= 1 <= run.speedup_high for run in runs) <= 2
    assert len({run.runs for run in runs}) > 3, "runs stop at different lengths, or stopping is not tested"


def test_a_model_that_is_faster_is_called_so(clock: Clock) -> None:
    runs = noisy_runs(clock, 1, 0.8, [300.0])
    assert sum(run.speedup_low > 1 for run in runs) > 30
    assert sum(run.speedup_low <= 1 / 0.8 <= run.speedup_high for run in runs) >= 38


def test_no_reference_no_speedup(clock: Clock) -> None:
    models = {"dense": Costs(clock, 2.0), "a": Costs(clock, 1.0)}
    got = measure(models, IMAGES, reference="other", max_seconds=0)["a"]
    assert (got.speedup, got.speedup_low, got.speedup_high) == (None, None, None)
    assert measure(models, IMAGES, reference="a", max_seconds=0)["dense"].speedup == 0.5


def test_mode_precision_and_compile(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._dynamo as dynamo

    seen: set[tuple[bool, bool, bool]] = set()

    class Probe(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            clock.spend(1.0)
            seen.add((self.training, torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")))
            if compiled:
                limits.add((dynamo.config.recompile_limit, dynamo.config.accumulated_recompile_limit))
            return images

    compiled: list[tuple[nn.Module, object]] = []
    limits: set[tuple[int, int]] = set()
    monkeypatch.setattr(torch, "compile", lambda model, **how: compiled.append((model, how)) or model)
    probe = Probe().train()
    measure({"it": probe}, IMAGES, max_seconds=0)
    assert (seen, compiled, probe.training) == ({(False, True, False)}, [], True)
    seen.clear()
    measure({"it": probe}, IMAGES, max_seconds=0, precision="bf16", compile=True)
    assert (seen, compiled) == ({(False, True, True)}, [(probe, {"dynamic": False})])
    assert limits == {(4096, 4096)} != {(dynamo.config.recompile_limit, dynamo.config.accumulated_recompile_limit)}


def test_what_is_compiled_says_how_long_that_took(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    monkeypatch.setattr(compiling, "perf_counter", clock)
    marked: list[int] = []
    monkeypatch.setattr(torch._dynamo, "maybe_mark_dynamic", lambda images, dim: marked.append(dim))
    it = Compiled(Costs(clock, 7.0, *[1.0] * 50))
    got = measure({"it": it, "other": Costs(clock, 2.0)}, IMAGES, max_seconds=0, compile=True)
    assert (got["it"].compile_s, got["other"].compile_s, got["it"].latency_p90_ms) == (7.0, 2.0, 1000.0)
    assert marked == [0] * 26, "the batch's size is dynamic"
    again = measure({"it": it}, IMAGES[:2], max_seconds=0, compile=True)["it"]
    assert again.compile_s == 7.0, "one graph for all sizes"
    marked.clear()
    assert measure({"it": it}, IMAGES[:1], max_seconds=0, compile=True)["it"].compile_s == 1.0, "but for a single image"
    assert not marked and Compiled(it).seconds(1) is None
    assert measure({"it": Costs(clock, 1.0)}, IMAGES, max_seconds=0)["it"].compile_s is None


@pytest.mark.parametrize("freezing", [False, True])
def test_weights_are_frozen_in_compiling_alone_and_only_where_asked(
    freezing: bool, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch._inductor import config

    seen: list[bool] = []
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    before = config.freezing
    module = Costs(clock, 1.0)
    module.register_forward_hook(lambda *_: seen.append(config.freezing))
    it = Compiled(module, freezing) if freezing else Compiled(module)
    for _ in range(2):
        it(IMAGES)
    assert seen == [freezing, before] and config.freezing is before


def test_refusals(clock: Clock) -> None:
    class Huge(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return torch.empty(1 << 50)

    it = {"it": Costs(clock, 1.0)}
    for models, images in (({}, IMAGES), (it, IMAGES[:0])):
        said = f"{len(models)} models on {len(images)} images cannot be timed; give one or more of both."
        with refused(UsageError, said):
            measure(models, images)
    for bad in ({"min_rounds": 0}, {"min_rounds": 5, "max_rounds": 4}, {"warmup": -1}):
        asked = {"min_rounds": 10, "max_rounds": 200, "warmup": 3, **bad}
        rounds, most, warmup = (f"{name}={value}" for name, value in asked.items())
        limits = "give 1 <= min_rounds <= max_rounds and 0 <= warmup."
        with refused(UsageError, f"{rounds}, {most} and {warmup} cannot be run; {limits}"):
            measure(it, IMAGES, **bad)
    huge = Huge().train()
    with refused(OutOfMemory, "huge ran out of memory on cpu at batch 8, use a smaller batch."):
        measure({**it, "huge": huge}, IMAGES)
    with refused(OutOfMemory, "huge ran out of memory on cpu at batch 8, use a smaller batch."):
        measure({**it, "huge": huge}, IMAGES, warmup=0)
    assert huge.training


def test_share_of_time_in_reducers(clock: Clock, tiny: Callable[..., Backbone], images: Tensor) -> None:
    seconds = [9.0, 1.0, 2.0, 4.0, 3.0, 0.5]  # of the first of a pass, the warm-up first

    class Slow(Half):
        def forward(self, tokens, attn):  # type: ignore[no-untyped-def]
            clock.spend(seconds.pop(0) if self is slow and tokens.count == 37 else 1.0)
            return super().forward(tokens, attn)

    slow = Slow()
    reduced = model(tiny(), {3: [slow], 6: [slow, Slow()]}).train()
    reduced.vit.patch_embed.register_forward_hook(lambda *_: clock.spend(5.0))
    low, middle, high = 3 / 8, 4 / 9, 5 / 10  # 1, 2 and 3 seconds and two more, beside 5
    got = reduction_share(reduced, images, runs=5, warmup=1)
    assert got == Share(pytest.approx(middle), pytest.approx(high - low), 5)
    assert reduced.training and not slow._forward_hooks and not slow._forward_pre_hooks
    seconds[:] = [1.0] * 13
    precisions: list[bool] = []
    reduced.vit.head.register_forward_hook(lambda *_: precisions.append(torch.is_autocast_enabled("cpu")))
    assert reduction_share(reduced, images, "bf16") == Share(pytest.approx(3 / 8), pytest.approx(0.0), 10)
    assert not seconds and precisions == [True] * 13, "of ten passes, after three"
    assert reduction_share(model(tiny()), images) is None
    assert reduction_share(tiny().vit, images) is None


@pytest.mark.parametrize(
    ("speedups", "batch"),
    [
        ({}, None),
        ({1: 1.0}, 1),
        ({1: 0.8, 8: 1.1, 64: 1.5}, 8),
        ({64: 1.5, 1: 0.8, 8: 1.1}, 8),
        ({1: 1.2, 8: 0.9, 64: 1.5}, 64),
        ({1: 1.2, 8: 1.3, 64: 0.99}, None),
    ],
)
def test_break_even(speedups: dict[int, float], batch: int | None) -> None:
    assert break_even(speedups) == batch


@given(st.dictionaries(st.integers(1, 1024), st.floats(0.1, 3.0)))
def test_break_even_is_the_smallest_that_holds(speedups: dict[int, float]) -> None:
    holds = [b for b in speedups if all(speedups[other] >= 1 for other in speedups if other >= b)]
    assert break_even(speedups) == min(holds, default=None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu(tiny: Callable[..., Backbone], images: Tensor) -> None:
    images = images.cuda()
    models = {"dense": tiny().vit.cuda(), "half": model(tiny(), {0: [Half()]}).cuda()}
    got = measure(models, images, max_seconds=0, precision="fp16")
    assert 0.0 < got["half"].latency_p10_ms <= got["half"].latency_p50_ms <= got["half"].latency_p90_ms < 1000.0
    share = reduction_share(models["half"], images)
    assert share is not None and 0.0 < share.median < 1.0
