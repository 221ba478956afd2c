"""Laplace's approximation: error bars from the curvature of the loss.

The posterior is a Gaussian around the parameters. Its precision is the generalised Gauss-Newton matrix of the
data plus the precision of the prior. Predictions come from the network, linearised in the parameters (MacKay,
"A practical Bayesian framework for backpropagation networks", 1992; Immer, Korzepa and Bauer,
"Improving predictions of Bayesian neural nets via local linearization", 2021).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.backend.reference_losses import activate, output_loss
from fastmlp.data.arrays import clean_targets
from fastmlp.derivatives.input_derivatives import unit_vectors
from fastmlp.derivatives.parameter_derivatives import ParameterRows, root_of
from fastmlp.trained.model import Model

Array = NDArray[np.float64]

MOST_PARAMETERS = 2000
"""The most parameters with a whole matrix for structure="auto"; else the last layer's."""

MOST_OF_A_MATRIX = 10_000
"""The most parameters with a spread: the matrix takes 0.8 GB."""

CURVATURES = {
    "mse": "identity", "cross_entropy": "softmax", "binary_cross_entropy": "sigmoid", "poisson": "exp",
}  # fmt: skip
"""Losses with a posterior, and outputs: negative log likelihoods by natural parameters."""


class Posterior:
    """The posterior of a model's parameters, from `fastmlp.laplace`.

    Attributes
    ----------
    model : Model
    structure : "full" or "last_layer"
    prior_precision : float, of each parameter
    noise : float, the standard deviation of targets around outputs; 1 of classes and counts
    log_marginal_likelihood : float, to compare networks on the same data
    effective_parameters : float, the number determined by the data
    """

    def __init__(
        self, model: Model, X: Any, y: Any, structure: str, prior_precision: float | None, noise: float | None
    ) -> None:
        network = model.network
        loss, output = network.objective.loss if not network.head_names else None, network.output
        what = None
        if network.heads:
            what = "heads" if network.head_names else "a Head, of missing or weighted targets"
        elif network.members > 1:
            what = "Members"
        elif loss not in CURVATURES or CURVATURES[str(loss)] != output:
            what = f"the loss {checks.shown(loss)} with the output {output!r}"
        if what is not None:
            pairs = ", ".join(f"{one} with {end}" for one, end in CURVATURES.items())
            raise ValueError(f"laplace has the losses {pairs}; this network has {what}")
        if loss != "mse" and noise is not None:
            raise ValueError(f"noise is of the loss mse, got {checks.shown(noise)} with {loss}")
        # Of the parameters as they are now: the posterior stays true when the model trains on.
        arrays, backend, given = model.parameters.copy(), model._backend, model
        self.model, self._loss = Model(network, arrays, {"loss": []}, backend, None), str(loss)
        model = self.model
        rows = ParameterRows(model, X, network.n_out, True)
        self.structure, self._own = self._parameters(rows, structure)
        if (count := len(self._own)) > MOST_OF_A_MATRIX:
            raise ValueError(
                f"the posterior of {count} parameters is a matrix of {8 * count**2 / 1e9:.1f} GB; "
                f"laplace takes {MOST_OF_A_MATRIX} at most, of all parameters or of the last layer"
            )
        targets = clean_targets("y", y, network, len(rows), rows.dtype)
        curvature, self._fit = np.zeros((len(self._own), len(self._own))), 0.0
        z: list[Array] = []

        def roots(some: slice, logits: list[NDArray[Any]]) -> list[NDArray[Any]]:
            z[:] = [logits[0].astype(np.float64)]
            return [root_of(network.objective, z[0])[1].astype(rows.dtype)]

        for some, jacobian in rows.jacobians(rows.at_once(rows.numbers), roots):
            whitened = jacobian[..., self._own].reshape(-1, len(self._own)).astype(np.float64)
            curvature += whitened.T @ whitened
            self._fit += self._log_loss(z[0], targets[some].astype(np.float64))
        values, self._vectors = np.linalg.eigh(curvature)
        self._values, self._rows = np.maximum(values, 0), targets.size
        weights = model.parameters[self._own].astype(np.float64)
        self._square = float(weights @ weights)
        if prior_precision is None and noise is None:
            prior_precision, noise = _of_training(given)
        self.prior_precision, self.noise = self._evidence(prior_precision, noise)
        self.log_marginal_likelihood = self._log_evidence(self.prior_precision, self.noise)
        scaled = self._values / self.noise**2
        self.effective_parameters = float((scaled / (scaled + self.prior_precision)).sum())

    def _parameters(self, rows: ParameterRows, structure: str) -> tuple[str, NDArray[np.int64]]:
        """Return the structure and the indices of the parameters."""
        checks.choice("structure", structure, ("auto", "full", "last_layer"))
        every = np.sort(np.concatenate([*rows.indices.values()]))
        if structure == "auto":
            structure = "full" if len(every) <= MOST_PARAMETERS else "last_layer"
        if structure == "full":
            return structure, every
        last = rows.network.operations[-1]
        return structure, every[(every >= last.weights) & (every < last.trained)]

    def _log_loss(self, logits: Array, targets: Array) -> float:
        """Return the sum of negative log likelihoods, or of half squares without noise."""
        objective = self.model.network.objective
        if self._loss == "mse":
            return float(((logits - targets) ** 2).sum() / 2)
        loss, _ = output_loss(objective, logits, targets, np.ones(len(logits)), 1.0)
        return loss * objective.divisor * objective.value_divisor

    def _log_evidence(self, precision: float, noise: float) -> float:
        """Return the logarithm of the marginal likelihood (MacKay 1992, equation 30)."""
        data = -self._fit / noise**2
        if self._loss == "mse":
            data -= self._rows * np.log(noise * np.sqrt(2 * np.pi))
        count = len(self._values)
        spread = np.log(self._values / noise**2 + precision).sum() - count * np.log(precision)
        return float(data - precision * self._square / 2 - spread / 2)

    def _evidence(self, precision: float | None, noise: float | None) -> tuple[float, float]:
        """Return precision and noise of the greatest marginal likelihood, unless given.

        MacKay's fixed point (1992, equations 27 and 32) leads near the maximum, and Nelder and Mead's simplex
        leads to it.
        """
        from scipy.optimize import minimize

        tiny = np.finfo(np.float64).tiny
        count, squares = len(self._values), max(self._square, tiny)
        least = 1e-12 * squares / count + tiny  # of the variance, where a network fits perfectly
        variance = 1.0 if self._loss != "mse" else max(2 * self._fit / self._rows, least)
        known = (
            None if precision is None else checks.real("prior_precision", precision, 0, open_low=True),
            (1.0 if self._loss != "mse" else None)
            if noise is None
            else checks.real("noise", noise, 0, open_low=True),
        )
        alpha = known[0] or count / squares
        variance = variance if known[1] is None else known[1] ** 2
        for _ in range(100):
            scaled = self._values / variance
            used = float((scaled / (scaled + alpha)).sum())
            if known[0] is None:
                alpha = max(used, 1e-3) / squares
            if known[1] is None:
                variance = max(2 * self._fit / max(self._rows - used, 1.0), least)
        start = np.log([alpha, np.sqrt(variance)])
        free = [index for index, value in enumerate(known) if value is None]
        if not free:
            return alpha, float(np.sqrt(variance))

        def whole(values: Any) -> tuple[float, float]:
            moved = start.copy()
            moved[free] += np.clip(values, -20, 20)
            return float(np.exp(moved[0])), float(np.exp(moved[1]))

        simplex = np.vstack([np.zeros(len(free)), 0.5 * np.eye(len(free))])
        options = {"initial_simplex": simplex, "xatol": 1e-7, "fatol": 1e-9, "maxiter": 2000}
        found = minimize(
            lambda values: -self._log_evidence(*whole(values)),
            simplex[0],
            method="Nelder-Mead",
            options=options,
        )
        return whole(found.x)

    def __repr__(self) -> str:
        return (
            f"Posterior({self.model.network.summary}, {self.structure}, prior_precision "
            f"{self.prior_precision:.4g}, noise {self.noise:.4g})"
        )

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Return predictions, with error bars.

        Parameters
        ----------
        X : as for `Model.predict`
        return_std : True for standard deviations as well

        Returns
        -------
        (rows, n_out) array, or a pair of arrays
            For numbers: the model's outputs, and standard deviations of targets with noise. For classes:
            probabilities with the uncertainty of the logits (MacKay's probit approximation), and standard
            deviations of the logits, with softmax of logits minus the mean. For counts: means, and standard
            deviations of the logarithms.
        """
        return_std = checks.flag("return_std", return_std)
        rows, means, variances = ParameterRows(self.model, X, self.model.network.n_out, True), [], []
        scale, z = 1 / (self._values / self.noise**2 + self.prior_precision), list[Array]()

        def units(some: slice, logits: list[NDArray[Any]]) -> list[NDArray[Any]]:
            z[:] = [logits[0].astype(np.float64)]
            return [unit_vectors(len(z[0]), z[0].shape[1], rows.dtype)]

        for _, derivatives in rows.jacobians(rows.at_once(rows.numbers), units):
            (logits,), jacobian = z, derivatives[..., self._own].transpose(1, 0, 2).astype(np.float64)
            if self._loss == "cross_entropy":  # softmax does not see what all logits have in common
                logits, jacobian = (each - each.mean(axis=1, keepdims=True) for each in (logits, jacobian))
            spread = (jacobian @ self._vectors) ** 2 @ scale
            shrinks = self._loss in ("cross_entropy", "binary_cross_entropy")
            shrunk = logits / np.sqrt(1 + np.pi / 8 * spread) if shrinks else logits
            means.append(np.asarray(activate(self.model.network.output, shrunk)))
            variances.append(spread + (self.noise**2 if self._loss == "mse" else 0))
        mean = np.concatenate(means)
        return (mean, np.sqrt(np.concatenate(variances))) if return_std else mean


def _of_training(model: Model) -> tuple[float | None, float | None]:
    """Return precision and noise found in training, or None."""
    curves = [model.history.get(name, []) for name in ("prior_precision", "noise")]
    if not curves[0] or any(len(curve) != len(model.history["loss"]) for curve in curves):
        return None, None
    return curves[0][-1], curves[1][-1]


def laplace(
    model: Model,
    X: Any,
    y: Any,
    *,
    structure: str = "auto",
    prior_precision: float | None = None,
    noise: float | None = None,
) -> Posterior:
    """Return the posterior of a trained model's parameters.

    Parameters
    ----------
    model : Model
        With a single output layer, the loss "mse" and the output "identity", "cross_entropy" and "softmax",
        "binary_cross_entropy" and "sigmoid", or "poisson" and "exp".
    X, y : as for `fit`, the rows of the training
    structure : "auto", "full" or "last_layer"
        The parameters with a spread: all, with a matrix (P, P), or the last layer's. "auto" takes all of up
        to 2000; at most 10 000 have a spread.
    prior_precision, noise : float, optional
        The inverse variance of the parameters before the data, and the standard deviation of the targets;
        None takes the values of a training by `LevenbergMarquardt(evidence=True)`, else of the greatest
        marginal likelihood.

    Returns
    -------
    Posterior

    Raises
    ------
    ValueError, TypeError
        For another loss, or rows not as for `fit`.
    """
    checks.instance("model", model, Model, "a Model, as fit returns")
    return Posterior(model, X, y, structure, prior_precision, noise)
