"""Registries of methods and tasks: classes with a name, found by walking a folder, offered by an installed package or
brought by a plug-in file.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import pkgutil
import re
import sys
from collections.abc import Collection, Iterable, MutableMapping
from contextlib import redirect_stdout
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from tokenbench.errors import PLUGIN, UsageError, first_line, place

NAME = re.compile(r"[\w-]+")
SOURCE = "_tokenbench_source"  # where a plug-in's module keeps its hash


def source(cls: type) -> str | None:
    """16 hex digits of the SHA-256 of the plug-in file, as it was loaded, that a class is of; None if of no plug-in."""
    return getattr(sys.modules.get(cls.__module__), SOURCE, None)


def walk(registry: MutableMapping[str, Any], package: str, paths: Iterable[str], base: type) -> None:
    """Register what every module of a package, and of the packages in it, holds."""
    for module in pkgutil.walk_packages(paths, f"{package}."):
        register(registry, importlib.import_module(module.name), base)


def register(registry: MutableMapping[str, Any], module: ModuleType, base: type) -> list[str]:
    """Register the subclasses of `base` that a module defines and names; returns their names.

    Raises:
        UsageError: a name that cannot be written in a command, or that another file has taken.
    """
    found: list[Any] = [
        cls
        for cls in vars(module).values()
        if isinstance(cls, type)
        and issubclass(cls, base)
        and hasattr(cls, "name")
        and cls.__module__ == module.__name__
    ]
    for cls in found:
        taken = [name for name, other in registry.items() if other.__module__ != cls.__module__]
        check_name(cls.name, f"{base.__name__} {cls.name!r} of {module.__file__}", taken)
    registry.update({cls.name: cls for cls in found})
    return [cls.name for cls in found]


@cache
def installed(group: str) -> tuple[ModuleType, ...]:
    """The modules that installed packages offer as entry points of a group, such as `tokenbench.methods`.

    An entry point names a module, or a class in one. Rows say which source it had, as of a plug-in file.

    Raises:
        UsageError: one does not import.
    """
    found = []
    for point in entry_points(group=group):
        try:
            with redirect_stdout(sys.stderr):
                loaded = point.load()
        except (Exception, SystemExit) as error:
            package = f" of {point.dist.name}" if point.dist else ""
            raise UsageError(
                f"Plug-in '{point.name}'{package} does not import ({type(error).__name__}: {first_line(error)}); mend "
                "it, or uninstall its package."
            ) from error
        module = loaded if isinstance(loaded, ModuleType) else sys.modules[loaded.__module__]
        if module.__file__ is not None:
            setattr(module, SOURCE, _hash(Path(module.__file__).read_bytes()))
        found.append(module)
    return tuple(dict.fromkeys(found))


def _hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def check_name(name: object, what: str, taken: Collection[str]) -> None:
    """Raise `UsageError` for a name that cannot be written in a command, or that others have."""
    if not isinstance(name, str) or not NAME.fullmatch(name) or name == "all":
        raise UsageError(f"{what} cannot be called that; use letters, digits, - and _.")
    if name in taken:
        raise UsageError(f"{what} exists already; give it another name.")


def in_order(registry: MutableMapping[str, Any], first: str) -> dict[str, Any]:
    """By name, but for the one that comes first."""
    return dict(sorted(registry.items(), key=lambda item: (item[0] != first, item[0])))


def run_file(path: str | Path, what: str) -> ModuleType:
    """The module that a plug-in file makes when it is run; load only what you trust.

    What it prints goes to stderr, for stdout is for results.

    Raises:
        UsageError: it is no Python file, or it does not import.
    """
    path = Path(path)
    place_of = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:8]
    name = f"{PLUGIN}{path.stem}_{place_of}"  # so that two files of one name are two
    spec = importlib.util.spec_from_file_location(name, path) if path.is_file() and path.suffix == ".py" else None
    if spec is None:
        raise UsageError(f"Plug-in '{path}' is not a Python file; give the path of a .py file with a {what} in it.")
    module = importlib.util.module_from_spec(spec)
    content = path.read_bytes()
    setattr(module, SOURCE, _hash(content))
    sys.modules[name] = module  # where dataclasses and pydantic look up the names in annotations
    try:
        with redirect_stdout(sys.stderr):
            # not by the loader: kept bytecode passes for that of a file edited within the second to one of equal size
            exec(compile(content, path, "exec", dont_inherit=True), vars(module))
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        told = f"{type(error).__name__}: {first_line(error)}{place(error)}"
        raise UsageError(f"Plug-in '{path}' does not import ({told}); mend it.") from error
    return module
