"""`Variant`, a declared backend: a name, a base, and overriding functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.system.budget import available_cores

ALLOCATING: set[Callable[..., Any]] = set()


def allocating(function: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a built-in function that makes arrays, or calls such a function.

    Only marked functions and users' functions are compiled with Numba's memory runtime.
    """
    # The runtime counts references to every slice by atomic additions: 2 % of a step of 784-128-10 at 32
    # rows.
    ALLOCATING.add(function)
    return function


class Work(NamedTuple):
    """The size of a step, for the choice of the fastest variant.

    sizes : columns of X, and the units of every dense layer
    rows : of a batch, of all members; itemsize : bytes of a number; threads : the most allowed
    network, optimizer : for variants whose speed depends on more than sizes; may be None
    steps : of the whole training, for variants that compile for a training; None if unknown
    """

    sizes: tuple[int, ...]
    rows: int
    itemsize: int
    threads: int
    network: Network | None = None
    optimizer: Optimizer | None = None
    steps: int | None = None

    @classmethod
    def of(
        cls,
        network: Network,
        optimizer: Optimizer,
        rows: int,
        dtype: np.dtype[Any],
        threads: int | None,
        steps: int | None = None,
    ) -> Work:
        """Return the work of a step of `rows` rows; threads=None: see `budget.available_cores`."""
        rows *= network.members
        return cls(
            network.widths, rows, dtype.itemsize, threads or available_cores(), network, optimizer, steps
        )

    def with_inputs(self, count: int) -> Work:
        """Return the work with `count` inputs a row, for sparse rows of as many non-zeros."""
        return self._replace(sizes=(max(1, count), *self.sizes[1:]))

    @property
    def flops(self) -> float:
        """Multiply-adds of the matrix products, counted as 2: three a layer, two in the first."""
        products = [n_in * n_out for n_in, n_out in zip(self.sizes, self.sizes[1:], strict=False)]
        return 2.0 * self.rows * (3 * sum(products) - products[0])

    @property
    def units(self) -> int:
        """Activations of a row."""
        return sum(self.sizes[1:])


class SpecializedProgram(NamedTuple):
    """A network's entry point, on a single thread, with the network's numbers as constants.

    template : "module:function", as `program.step_templates.train_chunk`; names : "module:function" from the
        constants to the template's globals by name
    constants : hashable; its repr distinguishes programs in the disk cache; sizes : for messages
    private : the length of its private buffer, see `fastmlp.kernels.program.records.BUFFERS`
    """

    template: str
    names: str
    constants: tuple[Any, ...]
    sizes: tuple[int, ...]
    private: int


Specialize = Callable[[Network, Optimizer, int, "np.dtype[Any]"], SpecializedProgram | None]

Buffers = Callable[[Sequence[tuple[int, int]], int], dict[str, int]]
"""The lengths of buffers, given the (n_in, n_out) of products and the rows of a batch: see `Variant`."""


class Variant(NamedTuple):
    """A compiled backend, declared.

    Parameters
    ----------
    name : str
        The name in `fit(backend=...)`.
    base : Variant or None
        The variant with the slots not overridden here; None for the first variant.
    slots : mapping of str to callable
        Functions by slot name (see `fastmlp.testing.slots`) or by template name (see
        `fastmlp.kernels.program.step_templates`), plain Python for Numba to compile.
    seconds : callable, optional
        seconds(work): an estimate of a training step, for backend="auto". "auto" never chooses a variant
        with None.
    workers : callable, optional
        workers(work): the best number of threads for a step, at most work.threads. None: a single thread.
    specialize : callable, optional
        specialize(network, optimizer, most rows of a step, dtype) gives the network's `train_chunk`, or
        None where the network has none; then the variant's `train_chunk` trains the network.
    exact : bool
        True if the variant follows the order of operations in `fastmlp.kernels.program.arithmetic`. All exact
        variants train with the same bits, so a training may change between exact variants. The programs of
        single networks must follow the order, too.
    libraries : tuple of str
        Modules of the BLAS, or of other libraries with threads, called by the slots. They are imported before
        a training begins, so that the training can limit their threads.
    buffers : callable, optional
        buffers(products, rows) gives the lengths of scratch and slices (`program.records.BUFFERS`) of each
        worker, by name, where a slot needs more than the usual lengths. The products are (n_in, n_out).
    """

    name: str
    base: Variant | None = None
    slots: Mapping[str, Callable[..., Any]] = MappingProxyType({})
    seconds: Callable[[Work], float] | None = None
    workers: Callable[[Work], int] | None = None
    specialize: Specialize | None = None
    exact: bool = False
    libraries: tuple[str, ...] = ()
    buffers: Buffers | None = None

    def resolved(self) -> dict[str, Callable[..., Any]]:
        """Return the functions by name, with the functions of the bases."""
        inherited = self.base.resolved() if self.base is not None else {}
        return {**inherited, **self.slots}

    def inheriting(self) -> Variant:
        """Return the variant with the libraries and the buffers of the bases."""
        if self.base is None:
            return self
        base = self.base.inheriting()
        libraries = (*base.libraries, *self.libraries)
        return self._replace(libraries=libraries, buffers=self.buffers or base.buffers)
