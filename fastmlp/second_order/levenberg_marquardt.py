"""The equations of Levenberg and Marquardt's steps: sizes, and sums in NumPy.

Chains of products have sums and factors in compiled code (`fastmlp.kernels.program.whole_templates`). Other
networks, heads and the reference have sums and factors here. Where the loss's second derivative by the logits
z has a root R R', J is R' dz/dp, and R r = dloss/dz. The unit is half a sum of squares.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.linalg.lapack import dpotrf, dpotri, dpotrs

from fastmlp.backend.reference_losses import heads_loss, output_loss
from fastmlp.derivatives.parameter_derivatives import ParameterRows, root_of
from fastmlp.model.backend import Array
from fastmlp.model.heads import columns_of_heads
from fastmlp.model.losses import loss_of
from fastmlp.model.rows import SparseRows
from fastmlp.second_order.objective import Vector, WholeObjective
from fastmlp.trained.model import Model

BLOCK_BYTES = 1 << 18
"""The bytes of derivatives of a block of rows: half of a small L2."""

LEAST_BLOCK = 256
"""The least residuals of a block: every block reads and writes J'J."""

MOST_BYTES = 1 << 30
"""Of all matrices."""


def check_memory(parameters: int, residuals: int) -> None:
    """Raise ValueError if the matrices of a step are too large."""
    taken = 16 * parameters**2
    if residuals < parameters:
        taken = 16 * residuals * parameters + 8 * residuals**2
    if taken > MOST_BYTES:
        raise ValueError(
            f"LevenbergMarquardt takes {taken / 2**30:.1f} GiB for the equations of {parameters} parameters "
            f"and {residuals} residuals, more than {MOST_BYTES / 2**30:.0f}; take LBFGS"
        )


