"""The choice of a training's backend, by the name in `fit(backend=)`."""

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
    *,
    steps: int | None = None,
    exact: bool = False,
    mixed: bool = False,
) -> Backend | Auto:
    """Return the named backend; for "auto" an `Auto`, perhaps with several backends in turn.

    Parameters
    ----------
    rows : rows of a batch
    steps : of the whole training, if known
    exact : True if "auto" must stay with backends of equal bits, for a continued training
    mixed : True for products of bfloat16 numbers
    """
    if mixed:
        return registry.mixed_backend(name)
    if name != "auto":
        if not (isinstance(name, str) and name in registry.built_in()):
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
    """Return True if the first choice of "auto" trains, validates and predicts without compiling.

    rows : rows of a batch; mixed : True for products of bfloat16 numbers
    """
    if mixed:
        entries = registry.entries(registry.mixed_backend("auto").name)
        trains = entries.has("train_chunk", dtype.name)
    else:
        auto, work = _auto()
        chosen = auto(work.of(network, without_rates(optimizer), rows, dtype, threads)).chosen
        entries, trains = chosen.entries, chosen.is_ready(dtype.name)
    return trains and all(entries.has(template, dtype.name) for template in ("evaluate", "predict"))


@functools.cache  # an import within a function takes half a microsecond every time
def _auto() -> tuple[type[Auto], type[Work]]:
    with forks.collector_off():
        from fastmlp.backend.auto import Auto
        from fastmlp.kernels.variant import Work

    return Auto, Work


def current_backend(backend: Backend | Auto) -> Backend:
    """Return the present backend of an `Auto`; return another backend unchanged."""
    return backend if isinstance(backend, Backend) else backend.now


def cacheable_backend(backend: Backend | Auto) -> Backend | None:
    """Return the backend of all later trainings with equal work; None if the backend may change.

    Valid until a plugin or a file declares another backend.
    """
    return backend if isinstance(backend, Backend) else backend.cacheable


def calls_blas(backend: Backend | Auto) -> bool:
    """Return True if a backend may call the BLAS; "auto" takes no built-in backend with a BLAS."""
    names = (backend.name,) if isinstance(backend, Backend) else registry.given()
    return any(map(registry.calls_blas, names))


def may_take_sparse_rows(
    backend: Backend | Auto, network: Network, optimizer: Optimizer, rows: int, dtype: np.dtype[Any]
) -> bool:
    """Return True if dense inputs may become sparse rows.

    False if bits would change, or a network would lose its specialised program.
    """
    name = backend.name
    if registry.is_reference(name) or not (choice := registry.choice_of(name)).exact:
        return False
    if isinstance(backend, Backend):
        return choice.specialize is None or choice.specialize(network, optimizer, rows, dtype) is None
    return not backend.binds


def may_take_bytes(n_in: int) -> bool:
    """Return True if rows of so many bytes may stay bytes."""
    # A specialised program of a small network reads rows of the training's dtype.
    from fastmlp.kernels.small.eligible import MOST_UNITS

    return n_in > MOST_UNITS


def saved_by_sparse_rows(
    network: Network, optimizer: Optimizer, rows: int, dtype: np.dtype[Any], density: float
) -> float:
    """Return the seconds a row saved in a step by sparse rows for dense inputs of this density."""
    from fastmlp.kernels.estimates import saved_by_sparse_rows
    from fastmlp.kernels.variant import Work

    return saved_by_sparse_rows(Work.of(network, optimizer, rows, dtype, 1), density)
