"""Code for expressions with sums and maxima over a row's units, as loops over the units.

A loop computes its terms again from the row's units, without a buffer. Numbers of a whole row are computed
before the loop; the last loop writes results.
"""

from numba.core import cgutils

from fastmlp.formulas import elementary
from fastmlp.formulas.expressions import node_is_row
from fastmlp.formulas.operations import OPERATIONS
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.vectors import folded

LEAST = {"sum": 0.0, "max": float("-inf")}
"""The result of a reduction of no units."""

JOINED = {"sum": lambda a, b: a + b, "max": elementary.maximum}


class Running:
    """A loop-carried number in a register."""

    def __init__(self, first):
        self._builder, self._address = first.builder, cgutils.alloca_once(first.builder, first.value.type)
        self.value = first

    @property
    def value(self):
        """The current value, where code is being written."""
        return Symbol(self._builder, self._builder.load(self._address))

    @value.setter
    def value(self, symbol):
        self._builder.store(symbol.value, self._address)


class RunningReduction:
    """A sum or maximum over a row's units in a loop being written. operation : a key of `JOINED`"""

    def __init__(self, operation, like):
        self.join, self.running = JOINED[operation], Running(like.number(LEAST[operation]))

    def take(self, unit, mask, term):
        """Add the term of a unit, or of a vector's units under the mask."""
        old = self.running.value
        new = self.join(old, term)
        self.running.value = new if mask is None else old.choose(Symbol(new.builder, mask), new, old)

    def whole(self):
        """Return the reduction."""
        return self.running.value


class VectorReduction(RunningReduction):
    """A reduction in vectors of units, joined across lanes at the end."""

    def whole(self):
        """Return the reduction in each lane."""
        number = super().whole()
        return number.number(folded(number.builder, number, self.join))


class OneByOne:
    """Loops over the units of a row, unit after unit; lanes may hold several rows.

    each : each() yields the index of a written loop over the units, once; or each unit where loops are unrolled
    like : a number whose type is the type of the results
    """

    def __init__(self, each, like):
        self.each, self.like = each, like

    def over(self, do):
        """Write do(unit, mask) for each unit; the mask is None."""
        for unit in self.each():
            do(unit, None)

    def reduction(self, operation):
        """Return a `RunningReduction` for the terms of a sum or maximum."""
        return RunningReduction(operation, self.like)


def loops_of(expressions, known):
    """Return each node's loop by node id, and each loop's reductions.

    known : nodes, by id, with values before any loop
    """
    loop_of, reductions = dict.fromkeys(known, 0), {}

    def step(node, parts):
        first = max(parts, default=0)
        if node.operation in OPERATIONS and OPERATIONS[node.operation].reduces:
            reductions.setdefault(first, {})[id(node)] = node
            first += 1
        return first

    for expression in expressions:
        expression.fold(step, loop_of)
    return loop_of, reductions


def emit_numbers(expression, fixed, known):
    """Write the largest row-constant parts of an expression, and add their values to `known`."""
    is_row, todo = {}, [expression]
    expression.fold(node_is_row, is_row)
    while todo:
        node = todo.pop()
        if id(node) not in known and node.parts:
            if is_row[id(node)]:
                todo += node.parts
            else:
                node.on_numbers(fixed, known)


def emit_row(units, read, rows, fixed, numbers=(), known=()):
    """Write expressions of a row; return the values of row constants by node id.

    units : the loops over units, as of `OneByOne`; read(unit, mask) : the values of rows' variables, by name
    rows : pairs of an expression by unit, and write(unit, mask, number) for its values
    fixed : the values of row-constant variables, by name
    numbers : row-constant expressions
    known : values of numbers, by node id
    """
    known = dict(known)
    loop_of, reductions = loops_of([*(expression for expression, _ in rows), *numbers], known)
    last = max([*(loop_of[id(expression)] for expression, _ in rows), *reductions], default=-1)
    for loop in range(last + 1):
        nodes = list(reductions.get(loop, {}).values())
        reduced = {id(node): units.reduction(node.operation) for node in nodes}
        ends = rows if loop == last else ()
        for expression in (*(node.operands[0] for node in nodes), *(expression for expression, _ in ends)):
            emit_numbers(expression, fixed, known)

        def body(unit, mask, nodes=nodes, reduced=reduced, ends=ends):
            values, known_here = {**fixed, **read(unit, mask)}, dict(known)
            for node in nodes:
                reduced[id(node)].take(unit, mask, node.operands[0].on_numbers(values, known_here))
            for expression, write in ends:
                write(unit, mask, expression.on_numbers(values, known_here))

        units.over(body)
        known.update((key, reduction.whole()) for key, reduction in reduced.items())
    for expression in numbers:
        expression.on_numbers(fixed, known)
    return known
