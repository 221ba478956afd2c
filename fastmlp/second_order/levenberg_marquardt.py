"""Levenberg and Marquardt's steps, and the evidence of Bayesian regularisation.

With the derivatives J of residuals r by the parameters p a step solves (J'J + damping I) step = -J'r, and
where there are fewer residuals than parameters the equations of the same step by the residuals, JJ' +
damping I (Levenberg 1944; Marquardt 1963; Hagan and Menhaj, "Training feedforward networks with the Marquardt
algorithm", 1994). Of a loss whose second derivative by the logits z has a root R R', J is R' dz/dp and r has
R r = dloss/dz. All is a multiple of the objective of which half the sum of squares has no factor.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg.blas import dsyrk
from scipy.linalg.lapack import dpotrf, dpotri, dpotrs

from fastmlp.backend.reference_losses import heads_loss, output_loss
from fastmlp.derivatives.parameter_derivatives import ParameterRows, root_of
from fastmlp.model.backend import Array
from fastmlp.model.heads import columns_of_heads
from fastmlp.model.losses import loss_of
from fastmlp.model.second_order import LevenbergMarquardt
from fastmlp.second_order.whole_data import Iterate, Taken, Vector, WholeObjective, reason_to_stop
from fastmlp.trained.model import Model

BLOCK_BYTES = 1 << 19
"""Of the derivatives of a block of rows, which L2 holds while they are summed: half of it."""

LEAST_BLOCK = 256
"""Residuals of a block, at least: J'J is read and written once for each."""

MOST_BYTES = 1 << 30
"""Of all matrices."""

LITTLE, FIRST_SHARE = 0.1, 0.001
"""The share of the objective that a step gains near a minimum; of the first weights' own precision, what the
evidence begins with."""

EPSILON = np.finfo(np.float64).eps


def check_memory(parameters: int, residuals: int) -> None:
    """Raise ValueError if the matrices of a step are too large."""
    taken = 16 * parameters**2
    if residuals < parameters:
        taken = 16 * residuals * parameters + 24 * residuals**2
    if taken > MOST_BYTES:
        raise ValueError(
            f"LevenbergMarquardt takes {taken / 2**30:.1f} GiB for the equations of {parameters} parameters "
            f"and {residuals} residuals, more than {MOST_BYTES / 2**30:.0f}; take LBFGS"
        )


class Equations(NamedTuple):
    """The sums of a step over all rows.

    gram : (q, q) the upper half of J'J, or of JJ' where there are fewer residuals
    gradient : (P,) J'r
    square : the sum of squared residuals; counted : how many residuals count
    """

    gram: Vector
    gradient: Vector
    square: float
    counted: int


