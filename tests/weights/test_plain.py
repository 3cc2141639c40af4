"""Numbers, paths, options and objects beside the weights are plain data; nothing that a file names is run."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import functools
import os
import pathlib
import pickle
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tokenbench.errors import WeightsError
from tokenbench.weights import files

WEIGHTS = {"head.weight": torch.ones(2, 3), "head.bias": torch.ones(2)}


class Options(dict[str, Any]):
    """As easydict and others make them."""


class Meter:
    """As training loops keep losses."""

    def __init__(self) -> None:
        self.values, self.folder = [1.0, torch.ones(2)], pathlib.Path("/run")


class Mode(enum.Enum):
    FAST = 1


class Evil:
    """Unpickling this makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


class Sly(Evil):
    """It asks for a method to be called when its state is set."""

    def __reduce__(self) -> Any:
        return types.SimpleNamespace, (), {"x": Evil(self.mark)}


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "beside",
    [
        np.float64(81.25),
        np.int64(3),
        np.bool_(True),
        np.arange(3.0),
        np.random.get_state(),
        pathlib.PurePosixPath("/tmp/run"),
        argparse.Namespace(output=pathlib.Path("/tmp/run"), seed=np.int32(3)),
        types.SimpleNamespace(lr=0.1),
        collections.defaultdict(list, {"loss": [1.0]}),
        collections.deque([1, 2], maxlen=3),
        datetime.timedelta(seconds=3),
        frozenset({1}),
        Options(lr=0.1, inner=Options(a=1)),
        Meter(),
        nn.functional.gelu,
        Meter,
    ],
    ids=lambda value: getattr(value, "__name__", type(value).__name__),
)
def test_data_beside_the_weights_is_no_hindrance(tmp_path: Path, beside: Any, zipped: bool) -> None:
    path = tmp_path / "a.pth"
    torch.save({"extra": beside, "model": WEIGHTS}, path, _use_new_zipfile_serialization=zipped)
    found = files.read(path)
    assert found.keys() == WEIGHTS.keys() and all(torch.equal(found[key], value) for key, value in WEIGHTS.items())


def test_a_partial_is_data_in_todays_format(tmp_path: Path) -> None:
    torch.save({"model": WEIGHTS, "norm": functools.partial(nn.LayerNorm, eps=1e-6)}, tmp_path / "a.pth")
    assert files.read(tmp_path / "a.pth").keys() == WEIGHTS.keys()


def test_numbers_and_paths_keep_their_values(tmp_path: Path) -> None:
    options = argparse.Namespace(base_rate=np.float64(0.7), seed=np.int16(-3), output=pathlib.Path("/tmp/run"))
    torch.save({"model": WEIGHTS, "args": options}, tmp_path / "a.pth")
    assert files.reading(tmp_path / "a.pth").options == {"base_rate": 0.7, "seed": -3, "output": "/tmp/run"}


@pytest.mark.parametrize("kind", ["alone", "options", "state", "array", "enum"])
def test_what_would_be_called_is_named_and_not_called(tmp_path: Path, kind: str) -> None:
    mark, path = tmp_path / "mark", tmp_path / "a.pth"
    evil: Any = {
        "alone": Evil(mark),
        "options": argparse.Namespace(x=Evil(mark)),
        "state": Sly(mark),
        "array": np.array([Evil(mark)], dtype=object),
        "enum": Mode.FAST,
    }[kind]
    torch.save({"model": WEIGHTS, "extra": evil}, path)
    name = "Mode" if kind == "enum" else r"\w+\.mkdir"
    with pytest.raises(WeightsError, match=rf"could run code when loaded \(\S*{name}\), so it is not read"):
        files.read(path)
    assert not mark.exists()


def test_a_whole_model_is_not_taken_for_weights(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"it is an object of torch\.nn\.modules\.container\.Sequential and not its"):
        files.read(tmp_path / "a.pth")
    torch.save({"model": nn.Sequential(nn.Linear(2, 2))}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="'model' is a whole model and not its tensors"):
        files.read(tmp_path / "a.pth")


def test_an_archive_that_unpacks_to_far_more_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    torch.save({"a.b": torch.zeros(2**25, dtype=torch.uint8).view(torch.float32).reshape(2, -1)}, tmp_path / "a.pth")
    with (
        zipfile.ZipFile(tmp_path / "a.pth") as plain,
        zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in plain.infolist():
            for copy in range(4 if "/data/" in entry.filename else 1):
                bomb.writestr(entry.filename + "x" * copy, plain.read(entry))
    assert (tmp_path / "bomb.pth").stat().st_size < 2**20
    with pytest.raises(WeightsError, match=r"would unpack to 128 MiB from 0\.\d, as no weights do, so it is not read"):
        files.read(tmp_path / "bomb.pth")


def test_one_number_that_stands_for_too_many_is_refused(tmp_path: Path) -> None:
    torch.save({"a.b": torch.zeros(1).expand(2**20, 2**20)}, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match="claims tensors of 4,096 GiB"):
        files.read(tmp_path / "a.pth")


def test_a_plain_pickle_is_told_by_what_it_holds(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(pickle.dumps({"a": [1.0, "b"]}, 4))
    with pytest.raises(WeightsError, match="is a pickle without tensors"):
        files.read(path)
    path.write_bytes(pickle.dumps({"a.b": torch.ones(2, 2)}, 4))
    with pytest.raises(
        WeightsError, match=r"is a pickle that torch\.save did not write and could run code when loaded"
    ):
        files.read(path)
