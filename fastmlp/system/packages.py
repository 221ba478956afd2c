"""Optional packages: loaded at the first use, with a clear error if missing."""

from __future__ import annotations

import importlib
from typing import Any


def needed(package: str, extra: str, what: str) -> Any:
    """Return a package; ImportError in a line with the pip command if missing.

    extra : the extra of fastmlp with the package; what : the user of the package, in words
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
