"""For which classes a task's head is made, and which weights go with no data."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from refusals import refused

from tokenbench.errors import WeightsError
from tokenbench.runs.heading import CLASSES, making


def made(
    trained: tuple[str, ...] | None,
    count: int | None,
    data: tuple[str, ...] | None,
    own: bool = True,
    head: bool = True,
) -> Any:
    given: Any = SimpleNamespace(
        own=own, class_names=lambda name: {"vit_x": trained}[name], classes=lambda name: {"vit_x": count}[name]
    )
    task: Any = SimpleNamespace(has_head=head, model=lambda model, classes: (model, classes))
    return making(task, given, "vit_x", data)("model")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("trained", "count", "data", "own", "classes"),
    [
        (("a", "b"), 2, ("a", "b"), True, 2),
        (("a", "b", "c"), None, None, True, 3),
        (None, 4, None, True, 4),
        (None, 4, tuple("abcd"), True, 4),
        (None, 4, tuple("abc"), False, 3),
        (None, None, tuple("abcde"), True, 5),
        (None, None, None, True, CLASSES),
        (None, None, (), False, CLASSES),
    ],
)
def test_the_classes_of_a_head(trained: Any, count: Any, data: Any, own: bool, classes: int) -> None:
    assert made(trained, count, data, own) == ("model", classes)


def test_weights_of_other_classes_are_refused_where_they_have_a_head() -> None:
    for count, has in ((1, "1 class"), (4, "4 classes")):
        with refused(WeightsError, f"The weights are of {has}, and the data has 2; give others."):
            made(None, count, ("a", "b"))
        assert made(None, count, ("a", "b"), head=False) == ("model", count)
    give = "give weights that were trained on these, in their order."
    told = "The weights are of 4 classes and the data of 4: class 2 is c there and d here;"
    with refused(WeightsError, f"{told} {give}"):
        made(tuple("abcd"), 4, tuple("abdc"))
    told = "The weights are of 1 class and the data of 2: class 1 is missing there and b here;"
    with refused(WeightsError, f"{told} {give}"):
        made(("a",), 1, ("a", "b"))
    assert made(tuple("abcd"), 4, tuple("bacd"), head=False) == ("model", 4)
