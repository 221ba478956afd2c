"""Arrays of vectors in code under construction, in memory or in registers, for `fastmlp.kernels.small.lane_step`.

A lane is a network, or a row of a batch. Products of rows, with sums over the batch, read the arrays by `by_row`.
"""

from numba.core import cgutils

from fastmlp.kernels.codegen.row_expressions import JOINED, LEAST, Running
from fastmlp.kernels.codegen.symbols import INT, Symbol
from fastmlp.kernels.codegen.vectors import VectorArray, folded, shuffle
from fastmlp.kernels.program.row_formulas import LANES, Row
from fastmlp.kernels.small.layouts import BLOCK_ROWS


class LaneNumbers(VectorArray):
    """Numbers in memory, with a lane for each network."""

    unrolled = False

    def room(self, v, count):
        """Other numbers of this kind, on the stack."""
        return LaneNumbers(v, cgutils.alloca_once(self.builder, v.type, size=INT(count)))

    def part(self, memory, offset):
        """Other numbers of this kind, in a workspace."""
        return LaneNumbers(self.v, self.v.shift(memory, offset * self.v.bytes))

    def at(self, index, units=0):
        """The numbers from an index on."""
        return LaneNumbers(self.v, self._address(index), units)

    def by_row(self, rows, units):
        """The rows of a batch, and the batch's numbers (rows, units), with `rows` rows in a lane."""
        return rows, self

    def total(self):
        """The sum of numbers of a block's rows, by halves."""
        return halved([self[row] for row in range(BLOCK_ROWS)])


class LaneRegisters:
    """Numbers in registers, where all sizes are known and all loops are unrolled. numbers : by index"""

    unrolled = True
    total = LaneNumbers.total

    def __init__(self, v, numbers, first=0, units=0):
        self.v, self.builder, self.numbers, self.first, self.units = v, v.builder, numbers, first, units

    def room(self, v, count):
        """Other numbers of this kind."""
        return type(self)(v, {})

    def part(self, memory, offset):
        """Other numbers of this kind; the workspace is not used."""
        return type(self)(self.v, {})

    def at(self, index, units=0):
        """The numbers from an index on."""
        return type(self)(self.v, self.numbers, self.first + index, units)

    def __getitem__(self, index):
        return self.numbers[self.first + index]

    def __setitem__(self, index, symbol):
        self.numbers[self.first + index] = symbol

    def each(self, count=None):
        """Yield each index, or the first."""
        yield from range(self.units if count is None else count)

    def by_row(self, rows, units):
        """Return rows and numbers: see `LaneNumbers.by_row`."""
        return rows, self


class RowRegisters(LaneRegisters):
    """Numbers in registers with a lane for each row of a batch, or the same parameter in all lanes."""

    def by_row(self, rows, units):
        """The rows of the batch, and the batch's numbers (rows, units), each in all lanes."""
        lanes = self.v.lanes
        spread = type(self)(self.v, {})
        for unit in range(units):
            vector = self[unit].value
            for lane in range(lanes):
                spread[lane * units + unit] = Symbol(
                    self.builder, shuffle(self.builder, vector, vector, [lane] * lanes)
                )
        return lanes, spread

    def total(self):
        """The sum of the lanes of the first number, by halves."""
        return folded(self.builder, self[0], lambda a, b: a + b)


class Slots(dict):
    """Numbers that stay in registers from step to step, each a `Running`."""

    def __getitem__(self, index):
        return super().__getitem__(index).value

    def __setitem__(self, index, symbol):
        if index in self:
            super().__getitem__(index).value = symbol
        else:
            super().__setitem__(index, Running(symbol))


class LaneReduction:
    """A sum or maximum over the units of a row of every network: `LANES` numbers at a time, as of `Row`."""

    def __init__(self, operation, step):
        self.join, self.numbers = JOINED[operation], step.parameters.room(step.v, LANES)
        for i in range(LANES):
            self.numbers[i] = step.zero.number(LEAST[operation])

    def take(self, unit, mask, term):
        """Add the term of a unit."""
        self.numbers[unit % LANES] = self.join(self.numbers[unit % LANES], term)

    def whole(self):
        """Return the sum or maximum, by halves."""
        return halved([self.numbers[i] for i in range(LANES)], self.join)


class LaneRow(Row):
    """A `Row` of every network: each number is a vector with a lane for each network; addresses : numbers by name"""

    def __init__(self, step, units, addresses, numbers=()):
        super().__init__(step.v, units, float(units), addresses, numbers)
        self.step = step

    def second(self, units, name, number):
        """Return a row of so many units: see `Row.second`."""
        return LaneRow(self.step, units, {**self.addresses, name: self.addresses[name].at(number)})

    def over(self, do):
        """Write do(unit, mask) for each unit; the mask is None."""
        for unit in self.step.each(self.units):
            do(unit, None)

    def load(self, name, number, mask=None):
        """A number of an array."""
        return self.addresses[name][number]

    number = load

    def put(self, name, number, mask, symbol):
        """Write a number to an array."""
        self.addresses[name][number] = symbol

    def save(self, number, symbol):
        """Write a number to `saved`."""
        self.addresses["saved"][number] = symbol

    def add_number(self, name, number, symbol):
        """Add to a number of an array."""
        self.addresses[name][number] = self.addresses[name][number] + symbol

    def reduction(self, operation):
        """Return a sum or maximum under construction: see `Row.reduction`."""
        return LaneReduction(operation, self.step)


def halved(terms, join=lambda a, b: a + b):
    """The sum (or join(low, high)) of numbers by halves: the first half plus the second, until one is left."""
    while len(terms) > 1:
        half = len(terms) // 2
        terms = [join(low, high) for low, high in zip(terms[:half], terms[half:], strict=True)]
    return terms[0]
