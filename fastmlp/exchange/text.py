"""Formulas as text: one writer, which a language tells its words, and a model as a program of loops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.exchange.formulas import COMPOSED, composed
from fastmlp.exchange.steps import ExportGraph, ExportStep, levels_of, slots
from fastmlp.formulas.expressions import CONSTANT, NUMBER, VARIABLE, Expression

LONGEST = 60
"""Characters: what is longer, or used twice, is a statement of its own. So parentheses never nest deeply."""


class Language(NamedTuple):
    """How a language spells what an expression may hold.

    name : str, in errors
    operations : for operations of expressions their text, with {0}, {1} and {2} for the operands
    number : the text of a float or a bool
    number_statement, truth_statement : text with {name} and {value}
    """

    name: str
    operations: Mapping[str, str]
    number: Callable[[float | bool], str]
    number_statement: str = "{name} = {value}"
    truth_statement: str = "{name} = {value}"


ALGEBRA = {
    "add": "({0} + {1})",
    "subtract": "({0} - {1})",
    "multiply": "({0} * {1})",
    "divide": "({0} / {1})",
    "negative": "(-{0})",
    "greater": "({0} > {1})",
    "greater_equal": "({0} >= {1})",
    "less": "({0} < {1})",
    "less_equal": "({0} <= {1})",
    "equal": "({0} == {1})",
}
"""Operations that C and Python spell in the same way."""


def call(function: str, operands: int = 1) -> str:
    """Return the text of a call, for a `Language`."""
    return f"{function}({', '.join(f'{{{place}}}' for place in range(operands))})"


def spelt(language: str, table: Mapping[str, Any], operation: str) -> Any:
    """Return an operation's entry in a format's table; NotImplementedError in one line if it has none."""
    if operation not in table:
        raise NotImplementedError(
            f"{language} has no entry for the operation {operation!r}; it has: {', '.join(sorted(table))}"
        )
    return table[operation]


def write(
    expression: Expression,
    language: Language,
    variables: Mapping[str, str],
    known: Mapping[int, str] | None = None,
) -> tuple[list[str], str]:
    """Return the statements that compute an expression, and the text of its value.

    variables : the texts of its variables; known : of some of its nodes, by their ids
    """
    uses: Counter[int] = Counter()
    expression.fold(lambda node, _: uses.update(map(id, node.parts)), known)
    lines: list[str] = []

    def step(node: Expression, parts: list[str]) -> str:
        if node.operation == VARIABLE:
            return variables[node.operands[0]]
        if node.operation == CONSTANT:
            return language.number(node.operands[0])
        text = str(spelt(language.name, language.operations, node.operation)).format(*parts)
        if uses[id(node)] < 2 and len(text) < LONGEST:
            return text
        name = f"t{len(lines)}"
        statement = language.truth_statement if node.truth else language.number_statement
        lines.append(statement.format(name=name, value=text))
        return name

    return lines, expression.fold(step, known)


# --- programs of loops ---------------------------------------------------------------------------------


class Loop(NamedTuple):
    """Statements for each value of a counter from 0 to below an end."""

    counter: str
    end: str
    body: Sequence[Any]


class Choice(NamedTuple):
    """A whole number: one value where a condition holds, else another."""

    name: str
    condition: str
    value: str
    other: str


Body = Sequence[str | Loop | Choice]


def _parameters(numbers: str, whole: str, out: str, counts: str) -> dict[str, str]:
    """Return the kinds of a routine's parameters by their names."""
    kinds = {"numbers": numbers, "whole": whole, "out": out, "count": counts}
    return {name: kind for kind, names in kinds.items() for name in names.split()}


ROUTINES: dict[str, tuple[dict[str, str], Body]] = {
    "affine": (
        _parameters("x w b", "", "z", "groups n_in n_out"),
        [
            Loop(
                "g",
                "groups",
                [
                    Loop("o", "n_out", ["z[g * n_out + o] = b[g * n_out + o]"]),
                    Loop(
                        "i",
                        "n_in",
                        [
                            Loop(
                                "o",
                                "n_out",
                                ["z[g * n_out + o] += x[g * n_in + i] * w[(g * n_in + i) * n_out + o]"],
                            )
                        ],
                    ),
                ],
            )
        ],
    ),
    "copy": (_parameters("x", "", "out", "first n"), [Loop("i", "n", ["out[first + i] = x[i]"])]),
    "gather": (_parameters("x", "places", "out", "n"), [Loop("i", "n", ["out[i] = x[places[i]]"])]),
    "look_up": (
        _parameters("table", "codes", "out", "column levels width first"),
        [
            Choice("code", "codes[column] > levels", "levels", "codes[column]"),
            Choice("row", "code < -2", "0", "code + 2"),
            Loop("i", "width", ["out[first + i] = table[row * width + i]"]),
        ],
    ),
}
"""The parameters and the bodies of what is no formula; `LoopWriter.call_of` says what each is for."""

REDUCED = {"sum": ("add", 0.0), "max": ("maximum", -np.inf)}
"""What a reduction joins the units of a row by, and what it begins with."""


