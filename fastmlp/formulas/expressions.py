"""Formulas as graphs of operations, traced from users' functions of NumPy's words.

An expression identifies a user's activation, loss or rule, in any file. An expression runs on arrays (the
reference) and on symbols (the kernels), and has derivatives (`fastmlp.formulas.derivatives`). NumPy's
functions and operators, called with an `Expression`, return an `Expression` (NEP 13 and 18); so `trace` calls
a user's function.
"""

from __future__ import annotations

import hashlib
import math
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.formulas import numbers
from fastmlp.formulas.operations import OPERATIONS


class Refused(Exception):
    """A function cannot be traced; the message says why."""


VARIABLE, CONSTANT = "variable", "constant"


def _refusing(why: str) -> Any:
    """Return a method that refuses."""

    def refuse(self: Any, *_: Any, **__: Any) -> Any:
        raise Refused(why)

    return refuse


def _method(name: str) -> Any:
    """Return a method of arrays by NumPy's function of this name, over a row if it reduces."""
    return lambda self, *given, **options: _applied(name, (self, *given), **options)


class Expression(np.lib.mixins.NDArrayOperatorsMixin):
    """A value in a traced function: an operation on expressions, a variable, or a constant.

    operation : a key of `OPERATIONS`, VARIABLE with a name as operand, or CONSTANT with a value
    """

    __slots__ = ("operands", "operation", "truth")

    def __init__(self, operation: str, *operands: Any) -> None:
        self.operation, self.operands = operation, operands
        if operation == CONSTANT:
            self.truth = isinstance(operands[0], bool)
        else:
            self.truth = operation in OPERATIONS and OPERATIONS[operation].truth

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Expression:
        if method != "__call__":
            name = f"np.{ufunc.__name__}.{method}"
            raise Refused(f"{name} is not among the functions that docs/custom-components.md lists")
        if options:
            raise Refused(
                f"np.{ufunc.__name__} takes no {', '.join(options)} here; write x = x * 2 in place of x *= 2"
            )
        return _applied(_word(ufunc), inputs)

    def __array_function__(self, function: Any, kinds: Any, inputs: Any, options: Any) -> Expression:
        return _applied(_word(function), inputs, **options)

    @property
    def dtype(self) -> np.dtype[np.float64]:
        """The dtype of constants, until they meet numbers of another dtype."""
        return np.dtype(np.float64)

    __array__ = _refusing("an array is made of a value; use NumPy's functions on the value itself")
    __bool__ = _refusing("Python's if, and, or, not, min or max decides by a value; use np.where")
    __float__ = __int__ = __index__ = __complex__ = _refusing(
        "a Python number is made of a value, as functions of math do; use NumPy's functions"
    )
    __len__ = _refusing("a value has no length here, nor elements")
    __iter__ = __getitem__ = _refusing("a value has no elements here; write the formula of one element")
    __setitem__ = _refusing("a value has no elements to assign to; write z = np.where(z < 0, 0.0, z)")
    sum, mean, max, clip = map(_method, ("sum", "mean", "max", "clip"))

    # Equal graphs are one expression, also of different functions.

    @property
    def digest(self) -> str:
        """A digest of the graph."""
        lines = (f"{operation} {' '.join(map(repr, operands))}" for operation, operands in self.nodes())
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def fold(self, step: Callable[[Expression, list[Any]], Any], known: dict[int, Any] | None = None) -> Any:
        """Return step(node, results of operands) of each node, once; known : results by nodes' ids."""
        done: dict[int, Any] = {} if known is None else known
        todo = [self]
        while todo:
            node = todo[-1]
            parts = () if id(node) in done else node.parts
            waiting = [part for part in parts if id(part) not in done]
            if waiting:
                todo += waiting
                continue
            todo.pop()
            if id(node) not in done:
                done[id(node)] = step(node, [done[id(part)] for part in parts])
        return done[id(self)]

    def nodes(self) -> list[tuple[str, tuple[Any, ...]]]:
        """Return the nodes after their operands, flat: a graph may be deeper than Python recurses."""
        nodes: list[tuple[str, tuple[Any, ...]]] = []

        def step(node: Expression, parts: list[int]) -> int:
            nodes.append((node.operation, tuple(parts) if node.parts else node.operands))
            return len(nodes) - 1

        self.fold(step)
        return nodes

    def __reduce__(self) -> tuple[Any, ...]:
        return expression_of, (self.nodes(),)

    @property
    def parts(self) -> tuple[Expression, ...]:
        """The operands that are expressions."""
        return () if self.operation in (VARIABLE, CONSTANT) else self.operands

    def names(self) -> set[str]:
        """Return the names of all variables."""
        found: set[str] = set()
        self.fold(lambda node, _: found.add(node.operands[0]) if node.operation == VARIABLE else None)
        return found

    def on_arrays(self, dtype: np.dtype[Any], values: Mapping[str, Any]) -> Any:
        """Return the value for arrays of the dtype; functions of floats alone are computed in float64."""

        def step(node: Expression, parts: list[Any]) -> Any:
            if node.operation in (VARIABLE, CONSTANT):
                return values[node.operands[0]] if node.operation == VARIABLE else node.operands[0]
            if not any(isinstance(part, (np.ndarray, Expression)) for part in parts):
                return OPERATIONS[node.operation].on_arrays(*parts).item()
            if node.operation == "where":
                parts[1:] = (dtype.type(x) if isinstance(x, float) else x for x in parts[1:])
            return OPERATIONS[node.operation].on_arrays(*parts)

        return self.fold(step)

    def on_numbers(self, values: Mapping[str, Any], known: dict[int, Any] | None = None) -> Any:
        """Return the value for numbers of `fastmlp.formulas` in place of variables; known as in `fold`."""

        def step(node: Expression, parts: list[Any]) -> Any:
            if node.operation in (VARIABLE, CONSTANT):
                return values[node.operands[0]] if node.operation == VARIABLE else node.operands[0]
            if node.operation == "where" and not any(map(numbers.is_number, parts[1:])):
                parts[1] = like.number(parts[1])
            return OPERATIONS[node.operation].on_numbers(*parts)  # type: ignore[misc]

        like = next(iter(values.values()))
        return self.fold(step, known)


