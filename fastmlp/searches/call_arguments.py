"""The arguments by name of calls that joblib is to make."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

_signature = functools.lru_cache(maxsize=8)(inspect.signature)
"""It takes as long as scaling the rows of a small search."""


def arguments_of(call: Call) -> dict[str, Any]:
    """Return a call's arguments by the names that its function gives them."""
    function, given, named = call
    return _signature(inspect.unwrap(function)).bind(*given, **named).arguments
