"""Users' losses whose expressions have sums and maxima over a row's units.

Each sum or maximum is a loop over the units. A loop computes its terms again from the row's numbers, so that no buffer
is needed. The last loop writes the derivatives. A loop runs over one row, or over sixteen rows at once.
"""

# mypy: ignore-errors

from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastmlp.formulas import elementary
from fastmlp.formulas.expressions import NUMBER, ONES
from fastmlp.kernels.codegen.scalars import literal
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.types import FLOATS, INT
from fastmlp.kernels.codegen.vectors import counted, data_pointer, integer
from fastmlp.kernels.codes import LOSS_CODES


class Running:
    """A number that changes from one round of a loop to the next, in a register."""

    def __init__(self, first):
        self._builder, self._place = first.builder, cgutils.alloca_once(first.builder, first.value.type)
        self.value = first

    @property
    def value(self):
        """Its value at the place where code is being written."""
        return Symbol(self._builder, self._builder.load(self._place))

    @value.setter
    def value(self, symbol):
        self._builder.store(symbol.value, self._place)


class Numbers:
    """An array (n,) of a dtype or of int64, whose elements are numbers in code that is being written."""

    def __init__(self, builder, dtype, pointer):
        self.builder, self.kind, self.pointer = builder, FLOATS.get(dtype, INT), pointer

    def _place(self, unit):
        return self.builder.gep(self.pointer, [integer(unit)], source_etype=self.kind)

    def __getitem__(self, unit):
        return Symbol(self.builder, self.builder.load(self._place(unit), typ=self.kind))

    def __setitem__(self, unit, symbol):
        self.builder.store(symbol.value, self._place(unit))


class Same:
    """An array whose elements are all the same number."""

    def __init__(self, number):
        self.number = number

    def __getitem__(self, unit):
        return self.number


def loops_of(value, delta):
    """Return the reductions of each loop over the units: a list of lists, in the order of the loops."""
    loop_of, reductions = {}, {}

    def step(node, parts):
        first = max(parts, default=0)
        if node.operation in ("sum", "max"):
            reductions.setdefault(first, {})[id(node)] = node
            first += 1
        loop_of[id(node)] = first
        return first

    for expression in (value, delta):
        expression.fold(step)
    last = max([loop_of[id(delta)], *reductions])
    return [list(reductions.get(loop, {}).values()) for loop in range(last + 1)]


def emit_row_loss(builder, entry, units, arrays, scale):
    """Write the loss of a row, or of several; return it, not scaled, a `Symbol`.

    arrays : the values of the expressions' variables, by unit; those of "output" become the scaled derivatives
    scale : the factor of the row's loss, or of several rows', a `Symbol`
    """
    known = {}
    arrays = {**arrays, ONES: Same(scale.number(1.0))}
    loops = loops_of(entry.value, entry.delta)
    for reductions in loops:
        found = {}
        for node in reductions:
            least = scale.number(0.0 if node.operation == "sum" else float("-inf"))
            found[id(node)] = Running(least)
        with counted(builder, units) as unit:
            values = {name: array[unit] for name, array in arrays.items()}
            for node in reductions:
                running, term = found[id(node)], node.operands[0].on_numbers(values, known)
                old = running.value
                running.value = old + term if node.operation == "sum" else elementary.maximum(old, term)
            if reductions is loops[-1]:
                arrays["output"][unit] = scale * entry.delta.on_numbers(values, known)
        known |= {key: running.value for key, running in found.items()}
    # A row's loss has no variable of a unit outside of its sums and maxima.
    value = entry.value.on_numbers({"logit": scale, NUMBER: arrays[NUMBER][0]}, known)
    return value if isinstance(value, Symbol) else scale.number(value)


@intrinsic
def row_loss(typing_context, loss, scale, parameters, z, targets, delta):
    """Return a user's loss of one row; 0 for a loss of fastmlp's own. loss : its code, a constant

    z, targets, delta : (units,); delta holds the outputs, and becomes scale times the derivative by z
    parameters : (units,) float64
    """
    if literal(loss) and isinstance(scale, types.Float):
        entry = LOSS_CODES[loss.literal_value]

        def emit(context, builder, signature, values):
            scaled = Symbol(builder, values[1])
            if not entry.digest or entry.element:
                return scaled.number(0.0).value
            names = ("parameter", "logit", "target", "output")
            pairs = zip(signature.args[2:], values[2:], strict=True)
            arrays = {
                name: Numbers(builder, kind.dtype, data_pointer(context, builder, kind, value))
                for name, (kind, value) in zip(names, pairs, strict=True)
            }
            arrays[NUMBER] = Same(arrays["parameter"][0])
            units = Symbol(
                builder, builder.extract_value(context.make_array(z)(context, builder, values[3]).shape, 0)
            )
            return emit_row_loss(builder, entry, units, arrays, scaled).value

        return scale(loss, scale, parameters, z, targets, delta), emit
