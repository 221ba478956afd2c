"""Fused elementwise operations ("runs"), with each number in registers throughout.

Each operation has the formula of its kind; the backward pass computes the numbers in between again.
`Operation.run` says which operations are a run.
"""

# mypy: ignore-errors

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types

from fastmlp.kernels.codegen.scalars import backward_of
from fastmlp.kernels.codegen.symbols import INT, Symbol
from fastmlp.kernels.codegen.vectors import NumberArray, Vectors, counted, of_code, shifted, smaller
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.row_formulas import LANES, unit_gradient, unit_value
from fastmlp.kernels.program.row_operations import number_at
from fastmlp.model.custom import BIAS
from fastmlp.model.operations import Kind, UnitRun

STRIP = 512
"""Units whose sums and parameters stay in L1 while the rows of a part are read."""


class RunPart(NamedTuple):
    """An operation of a run in code being written.

    part : the kind, or the activation
    parameters : addresses of gain and shift, as far as present
    numbers : hyperparameters
    sums : the offset of the gain's sums among all sums, a `Symbol`; length : of both sums
    """

    part: Any
    parameters: Any
    numbers: Any
    sums: Any
    length: Any

    def value(self, x, own):
        """Return the formula of a number; own : its parameters"""
        return (
            unit_value(self.part, x, own, self.numbers)
            if isinstance(self.part, Kind)
            else self.part.formula(x)
        )

    def gradient(self, delta, x, own):
        """Return the derivatives by the number, and by parameters other than a shift."""
        if isinstance(self.part, Kind):
            return unit_gradient(self.part, delta, x, own, self.numbers)
        return [backward_of(self.part, delta, x, x.number(self.part.formula(x)))]


class RunWriter:
    """Writes a run for numbers of the same type.

    v : vectors of LANES lanes; width : of a row, a `Symbol`; chain : the run's operations in order
    """

    def __init__(self, run, operations, last, parameters, z):
        """operations : all; last : the number of the run's last operation"""
        self.builder, self.v = z.builder, Vectors(z.builder, z.dtype, LANES * z.itemsize)
        self.rows, self.width, self.z = z.rows, z.columns, z.data
        record, base = operations.dtype, parameters.data
        self.chain = []
        for number, part in enumerate(run.parts, 1 - len(run.parts)):
            own = shifted(self.builder, operations.data, ((last + number) * record.size).value)
            weights, biases, trained, sums = (
                self._field(own, record.offset(name)) for name in ("weights", "biases", "trained", "sums")
            )
            parameters = part.parameters if isinstance(part, Kind) else ()
            places = [
                self.v.shift(base, (biases if one.shape == BIAS else weights) * self.v.itemsize)
                for one in parameters
            ]
            place = shifted(self.builder, own, INT(record.offset("numbers")))
            numbers = NumberArray(self.builder, types.float64, place)
            count = len(part.row.numbers) if isinstance(part, Kind) else 0
            given = [number_at(numbers, i, self.v.itemsize) for i in range(count)]
            self.chain.append(RunPart(part, places, given, sums, trained - weights))

    def _field(self, record, offset):
        return NumberArray(self.builder, types.int64, shifted(self.builder, record, INT(offset)))[0]

    def at(self, place, unit):
        """Return the address of a number."""
        return self.v.shift(place, unit * self.v.itemsize)

    def load(self, place, unit, mask):
        """Return a vector from number `unit` on."""
        return Symbol(self.builder, self.v.load(self.at(place, unit), mask))

    def passed(self, unit, row, mask):
        """Return each operation's input and parameters; and at last the run's output.

        unit, row : of a vector, under the mask
        """
        value, found = self.load(self.z, row * self.width + unit, mask), []
        for one in self.chain:
            own = [self.load(place, unit, mask) for place in one.parameters]
            found.append((value, own))
            value = value.number(one.value(value, own))
        return found, value

    def forward(self, out):
        """Write the run of all rows to the address `out`."""
        with counted(self.builder, self.rows) as row:

            def write(unit, mask):
                _, value = self.passed(unit, row, mask)
                self.v.store(value.value, self.at(out, row * self.width + unit), mask)

            self.v.over(self.width, write)

    def backward(self, first, parts, sums, delta):
        """Replace delta by the derivative by z, and write each part's sums for gains and shifts."""
        with counted(self.builder, self.rows, LOSS_ROWS) as begin:
            part, rows = (first + begin) // LOSS_ROWS, smaller(self.rows - begin, LOSS_ROWS)
            own = [self.at(sums, one.sums * parts + part * one.length) for one in self.chain]
            with counted(self.builder, self.width, STRIP) as left:
                units = smaller(self.width - left, STRIP)
                with self.builder.if_then((first % LOSS_ROWS).equals(0).value):
                    for one, place in zip(self.chain, own, strict=True):
                        for vector in range(len(one.parameters)):
                            self.v.over(units, self._clear(place, vector * self.width + left))
                with counted(self.builder, rows) as row:
                    self.v.over(units, self._back(own, delta, begin + row, left))

    def _clear(self, place, start):
        return lambda unit, mask: self.v.store(self.v.zero, self.at(place, start + unit), mask)

    def _back(self, own, delta, row, left):
        def write(unit, mask):
            unit = left + unit
            passed, _ = self.passed(unit, row, mask)
            place = self.at(delta, row * self.width + unit)
            by_output = Symbol(self.builder, self.v.load(place, mask))
            for one, read, to in reversed([*zip(self.chain, passed, own, strict=True)]):
                found = one.gradient(by_output, *read)
                if len(one.parameters) > len(found) - 1:  # a shift, whose derivative is that by the output
                    found.append(by_output)
                by_output = found[0]
                for number, by_parameter in enumerate(found[1:]):
                    self._add(to, number * self.width + unit, by_parameter, mask)
            self.v.store(by_output.value, place, mask)

        return write

    def _add(self, place, unit, symbol, mask):
        total = self.load(place, unit, mask) + symbol
        self.v.store(total.value, self.at(place, unit), mask)


@of_code("operation", results=0)
def units_forward(run, operations, last, parameters, z, out):
    """Write a run's outputs: see `run_forward`."""
    if isinstance(run, UnitRun):
        RunWriter(run, operations, last, parameters, z).forward(out.data)


@of_code("operation", results=0)
def units_backward(run, operations, last, parameters, z, first, parts, sums, delta):
    """Write a run's deltas: see `run_backward`."""
    if isinstance(run, UnitRun):
        RunWriter(run, operations, last, parameters, z).backward(first, parts, sums.data, delta.data)


def run_forward(code, operations, last, parameters, z, out):
    """out (rows, width) = the run `code` of z (rows, width).

    operations : all of the network; last : the number of the run's last one; parameters : (P,)
    """
    units_forward(code, operations, last, parameters, z, out)


def run_backward(code, operations, last, parameters, z, first, parts, sums, delta):
    """delta (rows, width) = the derivative of the loss by z, given delta of the output of the run `code`.

    first : the first row's place in the batch; the row begins a part of LOSS_ROWS rows, or all share a part
    parts : of the batch
    sums : for each operation (parts, its gain and shift), from `Operation.sums` times the parts on;
        written for the parts of these rows, or added to: the derivatives by both, row after row, from 0
    """
    units_backward(code, operations, last, parameters, z, first, parts, sums, delta)
