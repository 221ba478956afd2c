"""Programs of vectors: their constants, and the places of numbers in the workspace.

This file loads no compiler.
"""

from __future__ import annotations

from typing import NamedTuple

from fastmlp.kernels.codes import ACTIVATION_CODES
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.small.padded import Step
from fastmlp.model.operations import INPUTS
from fastmlp.model.rules import ROOM_FOR_CONSTANTS

BLOCK_ROWS = LOSS_ROWS
"""Rows of a network that are taken together: a part of the sum of losses."""

ROWS_INPUTS, ROWS_TARGETS, ROWS_WEIGHTS = range(3)
"""The data of a network, in the order of addresses."""

STRIDES = 3
"""Numbers of a call's `lane_places` after the addresses: see `LaneSteps.strides`."""

L2, STEPS, CLIP_NORM, KEY, LOSS_PARAMETERS = range(ROOM_FOR_CONSTANTS, ROOM_FOR_CONSTANTS + 5)
"""Rows of a call's `lane_numbers`, after the constants of a rule; after the loss's parameters come a threshold and a
scale of each operation that drops units, and the hyperparameters of all operations."""


class LaneConstants(NamedTuple):
    """All constants of a program of vectors; all else is data.

    operations : first to last; an operation's dropout is 1 or 0, the rate is data
    output, loss, rule : keys of pieces
    clips, convention : of the objective; l2 : whether there is an l2 penalty
    clips_norm : whether gradients are clipped
    dtype : of the numbers; lanes : of a vector
    rows : of every step, where all loops are unrolled; else 0
    stays : whether all steps visit the same rows in the same order
    """

    operations: tuple[Step, ...]
    output: str
    loss: str
    rule: str
    convention: str
    clips: bool
    l2: bool
    clips_norm: bool
    dtype: str
    lanes: int
    rows: int = 0
    stays: bool = False

    @property
    def n_in(self) -> int:
        """Columns of X."""
        return self.operations[0].n_in

    @property
    def n_out(self) -> int:
        """Units of the last operation."""
        return self.operations[-1].n_out

    @property
    def parameters(self) -> int:
        """How many numbers the flat vector has."""
        last = self.operations[-1]
        return last.flat + sum(lengths(last))

    def row_of_dropout(self, number: int) -> int:
        """Return the row of `lane_numbers` with the threshold of an operation's dropout; its scale follows."""
        return LOSS_PARAMETERS + self.n_out + 2 * sum(one.dropout > 0 for one in self.operations[:number])

    def row_of_numbers(self, number: int) -> int:
        """Return the row of `lane_numbers` with the first hyperparameter of an operation."""
        before = self.operations[:number]
        return self.row_of_dropout(len(self.operations)) + sum(one.numbers for one in before)

    @property
    def numbers(self) -> int:
        """The rows of `lane_numbers`."""
        return self.row_of_numbers(len(self.operations))


def lengths(one: Step) -> tuple[int, int]:
    """Return an operation's numbers of weights and biases, or of a gain and a shift."""
    return (one.n_in * one.n_out, one.n_out) if one.kind == "dense" else one.entry.lengths(one.n_out)


class UnitPlaces(NamedTuple):
    """Places of an operation's numbers for a block of rows, row after row; -1 for numbers not stored.

    outputs : before dropout; dropped : after dropout, or the outputs
    logits : where the activation's derivative reads logits; saved : of a norm
    """

    outputs: int
    dropped: int
    logits: int
    deltas: int
    saved: int


class LaneLayout(NamedTuple):
    """Places in the workspace, in vectors. The gradients lie first, as the flat vector.

    units : of every operation
    ends : for each operation, whether the tiles of its only reader multiply its deltas by the slope
    size : of all these, and the place of the rows that are gathered
    """

    units: tuple[UnitPlaces, ...]
    ends: tuple[bool, ...]
    size: int


def layout_of(constants: LaneConstants) -> LaneLayout:
    """Return the layout of the workspace."""
    operations, at, units, ends = constants.operations, constants.parameters, [], []

    def take(count, needed=True):
        nonlocal at
        start, at = at, at + count * BLOCK_ROWS * needed
        return start if needed else -1

    for number, one in enumerate(operations):
        outputs = take(one.n_out)
        drops, saved = one.dropout > 0, one.subrows * one.entry.saved
        entry = ACTIVATION_CODES.of_key(one.activation)
        reads_logits = "z" in entry.reads
        keeps_logits = reads_logits and one.kind == "dense" and number < len(operations) - 1
        units.append(
            UnitPlaces(
                outputs, take(one.n_out) if drops else outputs, take(one.n_out, keeps_logits),
                take(one.n_out), take(saved, saved > 0),
            )
        )  # fmt: skip
        readers = [reader for reader in operations for source in reader.sources if source == number]
        joined = len(readers) == 1 and {one.kind, readers[0].kind} == {"dense"}
        ends.append(joined and not drops and entry.short_backward and not reads_logits)
    return LaneLayout((*units,), (*ends,), at)


def reads_rows(operations: tuple[Step, ...], number: int) -> bool:
    """Return whether an operation gives the rows of X, so that no step needs its deltas."""
    return number == INPUTS or (operations[number].kind == "copy" and operations[number].sources == (INPUTS,))
