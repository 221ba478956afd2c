"""Steps that read all rows: the objective in float64, and what stands between the loop and a rule.

A rule is a module of this folder with a `STEPS(optimizer, objective)`, whose `step` takes one step. All that
a step depends on is in its `Iterate`, so that a file of the training has it: `STEPS` keeps what it may
compute again, as buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend.choice import current_backend
from fastmlp.backend.reference import penalize
from fastmlp.model.backend import Array, Backend, Chunk, Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.rows import ByteRows, Inputs, SparseRows, unpacked
from fastmlp.model.second_order import WholeDataOptimizer
from fastmlp.model.state import TrainState
from fastmlp.trained import format_of
from fastmlp.training.loop import Plan, Report

Vector = NDArray[np.float64]


class Value(NamedTuple):
    """The objective at a point.

    minimised : of which gradients are the derivative; not finite where the objective is not
    reported : for the history, with heads (1 + heads,)
    """

    minimised: float
    reported: Any


class WholeObjective:
    """The objective of all rows, with its penalties, as a function of parameters (P,) in float64.

    Attributes
    ----------
    network, backend : of losses and gradients
    inputs, data : rows with all numbers in float64; the inputs once more, as they are in data
    threads : that a call may use at most, as of `fit`
    total : the weight of all rows
    curvature : (P,) the second derivative of the penalties by each parameter
    """

    def __init__(self, network: Network, data: Data, backend: Backend) -> None:
        self.network, self.backend = network, backend
        self.inputs = _in_float64(data.inputs)
        others = (array.astype(np.float64, copy=False) for array in data[1:])
        self.data = Data(self.inputs, *others)
        self.threads: int | None = None
        self.total = float(self.data.weights.sum())
        size = parameter_count(network)
        self.curvature = np.zeros(size)
        penalize(network, np.ones(size), self.total, self.curvature)
        self._known: tuple[Vector, Value] | None = None
        self._divisor = 1.0 if network.heads else network.objective.value_divisor

    def value(self, parameters: Vector) -> Value:
        """Return the objective at a point; that of the last point is known."""
        known = self._known
        if known is None or not np.array_equal(known[0], parameters):
            with np.errstate(all="ignore"):
                loss = self.backend.evaluate(self.network, parameters, self.data)
            known = self._known = parameters.copy(), self._with_penalties(loss, parameters)
        return known[1]

    def gradients(self, parameters: Vector, out: Vector) -> Callable[[], Value]:
        """Return a function that writes the gradient to out (P,) and returns the objective.

        It is called again and again, at the numbers that are in parameters (P,) then. With heads it reports
        the sum alone.
        """
        taken = self.backend.bound(self.network, parameters, self.data, out)

        def value() -> Value:
            loss = taken()
            if self._divisor == 1:
                return Value(loss, loss)
            penalties = self._penalties(parameters)
            return Value((loss - penalties) * self._divisor + penalties, loss)

        return value

    def _penalties(self, parameters: Vector) -> float:
        return float((self.curvature * parameters * parameters).sum()) / 2

    def _with_penalties(self, loss: Any, parameters: Vector) -> Value:
        penalties = self._penalties(parameters)
        if self.network.heads:
            loss[0] += penalties
            return Value(float(loss[0]), loss)
        return Value(loss * self._divisor + penalties, loss + penalties)


def _in_float64(given: Inputs | ByteRows) -> Inputs:
    """Return rows whose numbers are in float64, dense or sparse."""
    inputs = unpacked(given)
    if not isinstance(inputs, SparseRows):
        return inputs.astype(np.float64, copy=False)
    values, dense = (array.astype(np.float64, copy=False) for array in (inputs.values, inputs.dense))
    return SparseRows(inputs.indptr, inputs.indices, values, inputs.n_in, dense)


class Iterate(NamedTuple):
    """What a step begins with, and writes for the next one.

    parameters : (P,) float64
    numbers : by the names of `WholeDataOptimizer.numbers`; 0 before the first step
    vectors : (vectors, P) of the training's dtype, 0 before the first step
    """

    parameters: Vector
    numbers: dict[str, float]
    vectors: Array


class Taken(NamedTuple):
    """What a step has to say.

    objective : `Value.reported` before the step; not finite where the training has diverged
    columns : a number for each of `Optimizer.columns`
    stop_reason : why no further step is taken, if so
    """

    objective: Any
    columns: dict[str, float]
    stop_reason: str | None = None


def reason_to_stop(optimizer: Any, loss: float, norm: float) -> str | None:
    """Return why the steps end at a loss and a norm of its gradient, by `goal` and `min_gradient`."""
    if optimizer.goal is not None and loss <= optimizer.goal:
        return f"the loss is {loss:.3g}, and the goal {optimizer.goal:g}"
    if norm < optimizer.min_gradient:
        return f"the gradient's norm is {norm:.3g}, below {optimizer.min_gradient:g}"
    return None


class WholeDataRule(Protocol):
    """Takes steps of one objective."""

    def step(self, at: Iterate) -> Taken:
        """Take a step from an iterate, which is written."""


class WholeDataSteps:
    """The steps of a plan whose optimiser reads all rows, in the place of a backend.

    The first moment is what float32 leaves of a parameter, so that parameters stay in float64 from the first
    step to the last; then come the numbers of the rule, each in a row of its own, and its vectors.

    now, name : the backend, and its name; report : of the last chunk
    """

    def __init__(self, plan: Plan) -> None:
        assert isinstance(plan.optimizer, WholeDataOptimizer)
        self.now: Backend = current_backend(plan.backend)  # type: ignore[arg-type]
        self.name, self.evaluate = self.now.name, self.now.evaluate
        self.report = Report({}, None)
        self.objective = WholeObjective(plan.network, plan.data, self.now)
        made = format_of(plan.optimizer.whole).STEPS(plan.optimizer, self.objective)
        self._rule: WholeDataRule = made

    def train_chunk(
        self,
        network: Network,
        optimizer: Optimizer,
        state: TrainState,
        data: Data,
        chunk: Chunk,
        key: int,
        threads: int | None,
        losses: NDArray[np.float64],
    ) -> TrainState:
        """Take a chunk's steps, fewer where the rule comes to its end or the objective is not finite."""
        assert isinstance(optimizer, WholeDataOptimizer)
        self.objective.threads = threads
        parameters, moments, kind = state.parameters, state.moments, state.parameters.dtype.type
        count = 1 + len(optimizer.numbers)
        numbers = dict(zip(optimizer.numbers, moments[1:count, 0].tolist(), strict=True))
        columns: dict[str, list[float]] = {name: [] for name in optimizer.columns}
        vectors, reason = moments[count : count + optimizer.vectors], None
        for step in range(len(chunk.starts)):
            at = Iterate(parameters.astype(np.float64) + moments[0], numbers, vectors)
            taken = self._rule.step(at)
            losses[..., step], reason = taken.objective, taken.stop_reason
            parameters[...] = at.parameters
            moments[0] = at.parameters - parameters
            numbers.update({name: float(kind(value)) for name, value in numbers.items()})
            for name, value in taken.columns.items():
                columns[name].append(value)
            if reason is not None or not np.isfinite(taken.objective).all():
                break
        moments[1:count] = np.array([*numbers.values()])[:, None]
        self.report = Report(columns, reason)
        return state.at(state.step + step + 1)
