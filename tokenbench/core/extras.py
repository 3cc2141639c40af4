"""Libraries that come with an extra of the package."""

from __future__ import annotations

import importlib
from typing import Any

from tokenbench.errors import UsageError


def needed(module: str, extra: str, what: str) -> Any:
    """A module that `what` needs; raises `UsageError` that names the extra where it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UsageError(
            f"{what} needs {module.partition('.')[0]}, which is not installed; pip install 'tokenbench[{extra}]'."
        ) from None
