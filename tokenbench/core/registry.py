"""Registries of methods and tasks: classes with a name, found by walking a folder or brought by a plug-in file."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from collections.abc import Iterable, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import Any

from tokenbench.errors import UsageError


def walk(registry: MutableMapping[str, Any], package: str, paths: Iterable[str], base: type) -> None:
    """Register what every module of a package, and of the packages in it, holds."""
    for module in pkgutil.walk_packages(paths, f"{package}."):
        register(registry, importlib.import_module(module.name), base)


def register(registry: MutableMapping[str, Any], module: ModuleType, base: type) -> list[str]:
    """Register the subclasses of `base` that a module defines and names; returns their names."""
    found: dict[str, Any] = {
        cls.name: cls
        for cls in vars(module).values()
        if isinstance(cls, type)
        and issubclass(cls, base)
        and hasattr(cls, "name")
        and cls.__module__ == module.__name__
    }
    for name, cls in found.items():
        if name in registry and registry[name].__module__ != cls.__module__:
            raise UsageError(f"{base.__name__} '{name}' of {module.__name__} exists already; give it another name.")
    registry.update(found)
    return list(found)


def in_order(registry: MutableMapping[str, Any], first: str) -> dict[str, Any]:
    """By name, but for the one that comes first."""
    return dict(sorted(registry.items(), key=lambda item: (item[0] != first, item[0])))


def run_file(path: str | Path, what: str) -> ModuleType:
    """The module that a plug-in file makes when it is run; load only what you trust.

    Raises:
        UsageError: it is no Python file, or it does not import.
    """
    path = Path(path)
    spec = importlib.util.spec_from_file_location(f"tokenbench_plugin_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(f"Plug-in '{path}' is not a Python file; give the path of a .py file with a {what} in it.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"Plug-in '{path}' does not import ({type(error).__name__}: {error}); mend it.") from error
    return module
