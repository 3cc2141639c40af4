"""What torch.save wrote, read as tensors and plain data: nothing that a file names is imported or called.

torch's reader makes only what it knows. All other names are given stand-ins here: numbers of NumPy become numbers,
paths become text, options become dictionaries, and objects of any class keep their state and nothing else. A file that
asks for anything else to be called is refused.
"""

from __future__ import annotations

import pickle
import re
import warnings
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from torch.serialization import safe_globals

NAMES = 400  # classes a file may name: each costs a reading
UNKNOWN = re.compile(r"Unsupported global: GLOBAL (\S+) was not")
FILLED = re.compile(r"Can only SETITEMS? for .* got <class '(\S+)'>")
CLASS = re.compile(r"[\w.]+")


class Code(Exception):
    """A file asks for something to be called; the message is its name."""


class Inert:
    """An object of a class that holds data, without the data."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


class Unknown:
    """An object of a class that is not known: its state. Calling its class is refused, for that would be code."""

    def __new__(cls, *_: object) -> Unknown:
        """One without state."""
        return object.__new__(cls)

    def __init__(self, *_: object) -> None:
        raise Code(type(self).__name__)

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update({key: value for key, value in state.items() if isinstance(key, str)})


class Kind:
    """NumPy's type of numbers: `f8` and the like, with the byte order."""

    def __init__(self, code: object = "", *_: object) -> None:
        self.code = str(code)

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else ""
        self.code = (order if order in ("<", ">") else "") + self.code


class Array(Inert):
    """An array of NumPy."""


def _number(kind: object, data: object) -> object:
    if isinstance(kind, Kind) and isinstance(data, bytes) and re.fullmatch(r"[<>]?[biufc]\d+", kind.code):
        return np.frombuffer(data, np.dtype(kind.code))[0].item()
    return None


def _path(*parts: object) -> str:
    return str(PurePosixPath(*map(str, parts)))


def _empty(*_: object) -> OrderedDict[Any, Any]:
    return OrderedDict()


def _list(*_: object) -> list[Any]:
    return []


def _array(*_: object) -> Array:
    return Array()


def _object(cls: object, *_: object) -> object:
    """What old pickles make of a class without calling it."""
    if isinstance(cls, type) and issubclass(cls, Unknown):
        return cls.__new__(cls)
    return OrderedDict() if cls is OrderedDict else None


STAND_INS: dict[str, Any] = {
    **{f"numpy.{core}.multiarray.scalar": _number for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray._reconstruct": _array for core in ("core", "_core")},
    "numpy.dtype": Kind,
    "numpy.ndarray": Array,
    **{f"pathlib.{local}{name}": _path for local in ("", "_local.") for name in ("Path", "PurePath")},
    **{
        f"pathlib.{local}{pure}{system}Path": _path
        for local in ("", "_local.")
        for pure in ("", "Pure")
        for system in ("Posix", "Windows")
    },
    "collections.defaultdict": _empty,
    "types.SimpleNamespace": _empty,
    "collections.deque": _list,
    "copyreg._reconstructor": _object,
    **{f"datetime.{name}": Inert for name in ("datetime", "date", "time", "timedelta", "timezone")},
    **{name: Inert for name in ("functools.partial", "decimal.Decimal", "fractions.Fraction", "uuid.UUID")},
    **{name: Inert for name in ("list", "dict", "int", "float", "str", "bool", "tuple", "frozenset", "slice", "range")},
    "object": Inert,
    "argparse.Namespace": OrderedDict,
    "yacs.config.CfgNode": OrderedDict,
    "fvcore.common.config.CfgNode": OrderedDict,
    "easydict.EasyDict": OrderedDict,
    "lightning.fabric.utilities.data.AttributeDict": OrderedDict,
    "lightning_fabric.utilities.data.AttributeDict": OrderedDict,
    "pytorch_lightning.utilities.parsing.AttributeDict": OrderedDict,
}
BUILTINS = {name for name in STAND_INS if "." not in name}  # torch's messages leave their module out


def load(path: Path) -> Any:
    """All that torch.save wrote to a file, on the CPU.

    Raises:
        Code: it asks for something to be called.
        pickle.UnpicklingError: torch cannot read it for another reason; other errors for a damaged file.
    """
    known = dict(STAND_INS)
    for _ in range(NAMES):
        names: list[Any] = [(made, f"builtins.{name}" if name in BUILTINS else name) for name, made in known.items()]
        try:
            with warnings.catch_warnings(), path.open("rb") as file, safe_globals(names):
                warnings.simplefilter("ignore")  # torch warns of pickle protocols in files that are refused anyway
                return torch.load(file, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            told, filled = UNKNOWN.search(str(error)), FILLED.search(str(error))
            filled_name = filled[1].removeprefix(f"{__name__}.") if filled else None
            if filled_name in known:
                known[filled_name] = OrderedDict  # a dictionary after all
            elif told and "." in told[1] and told[1] not in known and CLASS.fullmatch(told[1]):
                known[told[1]] = type(told[1], (Unknown,), {})
            else:
                called = told or re.search(r"GLOBAL (\S+)", str(error))
                if called:
                    raise Code(called[1]) from None
                raise
    raise Code("hundreds of classes")
