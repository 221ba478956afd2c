"""Values, tangents and cotangents of rows along the steps of a network.

Forward mode carries tangents from the inputs to the outputs, reverse mode carries cotangents back (Griewank
and Walther, "Evaluating Derivatives", 2008, chapter 3). A product of a Hessian with a vector is the tangent
of the reverse walk (chapter 5). Derivatives of formulas are derived; derivatives of structures stand here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend.reference_losses import activate_gradient
from fastmlp.exchange.formulas import Z, formula, of_units
from fastmlp.exchange.steps import ExportGraph, ExportStep
from fastmlp.formulas.derivatives import RowFormula, gradient, times
from fastmlp.formulas.expressions import (
    ONES,
    Expression,
    constant,
    expression_of,
    of_one_unit,
    operate,
    total,
    variable,
)
from fastmlp.model.activations import Activation
from fastmlp.model.component import restored

Array = NDArray[Any]

DELTA, SEED, TANGENT = "delta", "seed", "tangent"
"""The variables of derivatives: a cotangent, an auxiliary cotangent, a tangent."""


def _generic(units: int, dtype: Any) -> Array:
    """Return (units,) numbers for seeds; only a test of factors for 0 reads the numbers.

    No sum of these numbers cancels, as a sum of equal numbers does in the derivative of softmax.
    """
    return (1 + np.arange(1, units + 1) * 0.6180339887498949 % 1).astype(dtype)


class Differential(NamedTuple):
    """A formula of a row with derivatives; rows are the sources `z` and `other`.

    pulled : the cotangent by variable, given `delta`, the cotangent of the value
    pushed : the tangent of the value by source, given `tangent`, the tangent of the source
    bent : by pairs of sources, the tangent of the first cotangent, given `tangent` of the second
    """

    value: Expression
    pulled: dict[str, Expression]
    pushed: dict[str, Expression]
    bent: dict[tuple[str, str], Expression]


def along(expression: Expression, name: str) -> Expression:
    """Return the derivative of an expression along the tangent of a variable.

    The reverse derivative is linear in a seed; its reverse derivative by the seed is the forward derivative.
    """
    if name not in expression.names():
        return constant(0.0)
    back = gradient(total(times(variable(SEED), expression)), name)
    return gradient(total(times(variable(TANGENT), back)), SEED)


def _one_sided(expression: Expression) -> Expression:
    """Return an expression with |x| as a choice of x and -x.

    The choice is x at 0. The reference writes the logistic function by |z|, with the branch z >= 0: with this
    choice the slope at 0 is right.
    """

    def step(node: Expression, parts: list[Expression]) -> Expression:
        if node.operation == "absolute":
            return operate("where", operate("greater_equal", parts[0], 0.0), parts[0], -parts[0])
        return Expression(node.operation, *(parts or node.operands))

    found: Expression = expression.fold(step)
    return found


Nodes = tuple[tuple[str, tuple[Any, ...]], ...]


@functools.lru_cache(maxsize=256)
def _differential(
    nodes: Nodes, variables: tuple[str, ...], sources: int, activation: str | Activation
) -> Differential:
    value = expression_of(nodes)
    if isinstance(activation, Activation):
        pulled = {Z: of_units(activation.by_delta, 1, {"a": value})}
    elif activation:  # with the values at kinks that training has
        back: Any = activate_gradient(activation, variable(Z), value, variable(DELTA))  # type: ignore[arg-type]
        pulled = {Z: _one_sided(back)}
    else:
        pulled = RowFormula(value, variables).derivatives
    rows = variables[:sources]
    pushed = {row: gradient(total(times(variable(TANGENT), pulled[row])), DELTA) for row in rows}
    bent = {(row, by): along(pulled[row], by) for row in rows for by in rows}
    return Differential(value, pulled, pushed, bent)


def differential_of(step: ExportStep) -> Differential:
    """Return the derivatives of a formula step."""
    assert step.formula is not None
    activation = step.one.activation if step.one.kind.key == "activation" else ""
    nodes = tuple((word, tuple(operands)) for word, operands in step.formula.nodes())
    return _differential(nodes, step.variables, len(step.one.sources), activation)


@functools.lru_cache(maxsize=64)
def slope_of(activation: str | Activation) -> Activation:
    """Return the slope of an activation as an activation."""
    nodes = tuple((word, tuple(operands)) for word, operands in formula(activation).nodes())
    found, ones = _differential(nodes, (Z,), 1, activation), (DELTA, SEED, TANGENT, ONES)
    slope, bend = (of_one_unit(each, ones) for each in (found.pulled[Z], found.bent[Z, Z]))
    name = activation if isinstance(activation, str) else activation.name
    made: Activation = restored(Activation, f"{name}_slope", slope, bend)
    return made


# --- the structures: (value, pull, push) of a step, its sources' values and its arrays ---------------------


def _product(x: Array, w: Array) -> Array:
    """Return x @ w for any leading axes of x."""
    product: Array = x.reshape(-1, x.shape[-1]) @ w
    return product.reshape(*x.shape[:-1], w.shape[-1])


def _grouped(x: Array, w: Array, form: str) -> Array:
    groups = x.reshape(*x.shape[:-1], len(w), -1)
    product = np.einsum(form, groups, w, optimize=True)
    return product.reshape(*x.shape[:-1], -1)


def _scattered(delta: Array, indices: Array, units: int) -> Array:
    out = np.zeros((*delta.shape[:-1], units), delta.dtype)
    if len(np.unique(indices)) == len(indices):
        out[..., indices] = delta
    else:
        np.add.at(out, (..., indices), delta)  # type: ignore[arg-type]
    return out


def table_rows(codes: Array, table: Array) -> NDArray[np.int64]:
    """Return the row of each code (rows,) in a `with_unknown` table."""
    return np.clip(codes.astype(np.int64), -2, len(table) - 3) + 2


class Structure(NamedTuple):
    """A step without a formula.

    value(sources, *arrays) : the value; push(tangents, *arrays) : the tangent of the value
    pull(delta, sources, *arrays) : the cotangent of each source; sources : values
    """

    value: Callable[..., Array]
    push: Callable[..., Array]
    pull: Callable[..., Sequence[Array]]


STRUCTURES = {
    "dense": Structure(
        lambda x, w, b: _product(x[0], w) + b,
        lambda t, w, b: _product(t[0], w),
        lambda delta, x, w, b: [_product(delta, w.T)],
    ),
    "concatenate": Structure(
        lambda x: np.concatenate(x, axis=-1),
        lambda t: np.concatenate(t, axis=-1),
        lambda delta, x: np.split(delta, np.cumsum([each.shape[-1] for each in x])[:-1], axis=-1),
    ),
    "gather": Structure(
        lambda x, places: x[0][..., places],
        lambda t, places: t[0][..., places],
        lambda delta, x, places: [_scattered(delta, places, x[0].shape[-1])],
    ),
    "grouped": Structure(
        lambda x, w, b: _grouped(x[0], w, "...gk,gkd->...gd") + b.reshape(-1),
        lambda t, w, b: _grouped(t[0], w, "...gk,gkd->...gd"),
        lambda delta, x, w, b: [_grouped(delta, w, "...gd,gkd->...gk")],
    ),
    "categories": Structure(
        lambda x, *tables: np.hstack([one[table_rows(x[0][:, i], one)] for i, one in enumerate(tables)]),
        lambda t, *tables: np.zeros((*t[0].shape[:-1], sum(one.shape[1] for one in tables)), t[0].dtype),
        lambda delta, x, *tables: [np.zeros((*delta.shape[:-1], x[0].shape[-1]), delta.dtype)],
    ),
}
"""The structures of `fastmlp.exchange.steps`; a code has no derivative, and counts 0."""


def _where_asked(step: ExportStep, delta: Array, found: Array) -> Array:
    """Return an activation's derivatives, with 0 for the cotangent 0."""
    if step.one.kind.key != "activation" or step.label == "softmax":
        return found
    if np.isfinite(found.sum()):
        return found
    return np.where(delta == 0, delta.dtype.type(0), found)


