"""Operations on a row that are no product, as code for one row: norms, unitwise operations, users' layers.

Separate because two programs have this text: that of all networks, where the units are a run-time value
(`row_operations`), and that of one small network, where they are an integer (`fastmlp.kernels.small`).
Units are taken `LANES` at a time on every machine, so that sums over a row have the same bits everywhere; a
sum of one number after another waits for each addition, 4 cycles a unit.
"""

# mypy: ignore-errors

from fastmlp.formulas.expressions import COUNT, ONES
from fastmlp.formulas.numbers import sqrt
from fastmlp.kernels.codegen.row_expressions import VectorReduction, emit_row
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.types import INT32
from fastmlp.kernels.codegen.vectors import carried, folded

LANES = 16


class Row:
    """A row in code that is being written.

    v : vectors of LANES lanes
    units : how many numbers it has, an integer or a `Symbol`; count : the same as a float
    places : by name those of x, other, delta, kept and out, and of gain and shift
    """

    def __init__(self, v, units, count, places):
        self.v, self.builder, self.units, self.places = v, v.builder, units, places
        self.like = Symbol(v.builder, v.zero)
        self.count = self.like.number(count)

    def second(self, units, name, number):
        """A row of so many units, whose array of this name begins at element `number` of the one here."""
        return Row(self.v, units, float(units), {**self.places, name: self.place(name, number)})

    def place(self, name, number):
        """The place of an element of an array."""
        return self.v.shift(self.places[name], number * self.v.itemsize)

    def load(self, name, number, mask=None):
        """A vector of an array from element `number` on."""
        return Symbol(self.builder, self.v.load(self.place(name, number), mask))

    def store(self, name, number, mask, symbol, adds=False):
        """Write a vector to an array; or add it to what is there, where `adds`, a Symbol or a bool, holds."""
        symbol = self.like.number(symbol)
        if adds is not False:
            total = self.load(name, number, mask) + symbol
            symbol = total if adds is True else symbol.choose(adds, total, symbol)
        self.put(name, number, mask, symbol)

    def put(self, name, number, mask, symbol):
        """Write a vector over what is in an array."""
        self.v.store(symbol.value, self.place(name, number), mask)

    def over(self, do):
        """Write do(unit, mask) for each vector of units, whose first one is number `unit`."""
        self.v.over(self.units, do)

    def number(self, name, number):
        """One element of an array, in every lane."""
        return Symbol(self.builder, self.v.broadcast(self.place(name, number)))

    def keep(self, number, symbol):
        """Write a number, which is in every lane, to `kept`."""
        self.builder.store(self.builder.extract_element(symbol.value, INT32(0)), self.place("kept", number))

    def add_number(self, name, number, symbol):
        """Add a number, which is in every lane, to one element of an array."""
        new, place = self.builder.extract_element(symbol.value, INT32(0)), self.place(name, number)
        self.builder.store(self.builder.fadd(self.builder.load(place, typ=self.v.scalar), new), place)

    def reduction(self, operation):
        """What takes the terms of a sum or maximum: see `emit_row`."""
        return VectorReduction(operation, self.like)

    def write(self, term, names, out="out", adds=False):
        """Write out = term(elements of arrays), unit by unit."""

        def do(unit, mask):
            self.store(out, unit, mask, term(*(self.load(name, unit, mask) for name in names)), adds)

        self.over(do)

    def total(self, term, *names):
        """The sum of term(elements of arrays) over the units, in every lane."""
        rest = self.units % LANES

        def added(unit, totals, mask=None):
            new = term(*(self.load(name, unit, mask) for name in names)).value
            return [
                self.builder.fadd(
                    totals[0], new if mask is None else self.builder.select(mask, new, self.v.zero)
                )
            ]

        totals = carried(self.builder, 0, self.units - rest, [self.v.zero], added, LANES)
        (total,) = added(self.units - rest, totals, self.v.first(rest))
        return self.like.number(folded(self.builder, Symbol(self.builder, total), lambda a, b: a + b))


