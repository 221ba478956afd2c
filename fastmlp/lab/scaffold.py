"""Template for a new variant: a slot's signature and contract, and a call of `baseline`."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import numpy as np

from fastmlp import checks
from fastmlp.backend.registry import backends, get_variant
from fastmlp.testing.cases import Sizes
from fastmlp.testing.slots import SLOTS

TEXT = '''"""{name}: {slot} of its own; all else as baseline."""

from fastmlp.kernels import Variant
from fastmlp.kernels.variants import baseline

as_baseline = baseline.{slot}


def {slot}{signature}:
    """{contract}

    Numba compiles this. Write to the last array{scratch}; leave the inputs as they are, raise nothing and
    allocate nothing. `fastmlp bench --variant {name}.py` says whether it agrees, and what it takes.
    """
    {returns}as_baseline({arguments})  # replace this


VARIANT = Variant("{name}", baseline.VARIANT, {{"{slot}": {slot}}})
'''


def write(name: str, slot: str) -> Path:
    """Write NAME.py into the current folder.

    Raises ValueError for a bad or taken name, or an unknown slot; FileExistsError if the file exists.
    """
    checks.choice("slot", slot, tuple(SLOTS))
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII):
        raise ValueError(f"a variant's name must be letters, digits and _, got {checks.shown(name)}")
    if name in ("auto", *backends()):
        raise ValueError(f"a backend named {name!r} exists already; give the variant another name")
    function = get_variant("baseline").slots[slot]
    parameters = inspect.signature(function).parameters
    contract = (inspect.getdoc(function) or "").replace("\n", "\n    ")
    first = next(SLOTS[slot].cases(np.random.default_rng(0), np.dtype(np.float32), Sizes(2, 2, 2)))
    content = TEXT.format(
        returns="" if first.returned is None else "return ",
        name=name,
        slot=slot,
        signature=f"({', '.join(parameters)})",
        arguments=", ".join(parameters),
        contract=contract,
        scratch=" and to scratch" if "scratch" in parameters else "",
    )
    path = Path(f"{name}.py")
    with path.open("x", encoding="utf-8") as file:
        file.write(content)
    return path
