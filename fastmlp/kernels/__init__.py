"""Names for writers of kernels, in one place; the folders below say where a new thing goes.

codegen : the target machine, and numbers and vectors that write code for it
tuning : constants that are measured on each machine
program : the compiled program as templates, and the record of numbers that it takes
jit : joining templates with a variant's functions, compiling, and machine code on disk
gemm : matrix products: register tiles, panels, and the choice among them
elementwise : losses, sums down columns, and optimisers' steps, by whole vectors
mixed : products of bfloat16 numbers
small : programs of single small networks, whose sizes are constants
lanes : programs of as many small networks as a vector has lanes
runtime : a variant as a backend: numbers for descriptions, buffers, threads, checks
variants : one file, one backend
"""

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
"""The module of each name. It is imported at first use, because some of them stand above the kernels."""

__all__ = ["AGREEMENT_SIZES", "SLOTS", "Variant", "get_variant", "register_file", "slot"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastmlp.kernels' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fastmlp.{_HOME[name]}"), name)
