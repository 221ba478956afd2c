"""Single training steps for `Stepper`: the interface, the reference's steps, and the choice."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend import reference, registry
from fastmlp.model.backend import Batch, Data
from fastmlp.model.network import Network
from fastmlp.model.operations import table_marks
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.rows import Inputs, SparseRows, dense_columns, find_nonzero_columns
from fastmlp.model.state import TrainState


class Steps(Protocol):
    """The steps of a network on the arrays of a state; `at` is the number of earlier steps.

    A batch is in the first rows of `Batch`; sparse inputs are passed instead of the buffer's inputs.

    rates : (1, 2) float64, the learning rates of weights and of biases, written by the caller
    """

    rates: NDArray[np.float64]

    def step(self, rows: int, total: float, at: int, sparse: SparseRows | None) -> float:
        """Take a whole step; return the objective before. total : the sum of the rows' weights"""

    def forward(self, rows: int, training: bool, at: int, sparse: SparseRows | None) -> None:
        """Write the outputs; training : True drops units."""

    def backward(self, by_inputs: bool) -> None:
        """Write a loss's gradient to the state's, given the derivative by the last outputs of `forward`.

        by_inputs : True writes the derivative by the inputs, too
        """

    def update(self, at: int) -> None:
        """Apply the state's gradient, with penalties and clipping; the gradient array stays."""


def steps_of(
    name: str,
    network: Network,
    optimizer: Optimizer,
    state: TrainState,
    batch: Batch,
    key: int,
    threads: int,
) -> Steps:
    """Return the steps of a backend. key : of the dropout masks"""
    if registry.is_reference(name):
        return ReferenceSteps(network, optimizer, state, batch, key)
    from fastmlp.kernels.runtime.stepping import CompiledSteps

    return CompiledSteps(registry.entries(name), network, optimizer, state, batch, key, threads)


class ReferenceSteps:
    """The steps of the reference."""

    def __init__(
        self, network: Network, optimizer: Optimizer, state: TrainState, batch: Batch, key: int
    ) -> None:
        self._network, self._optimizer, self._state, self._key = network, optimizer, state, key
        self._applied, self._batch = state._replace(gradients=np.empty_like(state.gradients)), batch
        self.rates = np.zeros((1, 2))
        self._inputs: Inputs | None = None
        self._rows = 0

    def step(self, rows: int, total: float, at: int, sparse: SparseRows | None) -> float:
        """Take a step; return the loss."""
        batch, applied = self._batch, self._applied.gradients
        inputs = batch.inputs[:rows] if sparse is None else sparse
        data = Data(inputs, batch.targets[:rows], batch.weights[:rows])
        parameters = self._state.parameters
        loss: Any = reference.gradient(self._network, parameters, data, self._key, at, applied, moves=True)
        self._apply(inputs, at)
        return float(loss[0] if self._network.heads else loss)

    @reference.DIVERGING
    def forward(self, rows: int, training: bool, at: int, sparse: SparseRows | None) -> None:
        """Compute outputs of the batch's rows."""
        network, parameters = self._network, self._state.parameters
        self._inputs, self._rows = self._batch.inputs[:rows] if sparse is None else sparse, rows
        self._passed = reference.pass_forward(
            network, parameters, self._inputs, self._key if training else None, at
        )
        if training:
            reference.move_state(network, parameters, self._passed)
        self._batch.outputs[:rows] = reference.outputs(network, self._passed)

    @reference.DIVERGING
    def backward(self, by_inputs: bool) -> None:
        """Compute gradients from the derivatives by the outputs."""
        network, parameters, rows = self._network, self._state.parameters, self._rows
        delta = reference.by_logits(network, self._passed, self._batch.by_outputs[:rows])
        by_rows = reference.pass_back(
            network, parameters, self._passed, delta, self._state.gradients, by_inputs=by_inputs
        )
        if by_inputs:
            self._batch.by_inputs[:rows] = by_rows

    @reference.DIVERGING
    def update(self, at: int) -> None:
        """Apply the gradients, with penalties added."""
        applied = self._applied.gradients
        np.copyto(applied, self._state.gradients)
        reference.penalize(self._network, self._state.parameters, self._rows, applied)
        self._apply(self._inputs, at)

    def _apply(self, inputs: Inputs | None, at: int) -> None:
        optimizer, nonzero_columns = self._optimizer, None
        if optimizer.rule.sparse_updates and inputs is not None:
            nonzero_columns = find_nonzero_columns(inputs)
        rate, bias_rate = self.rates[0].tolist()
        marks = None
        if self._network.updates_sparsely(optimizer) and inputs is not None:
            marks = table_marks(self._network.operations, dense_columns(inputs))
        reference.update(
            self._network, optimizer, self._applied.at(at), rate, bias_rate, nonzero_columns, marks
        )
