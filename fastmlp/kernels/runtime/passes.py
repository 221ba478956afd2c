"""Passes of rows forward through a trained network, and of cotangents back."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit.engine import error_of
from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.program.records import WORDS, Call
from fastmlp.kernels.runtime.calls import NAMES, NetworkCall
from fastmlp.kernels.runtime.described import no_rules, resting_shape_of
from fastmlp.kernels.variant import Choice
from fastmlp.model.network import Network
from fastmlp.model.operations import Operation

Array = NDArray[Any]

BY_OUTPUTS, BY_INPUTS = WORDS["by_outputs"], WORDS["by_inputs"]

BLOCK_BYTES = 1 << 20
"""The bytes of all units of a block of rows, of their logits and of their deltas: an L2 cache, or half."""


def block_rows(network: Network, dtype: np.dtype[Any], rows: int) -> int:
    """Return the rows of a block, of blocks as equal as can be."""
    units = sum(one.width for one in network.operations)
    most = max(64, BLOCK_BYTES // (3 * units * dtype.itemsize))
    return -(-rows // -(-rows // most))


class RowPasses:
    """The passes of a variant through a network at rest, where nothing is dropped.

    Parameters
    ----------
    choice, entries : of the variant
    network : without blocks of inputs; parameters : (P,) floating
    rows : that a call will take, at most
    """

    def __init__(
        self, choice: Choice, entries: Entries, network: Network, parameters: Array, rows: int
    ) -> None:
        dtype = parameters.dtype
        self.network, self.parameters, self.rows = network, parameters, block_rows(network, dtype, rows)
        call = NetworkCall(None, choice.buffers, network, dtype, self.rows)
        self.outputs = np.empty((self.rows, network.n_out), dtype)
        rest, none = resting_shape_of(network), no_rules(len(network.operations))
        call.set({
            "parameters": parameters, "out": self.outputs, "gradients": np.empty_like(parameters),
            "by_outputs": self.outputs, "by_inputs": self.outputs, "by_inputs_rows": 0,
        })  # fmt: skip
        self._call = Call(call.words, {"rules": none.address, "moment_rows": none.moments}, call, none, rest)
        self._call.words[WORDS["operations"]] = rest.words["operations"]
        self._memory = call.array("memory")
        address = self._call.address  # of itself it would be a cycle, which keeps the memory
        self._run = functools.cache(lambda template: entries.get(template, NAMES[dtype]).on(address))

    def serves(self, network: Network, parameters: Array, rows: int) -> bool:
        """Return whether these passes can be used again for a network and a number of rows."""
        same = parameters is self.parameters and network == self.network
        return same and block_rows(network, parameters.dtype, rows) <= self.rows

    def forget(self) -> None:
        """Let go of the arrays of a call: rows, targets, and what was written."""
        arrays = ("inputs", "targets", "weights", "by_outputs", "by_inputs")
        self._call.set(dict.fromkeys(arrays, self.outputs))

    def forward(self, inputs: Array) -> Array:
        """Return the outputs (rows, n_out) of rows (rows, n_in), until the next call."""
        rows = len(inputs)
        self._call.set({"inputs": inputs, "samples": rows, "by_inputs_rows": 0})
        self._pass("forward")
        return self.outputs[:rows]

    def loss_back(self, inputs: Array, targets: Array) -> None:
        """Take rows of a chain forward, and the deltas of each row's loss back."""
        weights = np.ones(len(inputs), inputs.dtype)
        self._call.set({"inputs": inputs, "targets": targets, "weights": weights, "samples": len(inputs)})
        self._pass("loss_backward")

    def _pass(self, template: str) -> None:
        if (failed := self._run(template)()) is not None:
            raise error_of(failed)

    def back(self, by_outputs: Array, by_inputs: Array | None = None) -> None:
        """Take cotangents of the outputs (directions, rows, n_out) back, direction after direction.

        by_inputs : (directions, rows, n_in), where those of the inputs are written; None for nowhere
        """
        call, words, directions = self._call, self._call.words, len(by_outputs)
        call.set({"by_outputs": by_outputs, "by_inputs_rows": 0})
        if by_inputs is not None:
            call.set({"by_inputs": by_inputs, "by_inputs_rows": by_inputs.shape[1]})
        for _ in range(directions):
            self._pass("input_backward")
            words[BY_OUTPUTS] += by_outputs.strides[0]
            words[BY_INPUTS] += 0 if by_inputs is None else by_inputs.strides[0]

    def units(self, buffer: str, operation: Operation, rows: int) -> Array:
        """Return an operation's units (rows, width) in "activations" or "deltas"."""
        start = self._call.words[WORDS[buffer]] + operation.units * rows
        return self._memory[start : start + rows * operation.width].reshape(rows, operation.width)
