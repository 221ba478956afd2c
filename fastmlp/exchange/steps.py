"""A network lowered to export steps: formulas of a row, and a few structures, for every format."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.exchange.formulas import OTHER, Z, array_variables, formula, row_formula
from fastmlp.formulas.expressions import Expression, variable
from fastmlp.model.component import Kind
from fastmlp.model.embeddings import Embedding, UnitFormula
from fastmlp.model.gates import Scale
from fastmlp.model.inputs import Numbers, sparse_columns
from fastmlp.model.layout import arrays_of, dense_views, parameter_count
from fastmlp.model.lowering import KINDS
from fastmlp.model.network import Network
from fastmlp.model.operations import INPUTS, Operation

STRUCTURES = ("dense", "concatenate", "gather", "grouped", "categories")
"""The kinds of steps without a formula; every format has an entry for each. The arrays:

dense : W (n_in, n_out) and b (n_out,), 0 for untrained biases
concatenate : none, for any number of sources
gather : the indices of the taken units, (n_out,) int64
grouped : W (groups, n_in, n_out) and b (groups, n_out)
categories : a table for each column, see `with_unknown`"""

GATHER = Kind("gather")
"""Gathered units of another operation, in any order."""

COLUMNS = Kind("columns")
"""Formulas of the columns of a table."""


class ExportStep(NamedTuple):
    """A step of an export: a formula of a row, or a kind of `STRUCTURES`.

    number : the index in the list of steps, as the sources of `one`; inputs have negative numbers
    one : the operation; an activation and a dropout are further steps
    arrays : by unique names, with a number at the end
    formula : of a row; None for a structure, and for dropout
    variables : of the formula, first for the sources, then for the arrays
    fixed : True if the arrays of a formula are not trained
    function : the name of the formula, the same for equal formulas
    """

    number: int
    one: Operation
    arrays: dict[str, NDArray[Any]]
    formula: Expression | None = None
    variables: tuple[str, ...] = ()
    fixed: bool = False
    function: str = ""

    @property
    def label(self) -> str:
        """The name of the step's activation, or of the kind."""
        activation = self.one.activation
        if self.one.kind.key != "activation":
            return self.one.kind.name
        return activation if isinstance(activation, str) else activation.name


def step_of(
    one: Operation, arrays: dict[str, NDArray[Any]], dtype: np.dtype[Any], part: UnitFormula | None = None
) -> ExportStep:
    """Return the step of an operation without activation and dropout.

    part : the formula of an operation on a block of inputs, if any
    """
    kind, variables = one.kind.key, (Z, OTHER)[: len(one.sources)]
    if kind in STRUCTURES or kind == "copy":
        return ExportStep(0, one, arrays)
    if kind == "activation":
        return ExportStep(0, one, arrays, formula(one.activation), variables)
    if part is not None:
        value = part.formula(variable(Z), *map(variable, part.arrays))
        return ExportStep(0, one, arrays, value, (*variables, *part.arrays), part.fixed)
    variables += array_variables(one)[: len(arrays)]
    return ExportStep(0, one, arrays, row_formula(one, dtype), variables)


class GraphInput(NamedTuple):
    """An input of a network's graph: X, or a block of X.

    number : the source in operations, from -1 down
    name : of the block, "X0", "X1", .. without names, or "X"
    named : True if the block has a name
    codes : True for a block of codes, whole numbers for rows of tables
    """

    number: int
    name: str
    columns: int
    named: bool = False
    codes: bool = False


def inputs_of(network: Network) -> list[GraphInput]:
    """Return the inputs of a network's graph."""
    if not network.blocks:
        return [GraphInput(INPUTS, "X", network.n_in)]
    found = []
    for i, one in enumerate(network.blocks):
        codes = one.made_by is not None and bool(one.made_by.tables)
        found.append(GraphInput(INPUTS - i, one.name or f"X{i}", one.columns, bool(one.name), codes))
    return found


def with_unknown(table: NDArray[Any]) -> NDArray[Any]:
    """Return a table (levels + 1, width) in the form of exports, (levels + 3, width).

    The mean of all rows but the first row (of missing codes) stands before and behind the table: so any code
    has the row max(-2, min(code, levels)) + 2.
    """
    mean = table[1:].mean(axis=0, keepdims=True, dtype=np.float64).astype(table.dtype)
    return np.concatenate([mean, table, mean])


