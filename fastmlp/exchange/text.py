"""Formulas as text in a language's words, and a model as a program of loops."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.exchange.formulas import COMPOSED, composed
from fastmlp.exchange.steps import ExportGraph, ExportStep, levels_of
from fastmlp.formulas.expressions import CONSTANT, NUMBER, VARIABLE, Expression

LONGEST = 60
"""Characters of a term at most. Longer terms, and terms used twice, are statements: so parentheses never nest
deeply."""


class Language(NamedTuple):
    """A language's words for expressions.

    name : str, in errors
    operations : the texts of operations, with {0}, {1} and {2} for the operands
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
"""Operations with the same spelling in C and Python."""


def call(function: str, operands: int = 1) -> str:
    """Return the text of a call, for a `Language`."""
    return f"{function}({', '.join(f'{{{place}}}' for place in range(operands))})"


def spelt(language: str, table: Mapping[str, Any], operation: str) -> Any:
    """Return an operation's entry in a format's table; NotImplementedError in a line without an entry."""
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
    """Return an expression's statements, and the text of the value.

    variables : the texts of variables; known : the texts of some nodes, by id
    """
    uses: Counter[int] = Counter()
    expression.fold(lambda node, _: uses.update(map(id, node.parts)), dict(known or {}))
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

    return lines, expression.fold(step, dict(known or {}))


# --- programs of loops ---------------------------------------------------------------------------------

ROUTINES: dict[str, tuple[dict[str, str], list[str]]] = {
    "affine": (
        {"numbers": "x w b", "out": "z", "count": "groups n_in n_out"},
        [
            "for g in range(groups):",
            "    for o in range(n_out):",
            "        z[g * n_out + o] = b[g * n_out + o]",
            "    for i in range(n_in):",
            "        for o in range(n_out):",
            "            z[g * n_out + o] += x[g * n_in + i] * w[(g * n_in + i) * n_out + o]",
        ],
    ),
    "copy": (
        {"numbers": "x", "out": "out", "count": "first n"},
        ["for i in range(n):", "    out[first + i] = x[i]"],
    ),
    "gather": (
        {"numbers": "x", "whole": "places", "out": "out", "count": "n"},
        ["for i in range(n):", "    out[i] = x[places[i]]"],
    ),
    "look_up": (
        {"whole": "codes", "numbers": "table", "out": "out", "count": "column levels width first"},
        [
            "code = levels if codes[column] > levels else codes[column]",
            "row = 0 if code < -2 else code + 2",
            "for i in range(width):",
            "    out[first + i] = table[row * width + i]",
        ],
    ),
}
"""Routines of structures: parameters by kind, see `LoopWriter.define`, and a body in Python's words."""

REDUCED = {"sum": ("add", 0.0), "max": ("maximum", -np.inf)}
"""Reductions over a row: the joining operation, and the first value."""


def defined(name: str, arguments: Iterable[str], lines: Iterable[str], value: str) -> str:
    """Return the text of a Python function; value : the returned text, or ""."""
    body = [f"    {line}" for line in [*lines, *([f"return {value}"] if value else [])]]
    return "\n".join([f"def {name}({', '.join(arguments)}):", *body])


