"""A fused chain of elementwise operations, with each number in registers throughout.

Each operation has the formula of its kind; the backward pass computes the numbers in between again.
`Operation.fused` says which operations are a chain: the last of them computes all.
"""

# mypy: ignore-errors

from typing import TYPE_CHECKING

from numba import types

from fastmlp.kernels.codegen.scalars import backward_of
from fastmlp.kernels.codegen.symbols import INT, Symbol
from fastmlp.kernels.codegen.vectors import NumberArray, Vectors, counted, of_code, shifted, smaller
from fastmlp.kernels.codegen.views import matrix, rows_of, span, units_of
from fastmlp.kernels.program.arithmetic import LOSS_ROWS
from fastmlp.kernels.program.row_formulas import LANES, number_at, unit_gradient, unit_value
from fastmlp.kernels.program.step_numbers import left_whole, parts_of
from fastmlp.kernels.program.weight_templates import clear, update_vectors
from fastmlp.model.component import BIAS, Kind
from fastmlp.model.operations import FusedChain

if TYPE_CHECKING:
    from fastmlp.kernels.variants.baseline import bias_gradient

STRIP = 512
"""Units whose sums and parameters stay in L1 while the rows of a part are read."""


def forward(call, start, rows, number, first, last, worker):
    """Take a product's outputs through the chain."""
    operations, memory, op = call.operations, call.memory, call.operations[number]
    if op.joined != 0:
        return
    z = rows_of(units_of(memory, call.logits, op, rows), first, last)
    a = rows_of(units_of(memory, call.activations, op, rows), first, last)
    fused_forward(op.kind, operations, number, call.parameters, z, a)


def backward(call, rows, of_all, number, first, last, worker):
    """Make the chain's delta that of the product; sum the gradients of each part of the rows."""
    operations, memory, op = call.operations, call.memory, call.operations[number]
    if op.joined != 0:
        return
    z = rows_of(units_of(memory, call.logits, op, rows), first, last)
    delta = rows_of(units_of(memory, call.deltas, op, rows), first, last)
    sums = span(memory, call.part_sums, call.length)
    fused_backward(op.kind, operations, number, call.parameters, z, first, parts_of(rows), sums, delta)


def gradient(call, start, rows, step, number, penalised, rates, top, bottom, worker, workers):
    """Add up an operation's sums of all parts: the gradients of its gain and shift; update both."""
    if worker != number % workers:
        return
    op, parts = call.operations[number], parts_of(rows)
    out = span(call.gradients, op.weights, op.trained)
    if rows > 0:
        bias_gradient(matrix(call.memory, call.part_sums + op.sums * parts, parts, len(out)), out)
    else:
        clear(out)
    # The chain sums both; a shift without training must not move.
    if not op.trains_bias:
        clear(span(call.gradients, op.biases, op.trained))
    if not left_whole(call):
        update_vectors(call, step, number, rates, worker, workers)


update = update_vectors


