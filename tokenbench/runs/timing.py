"""Memory and speed of all settings of a backbone at one batch size, interleaved with its dense model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from tokenbench.measure import energy, memory, parts, speed
from tokenbench.measure.compiling import compiled
from tokenbench.measure.running import blocks_of
from tokenbench.runs import metering
from tokenbench.runs.candidates import Candidate, Group, failing
from tokenbench.runs.scoring import Note
from tokenbench.runs.unfinished import Rounds
from tokenbench.runs.watch import Watch

SHARES = 7  # runs of which the share of selecting is the median, at most
MOST = 1000  # rounds, where speed-ups are not known well enough before


def time(group: Group, trials: Sequence[Candidate], batch: int, rounds: Rounds, note: Note, watch: Watch) -> None:
    """Memory of each model at this batch size, then the time of all that fit, interleaved, then joules if asked for."""
    plan = group.plan
    with failing(*trials):
        images = group.timed(batch)
        new = [trial for trial in trials if trial.model is not None and "peak_memory_mb" not in trial.measured]
        if new:
            watch.stretch(f"{group.backbone.name}: memory at batch {batch}", len(new))
        for done, trial in enumerate(new, 1):
            with failing(trial):
                _memory(group, trial, images)
            note(group, trial)
            watch.step(done)
        live = [trial for trial in trials if trial.model is not None]
        if live:
            watch.stretch(f"{group.backbone.name}: speed at batch {batch}", plan.rounds)
            try:
                _time(group, live, images, rounds, watch)
            finally:
                rounds.write()
        if live and plan.energy:
            watch.stretch(f"{group.backbone.name}: energy at batch {batch}", len(live))
            meter = metering.meter(plan.device)
            for done, trial in enumerate(live, 1):
                with failing(trial):
                    assert trial.model is not None
                    found = energy.measure(trial.model, images, meter, plan.autocast)
                    told = {"joules": found.joules, "joules_spread": found.spread, "joules_readings": found.readings}
                    trial.measured |= told
                watch.step(done)


def _memory(group: Group, trial: Candidate, images: Tensor) -> None:
    plan, model = group.plan, trial.model
    assert model is not None
    told: dict[str, Any] = dict.fromkeys(("peak_memory_mb", "reduction_share", "ms_by_part"))
    if plan.compile:  # reducers and parts are no longer apart, and tensors are made where nobody looks on
        missing = ["share of selecting"] * any(block.reducers for block in blocks_of(model))
        missing += ["times of parts"] * bool(parts.of(model))
        if images.device.type == "cuda":
            with compiled({"it": group.ready(trial)}) as run:
                told["peak_memory_mb"] = memory.peak(run["it"], images, plan.precision) / 2**20
        else:
            missing.append("peak memory")
        trial.notes += [f"compiled, so no {' and no '.join(missing)}"] if missing else []
    elif plan.runtime == "torch":
        share = speed.reduction_share(model, images, plan.precision, min(plan.rounds, SHARES), 1)
        told = {
            "peak_memory_mb": memory.peak(model, images, plan.precision) / 2**20,
            "reduction_share": None if share is None else share.median,
            "ms_by_part": parts.milliseconds(model, images, plan.precision, plan.rounds),
        }
    trial.measured |= told


def _time(group: Group, trials: Sequence[Candidate], images: Tensor, rounds: Rounds, watch: Watch) -> None:
    jobs = {trial.method.label: group.job(trial, trial.batches[0]) for trial in trials}
    own = {trial.method.label for trial in trials if trial.written}

    def keep(label: str, pairs: Sequence[speed.Pair]) -> None:
        if label in own:
            rounds.keep(jobs[label], pairs)

    def measured(chosen: Sequence[Candidate], going_on: bool = True) -> dict[str, speed.Speed]:
        return speed.measure(
            {trial.method.label: group.ready(trial) for trial in chosen if trial.model is not None},
            images,
            precision=group.plan.autocast,
            compile=group.plan.compile,
            shaped=group.plan.runtime != "torch",
            min_rounds=group.plan.rounds,
            max_rounds=max(MOST, group.plan.rounds),
            goal=group.plan.precision_goal,
            max_seconds=group.plan.max_seconds,
            warmup=2,
            progress=lambda done: watch.step(min(done, group.plan.rounds)),
            before={label: rounds.before(jobs[label]) for label in own} if going_on else None,
            keep=keep if going_on else None,
        )

    try:
        found = measured(trials)
    except Exception:  # of one of them, in compiling most likely: each is timed with dense alone, to find which
        found = {}
        for trial in trials:
            with failing(trial):
                pair = list(dict.fromkeys(t.method.label for t in (trials[0], trial)))
                chosen = [t for t in trials if t.method.label in pair]
                found[trial.method.label] = measured(chosen, going_on=False)[trial.method.label]
    for trial in trials:
        if trial.method.label in found:
            timed = found[trial.method.label]
            trial.session = rounds.session(jobs[trial.method.label])
            trial.measured |= {
                "images_per_s": timed.images_per_s,
                "latency_p10": timed.latency_p10_ms,
                "latency_p50": timed.latency_p50_ms,
                "latency_p90": timed.latency_p90_ms,
                "spread": timed.spread,
                "noisy": timed.noisy,
                "runs": timed.runs,
                "speedup": timed.speedup,
                "speedup_low": timed.speedup_low,
                "speedup_high": timed.speedup_high,
                "speed_goal": timed.goal,
                "compile_s": timed.compile_s,
                "machine": timed.machine,
            }
