"""Operations on rows other than products: formulas of a row, and copies of columns.

Norms, gates, sums and custom layers are written from the expressions of their kinds. Two programs use this
text: the program of all networks, where the units are a run-time value, and the program of a single small
network, where they are an integer (`fastmlp.kernels.small`).
"""

# mypy: ignore-errors

from functools import partial

from fastmlp.formulas.expressions import COUNT, ONES
from fastmlp.kernels.codegen.row_expressions import VectorReduction, emit_row
from fastmlp.kernels.codegen.scalars import backward_of
from fastmlp.kernels.codegen.symbols import INT32, Symbol
from fastmlp.kernels.codegen.vectors import Vectors, counted, of_code
from fastmlp.kernels.codegen.views import vector
from fastmlp.kernels.codes import COPIES
from fastmlp.model.component import BIAS, Kind, number_variable

# The same on every machine, so that sums over a row have the same bits everywhere. A sum of number after
# number waits for each addition, 4 cycles a unit.
LANES = 16


class Row:
    """A row in code being written.

    v : vectors of LANES lanes
    units : the numbers of the row, an integer or a `Symbol`; count : the same as a float
    addresses : by name the addresses of x, other, delta, saved, out and out2, and of gain and shift
    numbers : the hyperparameters of the operation, each a `Symbol`
    """

    def __init__(self, v, units, count, addresses, numbers=()):
        self.v, self.builder, self.units, self.addresses = v, v.builder, units, addresses
        self.like = Symbol(v.builder, v.zero)
        self.count, self.numbers = self.like.number(count), [self.like.number(number) for number in numbers]

    def second(self, units, name, number):
        """Return a row of so many units, whose array of this name begins at element `number`."""
        return Row(self.v, units, 0.0, {**self.addresses, name: self.address(name, number)})

    def address(self, name, number):
        """Return the address of an element of an array."""
        return self.v.shift(self.addresses[name], number * self.v.itemsize)

    def load(self, name, number, mask=None):
        """Return a vector of an array from element `number` on."""
        return Symbol(self.builder, self.v.load(self.address(name, number), mask))

    def store(self, name, number, mask, symbol, adds=False):
        """Write a vector to an array, or add it where `adds`, a Symbol or a bool, holds."""
        symbol = self.like.number(symbol)
        if adds is not False:
            total = self.load(name, number, mask) + symbol
            symbol = total if adds is True else symbol.choose(adds, total, symbol)
        self.put(name, number, mask, symbol)

    def put(self, name, number, mask, symbol):
        """Write a vector over the elements of an array."""
        self.v.store(symbol.value, self.address(name, number), mask)

    def over(self, do):
        """Write do(unit, mask) for each vector of units, from number `unit` on."""
        self.v.over(self.units, do)

    def number(self, name, number):
        """Return an element of an array in every lane."""
        return Symbol(self.builder, self.v.broadcast(self.address(name, number)))

    def save(self, number, symbol):
        """Write a number, equal in every lane, to `saved`."""
        self.builder.store(
            self.builder.extract_element(symbol.value, INT32(0)), self.address("saved", number)
        )

    def add_number(self, name, number, symbol):
        """Add a number, equal in every lane, to an element of an array."""
        new, address = self.builder.extract_element(symbol.value, INT32(0)), self.address(name, number)
        self.builder.store(self.builder.fadd(self.builder.load(address, typ=self.v.scalar), new), address)

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

    sections : of the parameters, by variable: section, index there, and whether each unit has a number
    """

    def __init__(self, kind, row, arrays):
        """arrays : by variable the array read by expressions"""
        self.row, self.function, self.arrays, self.sections = row, kind, arrays, {}
        at = {"gain": 0, "shift": 0}
        for parameter in kind.parameters:
            section = "shift" if parameter.shape == BIAS else "gain"
            self.sections[parameter.variable] = section, at[section], parameter.by_unit
            at[section] = at[section] + (row.units if parameter.by_unit else 1)

    def read(self, wanted):
        """Return the values of rows' wanted variables: see `emit_row`."""
        row = self.row

        def values(unit, mask):
            vectors = {
                name: row.load(array, unit, mask) for name, array in self.arrays.items() if name in wanted
            }
            for name, (section, at, by_unit) in self.sections.items():
                # Only what the expressions read is loaded, from arrays that exist.
                if by_unit and name in wanted:
                    vectors[name] = row.load(section, unit + at, mask)
            return {**vectors, ONES: row.like.number(1.0)}

        return values

    def write(self, ends, numbers=(), known=()):
        """Write expressions, as `emit_row` does."""
        row, names = self.row, map(number_variable, self.function.numbers)
        fixed = {COUNT: row.count, **dict(zip(names, row.numbers, strict=True))}
        for name, (section, at, by_unit) in self.sections.items():
            if not by_unit:
                fixed[name] = row.number(section, at)
        wanted = set().union(*(expression.names() for expression in (*(end for end, _ in ends), *numbers)))
        return emit_row(row, self.read(wanted), ends, fixed, numbers, known)


