"""scikit-learn's random draws: the same numbers from the same RandomState, in the same order.

First the start, then the split of early stopping, then one order of the rows for every epoch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from fastmlp import checks
from fastmlp.data.arrays import clean
from fastmlp.data.seeding import KnownState
from fastmlp.model.activations import Activation
from fastmlp.model.initializers import WEIGHT_INITS, Normal, checked_init, draw_weights
from fastmlp.model.state import Array

Start = tuple[list[Array], list[Array]]


def start(
    sizes: Sequence[int], activations: Sequence[str | Activation], init: Any, rng: np.random.RandomState
) -> Start:
    """Return the first weights (n_in, n_out) and biases (n_out,) of every layer, float64 if drawn.

    Parameters
    ----------
    activations : one for every layer; for "sigmoid" scikit-learn's bound is narrower
    init : None for scikit-learn's draw, a scheme of the trainer's (biases are 0), or
        (weights, biases)
    """
    if init is None:
        return _uniform(sizes, activations, rng)
    if isinstance(init, (str, Normal)):
        checked_init("init", init, WEIGHT_INITS)
        # A RandomState draws by the same two methods as the Generator that is required.
        weights = [draw_weights(init, *pair, rng) for pair in pairwise(sizes)]  # type: ignore[arg-type]
        return weights, [np.zeros(n_out) for n_out in sizes[1:]]
    try:
        given, biases = (list(arrays) for arrays in init)
    except (TypeError, ValueError):
        raise TypeError(
            f"init must be None, a scheme's name, a Normal, or (coefs, intercepts), got {checks.shown(init)}"
        ) from None
    real = np.dtype(np.float64)
    return (
        [clean(f"init coefs[{i}]", checks.real_array("init coefs", w), real) for i, w in enumerate(given)],
        [
            clean(f"init intercepts[{i}]", checks.real_array("init intercepts", b), real)
            for i, b in enumerate(biases)
        ],
    )


def _uniform(
    sizes: Sequence[int], activations: Sequence[str | Activation], rng: np.random.RandomState
) -> Start:
    """Draw as Glorot and Bengio (2010), biases too; the bound before logistic units is sqrt(2 / ...)."""
    weights, biases = [], []
    for (n_in, n_out), name in zip(pairwise(sizes), activations, strict=True):
        bound = math.sqrt((2.0 if name == "sigmoid" else 6.0) / (n_in + n_out))
        weights.append(rng.uniform(-bound, bound, (n_in, n_out)))
        biases.append(rng.uniform(-bound, bound, n_out))
    return weights, biases


NO_ENTROPY = KnownState(np.zeros(624, np.uint32))
"""The first state of a generator that is seeded at once."""


_idle: list[np.random.RandomState] = []
"""Generators that no block uses now, to be seeded again: 1 us, where to make one takes 22."""


class random_state:
    """A context with the generator of `sklearn.utils.check_random_state`.

    Of a whole number that is a generator which nothing may keep. `RandomState(seed)` would read the system's
    entropy first, and make a state of it that the seed overwrites.
    """

    def __init__(self, given: Any) -> None:
        self._given, self._own = given, type(given) is int

    def __enter__(self) -> np.random.RandomState:
        if not self._own:
            return check_random_state(self._given)
        try:
            self._rng = _idle.pop()
        except IndexError:
            self._rng = np.random.RandomState(np.random.MT19937(NO_ENTROPY))  # type: ignore[arg-type]
        self._rng.seed(self._given)
        return self._rng

    def __exit__(self, *error: object) -> None:
        if self._own:
            _idle.append(self._rng)


def generator_of(given: np.random.RandomState, among_others: bool) -> np.random.RandomState:
    """Return the generator that a training draws from: its own where several share NumPy's global one.

    Each training draws once from NumPy's global generator then, in their order, so that its seed fixes all.
    """
    if among_others and given is np.random.mtrand._rand:
        return np.random.RandomState(given.randint(2**32, size=4, dtype=np.uint32))
    return given


class ComposedOrders:
    """Row orders, each a permutation of the order before (`fastmlp.data.batches.Orders`)."""

    def __init__(self, rows: int, rng: np.random.RandomState, epochs: int = 0) -> None:
        """epochs : of the training, which had other orders before"""
        self._order = np.arange(rows)
        self._rng, self._epochs = rng, epochs

    def fingerprint(self) -> str:
        """Return a hash of the state that all later orders depend on."""
        state: Any = self._rng.get_state()
        kind, words, *rest = state
        digest = hashlib.sha256(f"{kind} {rest}".encode())
        digest.update(words.tobytes())
        digest.update(self._order.tobytes())
        return digest.hexdigest()

    def draw(self, epoch: int, out: NDArray[np.int64], window: int = 0) -> None:
        """Write the orders of epochs from `epoch` on to out (epochs, rows), epochs ascending."""
        # To shuffle an order in place is to compose it with `permutation(rows)`, of the same random numbers.
        for _ in range(self._epochs, epoch):
            self._rng.shuffle(self._order)
        for order in out:
            self._rng.shuffle(self._order)
            order[...] = self._order
        self._epochs = epoch + len(out)
