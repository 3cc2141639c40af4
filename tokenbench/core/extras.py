"""Libraries that come with an extra of the package."""

from __future__ import annotations

import importlib
import traceback
from typing import Any

from tokenbench.errors import UsageError


def needed(module: str, extra: str, what: str) -> Any:
    """A module that `what` needs; raises `UsageError` that names the extra it comes with, or what of it is broken."""
    name = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UsageError(f"{what} needs {name}, which is not installed; pip install 'tokenbench[{extra}]'.") from None
    except Exception as error:  # such as Ray's of an amdsmi that finds no driver
        why = f"{type(error).__name__}: {error}".splitlines()[0].rstrip(".")
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        raise UsageError(
            f"{what} needs {name}, which is installed but cannot be imported ({why}, in {where}); mend or remove that."
        ) from None