def forward(kind, row, others=0, activation=None):
    """Write out = the operation of x and other (units,), and save numbers for backward.

    others : of kinds without a formula, the numbers of out after those of x
    activation : of the kind "activation"
    """
    if kind.value is None:
        row.write(activation.formula if activation else _same, ("x",))
        if kind.key == "concatenate":
            row.second(others, "out", row.units).write(_same, ("other",))
        elif kind.key == "members":
            with counted(row.builder, others, row.units) as before:
                row.second(row.units, "out", before + row.units).write(_same, ("x",))
        return
    code = kind.code
    ends = [(code.value, lambda unit, mask, number: row.store("out", unit, mask, number))]
    known = _Writer(kind, row, SOURCES).write(ends, code.saved)
    for index, node in enumerate(code.saved):
        row.save(index, known[id(node)])


def _same(number):
    return number


def _saved(kind, row):
    """Return the saved numbers of `forward`, by node id."""
    return {id(node): row.number("saved", index) for index, node in enumerate(kind.code.saved)}


def backward(kind, row, adds, others=0, activation=None):
    """Write out and out2 = the derivatives of the loss by x and other, given delta.

    adds : for each source whether to add to the values there, a `Symbol` or a bool
    others, activation : as of `forward`
    """
    if kind.value is None:
        if activation:
            term, names = lambda d, x, a: backward_of(activation, d, x, a), ("delta", "x", "a")
        else:
            term, names = _same, ("delta",)
        row.write(term, names, adds=adds[0])
        if kind.key == "concatenate":
            row.second(others, "delta", row.units).write(_same, ("delta",), "out2", adds[1])
        elif kind.key == "members":
            # All members read the same source, so that its delta is the sum of theirs, in order.
            with counted(row.builder, others, row.units) as before:
                row.second(row.units, "delta", before + row.units).write(_same, ("delta",), adds=True)
        return

    def end(name, array, adds):
        return kind.code.derivatives[name], lambda *at: row.store(array, *at, adds)

    ends = [end(name, OUT[name], adding) for name, adding in zip(kind.sources, adds, strict=False)]
    _Writer(kind, row, {**SOURCES, "delta": "delta"}).write(ends, known=_saved(kind, row))


def gradient(kind, row):
    """Add to out, as the gain, a row's derivatives by the parameters other than biases."""
    writer, by_unit, by_layer = _Writer(kind, row, {**SOURCES, "delta": "delta"}), [], []
    for trained in kind.weights:
        (_, at, _), derivative = (
            writer.sections[trained.variable],
            kind.code.derivatives[trained.variable],
        )

        def write(unit, mask, number, at=at):
            row.store("out", unit + at, mask, number, True)

        if trained.by_unit:
            by_unit.append((derivative, write))
        else:
            by_layer.append((derivative, at))
    known = writer.write(by_unit, [derivative for derivative, _ in by_layer], _saved(kind, row))
    for derivative, at in by_layer:
        row.add_number("out", at, row.like.number(known[id(derivative)]))


def unit_value(kind, x, parameters, numbers):
    """Return a unitwise formula of x; parameters : of the unit; numbers : hyperparameters."""
    return x.number(kind.code.value.on_numbers(_unit(kind, x, parameters, numbers)))


def unit_gradient(kind, delta, x, parameters, numbers):
    """Return the derivatives by x, and by the parameters other than biases, given delta."""
    values = {**_unit(kind, x, parameters, numbers), "delta": delta}
    return [x.number(derivative.on_numbers(values)) for derivative in kind.code.derivatives.values()]


def _unit(kind, x, parameters, numbers):
    variables = [parameter.variable for parameter in kind.parameters]
    values = dict(zip(map(number_variable, kind.numbers), numbers, strict=True))
    return {"z": x, **values, **dict(zip(variables, parameters, strict=True)), ONES: x.number(1.0)}


# --- operations on the rows of a batch --------------------------------------------------------------------

MACHINE_EPSILON = {4: 2.0**-23, 8: 2.0**-52}
"""The value of a NaN hyperparameter, by bytes of a number."""


def number_at(numbers, index, itemsize):
    """Return a hyperparameter, float64."""
    number = numbers[index]
    # NaN stands for the dtype's epsilon: a record of numbers serves both dtypes.
    return number.choose(number.equals(number), number, MACHINE_EPSILON[itemsize])