def levels_of(table: NDArray[Any]) -> int:
    """Return the number of levels of a table of `with_unknown`."""
    return len(table) - 3


def folded(network: Network, parameters: NDArray[Any]) -> tuple[Network, NDArray[Any]]:
    """Return an equal network of layers on dense inputs, with parameters.

    Formats have layers only: the input scale is folded into weights.
    """
    if sparse_columns(network.blocks):
        return _with_dense_blocks(network, parameters)
    if network.input_scale == 1:
        return network, parameters
    scale = parameters.dtype.type(network.input_scale)
    if not network.operations[0].is_dense:
        layers = (Scale(), *network.layers)
        gain = np.full(network.n_in, scale)
        return network.replaced(input_scale=1.0, layers=layers), np.concatenate([gain, parameters])
    scaled = parameters.copy()
    weights, _ = dense_views(scaled, network)[0]
    weights *= scale
    return network.replaced(input_scale=1.0), scaled


def _with_dense_blocks(network: Network, parameters: NDArray[Any]) -> tuple[Network, NDArray[Any]]:
    """Return an equal network with dense blocks for sparse blocks, with parameters.

    Weights of sparse columns lie behind the others, and there by the order of the blocks.
    """
    first = next(one for one in network.operations if one.sparse_in)
    inputs, rows, ends = [], [], {False: 0, True: first.n_in - first.sparse_in}
    for block in network.blocks:
        sparse = block.is_sparse
        inputs.append(Numbers(block.columns, name=block.name) if sparse else block)
        rows.append(np.arange(block.outputs) + ends[sparse])
        ends[sparse] += block.outputs
    scaled = parameters.copy()
    weights = scaled[first.weights : first.biases].reshape(first.n_in, first.n_out)
    weights[...] = weights[np.concatenate(rows)]
    return network.replaced(inputs=inputs), scaled


