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
from fastmlp.derivatives.parameter_derivatives import ParameterRows, parameter_jacobian
from fastmlp.derivatives.tape import Tape
from fastmlp.training.data import clean_targets
from fastmlp.training.model import Model

Array = NDArray[np.float64]

MOST_PARAMETERS = 2000
"""Parameters whose whole matrix is formed with structure="auto"; of more that of the last layer alone."""

CURVATURES = ("mse", "cross_entropy", "binary_cross_entropy", "poisson")
"""Losses of a network that has a posterior: negative log likelihoods of exponential families."""


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
        if network.heads and network.head_names:
            raise ValueError("laplace needs one output; this network has heads")
        loss = network.objective.loss
        if network.members > 1 or loss not in CURVATURES:
            what = "Members" if network.members > 1 else f"the loss {checks.shown(loss)}"
            raise ValueError(f"laplace has the losses {', '.join(CURVATURES)}; this network has {what}")
        self.model, self._loss = model, str(loss)
        rows = ParameterRows(model, X, network.n_out)
        self.structure, self._own = self._parameters(rows, structure)
        targets = clean_targets("y", y, network, len(rows), rows.dtype)
        curvature, self._fit = np.zeros((len(self._own), len(self._own))), 0.0
        for some, tape in rows.blocks():
            logits, jacobian = self._linear(rows, tape)
            root = self._root(logits)
            whitened = np.einsum("rkj,rkp->rjp", root, jacobian).reshape(-1, len(self._own))
            curvature += whitened.T @ whitened
            self._fit += self._log_loss(logits, targets[some].astype(np.float64))
        values, self._vectors = np.linalg.eigh(curvature)
        self._values, self._rows = np.maximum(values, 0), targets.size
        weights = model.parameters[self._own].astype(np.float64)
        self._square = float(weights @ weights)
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

    def _linear(self, rows: ParameterRows, tape: Tape) -> tuple[Array, Array]:
        """Return logits (rows, k) and their derivatives (rows, k, parameters) in float64."""
        (end,) = rows.ends.values()
        logits = tape.values[end]
        count, k = logits.shape
        unit = np.broadcast_to(np.eye(k, dtype=rows.dtype)[:, None], (k, count, k))
        jacobian = parameter_jacobian(rows, tape, {end: unit})[..., self._own]
        return logits.astype(np.float64), jacobian.transpose(1, 0, 2).astype(np.float64)

    def _root(self, logits: Array) -> Array:
        """Return a root R of the log loss's second derivative R R' by the logits, (rows, k, k)."""
        out, k = self._mean(logits), logits.shape[1]
        if self._loss == "cross_entropy":  # diag(p) - p p' has the root diag(sqrt p) - p sqrt(p)'
            root = np.sqrt(out)
            return root[:, :, None] * np.eye(k) - out[:, :, None] * root[:, None, :]
        slopes = {"mse": np.ones_like(out), "poisson": out}.get(self._loss, out * (1 - out))
        return np.sqrt(slopes)[:, :, None] * np.eye(k)

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
        """Return the precision and the noise of the greatest marginal likelihood, but for what is given."""
        from scipy.optimize import minimize

        fixed = [
            None if value is None else np.log(checks.real(name, value, 0, open_low=True))
            for name, value in (("prior_precision", precision), ("noise", noise))
        ]
        if self._loss != "mse":
            fixed[1] = 0.0

        def whole(free: Any) -> list[float]:
            rest = iter(np.clip(free, -30, 30))
            return [float(np.exp(next(rest) if value is None else value)) for value in fixed]

        count = fixed.count(None)
        if not count:
            return tuple(whole([]))  # type: ignore[return-value]
        start = [0.0, np.log(np.sqrt(2 * self._fit / self._rows) + 1e-12)]
        begin = [value for value, known in zip(start, fixed, strict=True) if known is None]
        found = minimize(lambda free: -self._log_evidence(*whole(free)), begin, method="Nelder-Mead")
        return tuple(whole(found.x))  # type: ignore[return-value]

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
        rows, means, variances = ParameterRows(self.model, X, self.model.network.n_out), [], []
        scale = 1 / (self._values / self.noise**2 + self.prior_precision)
        for _, tape in rows.blocks():
            logits, jacobian = self._linear(rows, tape)
            if self._loss == "cross_entropy":  # softmax does not see what all logits have in common
                logits, jacobian = (each - each.mean(axis=1, keepdims=True) for each in (logits, jacobian))
            spread = (jacobian @ self._vectors) ** 2 @ scale
            shrinks = self._loss in ("cross_entropy", "binary_cross_entropy")
            means.append(self._mean(logits / np.sqrt(1 + np.pi / 8 * spread) if shrinks else logits))
            variances.append(spread + (self.noise**2 if self._loss == "mse" else 0))
        mean = np.concatenate(means)
        return (mean, np.sqrt(np.concatenate(variances))) if return_std else mean


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
        Of one output, with the loss "mse", "cross_entropy", "binary_cross_entropy" or "poisson".
    X, y : as for `fit`, the rows that the model was trained on
    structure : "auto", "full" or "last_layer"
        Whose parameters have a spread: all, whose matrix (P, P) is formed, or those of the last layer. "auto"
        takes all of up to 2000.
    prior_precision, noise : float, optional
        The inverse variance of the parameters before the data, and the standard deviation of the targets;
        None takes those of the greatest marginal likelihood.

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
