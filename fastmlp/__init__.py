"""Train multi-layer perceptrons on a CPU, fast: Numba kernels behind the API of a NumPy reference."""

from __future__ import annotations

import ast
import atexit
import functools
import importlib
import os
import pkgutil
import sys
from typing import Any

from fastmlp.system import forks  # first: forks wait for the imports that come after it
from fastmlp.system.imports import after_import
from fastmlp.trained import register, register_file

__version__ = "1.0.0"


@functools.cache
def _modules() -> dict[str, str]:
    """Return the modules of public names, which are imported at the first use for a quick import."""
    stub = ast.parse(pkgutil.get_data(__name__, "__init__.pyi") or b"")  # out of a zip, too
    lines = [node for node in stub.body if isinstance(node, ast.ImportFrom)]
    names = [(one.name, f"{line.module}") for line in lines for one in line.names if one.name != "*"]
    return {"__version__": __name__, **dict(names)}


def _tables() -> dict[str, Any]:
    """Return the public classes of tables by name."""
    from fastmlp.model.losses import LOSS_CLASSES
    from fastmlp.model.lowering import BLOCKS, LAYERS
    from fastmlp.model.optimizers import NAMED, WHOLE

    kinds = (*LAYERS.values(), *BLOCKS.values(), *LOSS_CLASSES, *NAMED, *WHOLE)
    return {kind.__name__: kind for kind in kinds}


def _read_table(*file: Any) -> Any:
    from fastmlp.tables.estimators import opened

    return opened(*file)


def _publish_end(process: int) -> None:
    """Tell the other processes of mpiexec about the end of this process."""
    if "mpi4py.MPI" in sys.modules:
        from fastmlp.distributed.mpi import publish_end

        publish_end(process)


# Before mpi4py's MPI_Finalize. A process that is forked from this one is no rank.
atexit.register(_publish_end, os.getpid())

_EXTENSIONS = {
    **{name: f"derivatives.{name}" for name in ("input_derivatives", "parameter_derivatives", "attribution")},
    "blocks": "blocks.training",
    "checkpoint": "checkpoints.checkpoint",
    "lists": "many.files",
    "metrics": "metrics.callback",
    "saving": "checkpoints.saving",
    "whole_data": "second_order.whole_data",
}
"""Modules that rooms below call by name; any other name is a format's."""


def _register_joblib_backend() -> None:
    import joblib

    def backend(**options: Any) -> Any:
        from fastmlp.searches.backend import FastmlpBackend

        return FastmlpBackend(**options)

    joblib.register_parallel_backend("fastmlp", backend)


after_import("joblib", _register_joblib_backend)

register(lambda name: importlib.import_module(f"fastmlp.{_EXTENSIONS.get(name, f'exchange.{name}')}"))
register_file("table", _read_table)


def __getattr__(name: str) -> Any:
    if name in ("onnx", "testing", "torch"):
        return importlib.import_module(f"fastmlp.{name}")
    if name == "__all__":
        found: Any = sorted({*_modules(), *_tables()})
    elif name in _modules():
        with forks.collector_off():
            found = getattr(importlib.import_module(_modules()[name]), name)
    elif name[:1].isupper() and name in _tables():  # Python asks for modules, too
        found = _tables()[name]
    else:
        raise AttributeError(f"module 'fastmlp' has no attribute {name!r}")
    globals()[name] = found  # and looked up only once
    return found


def __dir__() -> list[str]:
    return __getattr__("__all__")