class Tape:
    """The values of all steps for some rows, with derivatives.

    Tangents and cotangents may have leading axes, with an entry for each direction.

    Parameters
    ----------
    graph : of the network; X : (rows, columns) floating, scaled, with the columns of block after block

    Attributes
    ----------
    values : dict of int to array
        The values (rows, units) by step number; of inputs by negative numbers.
    """

    def __init__(self, graph: ExportGraph, X: Array) -> None:
        self.graph = graph
        self.values = self._inputs(X)
        for step in graph.steps:
            self.values[step.number] = self._value(step)

    def _inputs(self, X: Array) -> dict[int, Array]:
        """Return columns (.., rows, columns) by input number."""
        ends = np.cumsum([one.columns for one in self.graph.inputs])[:-1]
        parts = np.split(X, ends, axis=-1)
        return {one.number: part for one, part in zip(self.graph.inputs, parts, strict=True)}

    def _sources(self, step: ExportStep, of: Mapping[int, Array] | None = None) -> list[Array]:
        return [(self.values if of is None else of)[source] for source in step.one.sources]

    def _known(self, step: ExportStep) -> dict[str, Any]:
        """Return the variables of a formula with values, and seeds."""
        read = [*self._sources(step), *step.arrays.values()]
        generic = _generic(read[0].shape[-1], self.graph.dtype)
        return {DELTA: generic, SEED: generic, **dict(zip(step.variables, read, strict=True))}

    def _value(self, step: ExportStep) -> Array:
        if step.formula is None:
            return STRUCTURES[step.one.kind.key].value(self._sources(step), *step.arrays.values())
        known = self._known(step)
        return self._evaluated(step.formula, known, (*known[Z].shape[:-1], step.one.n_out))

    def _evaluated(self, expression: Expression, known: Mapping[str, Any], shape: tuple[int, ...]) -> Array:
        with np.errstate(all="ignore"):
            found = expression.on_arrays(self.graph.dtype, known)
        return np.broadcast_to(np.asarray(found, self.graph.dtype), shape)

    @np.errstate(all="ignore")
    def push(self, inputs: Array) -> dict[int, Array]:
        """Return tangents of all steps from tangents of inputs (.., rows, columns)."""
        found = self._inputs(inputs)
        for step in self.graph.steps:
            tangents = self._sources(step, found)
            if step.formula is None:
                found[step.number] = STRUCTURES[step.one.kind.key].push(tangents, *step.arrays.values())
                continue
            known, pushed = self._known(step), differential_of(step).pushed
            shape = (*tangents[0].shape[:-1], step.one.n_out)
            first, *others = (
                self._evaluated(expression, {**known, TANGENT: tangent}, shape)
                for expression, tangent in zip(pushed.values(), tangents, strict=True)
            )
            found[step.number] = sum(others, start=first)
        return found

    @np.errstate(all="ignore")
    def pull(
        self,
        seeds: Mapping[int, Array],
        tangents: Mapping[int, Array] | None = None,
        visit: Callable[[ExportStep, Array], None] | None = None,
    ) -> Array:
        """Return cotangents of the inputs (.., rows, columns), from cotangents of steps.

        tangents : of all steps, from `push`; the result is then the tangent of the cotangents
        visit : visit(step, delta) is called with the cotangent of each step
        """
        deltas, bends = dict(seeds), dict[int, Array]()
        for step in reversed(self.graph.steps):
            delta, bend = deltas.pop(step.number, None), bends.pop(step.number, None)
            if delta is None:
                continue
            if visit is not None:
                visit(step, delta)
            for source, term in zip(step.one.sources, self._pulled(step, delta), strict=True):
                deltas[source] = deltas[source] + term if source in deltas else term
            if tangents is not None:
                for source, term in self._bent(step, delta, bend, tangents):
                    bends[source] = bends[source] + term if source in bends else term
        ends = deltas if tangents is None else bends
        lead = np.broadcast_shapes(*(one.shape[:-1] for one in [*seeds.values(), *(tangents or {}).values()]))
        parts = []
        for one in self.graph.inputs:
            shape = (*lead, one.columns)
            parts.append(np.broadcast_to(ends.get(one.number, np.zeros((), self.graph.dtype)), shape))
        return np.concatenate(parts, axis=-1)

    def deltas(self, seeds: Mapping[int, Array]) -> list[tuple[ExportStep, Array]]:
        """Return the steps reached by cotangents, the last first, with cotangents."""
        found: list[tuple[ExportStep, Array]] = []
        self.pull(seeds, visit=lambda step, delta: found.append((step, delta)))
        return found

    def _pulled(self, step: ExportStep, delta: Array) -> Sequence[Array]:
        sources = self._sources(step)
        if step.formula is None:
            return STRUCTURES[step.one.kind.key].pull(delta, sources, *step.arrays.values())
        known, pulled = {**self._known(step), DELTA: delta}, differential_of(step).pulled
        return [
            _where_asked(step, delta, self._evaluated(pulled[name], known, (*delta.shape[:-1], units)))
            for name, units in zip(step.variables, [one.shape[-1] for one in sources], strict=False)
        ]

    def _bent(
        self, step: ExportStep, delta: Array, bend: Array | None, tangents: Mapping[int, Array]
    ) -> Iterator[tuple[int, Array]]:
        """Yield a step's sources with tangents of cotangents."""
        if bend is not None:
            yield from zip(step.one.sources, self._pulled(step, bend), strict=True)
        if step.formula is None:
            return
        known, bent = {**self._known(step), DELTA: delta}, differential_of(step).bent
        names = step.variables[: len(step.one.sources)]
        for name, source in zip(names, step.one.sources, strict=True):
            for by, along_source in zip(names, step.one.sources, strict=True):
                tangent = tangents[along_source]
                shape = (*tangent.shape[:-1], self.values[source].shape[-1])
                term = self._evaluated(bent[name, by], {**known, TANGENT: tangent}, shape)
                yield source, _where_asked(step, delta, term)

    def by_arrays(self, step: ExportStep, delta: Array) -> Iterator[tuple[str, Array]]:
        """Yield a step's trained arrays with the derivative of each row.

        The derivatives are (.., rows, numbers) of the array; of a table, derivatives of the rows in use.
        """
        (x, *_), lead = self._sources(step), delta.shape[:-1]
        match step.one.kind.key:
            case "dense" | "grouped":
                (weights, w), (biases, _) = step.arrays.items()
                groups = w.shape[0] if w.ndim == 3 else 1
                ins, outs = x.reshape(*x.shape[:-1], groups, -1), delta.reshape(*lead, groups, -1)
                yield weights, (ins[..., :, None] * outs[..., None, :]).reshape(*lead, -1)
                yield biases, delta
            case _ if step.formula is not None and not step.fixed:
                known, pulled = {**self._known(step), DELTA: delta}, differential_of(step).pulled
                for name, variable_ in zip(step.arrays, step.variables[len(step.one.sources) :], strict=True):
                    shape = (*lead, step.arrays[name].size)
                    yield name, self._evaluated(pulled[variable_], known, shape)


def logit_steps(
    graph: ExportGraph, ends: Mapping[str, int], activations: Mapping[str, str | Activation]
) -> dict[str, int]:
    """Return the steps of the logits, by the names of `ends`."""
    return {
        name: graph.steps[number].one.sources[0] if activations[name] != "identity" else number
        for name, number in ends.items()
    }
