"""Validated rows, and scikit-learn's random draws: the first weights, a split, orders of the rows.

The same numbers come from the same RandomState in the same order: first the start, then the split of early
stopping, then one order of the rows for every epoch.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight

from fastmlp import checks
from fastmlp.data.arrays import clean
from fastmlp.data.seeding import KnownState
from fastmlp.data.sparse import clean_rows, is_sparse
from fastmlp.model.activations import Activation
from fastmlp.model.backend import Array, Data
from fastmlp.model.initializers import WEIGHT_INITS, Normal, checked_init, draw_layer
from fastmlp.model.rows import Inputs
from fastmlp.model.state import FLOATS
from fastmlp.training.preparation import clean_pair

AUTO_BATCH = 200
"""What batch_size="auto" is where rows are as many."""


ScoredRows = tuple[Data, Array | None]
"""Rows, and how much each counts in a score (rows,); class weights count in the loss alone."""


def rows_of(
    X: Any, targets: Array, sample_weight: Any, class_weights: Array | None, scale: float = 1.0
) -> ScoredRows:
    """Return rows in the form for training, with weights in scores.

    Parameters
    ----------
    X : validated (rows, n_in), dense or sparse, of the dtype to train in
    sample_weight : (rows,) or None, as the user passed it
    class_weights : (rows,) or None; for the loss and not for scores
    scale : the factor of X

    Raises ValueError if a sample weight is not finite or below 0, or if all are 0.
    """
    score_weights = None
    weights = np.ones(X.shape[0], X.dtype)
    if sample_weight is not None:
        score_weights = _checked_weights(sample_weight, X)
        if not score_weights.any():  # scikit-learn 1.9 says so in the line above, 1.7 does not
            raise ValueError("Sample weights must contain at least one non-zero number.")
        weights = score_weights.astype(X.dtype)
    if class_weights is not None:
        weights *= class_weights.astype(X.dtype)
    data = Data(inputs_of(X, X.dtype, scale), np.ascontiguousarray(targets, X.dtype), weights)
    return data, score_weights


def _checked_weights(given: Any, X: Any) -> Array:
    """Return weights (rows,), checked as by scikit-learn, in a tenth of the time for arrays."""
    if type(given) is np.ndarray and given.shape == (X.shape[0],):
        whole = given.dtype.kind in "iu"
        if whole or given.dtype in FLOATS:
            weights = np.ascontiguousarray(given, np.float64 if whole else given.dtype)
            if checks.finite(weights) and weights.min() >= 0:
                return weights
    checked: Array = _check_sample_weight(given, X, ensure_non_negative=True)
    return checked


def inputs_of(X: Any, dtype: np.dtype[Any], scale: float = 1.0) -> Inputs:
    """Return validated X (rows, n_in) times `scale` for training, of `dtype`."""
    if is_sparse(X):
        return clean_rows("X", X, dtype, scale)
    return np.ascontiguousarray(X, dtype) if scale == 1 else clean("X", X, dtype, scale)


def split(
    rows: ScoredRows, fraction: float, stratify: bool, rng: np.random.RandomState
) -> tuple[ScoredRows, ScoredRows]:
    """Return the training rows and the rows held out, by scikit-learn's draw."""
    data, scores = rows
    chosen = train_test_split(
        np.arange(len(data.targets)),
        test_size=fraction,
        random_state=rng,
        # scikit-learn's message for a class that is too small contains these words.
        stratify=np.where(data.targets[:, 0] > 0.5, "True", "False") if stratify else None,
    )
    trained, held = ((data.take(which), None if scores is None else scores[which]) for which in chosen)
    if len(held[0].targets) < 2:
        raise ValueError(
            "The validation set is too small. Increase 'validation_fraction' or the size of your dataset."
        )
    return trained, held


# --- random draws -------------------------------------------------------------------------------------

Start = tuple[list[Array], list[Array]]


def start(
    sizes: Sequence[int], activations: Sequence[str | Activation], init: Any, rng: np.random.RandomState
) -> Start:
    """Return the first weights (n_in, n_out) and biases (n_out,) of every layer, float64 if drawn.

    Parameters
    ----------
    activations : of every layer; for "sigmoid" scikit-learn's bound is narrower
    init : None for scikit-learn's draw, a scheme of the trainer's (biases are 0), or
        (weights, biases)
    """
    if init is None:
        return _uniform(sizes, activations, rng)
    if isinstance(init, (str, Normal)):
        checked_init("init", init, WEIGHT_INITS)
        # A RandomState draws by the same two methods as the Generator that is required.
        ends = (*activations[:-1], None)
        drawn = [
            draw_layer(init, end, *pair, rng)  # type: ignore[arg-type]
            for end, pair in zip(ends, pairwise(sizes), strict=True)
        ]
        zeros = [np.zeros(n_out) for n_out in sizes[1:]]
        return [weights for weights, _ in drawn], [
            zero if biases is None else biases for zero, (_, biases) in zip(zeros, drawn, strict=True)
        ]
    required, names = (
        "None, a scheme's name, a Normal, or (coefs, intercepts)",
        ("init coefs", "init intercepts"),
    )
    return clean_pair("init", required, names, init, np.dtype(np.float64))


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
"""The first state of a generator, overwritten by the seed."""


_idle: list[np.random.RandomState] = []
"""Unused generators, to be seeded again: 1 us, where to make a generator takes 22."""


class random_state:
    """A context with the generator of `sklearn.utils.check_random_state`.

    For a whole number the generator must not be kept. `RandomState(seed)` would read the system's entropy
    first, for a state overwritten by the seed.
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

    def __exit__(self, error: object, *_: object) -> None:
        # After an error, as Ctrl-C, a training that was left behind may still draw from its generator.
        if self._own and error is None:
            _idle.append(self._rng)


def generator_of(given: np.random.RandomState, among_others: bool) -> np.random.RandomState:
    """Return a training's generator: a new generator where several trainings share NumPy's global generator.

    Each training draws once from NumPy's global generator then, in order: the global seed fixes all
    trainings.
    """
    if among_others and given is np.random.mtrand._rand:
        return np.random.RandomState(given.randint(2**32, size=4, dtype=np.uint32))
    return given


class ComposedOrders:
    """Row orders, each a permutation of the order before (`fastmlp.data.batches.Orders`)."""

    def __init__(self, rows: int, rng: np.random.RandomState) -> None:
        self._order = np.arange(rows)
        self._rng, self._epochs = rng, 0

    def fingerprint(self) -> str:
        """Return a hash of the state of all later orders."""
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