class LoopWriter:
    """Writes a model as routines that loop over the units of a row, in a language that a subclass spells.

    operations : the language's words, of which those of `COMPOSED` are added as formulas need them
    prefix : of the names of routines and arrays
    loop, closing, statement, variable : texts around a loop, of a statement, and of a number that changes

    Attributes
    ----------
    routines : the texts of all that is called, by name
    arrays : of the model, by name
    """

    loop = "for {counter} in range({end}):"
    closing: tuple[str, ...] = ()
    statement = "{}"
    variable = "{name} = {value}"

    def __init__(self, language: Language, prefix: str = "") -> None:
        self.words = dict(language.operations)
        self.language, self.prefix = language._replace(operations=self.words), prefix
        self.routines: dict[str, str] = {}
        self.arrays: dict[str, NDArray[Any]] = {}

    def text_of(self, name: str, parameters: Mapping[str, str], lines: Sequence[str], value: str) -> str:
        """Return a routine's text; value : what it returns, if anything."""
        raise NotImplementedError

    def define(self, name: str, parameters: Mapping[str, str], body: Body, value: str = "") -> None:
        """Add a routine.

        parameters : by name "numbers", an array, "whole", one of whole numbers, "out", one that is written,
            "count", or "number"
        """
        self.routines[name] = self.text_of(f"{self.prefix}{name}", parameters, self.lines(body), value)

    def lines(self, body: Body) -> list[str]:
        """Return the lines of statements."""
        found = []
        for one in body:
            if isinstance(one, Loop):
                found.append(self.loop.format(counter=one.counter, end=one.end))
                found += [*(f"    {line}" for line in self.lines(one.body)), *self.closing]
            elif isinstance(one, Choice):
                value = self.words["where"].format(*one[1:])
                found += self.lines([self.language.truth_statement.format(name=one.name, value=value)])
            else:
                found.append(self.statement.format(one))
        return found

    def learn(self, expression: Expression) -> None:
        """Add routines for the operations of an expression that the language has no words for."""
        found: dict[str, None] = {}
        expression.fold(lambda node, _: found.setdefault(REDUCED.get(node.operation, (node.operation,))[0]))
        for operation in [name for name in found if name in COMPOSED and name not in self.words]:
            names, by = composed(operation)
            self.learn(by)
            self.words[operation] = call(f"{self.prefix}{operation}", len(names))
            statements, value = write(by, self.language, {name: name for name in names})
            self.define(operation, dict.fromkeys(names, "number"), statements, value)

    def define_formula(self, name: str, expression: Expression, variables: Sequence[str]) -> None:
        """Add a routine that writes an expression of a row, out (n,); it may write where it reads."""
        self.learn(expression)
        texts = {one: f"{one}[0]" if one.startswith(f"{NUMBER}_") else f"{one}[j]" for one in variables}
        known: dict[int, str] = {}
        body: list[str | Loop] = []

        def reduce(node: Expression, _: list[Any]) -> None:
            if node.operation not in REDUCED:
                return
            total, (joined, first) = f"row_{node.operation}_{len(known)}", REDUCED[node.operation]
            statements, value = write(node.parts[0], self.language, texts, known)
            taken = self.words[joined].format(total, value)
            body.append(self.variable.format(name=total, value=self.language.number(first)))
            body.append(Loop("j", "n", [*statements, f"{total} = {taken}"]))
            known[id(node)] = total

        expression.fold(reduce)
        statements, value = write(expression, self.language, texts, known)
        body.append(Loop("j", "n", [*statements, f"out[j] = {value}"]))
        self.define(name, {**dict.fromkeys(variables, "numbers"), "out": "out", "n": "count"}, body)

    def call(self, routine: str, *arguments: object) -> str:
        """Return the text of a call; a routine of `ROUTINES` is added."""
        if routine in ROUTINES and routine not in self.routines:
            self.define(routine, *ROUTINES[routine])
        return f"{self.prefix}{routine}({', '.join(map(str, arguments))})"

    def calls_of(self, step: ExportStep, read: Sequence[tuple[str, int]], out: str) -> list[str]:
        """Return the calls that a step is; read : its sources with their units, out : what it writes."""
        sources, shapes = [name for name, _ in read], [array.shape for array in step.arrays.values()]
        names = [f"{self.prefix}{name}" for name in step.arrays]
        units = step.one.n_out
        self.arrays |= dict(zip(names, step.arrays.values(), strict=True))
        match step.one.kind.name:
            case "dense" | "grouped":  # whose weights are those of one group, or of several
                return [self.call("affine", *sources, *names, out, *(1, *shapes[0])[-3:])]
            case "concatenate":
                ends = accumulate((width for _, width in read), initial=0)
                return [
                    self.call("copy", name, out, first, width)
                    for (name, width), first in zip(read, ends, strict=False)
                ]
            case "gather":
                return [self.call("gather", *sources, *names, out, units)]
            case "categories":
                tables, first, lines = zip(names, step.arrays.values(), strict=True), 0, []
                for column, (name, table) in enumerate(tables):
                    levels, width = levels_of(table), table.shape[1]
                    lines.append(self.call("look_up", name, *sources, out, column, levels, width, first))
                    first += width
                return lines
        assert step.formula is not None
        if step.function not in self.routines:
            self.define_formula(step.function, step.formula, step.variables)
        return [self.call(step.function, *sources, *names, out, units)]

    def write(
        self, graph: ExportGraph, given: Mapping[int, str], taken: Mapping[int, str]
    ) -> tuple[dict[str, int], list[str]]:
        """Return the buffers that a graph's calls need, by name with their lengths, and the calls.

        given : what inputs are called; taken : what the outputs are called, by the numbers of their steps
        """
        places = slots(graph.steps, lambda step: step.formula is not None)
        names = {**given, **{place: f"a{slot}" for place, slot in enumerate(places)}, **taken}
        units = {one.number: one.columns for one in graph.inputs}
        buffers: dict[str, int] = {}
        lines = []
        for step in graph.steps:
            read = [(names[source], units[source]) for source in step.one.sources]
            lines += self.calls_of(step, read, names[step.number])
            units[step.number] = step.one.n_out
            if step.number not in taken:
                name = names[step.number]
                buffers[name] = max(step.one.n_out, buffers.get(name, 0))
        return buffers, self.lines(lines)
