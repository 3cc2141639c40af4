"""The registry: every module here and in the folders here that holds a Method with a name, and every plug-in file."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tokenbench.core import registry
from tokenbench.errors import UnknownName, UsageError

if TYPE_CHECKING:
    from tokenbench.methods.base import Method

_registry: dict[str, type[Method]] = {}


def all_methods() -> dict[str, type[Method]]:
    """Every method by name: dense first, then in order of name."""
    if not loaded():
        from tokenbench.methods.base import Method

        registry.walk(_registry, __name__, __path__, Method)
        for module in registry.installed(__name__):
            registry.register(_registry, module, Method)
    return registry.in_order(_registry, "dense")


def loaded() -> bool:
    """Whether methods are imported, and torch with them."""
    return "dense" in _registry


def get(name: str) -> type[Method]:
    """The method of that name; raises `UnknownName` with the nearest one."""
    methods = all_methods()
    if name not in methods:
        raise unknown(name, methods)
    return methods[name]


def unknown(name: str, methods: Iterable[str]) -> UnknownName:
    """The error for a name that no method has."""
    return UnknownName("method", name, methods, "`tokenbench list`")


def making_pyramids(backbones: str) -> str:
    """The methods that make feature pyramids of "Swin" or of "plain ViTs", as words."""
    *most, last = [name for name, cls in all_methods().items() if backbones in cls.pyramids()]
    return f"{', '.join(most)} and {last}"


def load_plugin(path: str | Path) -> list[str]:
    """Register the methods of a file and return their names; the file is run, so load only what you trust."""
    from tokenbench.methods.base import Method

    all_methods()
    names = registry.register(_registry, registry.run_file(path, "Method"), Method)
    if not names:
        raise UsageError(f"Plug-in '{path}' holds no Method with a name; `tokenbench new NAME` writes one.")
    return names
