"""Formulas of a row as code: norms, gates, sums and custom layers, from their kinds' expressions.

Two programs use this text: the program of all networks, where the units are a run-time value
(`row_operations`), and the program of a single small network, where they are an integer
(`fastmlp.kernels.small`).
"""

# mypy: ignore-errors

from fastmlp.formulas.expressions import COUNT, ONES
from fastmlp.kernels.codegen.row_expressions import VectorReduction, emit_row
from fastmlp.kernels.codegen.symbols import INT32, Symbol
from fastmlp.model.custom import BIAS, number_variable

# The same on every machine, so that sums over a row have the same bits everywhere. A sum of number after
# number waits for each addition, 4 cycles a unit.
LANES = 16


class Row:
    """A row in code being written.

    v : vectors of LANES lanes
    units : the numbers of the row, an integer or a `Symbol`; count : the same as a float
    places : by name the addresses of x, other, delta, saved, out and out2, and of gain and shift
    numbers : the hyperparameters of the operation, each a `Symbol`
    """

    def __init__(self, v, units, count, places, numbers=()):
        self.v, self.builder, self.units, self.places = v, v.builder, units, places
        self.like = Symbol(v.builder, v.zero)
        self.count, self.numbers = self.like.number(count), [self.like.number(number) for number in numbers]

    def second(self, units, name, number):
        """Return a row of so many units, whose array of this name begins at element `number`."""
        return Row(self.v, units, float(units), {**self.places, name: self.place(name, number)})

    def place(self, name, number):
        """Return the address of an element of an array."""
        return self.v.shift(self.places[name], number * self.v.itemsize)

    def load(self, name, number, mask=None):
        """Return a vector of an array from element `number` on."""
        return Symbol(self.builder, self.v.load(self.place(name, number), mask))

    def store(self, name, number, mask, symbol, adds=False):
        """Write a vector to an array, or add it where `adds`, a Symbol or a bool, holds."""
        symbol = self.like.number(symbol)
        if adds is not False:
            total = self.load(name, number, mask) + symbol
            symbol = total if adds is True else symbol.choose(adds, total, symbol)
        self.put(name, number, mask, symbol)

    def put(self, name, number, mask, symbol):
        """Write a vector over the elements of an array."""
        self.v.store(symbol.value, self.place(name, number), mask)

    def over(self, do):
        """Write do(unit, mask) for each vector of units.

        unit : the number of the vector's first unit
        """
        self.v.over(self.units, do)

    def number(self, name, number):
        """Return an element of an array in every lane."""
        return Symbol(self.builder, self.v.broadcast(self.place(name, number)))

    def save(self, number, symbol):
        """Write a number, equal in every lane, to `saved`."""
        self.builder.store(self.builder.extract_element(symbol.value, INT32(0)), self.place("saved", number))

    def add_number(self, name, number, symbol):
        """Add a number, equal in every lane, to an element of an array."""
        new, place = self.builder.extract_element(symbol.value, INT32(0)), self.place(name, number)
        self.builder.store(self.builder.fadd(self.builder.load(place, typ=self.v.scalar), new), place)

    def reduction(self, operation):
        """Return a `VectorReduction` for a sum or maximum: see `emit_row`."""
        return VectorReduction(operation, self.like)

    def write(self, term, names, out="out", adds=False):
        """Write out = term(elements of arrays), unit by unit."""

        def do(unit, mask):
            self.store(out, unit, mask, term(*(self.load(name, unit, mask) for name in names)), adds)

        self.over(do)


SOURCES = {"z": "x", "other": "other"}
"""The array of each source of a formula."""

OUT = {"z": "out", "other": "out2"}
"""The array of the derivative by each source."""


