"""The step of small networks on vectors, in the order of `fastmlp.kernels.program.arithmetic`.

Every number is a vector: a lane is another network (`fastmlp.kernels.lanes`), or another row of one network's batch
(`fastmlp.kernels.small.programs`). A product is a chain of multiply-adds in each lane; a tile of rows and units keeps its
sums in registers. Where a network and its batch are small, all loops are unrolled, and nothing but data is in memory.
"""

from numba import types

from fastmlp.formulas.numbers import fma, sqrt, where
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.scalars import ROW, backward_of, form_of
from fastmlp.kernels.codegen.symbols import BIT, INT, INT32, Symbol
from fastmlp.kernels.codegen.vectors import Vectors, carried, counted, smaller
from fastmlp.kernels.codes import ACTIVATION_CODES, LOSS_CODES, RULE_CODES, SOFTMAX
from fastmlp.kernels.elementwise import losses
from fastmlp.kernels.elementwise.by_vectors import CHAINS, TOGETHER, is_kept, row_word, scramble, take_step
from fastmlp.kernels.program import row_formulas
from fastmlp.kernels.program.arithmetic import (
    PENALTY_LANES,
    PENALTY_ROWS,
    PENALTY_TERMS,
    rows_as_one,
    with_decay,
    with_penalty,
)
from fastmlp.kernels.small.lane_numbers import LaneRegisters, LaneRow, halved
from fastmlp.kernels.small.layouts import BLOCK_ROWS, layout_of, reads_rows
from fastmlp.model.operations import INPUTS

SUMS, TILE_UNITS = 8, 2
"""Sums, and units at most, of a tile: 8 sums, 4 numbers of the left side and 2 of the right fill 14 registers."""


