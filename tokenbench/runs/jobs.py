"""The jobs of a plan: which are done, which this process has claimed, and what is on disk of those under way."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime

from tokenbench.errors import ResultsError, first_line
from tokenbench.runs import unfinished
from tokenbench.runs.candidates import Candidate, Group, otherwise
from tokenbench.runs.claims import Claims
from tokenbench.runs.results import Results, Rows, load
from tokenbench.runs.row import Row
from tokenbench.runs.watch import Watch

Job = tuple[Group, Candidate]
POLL = 1.0  # seconds between looks at what another process does
UNFINISHED = "stopped before it was finished"  # in the reason of a row that the next run goes on from
COUNTED = ("gmacs", "gmacs_fvcore", "gmacs_by_block", "gmacs_by_part", "params_m", "tokens_mean", "tokens_std")
SCORED = ("images", "images_total", "skipped")
HELD = ("peak_memory_mb", "reduction_share")


class Jobs:
    """All settings of a plan at all batch sizes. A job is named by the id of its row."""

    def __init__(self, groups: Sequence[Group], results: Results, claims: Claims, watch: Watch) -> None:
        self._results, self._claims, self._watch = results, claims, watch
        self._every = [(group, candidate) for group in groups for candidate in group.candidates]
        self._all = part(self._every, groups[0].plan.shard)  # those that are asked for, maybe not the dense beside them
        self._ids = {(id(c), batch): g.job(c, batch) for g, c in self._every for batch in g.batches}
        self._groups, self._force, self._energy = groups, groups[0].plan.force, groups[0].plan.energy
        self._env = unfinished.same(groups[0].env)
        self._began, self._seen = datetime.now(UTC), -1
        self._rows: dict[str, Row] = {}
        self._under_way: dict[str, Row] = {}

    def ids(self, candidate: Candidate, batches: Sequence[int]) -> list[str]:
        """The jobs of a setting at these batch sizes."""
        return [self._ids[id(candidate), batch] for batch in batches]

    def know(self, rows: Rows, size: int) -> None:
        """Take in the rows of the results file as it was when it had so many bytes."""
        self._seen = size
        self._rows = {row.id: row for row in rows.of(set(self._ids.values()))}
        for group, candidate in self._every:
            self._take_up(group, candidate)

    def tell_done(self, how_many: bool = True) -> None:
        """Say how many are done already, if that is worth saying, and under which other conditions some are."""
        self._look()
        for group in self._groups:
            mine = [candidate for of, candidate in self._all if of is group]
            left = sum(len(self._left(group, candidate)) for candidate in mine)
            total = len(group.batches) * len(mine)
            if left < total:
                done = f"{total - left} of {total} jobs are done already"
                if how_many:
                    self._watch.say(f"{group.backbone.name}: {done}; --force runs them again.")
                jobs = [(c, job) for c in mine for job in self.ids(c, group.batches)]
                for note in otherwise(group, [self._rows[job] for c, job in jobs if self._done(c, job)]):
                    self._watch.say(note)

    def take(self) -> bool:
        """Claim jobs that are not done, waiting while others have them all; False once all are done."""
        waits = False
        while True:
            self._look()
            left = [(g, c, batches) for g, c in self._all if (batches := self._left(g, c))]
            mine = self._claims.take([self.ids(c, batches) for _, c, batches in left])
            if mine or not left:
                break
            if not waits:
                self._watch.say(f"Another process measures what is left for {self._results.path}; waiting for it.")
                waits = True
            time.sleep(POLL)
        self._look()  # for what was finished between the look and the claim
        for _, candidate in self._every:
            candidate.batches, candidate.written = [], []
        for group, candidate, _ in (left[i] for i in mine):
            candidate.written = self._left(group, candidate)
        self._set_batches()
        return bool(left)

    def share(self) -> None:
        """Let go of half of what is left, if another process waits for something to do."""
        mine = [candidate for _, candidate in self._all if candidate.written]
        if len(mine) < 2 or not self._claims.wanted():
            return
        for candidate in mine[-(-len(mine) // 2) :]:
            self._claims.release(self.ids(candidate, candidate.written))
            candidate.written = []
        self._set_batches()

    def at(self, group: Group, batch: int) -> list[Candidate]:
        """Those to be measured at one batch size, with what is known of them there."""
        trials = [candidate.at(batch) for candidate in group.candidates if batch in candidate.batches]
        for trial in trials:
            earlier = self._earlier(group.job(trial, batch))
            if earlier is not None and trial.status == "ok" and earlier.peak_memory_mb is not None:
                trial.measured |= {name: getattr(earlier, name) for name in HELD}
                trial.notes = _notes(earlier)
        return trials

    def note(self, group: Group, candidate: Candidate) -> None:
        """Put what is measured of a setting on disk, in a row that is not finished."""
        for batch in candidate.written if candidate.status == "ok" else ():
            row = group.row(candidate, batch)
            reason = "; ".join([*candidate.notes, UNFINISHED])
            row = row.model_copy(update={"status": "failed", "reason": reason})
            self._results.append(row)
            self._under_way[row.id] = row

    def write(self, group: Group, candidate: Candidate) -> None:
        """Write the rows of a setting that this process has claimed, and let go of them."""
        for batch in candidate.written:
            row = group.row(candidate, batch)
            self._results.append(row)
            self._under_way.pop(row.id, None)
            unfinished.tidy(self._results.path, row.id)
            self._claims.release([row.id])

    @contextmanager
    def kept_if_stopped(self) -> Iterator[None]:
        """On the way out by an error or a signal, say in the rows under way why they are not finished."""
        try:
            yield
        except BaseException as error:
            why = "interrupted" if isinstance(error, KeyboardInterrupt) else first_line(error)
            with suppress(ResultsError):  # the first error is the one to tell
                for group, candidate in self._all:
                    if candidate.status != "ok":
                        self.write(group, candidate)
                for row in self._under_way.values():
                    self._results.append(row.model_copy(update={"reason": f"{row.reason}: {why}"}))
            raise

    def rows(self) -> list[Row]:
        """The rows of all jobs, in the order of the plan."""
        self._look()
        mine = {id(candidate) for _, candidate in self._all}
        jobs = [(c, b) for g in self._groups for b in g.batches for c in g.candidates if id(c) in mine]
        return [self._rows[self._ids[id(candidate), batch]] for candidate, batch in jobs]

    def _look(self) -> None:
        """Read what the file says now, if it changed; what another process wrote counts as well."""
        size = self._results.path.stat().st_size
        if size != self._seen:
            self.know(load(self._results.path)[0], size)

    def _left(self, group: Group, candidate: Candidate) -> list[int]:
        return [batch for batch in group.batches if not self._done(candidate, self._ids[id(candidate), batch])]

    def _done(self, candidate: Candidate, job: str) -> bool:
        row = self._rows.get(job)
        if row is None or _is_unfinished(row):
            return False
        old = row.status == "ok" or row.status == candidate.status == "skipped"
        old = old and not (self._energy and row.status == "ok" and row.joules is None)
        return row.time >= self._began or (old and not self._force)

    def _set_batches(self) -> None:
        """Where anything is measured, dense is measured beside it."""
        for group in self._groups:
            for candidate in group.candidates:
                candidate.batches = list(candidate.written)
            wanted = {batch for candidate in group.candidates for batch in candidate.written}
            group.candidates[0].batches = [batch for batch in group.batches if batch in wanted]

    def _take_up(self, group: Group, candidate: Candidate) -> None:
        """What an earlier run, or another process, found of a setting that is the same at all batch sizes."""
        earlier = filter(None, map(self._earlier, self.ids(candidate, group.batches)))
        row = next(earlier, None)
        if row is None or candidate.status != "ok" or candidate.measured:
            return
        found = {name: getattr(row, name) for name in (*COUNTED, *SCORED)}
        candidate.measured = {name: value for name, value in found.items() if value is not None}
        candidate.scores = {name: value for name, value in row.metrics.items() if value is not None}
        candidate.notes = _notes(row)

    def _earlier(self, job: str) -> Row | None:
        """The row to go on from: measured on the same, and by no run that was to be repeated."""
        row = self._rows.get(job)
        usable = row is not None and (row.status == "ok" or _is_unfinished(row))
        if row is None or not usable or unfinished.same(row.env) != self._env:
            return None
        if row.intervals and row.intervals != self._groups[0].plan.task.intervals:
            return None
        return None if self._force and row.time < self._began else row


def part(jobs: Sequence[Job], shard: tuple[int, int] | None) -> Sequence[Job]:
    """The jobs of one shard, (3, 16) for the third of sixteen: neighbours, which share a backbone and its data."""
    if shard is None:
        return jobs
    which, count = shard
    return jobs[(which - 1) * len(jobs) // count : which * len(jobs) // count]


def _is_unfinished(row: Row) -> bool:
    return row.status == "failed" and UNFINISHED in (row.reason or "")


def _notes(row: Row) -> list[str]:
    said = (row.reason or "").partition(UNFINISHED)[0].removesuffix("; ")
    return [said] if said else []