def expression_of(nodes: Sequence[tuple[str, Sequence[Any]]]) -> Expression:
    """Return the expression of a list of `Expression.nodes`."""
    made: list[Expression] = []
    for operation, operands in nodes:
        leaf = operation in (VARIABLE, CONSTANT)
        made.append(Expression(operation, *(operands if leaf else (made[index] for index in operands))))
    return made[-1]


def variable(name: str) -> Expression:
    """Return the expression of a variable."""
    return Expression(VARIABLE, name)


def constant(value: float | bool) -> Expression:
    """Return the expression of a number or a truth value."""
    return Expression(CONSTANT, value)


def as_expression(value: Any) -> Expression:
    """Return the expression of a number, or an expression itself; `Refused` otherwise."""
    if isinstance(value, Expression):
        return value
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    if isinstance(value, (bool, np.bool_)):
        return constant(bool(value))
    if isinstance(value, (int, float, np.integer, np.floating)):
        return constant(float(value))
    if isinstance(value, np.ndarray):
        raise Refused(f"it takes an array of shape {value.shape} from outside; only numbers can be constants")
    raise Refused(f"it computes with {type(value).__name__}, where a number is required")


NUMBER, ONES, COUNT = "number", "ones", "number_#"
"""Variables: a number for a row's units (as all names that begin so), 1 for each unit, their number."""


def is_row(expression: Expression) -> bool:
    """Return whether a value differs from unit to unit of a row."""
    return bool(expression.fold(node_is_row))


