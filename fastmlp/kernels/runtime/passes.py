"""Passes of rows forward through a trained network, and of cotangents back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmlp.kernels.codes import ACTIVATION_CODES
from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.program.pass_templates import COLUMN_BYTES
from fastmlp.kernels.program.records import WORDS
from fastmlp.kernels.runtime.described import resting_shape_of
from fastmlp.kernels.runtime.session import Session
from fastmlp.model.activations import Activation
from fastmlp.model.network import Network
from fastmlp.model.state import Array

BY_OUTPUTS, BY_INPUTS = WORDS["by_outputs"], WORDS["by_inputs"]

BLOCK_BYTES = 1 << 20
"""The bytes of a block's units, logits and deltas: an L2 cache, or half."""


def block_rows(network: Network, dtype: np.dtype[Any], rows: int) -> int:
    """Return the rows of a block, of blocks as equal as can be."""
    units = sum(op.width for op in network.operations)
    most = max(64, BLOCK_BYTES // (3 * units * dtype.itemsize))
    return -(-rows // -(-rows // most))


def column_rows(dtype: np.dtype[Any]) -> int:
    """Return the rows that are the columns of a block."""
    return COLUMN_BYTES // dtype.itemsize


class RowPasses:
    """The passes of a backend through a network at rest, where nothing is dropped.

    network : without blocks of inputs; rows : of a call, at most
    """

    def __init__(self, code: Entries, network: Network, parameters: Array, rows: int) -> None:
        dtype = parameters.dtype
        self.network, self.parameters, self.rows = network, parameters, block_rows(network, dtype, rows)
        self._operations = resting_shape_of(network).records["operations"].copy()
        self.outputs = np.empty((self.rows, network.n_out), dtype)
        self._session = Session(code, network, dtype, self.rows)
        self._session.set({
            "operations": self._operations, "parameters": parameters, "gradients": np.empty_like(parameters),
            "out": self.outputs, "by_outputs": self.outputs, "by_inputs": self.outputs, "by_inputs_rows": 0,
        })  # fmt: skip

    def serves(self, network: Network, parameters: Array, rows: int) -> bool:
        """Return True if these passes serve a network and a number of rows."""
        same = parameters is self.parameters and network == self.network
        return same and block_rows(network, parameters.dtype, rows) <= self.rows

    def forget(self) -> None:
        """Let go of the arrays of a call: rows, targets, and what was written."""
        arrays = ("inputs", "targets", "weights", "losses", "by_outputs", "by_inputs", "tangents")
        self._session.set(dict.fromkeys(arrays, self.outputs) | {"out": self.outputs})

    def forward(self, inputs: Array) -> Array:
        """Return the outputs (rows, n_out) of rows (rows, n_in), until the next call."""
        rows = len(inputs)
        self._run("forward", inputs=inputs, samples=rows, by_inputs_rows=0)
        return self.outputs[:rows]

    def squared_norms(self, inputs: Array, targets: Array) -> Array:
        """Return the squared norms (rows,) of the gradients of each row's own loss, of a chain."""
        rows = len(inputs)
        weights, norms = np.ones(rows, inputs.dtype), np.empty(rows)
        self._run(
            "loss_backward", inputs=inputs, targets=targets, weights=weights, head_totals=np.ones(1),
            losses=norms, samples=rows, steps=rows,
        )  # fmt: skip
        return norms

    def _run(self, template: str, **values: Any) -> None:
        self._session.set(values)
        self._session.entry(template)(self._session.address)

    def back(self, by_outputs: Array, by_inputs: Array | None = None) -> None:
        """Take cotangents of the outputs (directions, rows, n_out) back, direction after direction.

        by_inputs : (directions, rows, n_in), overwritten with the inputs' cotangents; None for no output
        """
        session, words = self._session, self._session.words
        session.set({"by_outputs": by_outputs, "by_inputs_rows": 0})
        if by_inputs is not None:
            session.set({"by_inputs": by_inputs, "by_inputs_rows": by_inputs.shape[1]})
        for _ in range(len(by_outputs)):
            self._run("input_backward")
            words[BY_OUTPUTS] += by_outputs.strides[0]
            words[BY_INPUTS] += 0 if by_inputs is None else by_inputs.strides[0]

    def jacobian(self, inputs: Array, out: Array) -> None:
        """Write the Jacobians (rows, n_out, n_in) of rows of a chain to out.

        It takes `column_rows` rows at least, `jvp` and `hessian` twice as many.
        """
        rows = len(inputs)
        self._run(
            "jacobian", inputs=inputs, samples=rows, by_inputs=out, by_inputs_rows=rows * self.network.n_out
        )

    def jvp(self, inputs: Array, tangents: Array, out: Array) -> None:
        """Write the Jacobians of such rows times tangents (rows, n_in) to out (rows, n_out)."""
        self._run("jvp", inputs=inputs, samples=len(inputs), tangents=tangents, out=out)

    def hessian(
        self, inputs: Array, by_outputs: Array, tangents: Array, slopes: Sequence[Activation], out: Array
    ) -> None:
        """Write second derivatives of by_outputs (rows, n_out) times the outputs of such rows to out.

        tangents : (rows, n_in), along which, where out is (rows, n_in); not read of (rows, n_in, n_in)
        slopes : of the activations of all operations, as activations
        """
        self._operations["curvature"] = [*map(ACTIVATION_CODES.code, slopes)]
        count = out.size // self.network.n_in
        arrays = {"by_outputs": by_outputs, "tangents": tangents, "by_inputs": out, "by_inputs_rows": count}
        self._run("hessian", inputs=inputs, samples=len(inputs), **arrays)
