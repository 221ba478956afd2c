"""The lbfgs solver: SciPy's L-BFGS-B on the whole data, with scikit-learn's options."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import scipy.optimize
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning

from fastmlp.callbacks.callback import Callback, Run
from fastmlp.estimators.convergence import warn
from fastmlp.model.backend import Array, Backend, Data
from fastmlp.model.network import Network
from fastmlp.model.rows import unpacked
from fastmlp.system.budget import blas_threads
from fastmlp.system.interrupts import until_stopped
from fastmlp.training.threads import is_long, most_seconds


def minimise(
    network: Network,
    backend: Backend,
    data: Data,
    parameters: Array,
    callbacks: Sequence[Callback],
    *,
    iterations: int,
    evaluations: int,
    tol: float,
    ftol: float,
    threads: int | None,
) -> tuple[float, int]:
    """Minimise the objective over all rows, in float64, in place on parameters (P,) of any dtype.

    An iteration counts as an epoch for callbacks. Returns the objective and the number of iterations.

    iterations, evaluations : the most
    tol : of the gradient's largest element; ftol : of an iteration's gain as a fraction of the loss
    """
    index = _weights_then_biases(network)
    inputs = unpacked(data.inputs).astype(np.float64, copy=False)
    targets, weights = (np.asarray(array, np.float64) for array in (data.targets, data.weights))
    data = Data(inputs, targets, weights)
    flat, gradients = np.empty(parameters.size), np.empty(parameters.size)
    moments: Array = np.empty((2, 0))
    history: dict[str, list[float]] = {"loss": []}
    rows = len(data.inputs)
    run = Run(network, parameters, moments, iterations, rows, history, lambda: backend)

    long = is_long(most_seconds(flat.size, len(data.inputs)))

    def objective(point: Array) -> tuple[float, Array]:
        flat[index] = point
        # Nothing stops the call but Ctrl-C, whose error Python raises while it waits here.
        call = functools.partial(backend.gradient, network, flat, data, 0, 0, gradients)
        loss = until_stopped(call, lambda: False) if long else call()
        return loss, gradients[index]

    def after_iteration(intermediate_result: Any) -> None:
        parameters[index] = intermediate_result.x
        run.epoch += 1
        run.step += 1
        run.rows_seen += run.rows
        run.history["loss"].append(float(intermediate_result.fun))
        for callback in callbacks:
            callback.on_epoch_end(run)
        for callback in callbacks:
            callback.on_chunk_end(run)
        if run.stop_reason is not None:
            raise StopIteration

    with ExitStack() as ends, blas_threads(threads):
        for callback in callbacks:
            callback.on_train_begin(run)
            ends.callback(callback.on_train_end, run)
        if run.stop_reason is not None:  # SciPy takes one iteration whatever its limits are
            return objective(parameters[index].astype(np.float64))[0], 0
        result = scipy.optimize.minimize(
            objective,
            parameters[index].astype(np.float64),
            method="L-BFGS-B",
            jac=True,
            callback=after_iteration if callbacks else None,
            options={"maxfun": evaluations, "maxiter": iterations, "gtol": tol, "ftol": ftol},
        )
        parameters[index] = result.x
    taken = min(int(result.nit), iterations)
    if result.status != 0 and run.stop_reason is None:
        _warn(result, taken, iterations)
    return np.float64(result.fun), taken


def _weights_then_biases(network: Network) -> NDArray[np.int64]:
    """Return the indices of scikit-learn's packed vector, weights before biases, in the flat vector."""
    weights = [np.arange(at.weights, at.biases) for at in network.operations]
    return np.concatenate([*weights, *(np.arange(at.biases, at.trained) for at in network.operations)])


def _warn(result: Any, iterations: int, allowed: int) -> None:
    message = (
        f"lbfgs failed to converge after {iterations} iteration(s) (status={result.status}):\n"
        f"{result.message}\n"
    )
    if iterations == allowed:
        message += f"\nIncrease the number of iterations to improve the convergence (max_iter={allowed})."
    message += (
        "\nYou might also want to scale the data as shown in:\n"
        "    https://scikit-learn.org/stable/modules/preprocessing.html"
    )
    warn(message, ConvergenceWarning)