def node_is_row(node: Expression, parts: list[bool]) -> bool:
    """Return `is_row` of a node by its operands': a step of `Expression.fold`."""
    if node.operation == VARIABLE:
        return bool(node.operands[0].partition("_")[0] != NUMBER)
    return any(parts) and not (node.operation in OPERATIONS and OPERATIONS[node.operation].reduces)


def operate(operation: str, *operands: Any) -> Expression:
    """Return an operation's expression, or the value of an operation on numbers alone."""
    parts = [as_expression(operand) for operand in operands]
    if OPERATIONS[operation].reduces and not is_row(parts[0]):
        return parts[0]  # NumPy's sum and maximum of one number are that number
    if operation == "where" and len(parts) != 3:
        raise Refused("np.where takes a comparison and both of what it chooses from")
    if all(part.operation == CONSTANT for part in parts) and not OPERATIONS[operation].reduces:
        with np.errstate(all="ignore"):
            return as_expression(OPERATIONS[operation].on_arrays(*(part.operands[0] for part in parts)))
    truths = [operation.startswith("logical_") or (operation, i) == ("where", 0) for i in range(len(parts))]
    for part, truth in zip(parts, truths, strict=True):
        if part.truth and not truth:
            raise Refused("it computes with the truth of a comparison; use np.where(comparison, 1.0, 0.0)")
        if truth and not part.truth:
            raise Refused("it takes a number for a truth value; compare it")
    if operation in ("log", "log1p") and (exponent := _exponent(operation, *parts)) is not None:
        return Expression("softplus", exponent)
    known = next((i for i, part in enumerate(parts) if part.truth and part.operation == CONSTANT), None)
    if known is not None:
        return _decided(operation, parts, known)
    return Expression(operation, *parts)


def _exponent(operation: str, x: Expression) -> Expression | None:
    """Return x of log1p(exp(x)) or log(1 + exp(x)), as softplus is cheaper and cannot overflow."""
    if operation == "log" and x.operation == "add":
        one, x = x.operands if x.operands[0].operation == CONSTANT else x.operands[::-1]
        if one.operation != CONSTANT or one.operands[0] != 1.0:
            return None
    elif operation == "log":
        return None
    return x.operands[0] if x.operation == "exp" else None


def total(value: Expression) -> Expression:
    """Return the sum over the units of a row; a number for the whole row counts for each unit."""
    return operate("sum", value if is_row(value) else value * variable(ONES))


def _decided(operation: str, parts: list[Expression], known: int) -> Expression:
    """Return a choice, or two joined truths, with a truth that is known while tracing."""
    truth = parts[known].operands[0]
    if operation == "where":
        return _broadcast(parts[1] if truth else parts[2], parts)
    other = parts[1 - known]
    return _broadcast(parts[known] if truth == (operation == "logical_or") else other, parts)


def _broadcast(value: Expression, others: list[Expression]) -> Expression:
    """Broadcast a value to a row if another operand is a row, as NumPy does."""
    if is_row(value) or not any(map(is_row, others)):
        return value
    always = operate("equal", variable(ONES), 1.0)
    if value.truth:  # known, which `operate` would decide again
        return Expression("logical_and", always, value)
    return operate("where", always, value, 0.0)


def of_one_unit(value: Expression, ones: Sequence[str] = (ONES,)) -> Expression:
    """Return the expression for rows of a single unit, without broadcasts of numbers; ones : are 1 then"""
    if value.names().isdisjoint(ones):
        return value

    def step(node: Expression, parts: list[Expression]) -> Expression:
        if node.operation == VARIABLE and node.operands[0] in ones:
            return constant(1.0)
        return operate(node.operation, *parts) if node.parts else node

    # A choice that was decided just now has broadcast its number to a row: another pass removes that.
    return of_one_unit(value.fold(step), ones)


def _clip(x: Any, low: Any = None, high: Any = None, **bounds: Any) -> Any:
    low, high = bounds.pop("min", low), bounds.pop("max", high)
    if bounds:
        raise Refused(f"np.clip with {', '.join(bounds)}")
    x = x if low is None else operate("maximum", x, low)
    return x if high is None else operate("minimum", x, high)