def each_row(write, kind, numbers, subrows, second, rows, vectors):
    """Write write(kind, row) for each subrow; nothing for other kinds than those of formulas and COPIES.

    rows : by name the arrays (rows * subrows, ..) of a `Row`; vectors : by name gain and shift of all subrows
    """
    if not isinstance(kind, Kind) or (kind.value is None and kind.key not in COPIES):
        return
    x, y, hyperparameters = rows["x"], rows.get("delta", rows.get("out")), ()
    builder, v, units = x.builder, Vectors(x.builder, x.dtype, LANES * x.itemsize), x.columns
    if kind.value is None:
        write = partial(write, others=y.columns - units)
    else:
        units = y.columns
        hyperparameters = [number_at(numbers, i, v.itemsize) for i in range(len(kind.numbers))]
    count = Symbol(builder, builder.sitofp(units.value, v.scalar))
    columns, steps = (
        {"other": second, "out2": second},
        [matrix.units // subrows for matrix in vectors.values()],
    )
    with counted(builder, x.rows // subrows) as row, counted(builder, subrows) as cut:
        addresses = {
            name: matrix.at(row * subrows + cut, columns.get(name, 0)) for name, matrix in rows.items()
        }
        for (name, matrix), step in zip(vectors.items(), steps, strict=True):
            addresses[name] = matrix.at(0, cut * step)
        write(kind, Row(v, units, count, addresses, hyperparameters))


@of_code("operation", results=0)
def formula_forward(kind, numbers, subrows, second, gain, shift, x, other, saved, out):
    """Write `operate`."""
    rows = {"x": x, "other": other, "saved": saved, "out": out}
    each_row(forward, kind, numbers, subrows, second, rows, {"gain": gain, "shift": shift})


@of_code("operation", results=0)
def formula_backward(
    kind, numbers, subrows, second, gain, x, other, saved, delta, adding, below, below_other
):
    """Write `operate_gradient`."""
    rows = {"x": x, "other": other, "saved": saved, "delta": delta, "out": below, "out2": below_other}
    each_row(partial(backward, adds=adding), kind, numbers, subrows, second, rows, {"gain": gain})


@of_code("operation", results=0)
def formula_gradient(kind, numbers, subrows, second, gain, x, other, saved, delta, out):
    """Write `gain_gradient` for a formula of a row, whose out holds 0."""
    if isinstance(kind, Kind) and kind.value is not None:  # copies have no gain
        rows = {"x": x, "other": other, "saved": saved, "delta": delta}
        each_row(gradient, kind, numbers, subrows, second, rows, {"gain": gain, "out": out})


def operate(code, numbers, subrows, second, gain, shift, x, other, saved, out):
    """out (rows, n_out) = the operation `code` of x (rows, ..), and of other (rows, ..) with two sources.

    numbers : hyperparameters, see OPERATION; second : the index of the first unit read in a row of other
    subrows : the parts of a row of the batch, each with its part of gain and shift
    gain, shift : (subrows * n_out,), or empty; the gain of a custom layer is all its parameters
    saved : (rows, n), written: saved for backward
    """
    formula_forward(code, numbers, subrows, second, gain, shift, x, other, saved, out)


def operate_gradient(
    code, numbers, subrows, second, gain, x, other, saved, delta, adding, below, below_other
):
    """below (rows, n_in) = the derivative of the loss by x, given delta (rows, n_out) of the output.

    below_other : by the second source
    adding : (adds, adds_other), whether to add to the values of below and of below_other
    """
    formula_backward(code, numbers, subrows, second, gain, x, other, saved, delta, adding, below, below_other)


def gain_gradient(code, numbers, subrows, second, gain, x, other, saved, delta, out):
    """out, as the gain, = the derivative of the loss by the gain, a sum over rows in order."""
    for j in range(len(out)):
        out[j] = 0
    formula_gradient(code, numbers, subrows, second, gain, x, other, saved, delta, out)


def pass_on(delta, left, adds, below):
    """below (rows, units) = the columns of delta from `left` on, or += where `adds`."""
    rows, units = below.shape
    for i in range(rows):
        # As vectors: an index that may be negative, as Python's, takes a number at a time.
        source, target = vector(delta, i * delta.shape[1] + left, units), vector(below, i * units, units)
        for j in range(units):
            target[j] = target[j] + source[j] if adds else source[j]


def copy_columns(x, column, out):
    """Columns of out from `column` on = x (rows, columns)."""
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            out[i, column + j] = x[i, j]
