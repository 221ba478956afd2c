"""Which backends there are, and which one `backend="auto"` takes.

A backend is a file: every module in `fastmlp.kernels.variants`, every entry point of the group
"fastmlp.variants", and every path given to `register_file` declares a `VARIANT`.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import pkgutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import checks, reference
from fastmlp.backend import Backend
from fastmlp.network import Network
from fastmlp.optimizers import Optimizer

if TYPE_CHECKING:
    from fastmlp.kernels.variant import Variant

_files: dict[str, Variant] = {}


def variants() -> dict[str, Variant]:
    """Return the compiled backends' declarations by name: bases first, files given last."""
    return {**_installed(), **_files}


def backends() -> tuple[str, ...]:
    """Return the names that `fit(backend=...)` takes beside "auto", the reference first."""
    return ("reference", *variants())


def get(name: str) -> Backend:
    """Return a backend by name; ValueError with the choices if there is none."""
    checks.choice("backend", name, backends())
    return reference.BACKEND if name == "reference" else _compiled(name)


def choose(
    name: str,
    network: Network,
    optimizer: Optimizer,
    rows: int,
    dtype: np.dtype[Any],
    threads: int | None,
    steps: int | None = None,
) -> Backend:
    """Return the named backend; for "auto" the one that says it takes the fewest seconds a step.

    Parameters
    ----------
    rows : rows of a batch
    steps : of the whole training, if known
    """
    if name != "auto":
        checks.choice("backend", name, ("auto", *backends()))
        return get(name)
    from fastmlp.kernels.variant import Work

    work = Work.of(network, optimizer, rows, dtype, threads, steps)
    estimates = {name: v.seconds(work) for name, v in variants().items() if v.seconds is not None}
    return get(min(estimates, key=estimates.__getitem__))


def register_file(path: str | Path) -> str:
    """Load the variant that a Python file declares; return its name."""
    path = Path(path)
    spec = importlib.util.spec_from_file_location(f"fastmlp_variant_{path.stem}", path)
    if spec is None or spec.loader is None or not path.exists():
        raise ValueError(f"a variant must be a Python file, got {str(path)!r}")
    module = importlib.util.module_from_spec(spec)
    # Machine code loaded from the disk cache looks its functions' module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    variant = _declared(module)
    if variant.name in backends():
        raise ValueError(f"a backend named {variant.name!r} exists already; give the variant another name")
    _files[variant.name] = variant
    return variant.name


@functools.cache
def _installed() -> dict[str, Variant]:
    package = importlib.import_module("fastmlp.kernels.variants")
    modules = [
        importlib.import_module(f"{package.__name__}.{info.name}")
        for info in pkgutil.iter_modules(package.__path__)
    ]
    modules += [e.load() for e in importlib.metadata.entry_points(group="fastmlp.variants")]
    found = sorted(map(_declared, modules), key=_depth)
    return {variant.name: variant for variant in found}


def _depth(variant: Variant) -> int:
    return 0 if variant.base is None else 1 + _depth(variant.base)


def _declared(module: Any) -> Variant:
    from fastmlp.kernels.variant import Variant

    variant = getattr(module, "VARIANT", None)
    if not isinstance(variant, Variant):
        raise ValueError(f"{module.__name__} must declare VARIANT = Variant(...), got {variant!r}")
    return variant


@functools.cache
def _compiled(name: str) -> Backend:
    from fastmlp.kernels.adapter import compiled_backend

    return compiled_backend(variants()[name])