def _logaddexp(a: Any, b: Any) -> Any:
    for zero, x in ((a, b), (b, a)):
        if not isinstance(zero, Expression) and zero == 0:
            return operate("softplus", x)
    # The difference of two equal infinities is NaN.
    apart = operate("where", operate("equal", a, b), 0.0, abs(a - b))
    return operate("maximum", a, b) + operate("log1p", operate("exp", -apart))


def _reduction(name: str, reduce: Callable[[Expression], Expression]) -> Callable[..., Any]:
    def reduced(x: Any, axis: Any = None, *others: Any, keepdims: bool = True, **named: Any) -> Any:
        if others or named:
            raise Refused(f"np.{name} over a row takes an axis and keepdims, and nothing else")
        if axis not in (None, 1, -1):
            raise Refused(f"np.{name} goes over a row, whose axis is 1 or -1, got {axis!r}")
        return reduce(as_expression(x))

    return reduced


def _mean(x: Expression) -> Expression:
    return operate("sum", x) / total(constant(1.0)) if is_row(x) else x


def _norm(x: Any, order: Any = None, *axis: Any, **named: Any) -> Any:
    """Return the 2-norm of a row, with the slope 0 at a row of zeros, as in PyTorch."""
    order = named.pop("ord", order)
    if order not in (None, 2):
        raise Refused(f"np.linalg.norm of order {order!r}, where it may be 2")
    square = _reduction("linalg.norm", lambda x: operate("sum", x * x))(x, *axis, **named)
    above = square > 0.0
    return operate("where", above, operate("sqrt", operate("where", above, square, 1.0)), square)


def _number_if_one_is(operation: str) -> Callable[[Any, Any], Any]:
    """Return np.fmax or np.fmin by np.maximum or np.minimum: of a number and NaN the number."""

    def chosen(a: Any, b: Any) -> Any:
        is_a, is_b = (operate("equal", x, x) for x in (a, b))
        return operate("where", is_b, operate("where", is_a, operate(operation, a, b), b), a)

    return chosen


COMPOSED: dict[str, Callable[..., Any]] = {
    "positive": lambda x: x,
    "square": lambda x: x * x,
    "reciprocal": lambda x: 1.0 / x,
    "float_power": lambda x, y: operate("power", x, y),
    "fabs": abs,
    "abs": abs,
    "exp2": lambda x: operate("exp", x * math.log(2.0)),
    "log2": lambda x: operate("log", x) / math.log(2.0),
    "log10": lambda x: operate("log", x) / math.log(10.0),
    "tan": lambda x: operate("sin", x) / operate("cos", x),
    "sinh": lambda x: (operate("expm1", x) - operate("expm1", -x)) / 2.0,
    "cosh": lambda x: (operate("exp", x) + operate("exp", -x)) / 2.0,
    "logaddexp": _logaddexp,
    "clip": _clip,
    "fmax": _number_if_one_is("maximum"),
    "fmin": _number_if_one_is("minimum"),
    "heaviside": lambda x, half: operate(
        "where", x > 0, 1.0, operate("where", x < 0, 0.0, operate("where", operate("equal", x, x), half, x))
    ),
    "not_equal": lambda a, b: operate("logical_not", operate("equal", a, b)),
    "bitwise_and": lambda a, b: operate("logical_and", a, b),
    "bitwise_or": lambda a, b: operate("logical_or", a, b),
    "invert": lambda a: operate("logical_not", a),
    "isnan": lambda x: operate("logical_not", operate("equal", x, x)),
    "sum": _reduction("sum", lambda x: operate("sum", x)),
    "mean": _reduction("mean", _mean),
    "max": _reduction("max", lambda x: operate("max", x)),
    "amax": _reduction("max", lambda x: operate("max", x)),
    "norm": _norm,
    "zeros_like": lambda x: _broadcast(constant(0.0), [x]),
    "ones_like": lambda x: _broadcast(constant(1.0), [x]),
}
"""NumPy's functions, made of operations."""

