"""Laplace's approximation: error bars of a trained network from the curvature of its loss.

The posterior of the parameters is a Gaussian around them, whose precision is the generalised Gauss-Newton
matrix of the data plus that of the prior. Predictions are those of the network linearised in its parameters
(MacKay, "A practical Bayesian framework for backpropagation networks", 1992; Immer, Korzepa and Bauer,
"Improving predictions of Bayesian neural nets via local linearization", 2021).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.backend.reference_losses import output_loss
from fastmlp.data.arrays import clean_targets
from fastmlp.derivatives.input_derivatives import unit_vectors
from fastmlp.derivatives.parameter_derivatives import ParameterRows, root_of
from fastmlp.trained.model import Model

Array = NDArray[np.float64]

MOST_PARAMETERS = 2000
"""Parameters whose whole matrix is formed with structure="auto"; of more that of the last layer alone."""

MOST_OF_A_MATRIX = 10_000
"""Parameters that have a spread, at most: their matrix takes 0.8 GB."""

CURVATURES = {
    "mse": "identity", "cross_entropy": "softmax", "binary_cross_entropy": "sigmoid", "poisson": "exp",
}  # fmt: skip
"""Losses with their outputs that have a posterior: negative log likelihoods by natural parameters."""


class Posterior:
    """The posterior of a model's parameters, as `fastmlp.laplace` returns it.

    Attributes
    ----------
    model : Model
    structure : "full" or "last_layer"
    prior_precision : float, of each parameter
    noise : float, the standard deviation of targets around outputs; 1 of classes and counts
    log_marginal_likelihood : float, by which networks of the same data can be compared
    effective_parameters : float, how many the data have determined
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
        """Return the structure and the places of its parameters."""
        checks.choice("structure", structure, ("auto", "full", "last_layer"))
        every = np.sort(np.concatenate([*rows.places.values()]))
        if structure == "auto":
            structure = "full" if len(every) <= MOST_PARAMETERS else "last_layer"
        if structure == "full":
            return structure, every
        last = rows.network.operations[-1]
        return structure, every[(every >= last.weights) & (every < last.trained)]

    def _mean(self, logits: Array) -> Array:
        from fastmlp.backend.reference_losses import activate

        return np.asarray(activate(self.model.network.output, logits))

    def _log_loss(self, logits: Array, targets: Array) -> float:
        """Return the sum of negative log likelihoods; of squares half their sum, without the noise."""
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
        """Return the precision and the noise of the greatest marginal likelihood, but for what is given.

        MacKay's fixed point (1992, equations 27 and 32) leads near it, and Nelder and Mead's simplex to it.
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
        free = [place for place, value in enumerate(known) if value is None]
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
        return_std : whether to return standard deviations, too

        Returns
        -------
        (rows, n_out) array, or a pair of them
            Of targets that are numbers: the model's outputs, and the standard deviations of targets, noise
            included. Of classes: probabilities in which the uncertainty of the logits is counted (MacKay's
            probit approximation), and the standard deviations of the logits, with softmax of logits minus
            their mean. Of counts: the means, and the standard deviations of their logarithms.
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
            means.append(self._mean(logits / np.sqrt(1 + np.pi / 8 * spread) if shrinks else logits))
            variances.append(spread + (self.noise**2 if self._loss == "mse" else 0))
        mean = np.concatenate(means)
        return (mean, np.sqrt(np.concatenate(variances))) if return_std else mean


def _of_training(model: Model) -> tuple[float | None, float | None]:
    """Return the precision and the noise that the steps of a model's training found; None of other rules."""
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
    """Return the posterior of a trained model's parameters, by Laplace's approximation.

    Parameters
    ----------
    model : Model
        Of one output layer, with the loss "mse" and the output "identity", "cross_entropy" and "softmax",
        "binary_cross_entropy" and "sigmoid", or "poisson" and "exp".
    X, y : as for `fit`, the rows that the model was trained on
    structure : "auto", "full" or "last_layer"
        Whose parameters have a spread: all, whose matrix (P, P) is formed, or those of the last layer. "auto"
        takes all of up to 2000; at most 10 000 have one.
    prior_precision, noise : float, optional
        The inverse variance of the parameters before the data, and the standard deviation of the targets;
        None takes those that `LevenbergMarquardt(evidence=True)` found, or else those of the greatest
        marginal likelihood.

    Returns
    -------
    Posterior

    Raises
    ------
    ValueError, TypeError
        In one line, for another loss, or rows that are not as for `fit`.
    """
    checks.instance("model", model, Model, "a Model, as fit returns")
    return Posterior(model, X, y, structure, prior_precision, noise)
