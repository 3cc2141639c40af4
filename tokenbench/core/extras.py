"""Libraries that come with an extra of the package."""

from __future__ import annotations

import importlib
import traceback
from typing import Any

from tokenbench.errors import UsageError, first_line


def needed(module: str, extra: str, what: str) -> Any:
    """A module that `what` needs; raises `UsageError` that names the extra where it is not installed, or is broken."""
    name = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UsageError(f"{what} needs {name}, which is not installed; pip install 'tokenbench[{extra}]'.") from None
    except Exception as error:  # such as Ray's of an amdsmi that finds no driver
        where = traceback.extract_tb(error.__traceback__)[-1].filename
        raise UsageError(
            f"{what} needs {name}, which cannot be imported here ({type(error).__name__}: {first_line(error)}, in "
            f"{where}); mend what is there, or remove it, and pip install 'tokenbench[{extra}]'."
        ) from None
