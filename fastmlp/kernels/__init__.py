"""Names for writers of kernels, gathered from the folders below, which docs/architecture.md describes."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastmlp.backend.registry import get_variant, register_file
    from fastmlp.kernels.jit.bind import slot
    from fastmlp.kernels.variant import Variant
    from fastmlp.testing.slots import AGREEMENT_SIZES, SLOTS

_HOME = {
    "Variant": "kernels.variant",
    "slot": "kernels.jit.bind",
    "register_file": "backend.registry",
    "get_variant": "backend.registry",
    "SLOTS": "testing.slots",
    "AGREEMENT_SIZES": "testing.slots",
}
"""The module of each name, imported at first use: some modules stand above the kernels."""

__all__ = ["AGREEMENT_SIZES", "SLOTS", "Variant", "get_variant", "register_file", "slot"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastmlp.kernels' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fastmlp.{_HOME[name]}"), name)
