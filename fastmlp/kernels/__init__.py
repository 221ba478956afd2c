"""Names for writers of kernels, gathered from the folders below.

codegen : the target machine, and numbers and vectors that write code for the machine
tuning : constants measured on each machine
program : the compiled program as templates, and the program's call record
jit : joining templates with a variant's functions, compiling, and machine code on disk
gemm : matrix products: register tiles, panels, and the choice among products
elementwise : losses, sums down columns, and optimisers' steps, by whole vectors
mixed : products of bfloat16 numbers
small : programs of single small networks, with sizes as constants
lanes : programs of many small networks, a network in each lane of a vector
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
"""The module of each name, imported at first use: some modules stand above the kernels."""

__all__ = ["AGREEMENT_SIZES", "SLOTS", "Variant", "get_variant", "register_file", "slot"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastmlp.kernels' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fastmlp.{_HOME[name]}"), name)
