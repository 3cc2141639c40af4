"""Every field of a row, worked out again beside the run: from the models, the saved predictions and a clock of our own.

The run is made so that no two numbers are equal by chance: each method is right where the others are wrong, both ways,
some images cannot be read, a limit leaves some out, and every timed pass takes another time.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from femto import Watch, plan
from PIL import Image
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from tokenbench import __version__, backbones
from tokenbench.backbones import Backbone
from tokenbench.core.block import Reducer
from tokenbench.measure import accuracy, flops, machine, memory, parts, speed, tokens
from tokenbench.measure.accuracy import Predictions
from tokenbench.measure.compiling import Compiled
from tokenbench.methods.sweep import parse
from tokenbench.model import Model
from tokenbench.runs import environment, runner, timing
from tokenbench.runs.jobs import UNFINISHED
from tokenbench.runs.results import Results, load
from tokenbench.runs.row import Row
from tokenbench.tasks.classification import Classification
from tokenbench.weights import checkpoints, files

EVIT, TOPK, UNTRAINED, SKIPPED = (
    "evit[keep_rate=0.5]",
    "topk[keep_rate=0.6]",
    "dynamicvit[keep_rate=0.4]",
    "evit[blocks=9]",
)
METRICS = list(Classification.metric_names())
BATCHES, ROUNDS, SEED = (2, 3), 9, 5
Z = statistics.NormalDist().inv_cdf(0.975)
PHOTOS, LIMIT, CHOSEN_BROKEN, OTHER_BROKEN = 60, 40, (4, 17, 30), (1, 2)
BESIDE = {"others": 0.25, "steal": None}
MACHINE = {"hardware": "Abacus, 7 beads", "torch": "9.9", "beads": [1, None]}
PEAKS = {"dense": 3, "evit": 5, "topk": 7, "dynamicvit": 11}  # of these models the true ones are equal
SETTINGS = {
    "dense": {},
    EVIT: {
        "keep_rate": 0.5,
        "tokens": None,
        "fuse": True,
        "blocks": None,
        "shrink_start": 0.0,
        "shrink_epochs": 0.0,
    },
    TOPK: {"keep_rate": 0.6, "blocks": None},
}


class Clock:
    """Time stands still but for each reducer and each whole pass, which take a length of their own at every call."""

    def __init__(self) -> None:
        self.now, self.draw, self.inside = 1000.0, random.Random(1), 0.0
        self.passes: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)  # in reducers, in all

    def __call__(self) -> float:
        return self.now

    def tick(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(module, Reducer):
            self.inside += self._take(200)
        if isinstance(module, Model):
            whole = self.inside + self._take(900 if module.method.name == "dense" else 300)
            self.passes[module.method.label, len(inputs[0])].append((self.inside, whole))
            self.inside = 0.0

    def _take(self, about: int) -> float:
        taken = self.draw.randrange(about, 3 * about) / 2**13  # sums of these are exact
        self.now += taken
        return taken


@dataclass
class Made:
    """Weights and photos on disk, and what the models say of them."""

    dense: Path
    own: Path  # weights trained for TOPK
    photos: Path
    chosen: list[Path]  # those that the limit leaves, in order
    ranked: dict[str, np.ndarray]  # the classes, best first, of each chosen image that can be read
    target: list[int]


@dataclass
class Ran:
    rows: list[Row]
    results: Results
    clock: Clock
    said: list[str]
    began: datetime
    ended: datetime


def backbone(weights: Path | None = None) -> Backbone:
    torch.manual_seed(0)
    made = backbones.create("deit_femto")
    if weights is None:  # an untrained model says the same of every image
        for parameter in made.vit.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.4)
    else:
        checkpoints.load(made, weights)
    made.vit.eval()
    return made


def models(dense: Path, own: Path) -> dict[str, Model]:
    """The models of the run, made without it; the untrained one is there to be counted."""
    torch.manual_seed(SEED)
    found = {m.label: Model(backbone(dense), m).eval() for m in parse(f"dense,{EVIT},{TOPK},{UNTRAINED}")}
    checkpoints.load(found[TOPK], own)
    return found


def pixels(files: list[Path]) -> torch.Tensor:
    found = np.stack([np.asarray(Image.open(file), np.float32) for file in files])
    return torch.from_numpy((found / 255 - 0.286) / 0.353).unsqueeze(1)


def ranking(model: nn.Module, files: list[Path]) -> np.ndarray:
    with torch.no_grad():
        logits = model(pixels(files))
    return logits.argsort(1, descending=True).numpy()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    home = tmp_path_factory.mktemp("made")
    dense, own, draw = home / "dense.safetensors", home / "own.safetensors", np.random.default_rng(7)
    vit = backbone()
    files.save(dense, vit, {})
    with torch.no_grad():
        vit.vit.head.weight += 0.2 * torch.randn(vit.vit.head.weight.shape, generator=torch.Generator().manual_seed(1))
    (method,) = parse(TOPK)
    header = {"method": "topk", "setting": method.model_dump(mode="json"), "backbone": "deit_femto", "classes": 10}
    files.save(own, Model(vit, method), header)

    pictures = []
    for i in range(PHOTOS):
        pictures.append(home / f"{i:02}.png")
        Image.fromarray(draw.integers(0, draw.integers(40, 256), (28, 28), np.uint8)).save(pictures[-1])
    said = {label: ranking(model, pictures) for label, model in models(dense, own).items()}
    for i, file in enumerate(
        pictures
    ):  # its class is what one of them says of it, so all are right of different images
        label, guess = [("dense", 0), (EVIT, 0), (EVIT, 0), (TOPK, 0), ("dense", 2), (EVIT, 4), ("dense", 9)][i % 7]
        folder = home / "photos" / "val" / str(said[label][i, guess])
        folder.mkdir(parents=True, exist_ok=True)
        file.rename(folder / file.name)
    for c in range(10):
        (home / "photos" / "val" / str(c)).mkdir(exist_ok=True)
    everything = sorted((home / "photos" / "val").glob("*/*.png"))
    chosen = [everything[i * PHOTOS // LIMIT] for i in range(LIMIT)]
    broken = [chosen[i] for i in CHOSEN_BROKEN]
    for file in (*broken, *[f for f in everything if f not in chosen][: len(OTHER_BROKEN)]):
        file.write_bytes(b"no image")
    read = [file for file in chosen if file not in broken]
    ranked = {label: ranking(model, read) for label, model in models(dense, own).items()}
    return Made(dense, own, home / "photos", chosen, ranked, [int(file.parent.name) for file in read])


def the_plan(made: Made, **changes: Any) -> runner.Plan:
    settings = {
        "weights": f"{made.dense},{made.own}",
        "data_dir": made.photos,
        "batches": BATCHES,
        "rounds": ROUNDS,
        "seed": SEED,
        "limit": LIMIT,
    }
    return plan(f"{EVIT},{TOPK},{UNTRAINED},{SKIPPED}", **{**settings, **changes})


@pytest.fixture(scope="module")
def ran(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    clock, watch, results = Clock(), Watch(), Results(tmp_path_factory.mktemp("ran") / "results.jsonl")
    per_block = tokens.per_block

    def varied(model: nn.Module, batches: Any) -> tokens.TokenCounts | None:
        """As if images differed in how many tokens they keep."""
        found = per_block(model, batches)
        return None if found is None else tokens.TokenCounts(found.mean, (0.0, 0.5, 0.25, 0.75))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "perf_counter", clock)
        patch.setattr(timing, "MOST", 1000)
        patch.setattr(machine, "since", lambda begin: BESIDE)
        patch.setattr(environment, "describe", lambda device: {**MACHINE, "device": str(device)})
        patch.setattr(tokens, "per_block", varied)
        patch.setattr(memory, "peak", lambda model, images, _: PEAKS[model.method.name] * len(images) * 2**18)
        hook, began = register_module_forward_hook(clock.tick), datetime.now(UTC)
        rows = runner.run(the_plan(made), results, watch)
        hook.remove()
    yield Ran(rows, results, clock, watch.said, began, datetime.now(UTC))


@pytest.fixture(scope="module")
def expected(made: Made, ran: Ran) -> dict[tuple[str, int], dict[str, Any]]:
    """Every field of every row but `time`."""
    own = models(made.dense, made.own)
    return {
        (label, batch): identity(made, label, batch)
        | outcome(label)
        | (right(made, ran, label, batch) if label in SETTINGS else {})
        | (counts(own[label]) | timed(ran.clock, label, batch) if label != SKIPPED else {})
        for batch in BATCHES
        for label in ("dense", EVIT, TOPK, UNTRAINED, SKIPPED)
    }


def identity(made: Made, label: str, batch: int) -> dict[str, Any]:
    def sha(data: bytes) -> str:
        return hashlib.sha256(data).hexdigest()[:16]

    def weights(path: Path) -> dict[str, str]:
        return {"kind": "file", "name": path.name, "hash": sha(path.read_bytes())}

    names = "".join(f"{f.parent.name}/{f.name}\0{f.stat().st_size}\n" for f in made.chosen)
    (method,) = parse(label)
    return {
        "task": "classification",
        "conditions": {},
        "method": label.split("[")[0],
        "setting": SETTINGS.get(label, method.model_dump(mode="json")),
        "label": {SKIPPED: "evit[keep_rate=0.7,blocks=9]"}.get(label, label),
        "backbone": "deit_femto",
        "weights": weights(made.dense),
        "trained": weights(made.own) if label == TOPK else None,
        "dataset": "photos",
        "split": "val",
        "sample_hash": sha(names.encode()),
        "image_size": (28, 28),
        "device": "cpu",
        "hardware": "Abacus, 7 beads",
        "precision": "fp32",
        "batch": batch,
        "compile": False,
        "seed": SEED,
        "version": __version__,
        "env": {**MACHINE, "device": "cpu"},
        "imagenet_val": False,
        **dict.fromkeys(("budget", "params_by_part", "ms_by_part", "compile_s")),
        **dict.fromkeys(("joules", "joules_spread", "joules_readings")),
    }


def outcome(label: str) -> dict[str, Any]:
    reasons = {
        UNTRAINED: "needs its own training, so no accuracy",
        SKIPPED: "block 9 does not exist, blocks are 0 to 3",
    }
    return {"status": "skipped" if label == SKIPPED else "ok", "reason": reasons.get(label)}


def right(made: Made, ran: Ran, label: str, batch: int) -> dict[str, Any]:
    """Accuracy, from the predictions that were saved with the row."""

    def saved(label: str) -> tuple[list[list[int]], list[int]]:
        (row,) = (r for r in ran.rows if (r.label, r.batch) == (label, batch))
        with np.load(ran.results.path.parent / "results.predictions" / f"{row.id}.npz") as file:
            return file["top"].tolist(), file["target"].tolist()

    (top, target), (dense, _) = saved(label), saved("dense")
    n = len(target)
    hit = [guesses[0] == t for guesses, t in zip(top, target, strict=True)]
    hit_dense = [guesses[0] == t for guesses, t in zip(dense, target, strict=True)]
    low, high = share(sum(hit), n)
    found = {
        "top1": 100 * sum(hit) / n,
        "top5": 100 * sum(t in guesses for guesses, t in zip(top, target, strict=True)) / n,
        "top1_low": low,
        "top1_high": high,
        "intervals": {"top1": "Wilson", "diff_dense": "Tango"},
        "images": LIMIT - len(CHOSEN_BROKEN),
        "images_total": PHOTOS,
        "skipped": len(CHOSEN_BROKEN),
    }
    if label == "dense":
        return found
    only = sum(a and not b for a, b in zip(hit, hit_dense, strict=True))
    only_dense = sum(b and not a for a, b in zip(hit, hit_dense, strict=True))
    fewer = range(min(only, only_dense) + 1)
    low, high = change(only, only_dense, n)
    return found | {
        "agreement": 100 * sum(a[0] == b[0] for a, b in zip(top, dense, strict=True)) / n,
        "diff_dense": round(100 * (only - only_dense) / n, 6),
        "diff_dense_low": low,
        "diff_dense_high": high,
        "p_value": min(1, sum(math.comb(only + only_dense, k) for k in fewer) / 2 ** (only + only_dense - 1)),
    }


def share(right: int, n: int) -> tuple[float, float]:
    """Wilson's interval: the shares that a z-test with their own variance does not reject."""

    def kept(s: float) -> bool:
        return (right / n - s) ** 2 <= Z**2 * s * (1 - s) / n

    return 100 * last(kept, right / n, 0.0), 100 * last(kept, right / n, 1.0)


