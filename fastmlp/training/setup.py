"""What a training goes by before it sees a number: checked options, the optimiser and backend of its steps.

It is kept for trainings of the same descriptions. These never change, so that the same object needs no second
check. What lies in arrays, and what the training before has left, is looked at each time.
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from fastmlp import checks
from fastmlp.backend import registry
from fastmlp.backend.choice import calls_blas, choose, lasting
from fastmlp.model.averages import EMA, SWA, with_average
from fastmlp.model.backend import Backend
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.system.budget import share
from fastmlp.system.notices import is_watched
from fastmlp.training.more import Continuation
from fastmlp.training.options import BackendRequest, FitOptions, backend_request, checked
from fastmlp.training.ranks import ALONE, Ranks
from fastmlp.training.sparse_data import may_become_sparse

if TYPE_CHECKING:
    from fastmlp.backend.auto import Auto

VALUES = FitOptions._fields.index("seed")
"""Where options begin that are looked at in each call; those before it are descriptions."""

FROZEN = (type(None), bool, int, float, str, type, np.dtype, FunctionType, Optimizer, EMA, SWA)
"""The types of descriptions that nobody can change; of callbacks and metrics only the empty tuple goes."""

MOST_KEPT = 32
"""The most setups that are kept, and of each the most that differ in rows, steps or threads."""


class StepSetup(NamedTuple):
    """How steps are taken, of so many rows of one dtype.

    optimizer : with the average, if there is one
    backend : as `choose` gives it
    calls_blas : whether it may; becomes_sparse : see `sparse_data.may_become_sparse`
    staying : options of which `fit_more` goes on with all but the seed
    """

    optimizer: Optimizer
    backend: Backend | Auto
    calls_blas: bool
    becomes_sparse: bool
    staying: dict[str, Any]

    @classmethod
    def on(
        cls,
        backend: Backend | Auto,
        network: Network,
        optimizer: Optimizer,
        options: FitOptions,
        rows: int,
        dtype: np.dtype[Any],
    ) -> Self:
        """Return how a backend takes steps; rows : of a batch"""
        sparse = may_become_sparse(backend, network, optimizer, rows, dtype)
        return cls(optimizer, backend, calls_blas(backend), sparse, options.staying(optimizer, dtype))


class Setup(NamedTuple):
    """What trainings of the same descriptions have in common.

    described : the options up to `VALUES`, checked; requested : the backend that it is to have
    steps : how they are taken, by all that differs between such trainings
    held : the descriptions as they were given: what is held has an id that is no other's
    """

    described: tuple[Any, ...]
    requested: BackendRequest
    steps: dict[Any, StepSetup]
    held: tuple[Any, ...]

    def options_of(self, given: FitOptions) -> FitOptions:
        """Return the options of another call of the same descriptions, checked."""
        seed = given.seed
        if seed is not None:
            seed = checks.whole("seed", seed, 0)
        return FitOptions._make((*self.described, seed, *given[VALUES + 1 :]))

    def steps_of(
        self,
        network: Network,
        options: FitOptions,
        rows: int,
        dtype: np.dtype[Any],
        steps: int | None,
        averaged: int | None,
    ) -> StepSetup:
        """Return how steps are taken; ValueError if the average or the backend does not go with the rest.

        rows : of a batch; steps : of all trainings like this one; averaged : steps of this one, for its
            average; None if they are not known before rows are read
        """
        threads = options.threads
        if threads is None and self.requested.backend == "auto":
            threads = share()  # the choice goes by the cores that are left
        key = rows, dtype, steps, averaged, threads
        if (known := self.steps.get(key)) is not None:
            return known
        optimizer = with_average(options.optimizer, options.average, averaged)
        requested = self.requested
        backend = choose(
            requested.backend, network, optimizer, rows, dtype, threads, steps, requested.goes_on,
            requested.mixed,
        )  # fmt: skip
        lasts = lasting(backend)
        found = StepSetup.on(lasts or backend, network, optimizer, options, rows, dtype)
        if lasts:
            if len(self.steps) >= MOST_KEPT:
                self.steps.clear()
            self.steps[key] = found
        return found


kept: dict[Any, Setup] = {}
"""Setups by the identities of their descriptions, the oldest first."""


def setup_of(network: Network, options: FitOptions, ranks: Ranks) -> tuple[FitOptions, Setup]:
    """Return checked options, and the setup that goes with them; errors as of `fit`."""
    key = _key(network, options) if ranks is ALONE else None
    if key is not None and (known := kept.get(key)) is not None:
        return known.options_of(options), known
    given, options = options, ranks.agreed(network, options, checked)
    with ranks.raise_on_all_ranks():
        setup = Setup(options[:VALUES], backend_request(options), {}, (network, *given[:VALUES]))
    if key is not None and all(map(_is_frozen, (*given[:VALUES], *options[:VALUES]))):
        if len(kept) >= MOST_KEPT:
            oldest, *_ = kept
            kept.pop(oldest, None)
        kept[key] = setup
    return options, setup


def _key(network: Network, options: FitOptions) -> tuple[Any, ...] | None:
    """Return what a setup is kept by; None for one that may be another in the next call."""
    resume = options.resume
    if registry.given() or not (resume is None or isinstance(resume, Continuation)):
        return None
    watched = options.progress is None and is_watched()
    return id(network), *map(id, options[:VALUES]), resume and resume.backend, watched


def _is_frozen(one: Any) -> bool:
    return isinstance(one, FROZEN) or (type(one) is tuple and not one)