class LaneStep:
    """Writes the parts of a small network's step, by `SmallConstants`, into a workspace of `layout_of`.

    parameters : of `lane_numbers`; all other arrays are of the same kind; numbers : a call's `lane_numbers`
    inputs, targets, scales : of the next rows, and the factors of their losses; first : the first one's number in the batch
    word : the hash of dropout's key and the step; chances : thresholds and scales by number of operation
    """

    inputs = targets = scales = word = None
    first = 0

    def __init__(self, v, constants, parameters, memory=None, numbers=None):
        self.v, self.builder, self.constants, self.unrolled = v, v.builder, constants, parameters.unrolled
        self.wide = Vectors(v.builder, types.float64, v.lanes * 8)
        self.operations, self.layout = constants.operations, layout_of(constants)
        self.parameters, self.gradients = parameters, parameters.part(memory, 0)
        part = lambda offset: None if offset < 0 else parameters.part(memory, offset)
        of_name = lambda name: [part(getattr(offsets, name)) for offsets in self.layout.units]
        self.outputs, self.deltas, self.saved, self.logits = map(
            of_name, ("outputs", "deltas", "saved", "logits")
        )
        self.dropped = [
            numbers if offsets.dropped == offsets.outputs else parameters.part(memory, offsets.dropped)
            for numbers, offsets in zip(self.outputs, self.layout.units, strict=True)
        ]
        self.losses, self.numbers, self.chances = parameters.room(self.wide, BLOCK_ROWS), numbers, {}
        self.zero, self.none = Symbol(self.builder, v.zero), Symbol(self.builder, self.wide.zero)

    # --- loops ---------------------------------------------------------------------------------------

    def each(self, count, step=1):
        """Yield each index below count, or, of a written loop, its index once."""
        if self.unrolled:
            yield from range(0, count, step)
        else:
            with counted(self.builder, count, step) as index:
                yield index

    def over(self, count, size, do):
        """Write do(i, n) for blocks of n = `size` indices from i on, then for the rest.

        An unknown rest goes beyond the count: a workspace has room for whole blocks, and nothing reads later rows.
        """
        rest = count % size if isinstance(count, int) else 0
        for i in self.each(count - rest, size):
            do(i, size)
        if rest:
            do(count - rest, rest)

    def carried(self, count, values, step, by=1):
        """The values after values = step(k, values) for each k = 0, by, .. below count."""
        if not self.unrolled:
            return carried(self.builder, 0, count, values, step, by)
        for k in range(0, count, by):
            values = step(k, values)
        return values

    def product(self, rows, columns, depth, a, b, start, end):
        """Write end(r, c, total) for each chain start(r, c) + a(r, 0) b(0, c) + a(r, 1) b(1, c) + .."""
        width = min(TILE_UNITS, columns)

        def tile(r, c, height, width):
            def add(k, totals):
                left, right = [a(r + i, k) for i in range(height)], [b(k, c + j) for j in range(width)]
                pairs = [(x, y) for x in left for y in right]
                return [
                    fma(x, y, Symbol(self.builder, z)).value for (x, y), z in zip(pairs, totals, strict=True)
                ]

            cells = [(r + i, c + j) for i in range(height) for j in range(width)]
            totals = self.carried(depth, [start(*cell).value for cell in cells], add)
            for cell, total in zip(cells, totals, strict=True):
                end(*cell, Symbol(self.builder, total))

        self.over(
            rows, SUMS // width,
            lambda r, height: self.over(columns, width, lambda c, width: tile(r, c, height, width)),
        )  # fmt: skip

    # --- forward -------------------------------------------------------------------------------------

    def source(self, number):
        """The output of an operation by its number: units after dropout, or the rows of X."""
        return self.inputs if number == INPUTS else self.dropped[number]

    def matrix(self, numbers, op):
        """An operation's weights and biases, or gain and shift, in parameters or gradients."""
        return numbers.at(op.flat), numbers.at(op.flat + op.lengths[0])

    def forward(self, rows):
        """Write the outputs of all operations for a block of rows; the last are logits."""
        for number, op in enumerate(self.operations):
            if op.kind == "dense":
                self.dense_forward(number, rows)
            else:
                for r, cut in self.cuts(op, rows):
                    row_formulas.forward(op.entry, self.row(number, r, cut), *op.ending)
            self.drop(number, rows, self.outputs[number], self.dropped[number])

    def dense_forward(self, number, rows):
        """Write the outputs of a product with activation."""
        op, n_out, last = self.operations[number], self.operations[number].n_out, len(self.operations) - 1
        weights, biases = self.matrix(self.parameters, op)
        x, out, entry = self.source(op.sources[0]), self.outputs[number], self.entry(number)
        logits = out if self.logits[number] is None else self.logits[number]
        # A longer formula in a tile would push its sums out of the registers.
        in_tiles = entry.short and logits is out

        def end(r, j, z):
            logits[r * n_out + j] = entry.formula(z) if in_tiles and number != last else z

        self.product(
            rows, n_out, op.n_in,
            lambda r, i: x[r * op.n_in + i], lambda i, j: weights[i * n_out + j], lambda r, j: biases[j], end,
        )  # fmt: skip
        if number != last and not in_tiles:
            for at in self.each(rows * n_out):
                out[at] = entry.formula(logits[at])

    def entry(self, number):
        """The activation of an operation."""
        return ACTIVATION_CODES.of_key(self.operations[number].activation)

    def cuts(self, op, rows):
        """Yield each row, and each that a row of an operation is cut in; or indices of written loops, once."""
        for r in self.each(rows):
            for cut in self.each(op.subrows) if op.subrows > 1 else (0,):
                yield r, cut

    def width(self, number):
        """The width of an operation's output by its number."""
        return self.constants.n_in if number == INPUTS else self.operations[number].n_out

    def row(self, number, r, cut, out=None):
        """A row of an operation that is no product, or of a subrow; out : other arrays for the result"""
        op = self.operations[number]
        gain, shift = self.matrix(self.parameters, op)
        gains, shifts = (length // op.subrows for length in op.lengths)
        at, saved = r * op.n_out + cut * op.units, self.saved[number]
        addresses = {
            "gain": gain.at(cut * gains), "shift": shift.at(cut * shifts),
            "saved": saved and saved.at((r * op.subrows + cut) * op.entry.saved),
            "out": self.outputs[number].at(at), "a": self.outputs[number].at(at),
            "delta": self.deltas[number].at(at), **self.of_sources(("x", "other"), op, self.source, r, cut),
        }  # fmt: skip
        row = self.constants.row_of_numbers(number)
        numbers = [self.numbers[row + i] for i in range(op.numbers)]
        return LaneRow(self, op.units, addresses | (out or {}), numbers)

    def of_sources(self, names, op, numbers, r, cut):
        """The numbers of a subrow of each source, by name; numbers : numbers(source)"""
        starts = zip(names, op.sources, (0, op.second), strict=False)
        return {
            name: numbers(source).at(r * self.width(source) + cut * op.units + second)
            for name, source, second in starts
        }

    def drop(self, number, rows, source, target):
        """Write an operation's dropout of a block of rows; nothing without dropout."""
        op = self.operations[number]
        if op.dropout == 0:
            return
        threshold, scale = self.chances[number]
        word = scramble(self.word ^ number)
        for r in self.each(rows):
            row = row_word(word, self.short(self.first + r))
            for j in self.each(op.n_out):
                at = r * op.n_out + j
                target[at] = where(is_kept(row, self.short(j), threshold), source[at] * scale, 0.0)

    # --- loss ----------------------------------------------------------------------------------------

    def loss(self, rows, parameters):
        """Return the sum of the losses of a block's rows, float64; write the deltas of the logits."""
        n_out = self.constants.n_out
        entry, output = LOSS_CODES.of_key(self.constants.loss), ACTIVATION_CODES.of_key(self.constants.output)
        code = Symbol(self.builder, INT(ACTIVATION_CODES.code_of_key(output.key)))
        clips = Symbol(self.builder, BIT(self.constants.clips))
        # The total is of BLOCK_ROWS numbers, and the last block may have fewer rows.
        for r in range(BLOCK_ROWS):
            self.losses[r] = self.none
        for r in self.each(rows):
            logits, expected, outputs = (
                array.at(r * n_out, n_out) for array in (self.outputs[-1], self.targets, self.deltas[-1])
            )
            sums = LaneRegisters(self.v, {losses.SCALES: self.scales[r]})
            if ACTIVATION_CODES.code_of_key(output.key) == SOFTMAX:
                # `softmax_by_lanes` subtracts the maximum from its logits, and a loss of rows reads them
                # before.
                shifted = self.copied(logits) if form_of(entry) == ROW else logits
                losses.softmax_by_lanes.emit(shifted, outputs, sums)
            else:
                for j in logits.each():
                    outputs[j] = output.formula(logits[j])
            losses.element_losses.emit(entry, code, clips, parameters, logits, expected, outputs, sums)
            losses.blank.emit(outputs, sums)
            # A row that does not count may have an infinite loss, and 0 * inf is NaN.
            self.losses[r] = self.widened(where(sums[losses.SCALES].equals(0.0), 0.0, sums[losses.LOSSES]))
        return self.losses.total()

    def copied(self, numbers):
        """A copy of numbers, which may change."""
        copy = self.parameters.room(self.v, numbers.units).at(0, numbers.units)
        for j in numbers.each():
            copy[j] = numbers[j]
        return copy

    def short(self, number):
        """An integer of 32 bits."""
        if isinstance(number, int):
            return number
        return Symbol(self.builder, self.builder.trunc(number.value, INT32))

    def widened(self, symbol):
        """A vector as float64."""
        if self.v.scalar == self.wide.scalar:
            return symbol
        return Symbol(self.builder, self.builder.fpext(symbol.value, self.wide.type))

    # --- backward ------------------------------------------------------------------------------------

    def clear(self):
        """Set the gradients to 0."""
        for i in self.each(self.constants.parameters):
            self.gradients[i] = self.zero

    def backward(self, rows, then=lambda op: None):
        """Write the deltas of all operations, and add a block's rows to the gradients.

        then(operation) is written after the step's last reading of the operation's parameters
        """
        for number, op in reversed([*enumerate(self.operations)]):
            self.drop(number, rows, self.deltas[number], self.deltas[number])
            if op.kind == "dense":
                self.dense_backward(number, rows)
            elif not reads_rows(self.operations, number):
                self.row_backward(number, rows)
            then(op)

    def sloped(self, number, at, delta):
        """A delta times the slope of an operation's activation."""
        entry = self.entry(number)
        z = None if self.logits[number] is None else self.logits[number][at]
        return backward_of(entry, delta, z, self.outputs[number][at])

    def dense_backward(self, number, rows):
        """Add the gradients of a product; write the deltas of its source."""
        op, n_out = self.operations[number], self.operations[number].n_out
        delta = self.deltas[number]
        if number < len(self.operations) - 1 and not self.layout.ends[number]:
            for at in self.each(rows * n_out):
                delta[at] = self.sloped(number, at, delta[at])
        weights, biases = self.matrix(self.gradients, op)
        samples, x = self.source(op.sources[0]).by_row(rows, op.n_in)
        _, d = delta.by_row(rows, n_out)

        def put(i, j, total):
            weights[i * n_out + j] = total

        self.product(
            op.n_in, n_out, samples,
            lambda i, r: x[r * op.n_in + i], lambda r, j: d[r * n_out + j],
            lambda i, j: weights[i * n_out + j], put,
        )  # fmt: skip
        self.sum_rows(samples, n_out, d, biases)
        if not reads_rows(self.operations, op.sources[0]):
            self.pass_down(number, rows)

    def sum_rows(self, rows, units, delta, out):
        """Add the deltas of rows to the gradients of biases, or of a shift."""

        def add(j, width):
            sums = self.carried(
                rows,
                [out[j + i].value for i in range(width)],
                lambda r, totals: [
                    (Symbol(self.builder, total) + delta[r * units + (j + i)]).value
                    for i, total in enumerate(totals)
                ],
            )
            for i, total in enumerate(sums):
                out[j + i] = Symbol(self.builder, total)

        self.over(units, SUMS, add)

    def pass_down(self, number, rows):
        """Write, or add to, the deltas of a product's source."""
        op, source = self.operations[number], self.operations[number].sources[0]
        weights, _ = self.matrix(self.parameters, op)
        below, delta = self.deltas[source], self.deltas[number]

        def end(r, i, total):
            at = r * op.n_in + i
            # Another reader of the source has written its deltas before.
            if op.adds[0]:
                total = below[at] + total
            # From an only reader the deltas are complete, and in registers: the slope needs no pass of its own.
            below[at] = self.sloped(source, at, total) if self.layout.ends[source] else total

        self.product(
            rows, op.n_in, op.n_out,
            lambda r, j: delta[r * op.n_out + j], lambda j, i: weights[i * op.n_out + j],
            lambda r, i: self.zero, end,
        )  # fmt: skip

    def row_backward(self, number, rows):
        """Add the gradients of gain and shift; write, or add to, the deltas of the sources."""
        op = self.operations[number]
        kind, (gains, shifts) = op.entry, op.lengths
        gain, shift = self.matrix(self.gradients, op)
        for r, cut in self.cuts(op, rows):
            if gains:
                out = gain.at(cut * (gains // op.subrows))
                row_formulas.gradient(kind, self.row(number, r, cut, {"out": out}))
            out = self.of_sources(("out", "out2"), op, self.deltas.__getitem__, r, cut)
            row_formulas.backward(kind, self.row(number, r, cut, out), op.adds, *op.ending)
        if shifts:
            self.sum_rows(rows, op.n_out, self.deltas[number], shift)

    # --- step ----------------------------------------------------------------------------------------

    def update(self, op, moments, rate, bias_rate, constants, t, l2):
        """Take a step of an operation's parameters; moments : of all; l2 : of each lane, or None."""
        entry = RULE_CODES.of_key(self.constants.rule)

        def move(first, count, rate, penalty):
            for i in self.each(count):
                arrays = self.gradients, self.parameters, *moments
                take_step(entry, rate, constants, t, arrays, i + first, penalty)

        weights, biases = op.lengths
        move(op.flat, weights, rate, l2 if op.kind == "dense" else None)
        move(op.flat + weights, biases, bias_rate, None)


# --- sums over all parameters, each in an order of its own, see `fastmlp.kernels.program.arithmetic` ------


def penalties(step, l2):
    """Return the sum of the products' penalties, float64; l2 : of each lane, float64."""
    half, total = step.zero.number(l2) * 0.5, step.none
    for op in step.operations:
        if op.kind == "dense":
            total = total + penalty(step, half, op)
    return total


def penalty(step, half, op):
    """Return the penalty of a product, float64; half : of l2"""
    weights, _ = step.matrix(step.parameters, op)
    columns = op.n_out * rows_as_one(op.n_out)
    group = max(1, PENALTY_TERMS // -(-columns // PENALTY_LANES)) * PENALTY_ROWS * columns
    count = op.n_in * op.n_out
    chains = step.parameters.room(step.v, PENALTY_ROWS * PENALTY_LANES)
    totals = step.parameters.room(step.wide, PENALTY_LANES)
    for lane in range(PENALTY_LANES):
        totals[lane] = step.none
    for first in step.each(count, group):
        for chain in range(PENALTY_ROWS * PENALTY_LANES):
            chains[chain] = step.zero
        for i in step.each(smaller(first + group, count) - first):
            chain = i // columns % PENALTY_ROWS * PENALTY_LANES + i % columns % PENALTY_LANES
            chains[chain] = with_penalty(None, half, weights[first + i], chains[chain])
        # By the order of `arithmetic`: rows of chains first, then a float64 sum for each lane.
        for lane in range(PENALTY_LANES):
            subtotal = chains[lane]
            for row in range(1, PENALTY_ROWS):
                subtotal = subtotal + chains[row * PENALTY_LANES + lane]
            totals[lane] = totals[lane] + step.widened(subtotal)
    return halved([totals[lane] for lane in range(PENALTY_LANES)])


def clip(step, limit, l2):
    """Complete gradients by the penalty, and clip their norm; limit, l2 : of each lane, l2 may be None"""
    gradients, count = step.gradients, step.constants.parameters
    if l2 is not None:
        for op in step.operations:
            if op.kind == "dense":
                for i in step.each(op.lengths[0]):
                    at = i + op.flat
                    gradients[at] = with_decay(gradients[at], l2, step.parameters[at])
    # With 1e-6 as PyTorch's `clip_grad_norm_`.
    scale = limit / (sqrt(sum_of_squares(step)) + 1e-6)
    scale = where(scale < 1.0, scale, 1.0)
    for i in step.each(count):
        gradients[i] = gradients[i] * scale


def sum_of_squares(step):
    """Return the gradients' sum of squares, float64, in the order of `sums.squares_of`."""
    lanes, size = host().vector_bytes // step.v.itemsize, step.constants.parameters
    chains, total = step.parameters.room(step.wide, CHAINS * lanes), step.parameters.room(step.wide, 1)
    total[0] = step.none
    for start in step.each(size, TOGETHER * lanes):
        count = smaller(start + TOGETHER * lanes, size) - start
        whole = count - count % (CHAINS * lanes)
        for chain in range(CHAINS * lanes):
            chains[chain] = step.none
        for i in step.each(count):
            # As `squares_of` reads: whole rounds of all chains, then single vectors into the first chain.
            by_all, by_first = i % (CHAINS * lanes), i % lanes
            if isinstance(i, int):
                chain = by_all if i < whole else by_first
            else:
                chain = where(i < whole, by_all, by_first)
            exact = step.widened(step.gradients[start + i])
            chains[chain] = fma(exact, exact, chains[chain])
        for lane in range(lanes):
            subtotal = chains[lane]
            for chain in range(1, CHAINS):
                subtotal = subtotal + chains[chain * lanes + lane]
            total[0] = total[0] + subtotal
    return total[0]