def change(only: int, only_dense: int, n: int) -> tuple[float, float]:
    """Tango's interval: the differences that are not rejected, each with the likeliest shares that have it."""

    def kept(d: float) -> bool:
        def rises(q: float) -> bool:  # the likelihood, as the share that only dense gets right does
            return only / (q + d) + only_dense / q > 2 * (n - only - only_dense) / (1 - 2 * q - d)

        q = last(rises, max(0.0, -d) + 1e-12, (1 - d) / 2 - 1e-12)
        return (only - only_dense - n * d) ** 2 <= Z**2 * n * (2 * q + d - d * d)

    here = (only - only_dense) / n
    return 100 * last(kept, here, -0.999), 100 * last(kept, here, 0.999)


def last(kept: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where a condition that holds inside ends."""
    for _ in range(80):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if kept(middle) else (inside, middle)
    return inside


def counts(model: Model) -> dict[str, Any]:
    """Operations and tokens: by the counters, asked again for this model alone; `test_by_hand` adds them up itself."""
    images = torch.zeros(1, 1, 28, 28)
    counted = flops.count(model, images)
    left = [step.count for step in model.run(images).trace]
    return {
        "gmacs": counted.gmacs,
        "gmacs_fvcore": counted.fvcore_gmacs,
        "gmacs_by_block": list(counted.by_block),
        "gmacs_by_part": counted.by_part,
        "params_m": sum(p.numel() for p in model.parameters()) / 1e6,
        "tokens_mean": left,
        "tokens_std": [0.0, 0.5, 0.25, 0.75],
    }


def timed(clock: Clock, label: str, batch: int) -> dict[str, Any]:
    """Speed, from what each pass took by our clock: the last are the timed ones, those before two to warm up shares."""
    rounds = rounds_of(clock, batch)
    seconds, reference = ([whole for _, whole in clock.passes[name, batch][-rounds:]] for name in (label, "dense"))
    ratios = sorted(ref / own for ref, own in zip(reference, seconds, strict=True))
    shares = [inside / whole for inside, whole in clock.passes[label, batch][-rounds - 2 - timing.SHARES : -rounds - 2]]
    middle, out = statistics.median(seconds), left_out(rounds)
    sure = sorted(seconds) if label == "dense" else ratios  # its own time stands for dense
    return {
        "peak_memory_mb": PEAKS[label.split("[")[0]] * batch / 4,
        "images_per_s": batch / middle,
        "latency_p10": 1000 * percentile(seconds, 10),
        "latency_p50": 1000 * middle,
        "latency_p90": 1000 * percentile(seconds, 90),
        "spread": (percentile(seconds, 75) - percentile(seconds, 25)) / middle,
        "runs": rounds,
        "speed_goal": 0.02,
        "machine": BESIDE,
        "noisy": (sure[-1 - out] - sure[out]) / 2 / statistics.median(sure) > 0.02,
        "speedup": statistics.median(ratios),
        "speedup_low": ratios[out],
        "speedup_high": ratios[-out - 1],
        "reduction_share": None if label == "dense" else statistics.median(shares),
    }


def rounds_of(clock: Clock, batch: int) -> int:
    """Timed rounds: the dense model's passes but for those over the data and two to warm up. They go on until 20
    seconds are over, for no ratio is ever sure.
    """
    labels = ("dense", EVIT, TOPK, UNTRAINED)
    rounds = len(clock.passes["dense", batch]) - readable(max(BATCHES)).count(batch) - 2
    ends = list(itertools.accumulate(sum(clock.passes[m, batch][-i][1] for m in labels) for i in range(rounds, 0, -1)))
    assert ROUNDS < rounds < 10 * ROUNDS and ends[-2] < 20 <= ends[-1]
    return rounds


def left_out(n: int) -> int:
    """Ratios to leave out at either end: as many as 1 % is enough for that the median lies among them, by coins."""
    tails = itertools.accumulate(math.comb(n, k) for k in range(n))
    return sum(2 * tail / 2**n <= 0.01 for tail in tails) - 1


def percentile(values: list[float], percent: float) -> float:
    ordered, place = sorted(values), (len(values) - 1) * percent / 100
    below = int(place)
    return ordered[below] + (place - below) * (ordered[below + 1] - ordered[below])


@pytest.mark.parametrize("field", [*(name for name in Row.model_fields if name not in ("time", "metrics")), *METRICS])
def test_field(field: str, ran: Ran, expected: dict[tuple[str, int], dict[str, Any]]) -> None:
    assert any(field in fields for fields in expected.values()), f"nothing here works out {field}"
    for row, (at, fields) in zip(ran.rows, expected.items(), strict=True):
        default = None if field in METRICS else Row.model_fields[field].get_default(call_default_factory=True)
        found = row.metrics[field] if field in METRICS else row.model_dump()[field]
        assert plain(found) == near(plain(fields.get(field, default))), at
        assert list(row.metrics) == METRICS


def readable(batch: int) -> list[int]:
    """How many images of each batch can be read."""
    broken = [sum(i <= at < i + batch for at in CHOSEN_BROKEN) for i in range(0, LIMIT, batch)]
    return [min(batch, LIMIT - i * batch) - lost for i, lost in enumerate(broken)]


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def near(value: Any) -> Any:
    """Equal but for the last digits, where there are digits."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else [value]
    digits = bool(inside) and all(isinstance(number, int | float) for number in inside)
    return pytest.approx(value, rel=1e-9, abs=1e-15) if digits else value


def test_time_and_file(ran: Ran) -> None:
    assert all(ran.began <= row.time <= ran.ended for row in ran.rows)
    assert load(ran.results.path) == (ran.rows, []), "what is written is what is returned"
    lines = [json.loads(line) for line in ran.results.path.read_text().splitlines()]
    lines = [line for line in lines if UNFINISHED not in (line["reason"] or "")]
    assert [line["id"] for line in sorted(lines, key=lambda line: line["id"])] == sorted(row.id for row in ran.rows)
    assert len({row.id for row in ran.rows}) == len(ran.rows)


def test_what_is_saved_is_what_each_model_says(made: Made, ran: Ran) -> None:
    measured = [row for row in ran.rows if row.label in SETTINGS]
    files = {path.stem for path in (ran.results.path.parent / "results.predictions").iterdir()}
    assert files == {row.id for row in measured} and len(files) == len(SETTINGS) * len(BATCHES)
    for row in measured:
        saved = Predictions.load(ran.results.predictions(row.id))
        assert np.array_equal(saved.top, made.ranked[row.label][:, :5]) and saved.target.tolist() == made.target


def test_intervals_are_those_of_images_drawn_anew(made: Made, ran: Ran) -> None:
    """To about an image, since the draws are others."""
    draw, n = np.random.default_rng(99), len(made.target)
    again = draw.integers(0, n, (4000, n))
    hits = {label: ranked[:, 0] == made.target for label, ranked in made.ranked.items()}
    for row in ran.rows:
        if row.label not in SETTINGS:
            continue
        low, high = np.percentile(100 * hits[row.label][again].mean(1), [2.5, 97.5])
        assert (row.top1_low, row.top1_high) == pytest.approx((low, high), abs=150 / n)
        if row.label != "dense":
            change = hits[row.label].astype(int) - hits["dense"]
            low, high = np.percentile(100 * change[again].mean(1), [2.5, 97.5])
            assert (row.diff_dense_low, row.diff_dense_high) == pytest.approx((low, high), abs=150 / n)


def test_by_hand(ran: Ran) -> None:
    """Multiply-adds and tokens of a model of width 32 on 16 patches and a class token, from the shapes alone."""
    width, left = 32, {"dense": [17, 17, 17, 17], EVIT: [17, 10, 7, 5], TOPK: [17, 10, 6, 4]}
    for row in ran.rows:
        if row.label not in left:
            continue
        after = left[row.label]
        before = [17, *after[:-1]]
        attention = [4 * n * width**2 + 2 * n**2 * width for n in before]
        mlp = [8 * n * width**2 for n in after]
        scores = [n * width if n != m else 0 for n, m in zip(before, after, strict=True)]
        if row.label == EVIT:  # and the rest are summed
            scores = [s + (n - 1) * width if s else 0 for s, n in zip(scores, before, strict=True)]
        parts = {
            "embed": 16 * 49 * width,
            "attention": sum(attention),
            "mlp": sum(mlp),
            "selection": sum(scores),
            "head": 10 * width,
        }
        assert row.gmacs_by_part == pytest.approx({part: macs / 1e9 for part, macs in parts.items()}), row.label
        blocks = [sum(block) / 1e9 for block in zip(attention, mlp, scores, strict=True)]
        assert row.gmacs_by_block == pytest.approx(blocks) and row.gmacs == pytest.approx(sum(parts.values()) / 1e9)
        assert row.gmacs < row.gmacs_fvcore < 1.1 * row.gmacs, "norms come on top"
        assert row.tokens_mean == after


def test_no_two_numbers_are_equal_by_chance(ran: Ran) -> None:
    """Or a mix-up would pass."""
    two = [row for row in ran.rows if row.label in (EVIT, TOPK)]
    for field in ("top1", "top5", "agreement", "diff_dense", "p_value", "top1_low", "diff_dense_low"):
        assert len({getattr(row, field) for row in two}) == 2, field
    for field in ("speedup", "reduction_share", "peak_memory_mb", "latency_p10", "images_per_s", "spread"):
        assert len({getattr(row, field) for row in two}) == 4, field
    for row in two:
        accuracies = (row.top1, row.top5, row.agreement, row.top1 - row.diff_dense, 0, 100)
        assert len({round(value, 4) for value in accuracies}) == len(accuracies)
        assert row.diff_dense_low < 0 < row.diff_dense_high != -row.diff_dense_low
    assert {row.diff_dense > 0 for row in two} == {True, False}


def test_what_cannot_be_read_is_said(made: Made, ran: Ran) -> None:
    first = made.chosen[CHOSEN_BROKEN[0]]
    told = f"3 of 40 images cannot be read and are left out: {first.parent.name}/{first.name}: not an image"
    assert any(line.startswith(told) for line in ran.said)


def few(made: Made) -> torch.Tensor:
    """The photos that multiply-adds are counted on: 32 spread evenly over all, those that can be read."""
    everything = sorted((made.photos / "val").glob("*/*.png"))
    chosen = [everything[i * PHOTOS // 32] for i in range(32)]
    return pixels([file for file in chosen if file.read_bytes() != b"no image"])


def test_every_measurement_is_made_as_the_plan_says(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Precision, compiling, rounds, seed, batch and model reach what measures."""
    heard: dict[str, list[tuple[Any, dict[str, Any]]]] = defaultdict(list)

    def listen(module: Any, name: str) -> None:
        original = getattr(module, name)

        def call(*args: Any, **options: Any) -> Any:
            heard[name].append((args, options))
            return original(*args, **{k: v for k, v in options.items() if k != "compile"})

        monkeypatch.setattr(module, name, call)

    for module, names in (
        (flops, "over"),
        (memory, "peak"),
        (speed, "reduction_share measure"),
        (parts, "milliseconds"),
        (accuracy, "answer"),
    ):
        for name in names.split():
            listen(module, name)
    monkeypatch.setattr(timing, "MOST", 2 * ROUNDS)
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    job = the_plan(made, precision="bf16", compile=True, batches=[3], precision_goal=0.5, max_seconds=9)
    rows = runner.run(job, Results(tmp_path / "r.jsonl"), Watch())
    assert all(row.precision == "bf16" and row.compile for row in rows)

    labels = ["dense", EVIT, TOPK, UNTRAINED]
    three = backbones.random_images(backbones.create("deit_femto"), 3, SEED)
    assert [args[0].method.label for args, _ in heard["over"]] == labels
    assert all(torch.allclose(args[1], few(made), atol=1e-6) for args, _ in heard["over"])
    assert not heard["peak"] and not heard["reduction_share"], "of what is compiled neither can be told"
    assert rows[0].reason == "compiled, so no peak memory"
    assert rows[1].reason == "compiled, so no share of selecting and no peak memory"
    (timed,) = heard["measure"]
    assert all(isinstance(model, Compiled) for model in timed[0][0].values())
    assert {name: it.model.method.label for name, it in timed[0][0].items()} == {label: label for label in labels}
    assert all(row.compile_s > 0 for row in rows if row.status == "ok")
    assert torch.equal(timed[0][1], three)
    wanted = {"precision": "bf16", "compile": True, "min_rounds": ROUNDS, "max_rounds": 2 * ROUNDS}
    wanted |= {"goal": 0.5, "max_seconds": 9}
    assert timed[1].items() >= wanted.items()
    said = [(args[4], args[3], len(args[1])) for args, _ in heard["answer"]]  # every model of every batch, in turn
    assert said == [(label, "bf16", n) for n in readable(3) for label in SETTINGS]

    heard.clear()
    rows = runner.run(replace(job, compile=False), Results(tmp_path / "eager.jsonl"), Watch())
    for name in ("peak", "reduction_share"):
        assert [args[0].method.label for args, _ in heard[name]] == labels
        assert all(torch.allclose(args[1], three, atol=1e-6) and args[2] == "bf16" for args, _ in heard[name])
    assert {args[3:] for args, _ in heard["reduction_share"]} == {(timing.SHARES, 1)}
    assert [args[2:] for args, _ in heard["milliseconds"]] == [("bf16", ROUNDS)] * len(labels)
    assert all(torch.equal(args[1], timed[0][1]) for args, _ in heard["milliseconds"])
    own = models(made.dense, made.own)
    for row in rows[: len(labels)]:
        assert row.peak_memory_mb == memory.peak(own[row.label], three, "bf16") / 2**20


class Parted(nn.Module):
    """A model that names a part."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = [("backbone", nn.Identity())]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_of_what_is_compiled_parts_are_not_told_and_memory_on_a_gpu_alone(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA, played."""
    model, asked = Parted(), list[Any]()
    images = SimpleNamespace(device=SimpleNamespace(type=device))
    group: Any = SimpleNamespace(plan=SimpleNamespace(compile=True, precision="bf16"), ready=lambda trial: trial.ready)
    trial: Any = SimpleNamespace(model=model, ready=Compiled(nn.Identity()), notes=["first"], measured={"gmacs": 1.0})
    monkeypatch.setattr(memory, "peak", lambda *given: asked.append(given) or 3 * 2**20)
    timing._memory(group, trial, images)  # type: ignore[arg-type]
    without = ["no times of parts", *(["no peak memory"] if device == "cpu" else [])]
    assert trial.notes == ["first", f"compiled, so {' and '.join(without)}"]
    told = {"reduction_share": None, "ms_by_part": None, "peak_memory_mb": None if device == "cpu" else 3.0}
    assert trial.measured == {"gmacs": 1.0, **told}
    assert asked == ([] if device == "cpu" else [(trial.ready, images, "bf16")])
    plain: Any = SimpleNamespace(model=nn.Identity(), ready=trial.ready, notes=[], measured={})
    timing._memory(group, plain, images)  # type: ignore[arg-type]
    assert plain.notes == ([] if device == "cuda" else ["compiled, so no peak memory"])
