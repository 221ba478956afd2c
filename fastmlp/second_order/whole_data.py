"""Steps of all rows in the place of a backend.

The moments have all numbers for the next step, and so do files of the training. A call takes several steps,
up to the next epoch for a callback.
"""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend.choice import current_backend
from fastmlp.kernels.program import whole_steps as steps
from fastmlp.kernels.program.records import WHOLE, WHOLE_VECTORS
from fastmlp.model.backend import Backend, Chunk, Data
from fastmlp.model.layout import aligned
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.second_order import WholeDataOptimizer
from fastmlp.model.state import TrainState
from fastmlp.second_order.levenberg_marquardt import Equations
from fastmlp.second_order.objective import WholeObjective, in_numpy
from fastmlp.training.loop import Report, TrainingLoop

CURVES = {"gradient": 1, "damping": 2, "prior_precision": 3, "noise": 4, "effective_parameters": 5}
"""The rows of a call's curves by history name."""


class WholeDataSteps:
    """A training's steps on all rows.

    The first moment is the rest of a parameter after float32, so that parameters stay in float64 from the
    first step to the last. Then come the numbers of the rule, each in a row, and the pairs.

    now, name : the backend, and the name; report : of the last chunk
    """

    def __init__(self, training: TrainingLoop) -> None:
        optimizer, network = training.optimizer, training.network
        assert isinstance(optimizer, WholeDataOptimizer)
        self.now: Backend = current_backend(training.backend)  # type: ignore[arg-type]
        self.name, self.evaluate = self.now.name, self.now.evaluate
        self.report = Report({}, None)
        self.objective = objective = WholeObjective(network, training.data, self.now)
        size, states = len(objective.curvature), np.zeros(1, WHOLE).view(np.recarray)
        state = states[0]
        for name in {*(WHOLE.names or ())} & {*dir(optimizer)} - {*optimizer.numbers}:
            value = getattr(optimizer, name)
            state[name] = np.nan if value is None else value
        state.divisor = 1.0 if network.heads else network.objective.value_divisor
        equations = (
            Equations(optimizer, objective, state) if optimizer.whole == "levenberg_marquardt" else None
        )
        length = equations.length if equations else optimizer.vectors
        vectors = dict(zip(WHOLE_VECTORS, np.zeros((len(WHOLE_VECTORS), size)), strict=True))
        self.call = call = types.SimpleNamespace(
            parameters=np.full(size, np.nan), gradients=np.zeros(size), size=size, iterations=0, whole=state,
            moments=np.zeros((optimizer.vectors, size)), curves=np.empty((6, 0)),
            room=aligned(length, np.float64), **vectors,
        )  # fmt: skip
        """Arrays and numbers by the names of `fastmlp.kernels.program.records`."""
        call.curved[...] = objective.curvature
        self._run: Callable[..., Any]
        arrays = network, call.parameters, objective.data, call.gradients
        if equations is not None:
            call.trained[...] = equations.trained
        if self.now.bind is not None and (equations is None or equations.is_compiled):
            given = {
                "whole": states, "room": call.room, "room_length": length, "moments": call.moments,
                "moment_rows": optimizer.vectors, **vectors,
            }  # fmt: skip
            products = equations.products if equations else ()
            self._run = self.now.bind(*arrays, optimizer.whole, products, **given)
        else:
            operations: dict[str, Any] = {"loss_at": lambda call: objective.value(call.parameters)[0]}
            if equations is not None:
                operations |= equations.in_numpy()
            else:
                taken = self.now.bound(*arrays)
                operations["gradient_at"] = lambda call: taken()
            text = in_numpy(**operations)[optimizer.whole]

            @np.errstate(all="ignore")  # a step may be too long for any number
            def run(**given: Any) -> None:
                vars(call).update(given)
                text(call, 0, 1)

            self._run = run

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
        """Take a chunk's steps, up to the end of the rule."""
        assert isinstance(optimizer, WholeDataOptimizer)
        call, whole, most = self.call, self.call.whole, losses.shape[-1]
        parameters, moments, count = state.parameters, state.moments, 1 + len(optimizer.numbers)
        numbers, point = moments[1:count], parameters.astype(np.float64) + moments[0]
        whole.single = parameters.dtype != np.float64
        known = all(whole[name] == row[0] for name, row in zip(optimizer.numbers, numbers, strict=True))
        if not known or not np.array_equal(point, call.parameters):
            call.parameters[...], whole.known = point, 0
            call.moments[...] = moments[count : count + optimizer.vectors]
            for name, row in zip(optimizer.numbers, numbers, strict=True):
                whole[name] = row[0]
        curves, taken, whole.reason = np.empty((6, most)), 0, 0
        while taken < most and not whole.reason and (not taken or np.isfinite(curves[0, taken - 1])):
            if network.heads:  # the losses of heads are those of one point
                losses[:, taken] = self.objective.value(call.parameters)
            now = np.empty((6, 1 if network.heads else most))
            self._run(curves=now, iterations=now.shape[1])
            curves[:, taken : taken + whole.taken] = now[:, : whole.taken]
            taken += int(whole.taken)
        if not network.heads:
            losses[:taken] = curves[0, :taken]
        parameters[...] = call.parameters
        moments[0] = call.parameters - parameters
        for name, row in zip(optimizer.numbers, numbers, strict=True):
            row[...] = whole[name]
        moments[count : count + optimizer.vectors] = call.moments
        columns = {name: curves[CURVES[name], :taken].tolist() for name in optimizer.columns}
        self.report = Report(columns, self._reason(optimizer, float(curves[0, taken - 1]), columns))
        return state.at(state.step + taken)

    def _reason(
        self, optimizer: WholeDataOptimizer, loss: float, columns: dict[str, list[float]]
    ) -> str | None:
        """Return why the steps have ended, if so; loss : the last in the history"""
        given: Any = optimizer
        match self.call.whole.reason:
            case steps.GOAL:
                return f"the loss is {loss:.3g}, and the goal {given.goal:g}"
            case steps.FLAT:
                return f"the gradient's norm is {columns['gradient'][-1]:.3g}, below {given.min_gradient:g}"
            case steps.NO_LOWER:
                return "no step along the gradient lowers the loss any more"
            case steps.DAMPED:
                return f"no step lowers the objective with a damping up to {given.max_damping:g}"
        return None
