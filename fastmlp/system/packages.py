"""Optional packages of exports and imports: loaded when called, and named where they are missing."""

from __future__ import annotations

import importlib
from typing import Any


def needed(package: str, extra: str, what: str) -> Any:
    """Return a package; ImportError in one line, which says how to install it, if it is not there.

    extra : the extra of fastmlp's that installs it; what : what needs it, in words
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        top = package.partition(".")[0]
        if error.name not in (top, package):  # the package is there, and itself lacks another
            raise
        # pip leaves an installed fastmlp as it is, wherever it is from, and adds what the extra names.
        how = f'pip install "fastmlp[{extra}]", or ".[{extra}]" in a checkout'
        raise ImportError(f"{what} needs {top}: {how}") from None
