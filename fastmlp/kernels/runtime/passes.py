"""Rows that go forward through a trained network, and cotangents that come back, as often as is wanted."""

from __future__ import annotations

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

BLOCK_BYTES = 1 << 19
"""The bytes of all units of a block of rows, of their logits and of their deltas: half of most L2 caches."""


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
        dtype, units = parameters.dtype, sum(one.width for one in network.operations)
        self.rows = max(1, min(rows, max(64, BLOCK_BYTES // (3 * units * dtype.itemsize))))
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
        self._forward, self._back = (
            entries.get(template, NAMES[dtype]).on(self._call.address)
            for template in ("forward", "input_backward")
        )

    def forward(self, inputs: Array) -> Array:
        """Return the outputs (rows, n_out) of rows (rows, n_in), until the next call."""
        rows = len(inputs)
        self._call.set({"inputs": inputs, "samples": rows, "by_inputs_rows": 0})
        if (failed := self._forward()) is not None:
            raise error_of(failed)
        return self.outputs[:rows]

    def back(self, by_outputs: Array, by_inputs: Array | None = None) -> None:
        """Take cotangents of the outputs (rows, n_out) back; write those of the inputs (rows, n_in)."""
        self._call.set({"by_outputs": by_outputs, "by_inputs_rows": 0})
        if by_inputs is not None:
            self._call.set({"by_inputs": by_inputs, "by_inputs_rows": len(by_inputs)})
        if (failed := self._back()) is not None:
            raise error_of(failed)

    def units(self, buffer: str, operation: Operation, rows: int) -> Array:
        """Return the units (rows, width) of an operation in "activations" or in "deltas"."""
        start = self._call.words[WORDS[buffer]] + operation.units * rows
        return self._memory[start : start + rows * operation.width].reshape(rows, operation.width)