class _Writer:
    """Writes expressions of a row for a kind of operation.

    places : of the parameters, by variable: section, index there, and whether each unit has a number
    """

    def __init__(self, kind, row, arrays):
        """arrays : by variable the array read by expressions"""
        self.row, self.function, self.arrays, self.places = row, kind.row, arrays, {}
        at = {"gain": 0, "shift": 0}
        for one in kind.row.parameters:
            section = "shift" if one.shape == BIAS else "gain"
            self.places[one.variable] = section, at[section], one.by_unit
            at[section] = at[section] + (row.units if one.by_unit else 1)

    def read(self, wanted):
        """Return the values of rows' wanted variables: see `emit_row`."""
        row = self.row

        def values(unit, mask):
            found = {
                name: row.load(array, unit, mask) for name, array in self.arrays.items() if name in wanted
            }
            for name, (section, at, by_unit) in self.places.items():
                if by_unit and name in wanted:
                    found[name] = row.load(section, unit + at, mask)
            return {**found, ONES: row.like.number(1.0)}

        return values

    def write(self, ends, numbers=(), known=()):
        """Write expressions, as `emit_row` does."""
        row, names = self.row, map(number_variable, self.function.numbers)
        fixed = {COUNT: row.count, **dict(zip(names, row.numbers, strict=True))}
        for name, (section, at, by_unit) in self.places.items():
            if not by_unit:
                fixed[name] = row.number(section, at)
        wanted = set().union(*(expression.names() for expression in (*(end for end, _ in ends), *numbers)))
        return emit_row(row, self.read(wanted), ends, fixed, numbers, known)


def forward(kind, row):
    """Write out = the operation of x and other (units,), and save numbers for backward."""
    code = kind.row.code
    ends = [(code.value, lambda unit, mask, number: row.store("out", unit, mask, number))]
    known = _Writer(kind, row, SOURCES).write(ends, code.saved)
    for place, node in enumerate(code.saved):
        row.save(place, known[id(node)])


def _saved(kind, row):
    """Return the saved numbers of `forward`, by node id."""
    return {id(node): row.number("saved", place) for place, node in enumerate(kind.row.code.saved)}


def backward(kind, row, adds):
    """Write out and out2 = the derivatives of the loss by x and other, given delta.

    adds : for each source whether to add to the values there, a `Symbol` or a bool
    """

    def end(name, array, adds):
        return kind.row.code.derivatives[name], lambda *at: row.store(array, *at, adds)

    ends = [end(name, OUT[name], one) for name, one in zip(kind.row.sources, adds, strict=False)]
    _Writer(kind, row, {**SOURCES, "delta": "delta"}).write(ends, known=_saved(kind, row))


def gradient(kind, row):
    """Add to out, as the gain, a row's derivatives by the parameters other than biases."""
    writer, by_unit, by_layer = _Writer(kind, row, {**SOURCES, "delta": "delta"}), [], []
    for one in kind.row.weights:
        (_, at, _), derivative = writer.places[one.variable], kind.row.code.derivatives[one.variable]

        def write(unit, mask, number, at=at):
            row.store("out", unit + at, mask, number, True)

        if one.by_unit:
            by_unit.append((derivative, write))
        else:
            by_layer.append((derivative, at))
    known = writer.write(by_unit, [derivative for derivative, _ in by_layer], _saved(kind, row))
    for derivative, at in by_layer:
        row.add_number("out", at, row.like.number(known[id(derivative)]))


def unit_value(kind, x, own, numbers):
    """Return a unitwise formula of x; own : parameters of the unit; numbers : hyperparameters."""
    return x.number(kind.row.code.value.on_numbers(_unit(kind, x, own, numbers)))


def unit_gradient(kind, delta, x, own, numbers):
    """Return the derivatives by x, and by the parameters other than biases, given delta."""
    values = {**_unit(kind, x, own, numbers), "delta": delta}
    return [x.number(one.on_numbers(values)) for one in kind.row.code.derivatives.values()]


def _unit(kind, x, own, numbers):
    variables = [one.variable for one in kind.row.parameters]
    values = dict(zip(map(number_variable, kind.row.numbers), numbers, strict=True))
    return {"z": x, **values, **dict(zip(variables, own, strict=True)), ONES: x.number(1.0)}
