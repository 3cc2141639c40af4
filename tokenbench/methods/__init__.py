"""The registry: every module here and in the folders here that holds a Method with a name, and every plug-in file."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType

from tokenbench.errors import UnknownName, UsageError
from tokenbench.methods.base import Method

_registry: dict[str, type[Method]] = {}


def all_methods() -> dict[str, type[Method]]:
    """Every method by name: dense first, then in order of name."""
    if "dense" not in _registry:
        for module in pkgutil.walk_packages(__path__, f"{__name__}."):
            _register(importlib.import_module(module.name))
    return dict(sorted(_registry.items(), key=lambda item: (item[0] != "dense", item[0])))


def get(name: str) -> type[Method]:
    """The method of that name; raises `UnknownName` with the nearest one."""
    methods = all_methods()
    if name not in methods:
        raise UnknownName("method", name, methods, "`tokenbench list`")
    return methods[name]


def load_plugin(path: str | Path) -> list[str]:
    """Register the methods of a file and return their names; the file is run, so load only what you trust."""
    path = Path(path)
    spec = importlib.util.spec_from_file_location(f"tokenbench_plugin_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(f"Plug-in '{path}' is not a Python file; give the path of a .py file with a Method in it.")
    all_methods()
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise UsageError(f"Plug-in '{path}' does not import ({type(error).__name__}: {error}); mend it.") from error
    names = _register(module)
    if not names:
        raise UsageError(f"Plug-in '{path}' holds no Method with a name; see CONTRIBUTING.md for an example.")
    return names


def _register(module: ModuleType) -> list[str]:
    found = {
        cls.name: cls
        for cls in vars(module).values()
        if isinstance(cls, type)
        and issubclass(cls, Method)
        and hasattr(cls, "name")
        and cls.__module__ == module.__name__
    }
    for name, cls in found.items():
        if name in _registry and _registry[name].__module__ != cls.__module__:
            raise UsageError(f"Method '{name}' of {module.__name__} exists already; give it another name.")
    _registry.update(found)
    return list(found)