class Equations:
    """The equations of all steps of an objective.

    state : a WHOLE, overwritten with sizes and indices in the room

    Attributes
    ----------
    length : of the room; products : (n_in, n_out) of J'J and the factors
    trained : (P,) 1 for trained parameters; is_compiled : True if compiled code forms the sums
    """

    def __init__(self, optimizer: Any, objective: WholeObjective, state: Any) -> None:
        network, data = objective.network, objective.data
        self._objective, self._parameters = objective, np.zeros(len(objective.curvature))
        rows, count = len(data.weights), len(self._parameters)
        residuals = rows * network.n_out
        check_memory(count, residuals)
        plain = network.replaced(input_scale=1.0) if network.input_scale != 1 else network
        model = Model(plain, self._parameters, {"loss": []}, objective.backend, None)
        self._rows = ParameterRows(model, None, network.n_out, True, objective.inputs)
        if network.heads:
            heads, columns = network.heads, columns_of_heads(network.heads)
            self._parts = [(head.objective, columns[name]) for name, head in heads.items()]
            self._totals, self._scale = network.head_totals(data.targets, data.weights), objective.total
        else:
            self._parts, self._totals = [(network.objective, slice(None))], np.array([objective.total])
            squares = 2.0 if loss_of(network.objective.loss).name == "mse" else 1.0
            self._scale = objective.total * network.objective.divisor / squares
        self.trained = np.zeros(count)
        if optimizer.evidence:  # else nobody reads it, and indices take as long as a hundred small steps
            for indices in self._rows.indices.values():
                self.trained[indices] = 1
        squares = not network.heads and loss_of(network.objective.loss).name == "mse"
        state.has_noise = state.squares = squares
        state.scale, state.first_damping = self._scale, optimizer.damping
        dual, side = residuals < count, min(residuals, count)
        block = max(LEAST_BLOCK, BLOCK_BYTES // (8 * count)) // network.n_out + 1
        state.dual, state.side, state.block = dual, side, block
        self.length = 0
        some = side if dual else min(block, rows) * network.n_out
        lengths = {
            "gram": 0 if dual else side**2, "factor": side**2, "jacobian": some * count,
            "scaled": dual * some * count, "residuals": some,
        }  # fmt: skip
        for name, length in lengths.items():
            state[name] = self.length = -(-self.length // 8) * 8
            self.length += length
        if dual:
            state.gram = state.factor
        self.products = (count, count), (some, count)
        self.is_compiled = self._rows.is_chain and not isinstance(objective.inputs, SparseRows)

    def in_numpy(self) -> dict[str, Callable[..., Any]]:
        """Return the operations of `whole_steps` on equations by name."""
        return {
            "form_equations": self._form, "solve_damped": self._solve, "determined_by": self._determined,
        }  # fmt: skip

    def _counts(self, part: int, targets: Array, weights: Array) -> Array:
        """Return squared factors of residuals, (rows, k) or (rows, 1)."""
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
        """Return residuals (k, rows), and cotangents of logits (k, rows, units)."""
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

    def _form(self, call: Any) -> None:
        """Write the sums over all rows at a point."""
        state, size = call.whole, call.size
        self._parameters[...] = call.parameters
        down, offset = call.down, 0
        gram, known = call.room[state.gram :][: state.side**2].reshape(state.side, -1), list[Vector]()
        whole = call.room[state.jacobian :][: state.dual * state.side * size].reshape(-1, size)
        down[...] = gram[...] = state.square = state.counted = 0

        def cotangents(some: slice, logits: list[Array]) -> list[Array]:
            residuals, found = self._residuals_of(some, logits)
            known[:] = [residuals.reshape(-1)]
            return found

        for some, jacobian in self._rows.jacobians(int(state.block), cotangents):
            (residuals,), rows = known, jacobian.reshape(-1, size)
            if state.dual:
                whole[offset : offset + len(rows)] = rows
                offset += len(rows)
            else:
                gram += rows.T @ rows
            down += residuals @ rows
            state.square += residuals @ residuals
            counted = np.count_nonzero(self._objective.data.weights[some])
            state.counted += counted * self._objective.network.n_out
        state.total_diagonal = np.einsum("ij,ij->", whole, whole) if state.dual else np.trace(gram)

    def _factored(self, call: Any, diagonal: Vector) -> tuple[Vector | None, Vector]:
        """Return a factor of J'J + diagonal, or None; and J over the diagonal's root.

        For fewer residuals the factor is of A A' + 1, with the second matrix A.
        """
        state, size, side = call.whole, call.size, call.whole.side
        by_root = call.room[state.jacobian :][: state.dual * side * size].reshape(-1, size)
        if state.dual:
            by_root = by_root / np.sqrt(diagonal)
            whole = by_root @ by_root.T + np.eye(side)
        else:
            whole = call.room[state.gram :][: side**2].reshape(side, side) + np.diag(diagonal)
        found, failed = dpotrf(whole)
        return (None if failed else found), by_root

    def _solve(self, call: Any, damping: float) -> bool:
        """Write the step of the damped equations; return False if rounding leaves none."""
        diagonal, down = damping + call.precisions, call.down
        factor, by_root = self._factored(call, diagonal)
        if factor is None:
            return False
        if call.whole.dual:  # without J; what J changes is of its rank (Woodbury)
            alone = down / np.sqrt(diagonal)
            found = (alone - dpotrs(factor, by_root @ alone)[0] @ by_root) / np.sqrt(diagonal)
        else:
            found = dpotrs(factor, down)[0]
        call.along[...] = -found
        return True

    def _determined(self, call: Any, ratio: float, most: float) -> float:
        """Return how many of `most` parameters the data determine.

        ratio : the prior's precision over the noise's
        """
        side = call.whole.side
        factor, _ = self._factored(call, np.full(call.size, ratio)) if ratio else (None, None)
        if factor is None:
            return float(min(side, most))
        inverse, _ = dpotri(factor)
        return float(side - np.trace(inverse) * (1.0 if call.whole.dual else ratio))