class FusedChainWriter:
    """Writes a chain for numbers of the same type.

    v : vectors of LANES lanes; width : of a row, a `Symbol`
    links : for each operation in order its kind or activation, the addresses of its gain and shift as far as
        present, and its hyperparameters; the offset of its sums among all sums, and their length
    """

    def __init__(self, chain, operations, last, parameters, z):
        """operations : all; last : the number of the chain's last operation"""
        self.builder, self.v = z.builder, Vectors(z.builder, z.dtype, LANES * z.itemsize)
        self.rows, self.width, self.z = z.rows, z.columns, z.data
        record, itemsize, self.links = operations.dtype, self.v.itemsize, []
        for number, part in enumerate(chain.parts, 1 - len(chain.parts)):
            address = shifted(self.builder, operations.data, ((last + number) * record.size).value)

            def field(name, kind=types.int64, address=address):
                return NumberArray(
                    self.builder, kind, shifted(self.builder, address, INT(record.offset(name)))
                )

            weights, biases, trained, sums = (
                field(name)[0] for name in ("weights", "biases", "trained", "sums")
            )
            addresses, numbers = [], []
            if isinstance(part, Kind):
                starts = (biases if parameter.shape == BIAS else weights for parameter in part.parameters)
                addresses = [self.v.shift(parameters.data, start * itemsize) for start in starts]
                fixed = field("numbers", types.float64)
                numbers = [number_at(fixed, i, itemsize) for i in range(len(part.numbers))]
            self.links.append((part, addresses, numbers, sums, trained - weights))

    def at(self, address, unit):
        """Return the address of a number."""
        return self.v.shift(address, unit * self.v.itemsize)

    def load(self, address, unit, mask):
        """Return a vector from number `unit` on."""
        return Symbol(self.builder, self.v.load(self.at(address, unit), mask))

    def passed(self, unit, row, mask):
        """Return each operation's input and parameters; and at last the chain's output.

        unit, row : of a vector, under the mask
        """
        value, read = self.load(self.z, row * self.width + unit, mask), []
        for part, addresses, numbers, *_ in self.links:
            parameters = [self.load(address, unit, mask) for address in addresses]
            read.append((value, parameters))
            is_kind = isinstance(part, Kind)
            value = value.number(
                unit_value(part, value, parameters, numbers) if is_kind else part.formula(value)
            )
        return read, value

    def forward(self, out):
        """Write the chain of all rows to the address `out`."""
        with counted(self.builder, self.rows) as row:

            def write(unit, mask):
                _, value = self.passed(unit, row, mask)
                self.v.store(value.value, self.at(out, row * self.width + unit), mask)

            self.v.over(self.width, write)

    def backward(self, first, parts, sums, delta):
        """Replace delta by the derivative by z, and write each part's sums for gains and shifts."""
        with counted(self.builder, self.rows, LOSS_ROWS) as begin:
            part, rows = (first + begin) // LOSS_ROWS, smaller(self.rows - begin, LOSS_ROWS)
            sums_at = [self.at(sums, start * parts + part * length) for *_, start, length in self.links]
            with counted(self.builder, self.width, STRIP) as left:
                units = smaller(self.width - left, STRIP)
                with self.builder.if_then((first % LOSS_ROWS).equals(0).value):
                    for (_, addresses, *_), address in zip(self.links, sums_at, strict=True):
                        for vector in range(len(addresses)):
                            self.v.over(units, self._clear(address, vector * self.width + left))
                with counted(self.builder, rows) as row:
                    self.v.over(units, self._back(sums_at, delta, begin + row, left))

    def _clear(self, address, start):
        return lambda unit, mask: self.v.store(self.v.zero, self.at(address, start + unit), mask)

    def _back(self, sums_at, delta, row, left):
        def write(unit, mask):
            unit = left + unit
            passed, _ = self.passed(unit, row, mask)
            address = self.at(delta, row * self.width + unit)
            by_output = Symbol(self.builder, self.v.load(address, mask))
            for (part, addresses, numbers, *_), (x, parameters), sums in reversed(
                [*zip(self.links, passed, sums_at, strict=True)]
            ):
                if isinstance(part, Kind):
                    derivatives = unit_gradient(part, by_output, x, parameters, numbers)
                else:
                    derivatives = [backward_of(part, by_output, x, x.number(part.formula(x)))]
                if len(addresses) > len(derivatives) - 1:  # a shift, whose derivative is that by the output
                    derivatives.append(by_output)
                by_output = derivatives[0]
                for number, by_parameter in enumerate(derivatives[1:]):
                    at = number * self.width + unit
                    total = self.load(sums, at, mask) + by_parameter
                    self.v.store(total.value, self.at(sums, at), mask)
            self.v.store(by_output.value, address, mask)

        return write


@of_code("operation", results=0)
def units_forward(chain, operations, last, parameters, z, out):
    """Write a chain's outputs: see `fused_forward`."""
    if isinstance(chain, FusedChain):
        FusedChainWriter(chain, operations, last, parameters, z).forward(out.data)


@of_code("operation", results=0)
def units_backward(chain, operations, last, parameters, z, first, parts, sums, delta):
    """Write a chain's deltas: see `fused_backward`."""
    if isinstance(chain, FusedChain):
        FusedChainWriter(chain, operations, last, parameters, z).backward(first, parts, sums.data, delta.data)


def fused_forward(code, operations, last, parameters, z, out):
    """out (rows, width) = the chain `code` of z (rows, width).

    operations : all of the network; last : the number of the chain's last one; parameters : (P,)
    """
    units_forward(code, operations, last, parameters, z, out)


def fused_backward(code, operations, last, parameters, z, first, parts, sums, delta):
    """delta (rows, width) = the derivative of the loss by z, given delta of the output of the chain `code`.

    first : the first row's position in the batch; the row begins a part of LOSS_ROWS rows, or all share a
        part
    parts : of the batch
    sums : for each operation (parts, its gain and shift), from `Operation.sums` times the parts on;
        written for the parts of these rows, or added to: the derivatives by both, row after row, from 0
    """
    units_backward(code, operations, last, parameters, z, first, parts, sums, delta)
