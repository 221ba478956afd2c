"""The backend that a training runs on, from the name that `fit(backend=)` is given."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from fastmlp import checks
from fastmlp.backend import registry
from fastmlp.model.backend import Backend
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer, without_rates
from fastmlp.system import forks

if TYPE_CHECKING:
    from fastmlp.backend.auto import Auto
    from fastmlp.kernels.variant import Work


def choose(
    name: str,
    network: Network,
    optimizer: Optimizer,
    rows: int,
    dtype: np.dtype[Any],
    threads: int | None,
    steps: int | None = None,
    exact: bool = False,
    mixed: bool = False,
) -> Backend | Auto:
    """Return the named backend; for "auto" what may be one after another (`fastmlp.backend.auto`).

    Parameters
    ----------
    rows : rows of a batch
    steps : of the whole training, if known
    exact : whether "auto" must keep to backends of the same bits: it goes on with a training
    mixed : whether it must multiply bfloat16 numbers
    """
    if mixed:
        return registry.mixed_backend(name)
    if name != "auto":
        if not (isinstance(name, str) and name in registry.own()):
            checks.choice("backend", name, ("auto", *registry.backends()))
        return registry.get(name)
    auto, work = _auto()
    return auto(work.of(network, without_rates(optimizer), rows, dtype, threads, steps), exact)


def is_ready(
    network: Network,
    optimizer: Optimizer,
    rows: int,
    dtype: np.dtype[Any],
    threads: int | None,
    mixed: bool = False,
) -> bool:
    """Return whether what "auto" begins with trains, validates and predicts without compiling anything.

    rows : rows of a batch; mixed : whether products are of bfloat16 numbers
    """
    if mixed:
        entries = registry.entries(registry.mixed_backend("auto").name)
        trains = entries.has(("train_chunk",), dtype.name)
    else:
        auto, work = _auto()
        chosen = auto(work.of(network, without_rates(optimizer), rows, dtype, threads)).chosen
        entries, trains = chosen.entries, chosen.is_ready(dtype.name)
    return trains and entries.has(("evaluate", "predict"), dtype.name)


@functools.cache  # an import within a function takes half a microsecond every time
def _auto() -> tuple[type[Auto], type[Work]]:
    with forks.collector_off():
        from fastmlp.backend.auto import Auto
        from fastmlp.kernels.variant import Work

    return Auto, Work


def settled(backend: Backend | Auto) -> Backend:
    """Return the backend that computes now: for "auto" the present one."""
    return backend if isinstance(backend, Backend) else backend.now


def lasting(backend: Backend | Auto) -> Backend | None:
    """Return the backend of all later trainings like the one that it was chosen for; None if they may differ.

    As long as no plugin and no file has declared another.
    """
    return backend if isinstance(backend, Backend) else backend.lasting


def calls_blas(backend: Backend | Auto) -> bool:
    """Return whether a backend may call the BLAS; "auto" takes none of fastmlp's own that does."""
    names = (backend.name,) if isinstance(backend, Backend) else registry.given()
    return any(map(registry.calls_blas, names))


def may_take_sparse_rows(
    backend: Backend | Auto, network: Network, optimizer: Optimizer, rows: int, dtype: np.dtype[Any]
) -> bool:
    """Return whether dense inputs may become sparse ones.

    Not where that would change bits, or keep a network from a program of its own.
    """
    name = backend.name
    if registry.is_reference(name) or not (choice := registry.choice_of(name)).exact:
        return False
    if isinstance(backend, Backend):
        return choice.specialize is None or choice.specialize(network, optimizer, rows, dtype) is None
    return not backend.binds


def may_take_bytes(n_in: int) -> bool:
    """Return whether rows of so many bytes may stay bytes.

    Not where a network may have a program of its own, which reads rows of its dtype.
    """
    from fastmlp.kernels.small.eligible import MOST_UNITS

    return n_in > MOST_UNITS


def saved_by_sparse_rows(
    network: Network, optimizer: Optimizer, rows: int, dtype: np.dtype[Any], density: float
) -> float:
    """Return the seconds a row that a step saves where dense inputs of such a density become sparse ones."""
    from fastmlp.kernels.estimates import saved_by_sparse_rows
    from fastmlp.kernels.variant import Work

    return saved_by_sparse_rows(Work.of(network, optimizer, rows, dtype, 1), density)
