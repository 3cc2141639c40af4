"""CKA against its definition and what must leave it alone."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from refusals import refused

from tokenbench.errors import UsageError
from tokenbench.measure.likeness import cka

RNG = np.random.default_rng(0)


def by_definition(a: np.ndarray, b: np.ndarray) -> float:
    """The unbiased estimate as the sums over distinct images that it is short for."""

    def hsic(k: np.ndarray, m: np.ndarray) -> float:
        places = range(len(k))

        def mean(size: int, term) -> float:
            return np.mean([term(*chosen) for chosen in permutations(places, size)])

        return (
            mean(2, lambda i, j: k[i, j] * m[i, j])
            + mean(4, lambda i, j, q, r: k[i, j] * m[q, r])
            - 2 * mean(3, lambda i, j, q: k[i, j] * m[i, q])
        )

    k, m = a @ a.T, b @ b.T
    return hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m))


def test_is_its_definition() -> None:
    a = RNG.normal(size=(6, 3)) + 5
    b = a[:, :2] + RNG.normal(size=(6, 2))
    assert cka(a, b) == pytest.approx(by_definition(a, b), abs=1e-9)


def test_turning_scaling_and_shifting_change_nothing() -> None:
    a, b = RNG.normal(size=(40, 8)), RNG.normal(size=(40, 5))
    turn = np.linalg.qr(RNG.normal(size=(8, 8)))[0]
    assert cka(a, a) == pytest.approx(1)
    assert cka(3 * a @ turn + 7, a) == pytest.approx(1)
    assert cka(3 * a @ turn + 7, b) == pytest.approx(cka(a, b))
    assert cka(a, b) == pytest.approx(cka(b, a))


def test_unrelated_features_are_at_0_however_few_the_images() -> None:
    found = [cka(RNG.normal(size=(10, 64)), RNG.normal(size=(10, 64))) for _ in range(200)]
    assert abs(np.mean(found)) < 4 * np.std(found) / 200**0.5
    assert np.mean(found) < 0.1


def test_features_that_never_change_are_like_nothing() -> None:
    assert np.isnan(cka(np.ones((5, 3)), RNG.normal(size=(5, 3))))


@pytest.mark.parametrize("shapes", [((3, 2), (3, 2)), ((5, 2), (6, 2)), ((5,), (5, 2)), ((5, 2), (5,))])
def test_what_cannot_be_compared_is_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    give = "give (n, d) and (n, e) of the same 4 images or more."
    with refused(UsageError, f"Features of shapes {shapes[0]} and {shapes[1]} cannot be compared; {give}"):
        cka(*(np.ones(shape) for shape in shapes))


def test_four_images_are_enough() -> None:
    a, b = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 3))
    assert cka(a, a) == pytest.approx(1) and cka(a, b) == pytest.approx(by_definition(a, b), abs=1e-9)