class DampedSteps:
    """Takes steps of one objective."""

    def __init__(self, optimizer: LevenbergMarquardt, objective: WholeObjective) -> None:
        network, data = objective.network, objective.data
        self._optimizer, self._objective = optimizer, objective
        self._parameters = np.zeros(len(objective.curvature))
        rows, count = len(data.weights), len(self._parameters)
        residuals = rows * network.n_out
        check_memory(count, residuals)
        plain = network.replaced(input_scale=1.0) if network.input_scale != 1 else network
        model = Model(plain, self._parameters, {"loss": []}, objective.backend, None)
        self._rows = ParameterRows(model, None, network.n_out, True, objective.inputs)
        self._block = max(LEAST_BLOCK, BLOCK_BYTES // (8 * count)) // network.n_out + 1
        if network.heads:
            heads, columns = network.heads, columns_of_heads(network.heads)
            self._parts = [(head.objective, columns[name]) for name, head in heads.items()]
            self._totals = network.head_totals(data.targets, data.weights)
            self._scale = objective.total
        else:
            self._parts, self._totals = [(network.objective, slice(None))], np.array([objective.total])
            squares = 2.0 if loss_of(network.objective.loss).name == "mse" else 1.0
            self._scale = objective.total * network.objective.divisor / squares
        """The factor of the objective in the equations."""
        self._has_noise = not network.heads and loss_of(network.objective.loss).name == "mse"
        self._penalty = self._scale * objective.curvature
        self._trained = np.zeros(count)
        for places in self._rows.places.values():
            self._trained[places] = 1
        q = min(residuals, count)
        self._gram, self._factor = np.zeros((q, q), order="F"), np.empty((q, q), order="F")
        self._jacobian = np.empty((residuals, count)) if residuals < count else None

    # --- the equations ------------------------------------------------------------------------------------

    def _counts(self, part: int, targets: Array, weights: Array) -> Array:
        """Return the factors of residuals (rows, k), or (rows, 1), before the root is taken."""
        network = self._objective.network
        if not network.heads:
            return weights[:, None]
        head = [*network.heads.values()][part]
        counted = head.row_weights(targets, weights)[:, None]
        if head.masked and not head.by_row:
            units = np.ones(head.units) if head.loss_weights is None else np.array(head.loss_weights)
            counted = weights[:, None] * ~np.isnan(targets) * units
        squares = 2.0 if loss_of(head.objective.loss).name == "mse" else 1.0
        total = self._totals[part] * head.divisor
        weight = head.weight if len(network.heads) > 1 else 1.0
        return counted * (self._scale * weight * squares / total if total else 0.0)

    def _residuals_of(self, some: slice, logits: list[Array]) -> tuple[Vector, list[Array]]:
        """Return residuals (k, rows) and the cotangents of each output layer's logits, (k, rows, units)."""
        network, data = self._objective.network, self._objective.data.take(some)
        if network.heads:
            _, deltas = heads_loss(network, logits, data.targets, data.weights, self._totals)
        else:
            (z,), total = logits, self._objective.total
            deltas = [output_loss(network.objective, z, data.targets, data.weights, total)[1]]
        rows = len(data.weights)
        residuals, cotangents, first = np.zeros((network.n_out, rows)), [], 0
        for part, (z, delta) in enumerate(zip(logits, deltas, strict=True)):
            objective, columns = self._parts[part]
            factors = np.sqrt(self._counts(part, data.targets[:, columns], data.weights))
            diagonal, root = root_of(objective, z)
            k, by = z.shape[1], diagonal * factors
            found = np.divide(self._scale * delta, by, out=np.zeros_like(z), where=by > 0)
            seeds = np.zeros((network.n_out, rows, k))
            seeds[first : first + k] = root * factors
            residuals[first : first + k] = found.T
            cotangents.append(seeds)
            first += k
        return residuals, cotangents

    def _equations(self, parameters: Vector) -> Equations:
        """Return the sums over all rows at a point."""
        self._parameters[...] = parameters
        self._gram[...] = 0
        count, gradient, square, counted, place = len(parameters), np.zeros(len(parameters)), 0.0, 0, 0
        known: list[Vector] = []

        def cotangents(some: slice, logits: list[Array]) -> list[Array]:
            residuals, found = self._residuals_of(some, logits)
            known[:] = [residuals.reshape(-1)]
            return found

        for some, jacobian in self._rows.jacobians(self._block, cotangents):
            (residuals,), rows = known, jacobian.reshape(-1, count)
            if self._jacobian is None:
                dsyrk(1.0, rows.T, 1.0, self._gram, overwrite_c=1)
            else:
                self._jacobian[place : place + len(rows)] = rows
                place += len(rows)
            gradient += residuals @ rows
            square += float(residuals @ residuals)
            counted += np.count_nonzero(self._objective.data.weights[some]) * self._objective.network.n_out
        if self._jacobian is not None:
            dsyrk(1.0, self._jacobian.T, 0.0, self._gram, trans=1, overwrite_c=1)
        return Equations(self._gram, gradient, square, counted)

    def _factored(self, gram: Vector, diagonal: Vector | float) -> Vector | None:
        """Return the Cholesky factor of a gram matrix plus a diagonal; None if rounding leaves none."""
        factor = self._factor
        factor[...] = gram
        np.einsum("ii->i", factor)[...] += diagonal
        found, failed = dpotrf(factor, overwrite_a=1, clean=0)
        return None if failed else found

    def _solved(self, gram: Vector, gradient: Vector, diagonal: Vector) -> Vector | None:
        """Return the step of the damped equations, None if rounding leaves none; diagonal (P,) : above 0"""
        if self._jacobian is None:
            factor = self._factored(gram, diagonal)
            return None if factor is None else -dpotrs(factor, gradient)[0]
        alone = gradient / diagonal  # the step without J: what J changes is of its rank (Woodbury)
        if np.ptp(diagonal) == 0:
            factor, scale = self._factored(gram, diagonal[0]), diagonal[0]
        else:
            scaled = self._jacobian / np.sqrt(diagonal)
            whole, scale = dsyrk(1.0, scaled.T, trans=1), 1.0
            factor = self._factored(whole, 1.0)
        if factor is None:
            return None
        by_residuals = dpotrs(factor, scale * (self._jacobian @ alone))[0]
        return (by_residuals @ self._jacobian) / diagonal - alone

    # --- the evidence -------------------------------------------------------------------------------------

    def _determined(self, gram: Vector, ratio: float) -> float:
        """Return how many parameters the data determine; ratio : the prior's precision over the noise's"""
        factor = self._factored(gram, ratio) if ratio else None
        if factor is None:
            return min(float(len(gram)), self._trained.sum())
        inverse, _ = dpotri(factor, overwrite_c=1)
        return float(len(gram) - ratio * np.trace(inverse))

    def _settle(self, numbers: dict[str, float], found: Equations, parameters: Vector) -> float:
        """Set the precisions to those of the greatest evidence; return the effective parameters.

        MacKay's fixed point, "Bayesian interpolation" (1992), with the matrix of this step. The precision of
        the weights stays until a step gains little at it: in the first steps, when outputs are far from
        targets whatever the weights, it would grow until all weights are 0.
        """
        prior, noise, has_noise = numbers["prior_precision"], numbers["noise"], self._has_noise
        square = max(float(self._trained @ parameters**2), EPSILON)
        if not prior:
            prior = numbers["prior_precision"] = FIRST_SHARE * self._trained.sum() / square
            noise = float(np.sqrt(found.square / found.counted)) if has_noise else 1.0
        determined = max(self._determined(found.gram, prior * noise**2), EPSILON)
        if 0 < numbers["gain"] < LITTLE:
            numbers["prior_precision"] = determined / square
        numbers["noise"] = 1.0
        if has_noise:
            variance = found.square / max(found.counted - determined, 1.0)
            numbers["noise"] = float(np.sqrt(max(variance, EPSILON**2)))
        return determined

    # --- a step -------------------------------------------------------------------------------------------

    def step(self, at: Iterate) -> Taken:
        """Take a step from an iterate, which is written."""
        optimizer, (parameters, numbers, _), objective = self._optimizer, at, self._objective
        value = objective.value(parameters)
        if not np.isfinite(value.reported).all():
            return Taken(value.reported, {})
        found, penalty = self._equations(parameters), self._penalty
        columns: dict[str, float] = {}
        if optimizer.evidence:
            determined = self._settle(numbers, found, parameters)
            penalty = numbers["prior_precision"] * numbers["noise"] ** 2 * self._trained
            columns = {name: float(value) for name, value in numbers.items()}
            columns["effective_parameters"] = determined
        gradient = found.gradient + penalty * parameters
        norm = float(np.linalg.norm(gradient)) / self._scale
        damping = numbers["damping"] or optimizer.damping
        growth, reason = 2.0, reason_to_stop(optimizer, float(np.ravel(value.reported)[0]), norm)

        def merit(point: Vector) -> float:
            of_prior = float(penalty @ point**2) / 2 if optimizer.evidence else 0.0
            return self._scale * objective.value(point).minimised + of_prior

        before = merit(parameters)
        least = EPSILON * float(np.trace(found.gram)) / len(parameters)
        while reason is None:
            if damping > optimizer.max_damping:
                reason = f"no step lowers the objective with a damping up to {optimizer.max_damping:g}"
                break
            step = self._solved(found.gram, gradient, damping + penalty)
            after = np.inf if step is None else merit(parameters + step)
            if step is not None and after < before:
                factor = optimizer.damping_decrease
                if optimizer.nielsen:
                    foreseen = float(step @ (damping * step - gradient)) / 2
                    factor = max(1 / 3, 1 - (2 * (before - after) / foreseen - 1) ** 3)
                numbers["gain"] = 1 - after / before
                parameters += step
                damping = max(damping * factor, least)
                break
            damping *= growth if optimizer.nielsen else optimizer.damping_increase
            growth *= 2
        numbers["damping"] = damping
        columns |= {"damping": damping, "gradient": norm}
        return Taken(value.reported, {name: columns[name] for name in optimizer.columns}, reason)


STEPS = DampedSteps
"""What takes the steps of this module's optimiser."""
