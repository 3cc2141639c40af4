"""Which row is to be compared with which: by what the user named, and what both have in common."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenbench.core.settings import written
from tokenbench.errors import UnknownName, UsageError
from tokenbench.methods import catalogue
from tokenbench.runs.differing import differ
from tokenbench.runs.row import Row


@dataclass(frozen=True)
class Found:
    """A row and the file that it is of."""

    row: Row
    file: Path

    def __str__(self) -> str:
        return f"{self.row.label} of {self.file}"


def named(found: Sequence[Found], name: str | None, file: Path) -> list[Found]:
    """The good rows of a setting, or all good rows."""
    mine = found if name is None else _of(found, name)
    good = [f for f in mine if f.row.status == "ok"]
    if good:
        return good
    if mine:
        raise UsageError(f"{mine[0]} was not measured ({mine[0].row.status}: {mine[0].row.reason}); compare another.")
    if not found or name is None:
        raise UsageError(f"{file} has no rows to compare; give a results file that `tokenbench run` wrote.")
    raise UnknownName("setting", name, dict.fromkeys(f.row.label for f in found), f"`tokenbench report {file}`")


def _of(found: Sequence[Found], name: str) -> list[Found]:
    """The rows of the setting that a label or an id names, in whatever way the label is written."""
    exactly = [f for f in found if name in (f.row.label, f.row.id)]
    if exactly:
        return exactly
    plainly = [f for f in found if _says(name, f.row)]
    if plainly:
        return plainly
    from tokenbench.methods.sweep import parse  # and with it torch, for what no row plainly is

    try:
        asked = parse(name)
    except UsageError:  # of a plug-in that is not loaded, or no setting at all
        return []
    if len(asked) > 1:
        raise UsageError(f"'{name}' names {len(asked)} settings; name one, as {asked[0].label}.")
    setting = asked[0].model_dump(mode="json")
    return [f for f in found if f.row.method == asked[0].name and f.row.setting == setting]


def _says(name: str, row: Row) -> bool:
    """Whether a text plainly is the setting of a row: knobs as the row has them, all others at their defaults."""
    try:
        asked = [*written(name, "Settings")]
    except UsageError:
        return False
    if len(asked) != 1 or asked[0][0] != row.method:
        return False
    knobs, defaults = asked[0][1], catalogue.defaults(row.method)
    rest = {knob: value for knob, value in row.setting.items() if knob not in knobs}
    return (
        defaults is not None
        and rest == {knob: value for knob, value in defaults.items() if knob not in knobs}
        and all(knob in row.setting and _is_written(text, row.setting[knob]) for knob, text in knobs.items())
    )


def _is_written(text: str, value: Any) -> bool:
    if isinstance(value, list):
        parts = text.split("/")
        return len(parts) == len(value) and all(_is_written(*both) for both in zip(parts, value, strict=True))
    if isinstance(value, bool):
        return text == str(value).lower()
    try:
        return text == value or (isinstance(value, int | float) and float(text) == value)
    except ValueError:
        return False


def matched(firsts: Sequence[Found], seconds: Sequence[Found], by_setting: bool) -> list[tuple[Found, Found]]:
    """Each row of one side with the row of the other that it is to be compared with."""

    def key(row: Row) -> tuple[Any, ...]:
        setting = (row.method, str(sorted(row.setting.items())), row.trained is not None) if by_setting else ()
        return (row.task, row.backbone, row.batch, row.image_size, *setting)

    sides: list[dict[Any, list[Found]]] = [defaultdict(list), defaultdict(list)]
    for side, found in zip(sides, (firsts, seconds), strict=True):
        for one in found:
            side[key(one.row)].append(one)
    pairs = [pair for shared, these in sides[0].items() for pair in _closest(these, sides[1].get(shared, []))]
    if not pairs:
        raise UsageError(
            f"{firsts[0].file} and {seconds[0].file} have nothing in common: no two rows "
            f"{'of one setting ' if by_setting else ''}with the same backbone, batch and image size; run both alike."
        )
    return pairs


def _closest(firsts: Sequence[Found], seconds: Sequence[Found]) -> list[tuple[Found, Found]]:
    """Those whose other conditions are the same too, where there are several; raises `UsageError` for a choice."""
    if not seconds or (len(firsts) == len(seconds) == 1):
        return [*zip(firsts, seconds, strict=False)]
    pairs = []
    for one in firsts:
        alike = [other for other in seconds if not differ(one.row, other.row).keys() - {"trained", "session"}]
        alike = [other for other in alike if other.row.trained == one.row.trained] or alike
        if len(alike) > 1:
            _refuse(alike)
        pairs += [(one, other) for other in alike]
    if not pairs:
        _refuse(firsts if len(firsts) > 1 else seconds)
    if len({other.row.id for _, other in pairs}) < len(pairs):
        _refuse(firsts)
    return pairs


def _refuse(several: Sequence[Found]) -> None:
    told = "; ".join(f"{f.row.id} ({_how(f.row)})" for f in several[:4])
    raise UsageError(f"{several[0]} is {len(several)} rows, and any could be meant; name one by its id: {told}.")


def _how(row: Row) -> str:
    own = f", weights {row.trained.name}" if row.trained else ""
    other = "".join(f", {name.replace('_', ' ')} {value}" for name, value in row.conditions.items())
    return f"batch {row.batch}, {row.precision}, {row.hardware}, seed {row.seed}{own}{other}"
