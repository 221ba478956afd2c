"""Attributions: the change of an output from a baseline to a row, divided among the columns.

Integrated gradients (Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", 2017) follow the
straight line from a baseline. Expected gradients (Erion et al., "Improving performance of deep learning
models with axiomatic attribution priors and expected gradients", 2021) are a mean over lines from many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array

from fastmlp import checks
from fastmlp.checks import needed
from fastmlp.derivatives.input_derivatives import Rows, by_rows, input_gradient
from fastmlp.trained.model import Model

Array = NDArray[Any]


class Attribution(NamedTuple):
    """The fraction of each column in an output.

    Attributes
    ----------
    values : (rows, columns) floating
    change : (rows,) floating, each row's output minus the baseline's, or minus the mean of all baselines
    error : float, the greatest difference between the sum of a row's values and its change
    names : of the columns, or None
    """

    values: Array
    change: Array
    error: float
    names: tuple[str, ...] | None = None

    def plot(self, row: int | None = None, names: Any = None, ax: Any = None) -> Any:
        """Draw bars of a row's values, or of all rows' mean absolute values.

        Return Matplotlib's axes. names : of the columns; ax : axes to draw on, new axes if None
        """
        pyplot = needed("matplotlib.pyplot", "plot", "Attribution.plot")
        shown = np.abs(self.values).mean(axis=0) if row is None else self.values[row]
        names = self.names if names is None else names
        labels = [f"x{i}" for i in range(len(shown))] if names is None else [*map(str, names)]
        order = np.argsort(np.abs(shown))
        ax = pyplot.subplots()[1] if ax is None else ax
        ax.barh([labels[i] for i in order], shown[order])
        ax.set_xlabel("mean |attribution|" if row is None else "attribution")
        return ax


def attribute(
    model: Model,
    X: Any,
    baseline: ArrayLike | None = None,
    output: Any = None,
    method: str = "integrated",
    steps: int = 50,
    seed: int | None = 0,
    logits: bool = False,
) -> Attribution:
    """Return attributions; see `Model.attribute`."""
    checks.choice("method", method, ("integrated", "expected"))
    steps = checks.whole("steps", steps, 1)
    if any(block.codes for block in model.network.blocks):
        raise ValueError("attribute needs columns of numbers: no line leads from one code to another")
    rows = _dense(Rows(model, X))
    if baseline is None:
        if method == "expected":
            raise ValueError("method='expected' needs baseline=, rows of the training data")
        baseline = np.zeros((1, rows.shape[1]))
    if model.network.blocks and isinstance(baseline, (list, tuple)):
        baseline = np.hstack([np.atleast_2d(block) for block in baseline])
    starts = np.atleast_2d(checks.real_array("baseline", baseline)).astype(rows.dtype)
    if (
        not len(starts)
        or starts.shape[1] != rows.shape[1]
        or (method == "integrated" and len(starts) not in (1, len(rows)))
    ):
        wanted = (
            f"({rows.shape[1]},) or {rows.shape}" if method == "integrated" else f"(any, {rows.shape[1]})"
        )
        raise ValueError(f"baseline must have shape {wanted}, got {np.shape(baseline)}")

    def gradient(X: Array) -> Array:
        return input_gradient(model, _given(model, X), output, logits)

    return along(rows, starts, gradient, lambda X: _output(model, X, output, logits), method, steps, seed)


def along(
    rows: Array,
    starts: Array,
    gradient: Callable[[Array], Array],
    value: Callable[[Array], Array],
    method: str,
    steps: int,
    seed: int | None,
) -> Attribution:
    """Return the attribution of a function of rows (rows, columns), along lines from `starts`.

    gradient, value : derivatives (rows, columns) and values (rows,); the rest as for `Model.attribute`
    """
    values = np.zeros(rows.shape, np.float64)
    if method == "integrated":  # nodes and weights of Gauss and Legendre on [0, 1]
        nodes, weights = np.polynomial.legendre.leggauss(steps)
        ways: Any = [
            (starts, (node + 1) / 2, weight / 2) for node, weight in zip(nodes, weights, strict=True)
        ]
    else:
        rng = np.random.default_rng(None if seed is None else checks.whole("seed", seed, 0))
        drawn = rng.integers(len(starts), size=(steps, len(rows)))
        at = (
            rng.permuted(np.tile(np.arange(steps)[:, None], len(rows)), axis=0) + rng.random(drawn.shape)
        ) / steps
        ways = [(starts[some], t[:, None], 1 / steps) for some, t in zip(drawn, at, strict=True)]
    for start, t, weight in ways:
        line = rows - start
        values += weight * line * gradient((start + line * t).astype(rows.dtype))
    bases = value(starts)
    if method == "expected":
        bases = bases.mean(keepdims=True)
    change = value(rows) - bases
    return _of(values, change)


def _of(values: Array, change: Array) -> Attribution:
    return Attribution(values, change, float(np.abs(values.sum(axis=1) - change).max(initial=0)))


def mean_of(parts: Sequence[Attribution]) -> Attribution:
    """Return the attribution of the mean of some models' outputs."""
    values = np.mean([part.values for part in parts], axis=0)
    return _of(values, np.mean([part.change for part in parts], axis=0))


def _given(model: Model, X: Array) -> Any:
    """Return rows (rows, columns) in a model's form: sparse blocks as CSR."""
    blocks = model.network.blocks
    if not any(block.is_sparse for block in blocks):
        return X
    parts = np.split(X, np.cumsum([block.columns for block in blocks])[:-1], axis=1)
    return [csr_array(part) if block.is_sparse else part for part, block in zip(parts, blocks, strict=True)]


def _dense(rows: Rows) -> Array:
    return rows.dense(slice(0, len(rows))) / rows.scale


def _output(model: Model, X: Array, output: Any, logits: bool) -> Array:
    """Return an output (rows,) of rows in float64."""
    rows = Rows(model, _given(model, X), 1, logits)
    index = rows.output(output)
    return by_rows(rows, (), lambda tape, _: rows.outputs(tape.values)[:, index]).astype(np.float64)