class Norm:
    """A norm of rows; `centres` says whether of distances from a row's mean, plus a shift."""

    def __init__(self, centres):
        self.centres = centres

    def _distance(self, row):
        """The function of x that is normalised, as `forward` has kept it."""
        mean = row.number("kept", 0) if self.centres else None
        return (lambda x: x - mean) if self.centres else (lambda x: x)

    def _factor(self, row):
        """The factor of a row's numbers, as `forward` has kept it."""
        return row.number("kept", int(self.centres))

    def forward(self, kind, row, epsilon):
        """out = the operation of x (units,) with gain and shift (units,); kept : what `backward` reads."""
        if self.centres:
            row.keep(0, row.total(lambda x: x, "x") / row.count)
        distance = self._distance(row)
        spread = row.total(lambda x: distance(x) * distance(x), "x") / row.count + row.like.number(epsilon)
        factor = 1.0 / sqrt(spread)
        row.keep(int(self.centres), factor)
        if self.centres:
            row.write(lambda x, gain, shift: distance(x) * factor * gain + shift, ("x", "gain", "shift"))
        else:
            row.write(lambda x, gain: x * factor * gain, ("x", "gain"))

    def backward(self, kind, row, adds):
        """out = the derivative of the loss by x, given delta, that by the output; or += where `adds`."""
        distance, factor = self._distance(row), self._factor(row)
        along = row.total(lambda d, gain: d * gain, "delta", "gain") / row.count if self.centres else None
        across = (
            row.total(lambda d, gain, x: d * gain * distance(x), "delta", "gain", "x") * factor / row.count
        )

        def by_x(d, gain, x):
            own = d * gain - along if self.centres else d * gain
            return factor * (own - distance(x) * factor * across)

        row.write(by_x, ("delta", "gain", "x"), adds=adds)

    def gradient(self, kind, row):
        """out += the derivatives of the loss by the gain, of one row."""
        distance, factor = self._distance(row), self._factor(row)
        row.write(lambda d, x: d * (distance(x) * factor), ("delta", "x"), adds=True)


class Unitwise:
    """An operation whose entry has the formula of one unit; as `Norm`."""

    def forward(self, kind, row, epsilon):
        """Write the output: see `Norm.forward`; nothing is kept."""
        row.write(kind.formula, ("x", "gain", "shift")[: 1 + kind.vectors])

    def backward(self, kind, row, adds):
        """Write the input's delta: see `Norm.backward`."""
        row.write(lambda d, x, gain: kind.backward(d, x, gain)[0], ("delta", "x", "gain"), adds=adds)

    def gradient(self, kind, row):
        """Add to the parameters' gradients: see `Norm.gradient`."""
        row.write(lambda d, x, gain: kind.backward(d, x, gain)[1], ("delta", "x", "gain"), adds=True)


class Own:
    """A user's layer, or an activation with parameters; the gain is all parameters. Methods as of `Norm`."""

    def _parameters(self, kind, row):
        """The place of each parameter in the gain, and whether each unit has its own, by its variable."""
        found, at = {}, 0
        for one in kind.piece.parameters:
            found[one.variable] = at, one.shape == "units"
            at = at + (row.units if one.shape == "units" else 1)
        return found

    def _emit(self, kind, row, arrays, rows, numbers=(), known=()):
        """Write expressions; arrays : by variable the array of the row that they read"""
        places = self._parameters(kind, row).items()
        fixed = {COUNT: row.count} | {
            name: row.number("gain", at) for name, (at, by_unit) in places if not by_unit
        }

        def read(unit, mask):
            values = {name: row.load(array, unit, mask) for name, array in arrays.items()}
            own = {name: row.load("gain", unit + at, mask) for name, (at, by_unit) in places if by_unit}
            return {**values, **own, ONES: row.like.number(1.0)}

        return emit_row(row, read, rows, fixed, numbers, known)

    def _kept(self, kind, row):
        """The numbers that `forward` has kept, by the ids of their nodes."""
        return {id(node): row.number("kept", place) for place, node in enumerate(kind.piece.code.kept)}

    def forward(self, kind, row, epsilon):
        """Write the output: see `Norm.forward`; keep what the derivatives read."""
        code = kind.piece.code

        def write(unit, mask, number):
            row.store("out", unit, mask, number)

        known = self._emit(kind, row, {"z": "x"}, [(code.value, write)], code.kept)
        for place, node in enumerate(code.kept):
            row.keep(place, known[id(node)])

    def backward(self, kind, row, adds):
        """Write the input's delta: see `Norm.backward`."""

        def write(unit, mask, number):
            row.store("out", unit, mask, number, adds)

        ends = [(kind.piece.code.derivatives["z"], write)]
        self._emit(kind, row, {"z": "x", "delta": "delta"}, ends, known=self._kept(kind, row))

    def gradient(self, kind, row):
        """Add to the parameters' gradients: see `Norm.gradient`."""
        by_unit, by_layer, derivatives = [], [], kind.piece.code.derivatives
        for name, (at, is_by_unit) in self._parameters(kind, row).items():

            def write(unit, mask, number, at=at):
                row.store("out", unit + at, mask, number, True)

            if is_by_unit:
                by_unit.append((derivatives[name], write))
            else:
                by_layer.append((derivatives[name], at))
        numbers = [expression for expression, _ in by_layer]
        rows = {"z": "x", "delta": "delta"}
        known = self._emit(kind, row, rows, by_unit, numbers, self._kept(kind, row))
        for expression, at in by_layer:
            row.add_number("out", at, row.like.number(known[id(expression)]))


ROW_KINDS = {"layer_norm": Norm(True), "rms_norm": Norm(False), "own": Own()}


def writer_of(kind):
    """Return what writes the code of a kind for a row; None where it is no operation on the units of one."""
    return ROW_KINDS.get(kind.name) or (Unitwise() if kind.formula is not None else None)