class LoopWriter:
    """Writes a model as routines with loops over the units of a row, in Python unless `text_of` is
    overridden.

    language : of the texts; `COMPOSED` adds missing words of formulas
    prefix : of the names of routines and arrays
    variable : the statement of a changing number, with {name} and {value}

    Attributes
    ----------
    routines : the texts of all called routines, by name
    arrays : of the model, by name
    """

    def __init__(self, language: Language, prefix: str = "", variable: str = "{name} = {value}") -> None:
        self.words = dict(language.operations)
        self.language, self.prefix = language._replace(operations=self.words), prefix
        self.variable = variable
        self.routines: dict[str, str] = {}
        self.arrays: dict[str, NDArray[Any]] = {}

    def text_of(self, name: str, parameters: Mapping[str, str], body: Sequence[str], value: str) -> str:
        """Return a routine's text, given parameters with kinds; see `define`."""
        return defined(name, parameters, body, value)

    def define(self, name: str, kinds: Mapping[str, str], body: Sequence[str], value: str = "") -> None:
        """Add a routine.

        kinds : names of parameters, with spaces between names, by "numbers" (arrays), "whole" (arrays of
            whole numbers), "out" (the written array), "count" and "number"
        body : statements and loops, indented as Python's; value : the returned text, or ""
        """
        parameters = {one: kind for kind, names in kinds.items() for one in names.split()}
        self.routines[name] = self.text_of(f"{self.prefix}{name}", parameters, body, value)

    def learn(self, expression: Expression) -> None:
        """Add routines for an expression's operations without a word in the language."""
        found: dict[str, None] = {}
        expression.fold(lambda node, _: found.setdefault(REDUCED.get(node.operation, (node.operation,))[0]))
        for operation in [name for name in found if name in COMPOSED and name not in self.words]:
            names, by = composed(operation)
            self.learn(by)
            self.words[operation] = call(f"{self.prefix}{operation}", len(names))
            written = write(by, self.language, {name: name for name in names})
            self.define(operation, {"number": " ".join(names)}, *written)

    def define_formula(self, name: str, expression: Expression, variables: Sequence[str]) -> None:
        """Add a routine for an expression of a row, written to out (n,), perhaps a source."""
        self.learn(expression)
        texts = {one: f"{one}[0]" if one.startswith(f"{NUMBER}_") else f"{one}[j]" for one in variables}
        known: dict[int, str] = {}
        body: list[str] = []

        def append_loop(value: Expression, target: str, joined: str = "") -> None:
            lines, text = write(value, self.language, texts, known)
            taken = self.words[joined].format(target, text) if joined else text
            body.append("for j in range(n):")
            body.extend(f"    {line}" for line in [*lines, f"{target} = {taken}"])

        def reduce(node: Expression, _: list[Any]) -> None:
            if node.operation in REDUCED:
                total, (joined, first) = f"row_{node.operation}_{len(known)}", REDUCED[node.operation]
                body.append(self.variable.format(name=total, value=self.language.number(first)))
                append_loop(node.parts[0], total, joined)
                known[id(node)] = total

        expression.fold(reduce)
        append_loop(expression, "out[j]")
        self.define(name, {"numbers": " ".join(variables), "out": "out", "count": "n"}, body)

    def call(self, routine: str, *arguments: object) -> str:
        """Return the text of a call; a routine of `ROUTINES` is added."""
        if routine in ROUTINES and routine not in self.routines:
            self.define(routine, *ROUTINES[routine])
        return f"{self.prefix}{routine}({', '.join(map(str, arguments))})"

    def calls_of(self, step: ExportStep, read: Sequence[tuple[str, int]], out: str) -> list[str]:
        """Return the calls of a step; read : sources with units, out : the written array."""
        names, tables = [f"{self.prefix}{name}" for name in step.arrays], [*step.arrays.values()]
        sources, widths = zip(*read, strict=True)
        given = [*sources, *names, out]
        self.arrays |= dict(zip(names, tables, strict=True))
        match step.one.kind.key:
            case "dense" | "grouped":  # with weights of one group, or of several
                return [self.call("affine", *given, *(1, *tables[0].shape)[-3:])]
            case "gather":
                return [self.call("gather", *given, step.one.n_out)]
            case "concatenate":
                parts = zip(sources, itertools.accumulate(widths, initial=0), widths, strict=False)
                return [self.call("copy", name, out, first, width) for name, first, width in parts]
            case "categories":
                widths = tuple(table.shape[1] for table in tables)
                firsts = itertools.accumulate(widths, initial=0)
                columns = zip(itertools.count(), map(levels_of, tables), widths, firsts, strict=False)
                return [
                    self.call("look_up", *sources, name, out, *column)
                    for name, column in zip(names, columns, strict=False)
                ]
        assert step.formula is not None
        if step.function not in self.routines:
            self.define_formula(step.function, step.formula, step.variables)
        return [self.call(step.function, *given, step.one.n_out)]

    def write(
        self, graph: ExportGraph, given: Mapping[int, str], taken: Mapping[int, str]
    ) -> tuple[dict[str, int], list[str]]:
        """Return the lengths of a graph's buffers by name, and the calls.

        given : the names of inputs; taken : the names of outputs, by the numbers of steps
        """
        places = graph.slots(lambda step: step.formula is not None)
        names = {**given, **{place: f"a{slot}" for place, slot in enumerate(places)}, **taken}
        units = {one.number: one.columns for one in graph.inputs}
        buffers: dict[str, int] = {}
        calls = []
        for step in graph.steps:
            name, units[step.number] = names[step.number], step.one.n_out
            read = [(names[source], units[source]) for source in step.one.sources]
            calls += self.calls_of(step, read, name)
            if step.number not in taken:
                buffers[name] = max(step.one.n_out, buffers.get(name, 0))
        return buffers, calls