class _Steps:
    """The steps of a network; `append` returns the number of an operation's last step.

    dropout : True adds steps of dropout
    before : the steps of another network, first in the list
    """

    def __init__(
        self,
        network: Network,
        parameters: NDArray[Any],
        dropout: bool = False,
        format: str = "",
        before: _Steps | None = None,
    ) -> None:
        self.network, self.parameters, self.dropout, self.format = network, parameters, dropout, format
        self.blocks = iter(inputs_of(network))
        self.found: list[ExportStep] = [] if before is None else before.found
        self.operations: int = 0 if before is None else before.operations
        """The number of the next operation's arrays."""
        self.shared: dict[int, dict[str, NDArray[Any]]] = {}
        """The matrices common to members, by the indices of the products."""

    def named(self, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Return the next operation's arrays by unique names: "w1_1" and "w11" differ."""
        number, self.operations = self.operations, self.operations + 1
        apart = {name: "_" if name[-1] == "_" or name[-1].isdigit() else "" for name in arrays}
        return {f"{name}{apart[name]}{number}": array for name, array in arrays.items() if array.size}

    def append(
        self,
        one: Operation,
        sources: tuple[int, ...],
        arrays: dict[str, NDArray[Any]],
        part: UnitFormula | None = None,
    ) -> int:
        """Append an operation, with activation and dropout; arrays : see `named`, part : see `step_of`."""
        end = one._replace(kind=KINDS["activation"], layer=None, n_in=one.n_out, activation="identity")
        made = []
        if one.kind.key not in ("activation", "copy"):
            made.append(one._replace(activation="identity", dropout=0.0))
        if one.activation != "identity":
            made.append(end._replace(activation=one.activation, dropout=0.0))
        if self.dropout and one.dropout:
            made.append(end._replace(kind=KINDS["copy"]))
        for each in made:
            each = each._replace(sources=sources, is_head=one.is_head and each is made[-1])
            step = step_of(each, arrays, self.parameters.dtype, part)
            self.found.append(step._replace(number=len(self.found)))
            sources, arrays, part = (len(self.found) - 1,), {}, None
        return sources[0]

    def append_embedding(self, one: Operation, embedding: Embedding, sources: tuple[int, ...]) -> int:
        """Append a block's embedding: formulas, or a structure."""
        arrays = arrays_of(self.parameters, one)
        if one.tables:
            tables = {f"table{i}": with_unknown(table) for i, table in enumerate(arrays.values())}
            return self.append(one._replace(kind=KINDS["categories"]), sources, self.named(tables))
        for part in (formulas := embedding.formulas(arrays)):
            units, width = len(part.gathered), one.n_in
            sources = (self.append_gather(sources[0], part.gathered, width),)
            one = one._replace(n_in=units, n_out=units)
            sources = (self.append(one._replace(dropout=0.0), sources, self.named(part.arrays), part),)
        if formulas:
            return self.append(one._replace(kind=KINDS["copy"]), sources, {})
        return self.append(one, sources, self.named(dict(zip("Wb", arrays.values(), strict=True))))

    def append_operation(self, index: int, sources: tuple[int, ...], member: int | None = None) -> int:
        """Append an operation, or a member's part; return the step of the output.

        Readers of a copy read the original.
        """
        one = self.network.operations[index]
        if self.network.blocks and one.sources == (INPUTS,):  # the copy of a block
            sources = (next(self.blocks).number,)
        if one.is_head:
            several = bool(self.network.head_names)  # a single head is the output
            head = self.network.heads[one.name if several else ""]
            one = one._replace(activation=head.output, is_head=several)
        if one.kind.key == "copy" and not (self.dropout and one.dropout):
            return sources[0]
        if isinstance(one.layer, Embedding):
            return self.append_embedding(one, one.layer, sources)
        values = arrays_of(self.parameters, one)
        if one.is_dense:
            named = self.named(dict(zip("Wb", values.values(), strict=True)))
            if one.subrows > 1:  # one name of an array for all members
                named = self.shared.setdefault(index, named)
            return self.append(one._replace(subrows=1), sources, named)
        values = {name: array.reshape(one.networks, -1)[member or 0] for name, array in values.items()}
        if member is not None:
            cuts = max(one.subrows // one.networks, 1)
            sizes = one.width // one.networks // cuts, one.subrows * one.n_in // one.networks // cuts
            one = one._replace(networks=1, subrows=cuts, n_out=sizes[0], n_in=sizes[1])
        if one.kind.digest:
            values = {f"{one.kind.name}_{name}": array for name, array in values.items()}
        if one.second:  # a gate, which reads both halves of a row
            parts = (np.arange(start, start + one.n_in) for start in (0, one.second))
            halves = (self.append_gather(sources[0], part, 2 * one.n_in) for part in parts)
            return self.append(one._replace(second=0), tuple(halves), self.named({}))
        if one.subrows > 1 and self.format not in getattr(one.layer, "counterparts", ()):
            return self.append_groups(one, sources, values)
        one = one._replace(subrows=1, n_in=one.subrows * one.n_in, n_out=one.width)
        return self.append(one, sources, self.named(values))

    def append_gather(self, source: int, indices: NDArray[np.int64], width: int) -> int:
        """Append a gather of units from a source of `width` units."""
        one = Operation(GATHER, "", (), width, len(indices))
        return self.append(one, (source,), self.named({"places": indices}))

    def append_groups(
        self, one: Operation, sources: tuple[int, ...], given: Mapping[str, NDArray[Any]]
    ) -> int:
        """Append an operation on each group of units, and a concatenation."""
        units, bare, parts = one.n_in, one._replace(subrows=1, dropout=0.0), []
        for start in range(0, one.width, units):
            part = self.append_gather(sources[0], np.arange(start, start + units), one.width)
            arrays = {name: array[start : start + units] for name, array in given.items()}
            parts.append(self.append(bare, (part,), self.named(arrays)))
        joined = one._replace(kind=KINDS["concatenate"], layer=None, subrows=1, n_out=one.width)
        return self.append(joined, tuple(parts), {})

    def walk(self, first: int, last: int, indices: dict[int, int], member: int | None = None) -> None:
        """Append operations [first, last), or a member's part; indices : of outputs, written."""
        for index in range(first, last):
            sources = tuple(indices[source] for source in self.network.operations[index].sources)
            indices[index] = self.append_operation(index, sources, member)

    def walk_all(self, source: int) -> int:
        """Append all operations, with `source` for X; return the step of the output."""
        operations, depth = self.network.operations, len(self.network.operations)
        indices = {INPUTS: source}
        if self.network.members == 1:
            self.walk(0, depth, indices)
            return indices[depth - 1]
        begin = next(index for index, one in enumerate(operations) if one.kind.key == "members")
        self.walk(0, begin, indices)
        indices[begin] = indices[operations[begin].sources[0]]
        ends = []
        for member in range(self.network.members):
            known = {**indices}
            self.walk(begin + 1, depth, known, member)
            ends.append(known[depth - 1])
        return self.append_mean(ends)

    def walk_joined(self, source: int) -> int:
        """Append all operations, and a concatenation of heads; return the step of the output."""
        first = len(self.found)
        last = self.walk_all(source)
        heads = [step for step in self.found[first:] if step.one.is_head]
        if len(heads) < 2:
            return last
        for step in heads:
            self.found[step.number] = step._replace(one=step.one._replace(is_head=False))
        units = sum(step.one.n_out for step in heads)
        joined = Operation(KINDS["concatenate"], "", (), heads[0].one.n_out, units)
        return self.append(joined, tuple(step.number for step in heads), self.named({}))

    def append_mean(self, ends: Sequence[int]) -> int:
        """Append the mean of some steps' outputs."""
        units, (total, *others) = self.found[ends[0]].one.n_out, ends
        for end in others:
            total = self.append(Operation(KINDS["add"], "", (), units, units), (total, end), self.named({}))
        gain = self.named({"gain": np.full(units, 1 / len(ends), self.parameters.dtype)})
        return self.append(Operation(KINDS["scale"], "", (), units, units), (total,), gain)


class ExportGraph(NamedTuple):
    """A network's graph for an export.

    steps : sources before readers; dtype : of numbers
    widths : columns of X, and the units of every dense layer
    network : for a format's description; None of several networks
    """

    steps: list[ExportStep]
    inputs: list[GraphInput]
    dtype: np.dtype[Any]
    widths: tuple[int, ...]
    network: Network | None = None

    @property
    def has_blocks(self) -> bool:
        """True if the inputs are blocks."""
        return self.network is not None and bool(self.network.blocks)

    @property
    def has_heads(self) -> bool:
        """True if each output is a head's."""
        return any(step.one.is_head for step in self.steps)

    @property
    def outputs(self) -> dict[str, int]:
        """The steps of the outputs: of heads by name, else the last step as "output"."""
        heads = {step.one.name: step.number for step in self.steps if step.one.is_head}
        return heads or {"output": self.steps[-1].number}

    def slots(self, overwrites: Callable[[ExportStep], bool]) -> list[int]:
        """Return each step's variable for the output, the least free number.

        overwrites : True if a step may write to a variable at the last read
        """
        last = {source: step.number for step in self.steps for source in step.one.sources}
        last |= dict.fromkeys(self.outputs.values(), len(self.steps))
        found: list[int] = []
        for step in self.steps:
            first = step.number + overwrites(step)
            taken = {slot for source, slot in enumerate(found) if last[source] >= first}
            found.append(next(slot for slot in itertools.count() if slot not in taken))
        return found


def _functions(walked: Sequence[ExportStep]) -> list[ExportStep]:
    """Return the steps with names of formulas: the same name for equal formulas only."""
    names: dict[tuple[str, ...], str] = {}
    found = []
    for step in walked:
        name, number = f"{step.label}_row", 1
        if step.formula is not None:
            key = (step.formula.digest, *step.variables)
            while key not in names and name in names.values():
                number += 1
                name = f"{step.label}_{number}_row"
            step = step._replace(function=names.setdefault(key, name))
        found.append(step)
    return found


def graph_of(
    network: Network, parameters: NDArray[Any], dropout: bool = False, format: str = ""
) -> ExportGraph:
    """Return the graph of a network; arrays are views of a flat (P,) vector unless folded.

    After `Members` come the steps of the first member, of the second, .., and the mean of the outputs.

    dropout : True adds steps of dropout
    format : "torch" or "keras", if norms of groups are a single step there
    """
    network, parameters = folded(network, parameters)
    made = _Steps(network, parameters, dropout, format)
    made.walk_all(INPUTS)
    inputs = inputs_of(network)
    return ExportGraph(_functions(made.found), inputs, parameters.dtype, network.widths, network)


def columns_graph(
    n_in: int, parts: Sequence[tuple[UnitFormula, tuple[NDArray[Any], ...]]], order: NDArray[np.int64]
) -> ExportGraph:
    """Return the graph of units in float64 that are formulas of the columns of X (rows, n_in).

    parts : formulas, each with W and b of a dense layer that follows, or ()
    order : the units of all parts, one part after another, in their order in the output
    """
    steps: list[ExportStep] = []

    def add(kind: Kind, sources: tuple[int, ...], n_in: int, n_out: int, *of_step: Any) -> int:
        one, number, (arrays, *part) = Operation(kind, "", sources, n_in, n_out), len(steps), of_step
        named = {f"{name}_{number}": array for name, array in arrays.items()}
        steps.append(step_of(one, named, np.dtype(float), *part)._replace(number=number))
        return number

    ends = []
    for part, dense in parts:
        units = len(part.gathered)
        end = add(GATHER, (INPUTS,), n_in, units, {"places": part.gathered})
        end = add(COLUMNS, (end,), units, units, part.arrays, part)
        if dense:
            end = add(KINDS["dense"], (end,), *dense[0].shape, dict(zip("Wb", dense, strict=True)))
        ends.append(end)
    joined = add(KINDS["concatenate"], tuple(ends), steps[ends[0]].one.n_out, len(order), {})
    add(GATHER, (joined,), len(order), len(order), {"places": order})
    inputs = [GraphInput(INPUTS, "X", n_in)]
    return ExportGraph(_functions(steps), inputs, np.dtype(float), (n_in, len(order)))


def mean_graph(
    networks: Sequence[tuple[Network, NDArray[Any]]], columns: Sequence[NDArray[np.int64]], n_in: int
) -> ExportGraph:
    """Return the graph of the mean output of networks with a common input; heads are side by side.

    networks : with their parameters; columns : each network's columns of X (rows, n_in), in the order of its
        blocks of inputs, which are numbers
    """
    made: _Steps | None = None
    ends = []
    for pair, chosen in zip(networks, columns, strict=True):
        made = _Steps(*folded(*pair), before=made)
        if made.network.blocks:
            firsts = itertools.accumulate((one.columns for one in made.network.blocks), initial=0)
            cut = [
                chosen[first:][: one.columns] for first, one in zip(firsts, made.network.blocks, strict=False)
            ]
            read = [made.append_gather(INPUTS, part, n_in) for part in cut]
            made.blocks = iter([GraphInput(number, "", 0) for number in read])
            ends.append(made.walk_joined(INPUTS))
            continue
        is_whole = np.array_equal(chosen, np.arange(n_in))
        ends.append(made.walk_joined(INPUTS if is_whole else made.append_gather(INPUTS, chosen, n_in)))
    assert made is not None
    made.append_mean(ends)
    network, parameters = networks[0]
    inputs, widths = [GraphInput(INPUTS, "X", n_in)], (n_in, *network.widths[1:])
    return ExportGraph(_functions(made.found), inputs, parameters.dtype, widths)


def parameters_of(network: Network, arrays: Mapping[str, NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the flat (P,) vector of a network from the arrays of its steps.

    KeyError or ValueError if an array is missing or has another shape.
    """
    parameters = np.zeros(parameter_count(network), dtype)
    for step in graph_of(network, parameters).steps:
        given = [arrays[name] for name in step.arrays]
        views = [*step.arrays.values()]
        if step.one.kind.key == "categories":
            views, given = [*arrays_of(parameters, step.one).values()], [table[1:-1] for table in given]
        for view, array in zip(views, given, strict=True):
            view[...] = array
    return parameters


def refuse_others(network: Network, what: str) -> None:
    """Raise ValueError in one line for a network other than a chain; what : the format, in words."""
    if network.is_chain:
        return
    raise ValueError(f"{what} takes chains of dense layers only; this network has {network.unlike_a_chain}")