NUMPYS = {getattr(np, name): name for table in (COMPOSED, OPERATIONS) for name in table if hasattr(np, name)}
"""Names by NumPy's function objects, since np.emath and np.char have other functions of the same names."""


OTHERS = ("numpy.linalg", "scipy.special")
"""Modules with functions of the table that `numpy` lacks."""


def _word(function: Any) -> str:
    """Return the name of a function of NumPy or `OTHERS`; `Refused` for functions not in the table."""
    name = function.__name__
    if function in NUMPYS:
        return NUMPYS[function]
    others = (getattr(sys.modules.get(module), name, None) for module in OTHERS)
    if any(one is function for one in others) and name in {*COMPOSED, *OPERATIONS}:
        return str(name)
    if getattr(np, name, None) is not function:
        name = f"{function.__module__}.{name}" if getattr(function, "__module__", None) else name
        raise Refused(f"{name} is not one of NumPy's functions that docs/custom-components.md lists")
    raise Refused(f"np.{name} is not among the functions that docs/custom-components.md lists")


TAKE_OPTIONS = ("clip", "sum", "mean", "max", "amax", "norm")


def _applied(name: str, inputs: Sequence[Any], **options: Any) -> Any:
    if options and name not in TAKE_OPTIONS:
        raise Refused(f"np.{name} with {', '.join(options)}")
    if name not in COMPOSED:
        return operate(name, *inputs)
    given = [as_expression(x) if isinstance(x, np.generic) else x for x in inputs]
    return COMPOSED[name](*given, **options)


WORDS = sorted({*OPERATIONS, *COMPOSED} - {"amax", "softplus"})
"""The functions that a traced function may call: NumPy's, and `erf` and `expit` of scipy.special."""


# --- tracing ------------------------------------------------------------------------------------------

LIBRARIES = tuple(os.path.dirname(file) + os.sep for file in (os.path.dirname(__file__), np.__file__))
"""Folders of fastmlp and NumPy: a user's line called them where an error arose in them."""


def trace(what: str, function: Callable[..., Any], *arguments: Any) -> tuple[Expression, ...]:
    """Return a function's values for expressions; ValueError with the line that cannot be traced.

    The function is called twice: a second result that differs depends on more than the arguments.
    """
    first, second = (_called(what, function, arguments) for _ in range(2))
    if [e.digest for e in first] != [e.digest for e in second]:
        raise ValueError(f"{what} computes another formula every time that it is called; it must be pure")
    return first


def _called(what: str, function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[Expression, ...]:
    try:
        returned = function(*arguments)
        values = list(_flat(returned))
        if not values:
            raise Refused(f"it returns {returned!r}, where a value is required")
        return tuple(map(as_expression, values))
    except Refused as refused:
        raise ValueError(f"{what} cannot be traced{_location(refused)}: {refused}") from None
    except RecursionError:
        raise ValueError(f"{what} cannot be traced: it calls itself without end") from None
    except Exception as error:
        # A user's function may raise anything, and its errors are reported with its line.
        said = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{what} cannot be traced{_location(error)}: {type(error).__name__}: {said}"
        ) from None


def _flat(value: Any) -> Any:
    if isinstance(value, (tuple, list)):
        for one in value:
            yield from _flat(one)
    elif value is not None:
        yield value


def _location(error: BaseException) -> str:
    """Return the user's line of an error, in words; "" without such a line."""
    frames = traceback.extract_tb(error.__traceback__)
    users = [f for f in frames if not f.filename.startswith(LIBRARIES) and "site-packages" not in f.filename]
    if not users:
        return ""
    line, file, text = users[-1].lineno, os.path.basename(users[-1].filename), users[-1].line
    return f" at line {line} of {file!r}" + (f", {checks.shown(text)}" if text else "")
