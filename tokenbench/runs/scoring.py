"""One pass over the data for all settings that see the same pixels; a pass that is cut short goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tokenbench.data import unreadable
from tokenbench.errors import ResultsError
from tokenbench.measure.running import evaluating
from tokenbench.runs import spread, unfinished
from tokenbench.runs.candidates import Candidate, Group, failing
from tokenbench.runs.results import Results
from tokenbench.runs.spread import Pool
from tokenbench.runs.unfinished import Answers, Pace
from tokenbench.runs.watch import Watch
from tokenbench.tasks.base import Loader, Scored, Task

Note = Callable[[Group, Candidate], None]  # what is measured of a setting is on disk from then on


def sharing(groups: Sequence[Group]) -> list[list[Group]]:
    """Groups with data, those that see the same pixels together."""
    shared: dict[Any, list[Group]] = {}
    for group in groups:
        if group.loader is not None:
            key = (group.loader.sample_hash, group.plan.task.pixels(group.backbone))
            shared.setdefault(key, []).append(group)
    return list(shared.values())


def score(groups: Sequence[Group], results: Results, note: Note, watch: Watch, pool: Pool | None = None) -> None:
    """The metrics of all settings of these backbones that have none yet, by all processes of a pool if there is one."""
    asked = [(g, c) for g in groups for c, _ in g.live() if g.no_accuracy(c) is None and "images" not in c.measured]
    if not asked:
        return
    said = {id(c): dense for g, c in _dense_before(groups, asked) if (dense := _read(g, c, results)) is not None}
    asked += [(g, c) for g, c in _dense_before(groups, asked) if id(c) not in said]
    found, loader, skipped = _passed(asked, results, watch, pool)
    _tell_unreadable(loader, skipped, results, groups[0].plan.task.items, watch)
    for _, candidate in asked:
        if candidate.model is not None:
            with failing(candidate):
                said[id(candidate)] = found[id(candidate)].all()
    for group, candidate in asked:
        if candidate.model is None:
            continue
        own, first = said[id(candidate)], group.candidates[0]
        dense = None if candidate is first else said.get(id(first))  # None too where the dense weights are random
        with failing(candidate):
            candidate.scores = _scores(group.plan.task, own, dense, group.plan.seed)
        if candidate.model is None:  # an error in a plug-in's task
            continue
        candidate.measured |= {
            "images": len(own),
            "images_total": loader.available,
            "skipped": len(skipped),
        }
        for batch in candidate.written:
            path = results.predictions(group.row(candidate, batch).id)
            own.save(path)
            group.plan.task.export(own, path)
        note(group, candidate)


def _scores(task: Task, own: Scored, dense: Scored | None, seed: int) -> dict[str, float | None]:
    """What a task says of a setting; raises `TypeError` for what is none of its metrics or no number."""
    found, names = task.score(own, dense, seed), task.metric_names()
    if not isinstance(found, Mapping):
        raise TypeError(f"score of task {task.name} must give its metrics by name, it gave {type(found).__name__}")
    for name, value in found.items():
        if name not in names:
            raise TypeError(f"score of task {task.name} gave {name!r}, which is none of its metrics")
        if value is not None:
            float(value)
    return dict(found)


def _passed(
    asked: Sequence[tuple[Group, Candidate]], results: Results, watch: Watch, pool: Pool | None
) -> tuple[dict[int, Answers], Loader, list[tuple[str, str]]]:
    """What each setting said of every item, those that fail losing their model; the data; what was unreadable."""
    first = asked[0][0]
    task, whole = first.plan.task, first.loader
    assert whole is not None
    where, env = unfinished.folder(results.path), unfinished.same(first.env)
    found = {id(c): Answers(task, where if c.written else None, g.job(c), env) for g, c in asked}
    loader, done, before = whole, 0, list[tuple[str, str]]()
    behind = min(found.values(), key=lambda answers: answers.until)
    if behind.until and hasattr(whole, "after"):
        loader, done, before = whole.after(behind.until), behind.until, behind.skipped
    names = ", ".join(dict.fromkeys(group.backbone.name for group, _ in asked))
    watch.stretch(f"{names}: {task.scored} on {whole.total} {task.items}", whole.total)
    watch.step(done)
    skipped, pace = before, Pace()
    with evaluating(*(c.model for _, c in asked if c.model is not None)):
        for said in spread.answers(asked, loader, done, pool) if done < whole.total else ():
            skipped = [*skipped, *said.skipped] if said.skipped else skipped
            for (_, candidate), answer in zip(asked, said.answers, strict=False):
                answers = found[id(candidate)]
                if candidate.model is not None and said.done > answers.until:  # it did not fail on a batch before
                    with failing(candidate):
                        answers.add(answer(), said.targets, said.done, said.skipped)
                if pace.due():
                    with pace.writing():
                        for answers in found.values():
                            answers.keep()
            watch.step(said.done)
    return found, whole, skipped


def _dense_before(groups: Sequence[Group], asked: Sequence[tuple[Group, Candidate]]) -> list[tuple[Group, Candidate]]:
    """Dense models that were scored before and that what is asked now is to be paired with."""
    wanted = {id(group) for group, _ in asked}
    dense = [(g, g.candidates[0]) for g in groups if id(g) in wanted]
    return [(g, c) for g, c in dense if c.model is not None and "images" in c.measured]


def _read(group: Group, candidate: Candidate, results: Results) -> Scored | None:
    """The predictions of a setting that is scored, if they are still there."""
    if not group.plan.task.keeps_parts:
        return None
    for batch in group.batches:
        try:
            return group.plan.task.load(results.predictions(group.row(candidate, batch).id))
        except ResultsError:
            continue
    return None


def _tell_unreadable(
    loader: Loader, skipped: Sequence[tuple[str, str]], results: Results, items: str, watch: Watch
) -> None:
    listed, why = unreadable.beside(results.path), dict(skipped)
    unreadable.write(listed, f"{loader.name} {loader.split}", why)
    if why:
        watch.say(unreadable.told(why, loader.total, listed, items))
