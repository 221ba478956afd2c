"""Code for expressions with sums and maxima over a row's units: loops over the units, one after another.

Separate because losses of rows and users' layers are both written so. A loop computes its terms again from the row's
numbers, so that no buffer is needed; results are written in the last one.
"""

# mypy: ignore-errors

from numba.core import cgutils

from fastmlp.formulas import elementary
from fastmlp.formulas.operations import OPERATIONS
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.vectors import folded

LEAST = {"sum": 0.0, "max": float("-inf")}
"""What a reduction of no units is."""

JOINED = {"sum": lambda a, b: a + b, "max": elementary.maximum}


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


class RunningReduction:
    """A sum or maximum over a row's units, while a loop over them is written. operation : a key of `JOINED`"""

    def __init__(self, operation, like):
        self.join, self.running = JOINED[operation], Running(like.number(LEAST[operation]))

    def take(self, unit, mask, term):
        """Add the term of a unit, or of those of a vector that the mask has."""
        old = self.running.value
        new = self.join(old, term)
        self.running.value = new if mask is None else old.choose(Symbol(new.builder, mask), new, old)

    def whole(self):
        """Return what it came to."""
        return self.running.value


class VectorReduction(RunningReduction):
    """A reduction in vectors of units, whose lanes are joined at its end."""

    def whole(self):
        """Return what it came to, in each lane."""
        number = super().whole()
        return number.number(folded(number.builder, number, self.join))


class OneByOne:
    """Loops over the units of a row one at a time; a number may be that of several rows, in lanes.

    each : each() yields the index of a written loop over the units, once; or each unit where loops are unrolled
    like : a number, whose type others take
    """

    def __init__(self, each, like):
        self.each, self.like = each, like

    def over(self, do):
        """Write do(unit, mask) for each unit; the mask is None."""
        for unit in self.each():
            do(unit, None)

    def reduction(self, operation):
        """Return what takes the terms of a sum or maximum."""
        return RunningReduction(operation, self.like)


def loops_of(expressions):
    """Return the loop in which each node is known, by its id, and the reductions of each loop, by theirs."""
    loop_of, reductions = {}, {}

    def step(node, parts):
        first = max(parts, default=0)
        if node.operation in OPERATIONS and OPERATIONS[node.operation].reduces:
            reductions.setdefault(first, {})[id(node)] = node
            first += 1
        loop_of[id(node)] = first
        return first

    for expression in expressions:
        expression.fold(step)
    return loop_of, reductions


def emit_row(units, read, rows, numbers=()):
    """Write expressions of a row; return the values of their sums and maxima, by the ids of nodes.

    units : the loops over them, as of `OneByOne`; read(unit, mask) : the values of variables, by name
    rows : pairs of an expression that differs from unit to unit, and write(unit, mask, number) for its values
    numbers : expressions that are one number for the row
    """
    known = {}
    loop_of, reductions = loops_of([*(expression for expression, _ in rows), *numbers])
    last = max([0, *(loop_of[id(expression)] for expression, _ in rows), *reductions])
    for loop in range(last + 1):
        nodes = list(reductions.get(loop, {}).values())
        found = {id(node): units.reduction(node.operation) for node in nodes}

        def body(unit, mask, loop=loop, nodes=nodes, found=found, known=known):
            values = read(unit, mask)
            for node in nodes:
                found[id(node)].take(unit, mask, node.operands[0].on_numbers(values, known))
            if loop == last:
                for expression, write in rows:
                    write(unit, mask, expression.on_numbers(values, known))

        units.over(body)
        known = known | {key: reduction.whole() for key, reduction in found.items()}
    return known
