"""A network's operations with their arrays and output variables, as all exports walk them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.exchange.formulas import ARRAYS, Z, array_variables, row_formula
from fastmlp.exchange.input_blocks import FORMULAS, GraphInput, UnitFormula, inputs_of, with_unknown
from fastmlp.formulas.expressions import Expression, variable
from fastmlp.model.embeddings import Embedding
from fastmlp.model.inputs import Numbers, SparseNumbers, sparse_columns
from fastmlp.model.layers import Scale
from fastmlp.model.layout import embedding_views, operation_views, parameter_count
from fastmlp.model.network import Network
from fastmlp.model.operations import INPUTS, KINDS, Kind, Operation
from fastmlp.model.own_layers import parts_of


def folded(network: Network, parameters: NDArray[Any]) -> tuple[Network, NDArray[Any]]:
    """Return a network whose input scale is folded into its weights, and the parameters of the same outputs.

    Formats have layers only, and dense inputs.
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
    own = parameters.copy()
    weights = operation_views(own, network)[0].first
    weights *= scale
    return network.replaced(input_scale=1.0), own


def _with_dense_blocks(network: Network, parameters: NDArray[Any]) -> tuple[Network, NDArray[Any]]:
    """Return a network whose sparse blocks are dense ones, and the parameters of the same outputs.

    Weights of sparse columns lie behind the others, and there by the order of the blocks.
    """
    first = next(one for one in network.operations if one.sparse_in)
    inputs, rows, ends = [], [], {False: 0, True: first.n_in - first.sparse_in}
    for block in network.blocks:
        sparse = isinstance(block, SparseNumbers)
        inputs.append(Numbers(block.columns, name=block.name) if sparse else block)
        rows.append(np.arange(block.units) + ends[sparse])
        ends[sparse] += block.units
    own = parameters.copy()
    weights = own[first.weights : first.biases].reshape(first.n_in, first.n_out)
    weights[...] = weights[np.concatenate(rows)]
    return network.replaced(inputs=inputs), own


class ExportStep(NamedTuple):
    """An operation with its arrays.

    number : its place in the list of steps, as the sources of `one` are; those of inputs are negative
    arrays : by names of their own. Of `dense` W (n_in, n_out) and b (n_out,), which is 0 where it is not
        trained; of a user's layer its parameters, (n_out,) or (1,); of `gather` the places of the units that
        it takes, (n_out,) int64; of `grouped` W (groups, n_in, n_out) and b (groups, n_out); of `categories`
        a table for each column, see `with_unknown`; of others those of `ARRAYS` that they have, or of a
        `UnitFormula`, each (n_out,); with the number behind the name
    own_formula : of a step that is a `UnitFormula`, with the names of `arrays` for its variables
    fixed : whether a `UnitFormula` has arrays that are not trained
    """

    number: int
    one: Operation
    arrays: dict[str, NDArray[Any]]
    own_formula: Expression | None = None
    fixed: bool = False

    def formula(self, dtype: np.dtype[Any]) -> Expression:
        """Return what it computes of a row before its activation: see `row_formula`."""
        return row_formula(self.one, dtype) if self.own_formula is None else self.own_formula

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables of its formula that are its arrays, in their order."""
        return array_variables(self.one) if self.own_formula is None else tuple(self.arrays)


GATHER = Kind("gather")
"""Some units of another operation, in any order, for a `UnitFormula`."""


class _Steps:
    """The steps so far; `append` returns the number of the new one.

    dropout : whether copies that end in dropout stay
    found : steps of other networks before these
    """

    def __init__(
        self, network: Network, parameters: NDArray[Any], dropout: bool, found: list[ExportStep] | None = None
    ) -> None:
        self.network, self.parameters, self.dropout = network, parameters, dropout
        self.views = operation_views(parameters, network)
        self.blocks = iter(inputs_of(network))
        self.found = [] if found is None else found
        self.shared: dict[int, dict[str, NDArray[Any]]] = {}
        """By their places, the matrices of products that members share, as steps have them."""

    def append(
        self, one: Operation, sources: tuple[int, ...], arrays: Mapping[str, NDArray[Any]], **more: Any
    ) -> int:
        number = len(self.found)
        named = {f"{name}{number}": array for name, array in arrays.items() if array.size}
        self.found.append(ExportStep(number, one._replace(sources=sources), named, **more))
        return number

    def append_formula(self, one: Operation, source: int, part: UnitFormula) -> int:
        """Append the units that a formula reads, and the formula."""
        units = len(part.gathered)
        gather = one._replace(kind=GATHER, n_out=units, dropout=0.0)
        source = self.append(gather, (source,), {"places": part.gathered})
        names = [variable(f"{name}{len(self.found)}") for name in part.arrays]
        formula = part.formula(variable(Z), *names)
        one = one._replace(n_in=units, n_out=units)
        return self.append(one, (source,), part.arrays, own_formula=formula, fixed=part.fixed)

    def append_embedding(
        self, one: Operation, sources: tuple[int, ...], own: Mapping[str, NDArray[Any]]
    ) -> int:
        """Append what makes units of a block; own : its arrays by name."""
        if one.kind.name in FORMULAS:
            *before, last = FORMULAS[one.kind.name](own)
            (source,) = sources
            for part in before:
                source = self.append_formula(one._replace(dropout=0.0), source, part)
            return self.append_formula(one, source, last)
        if one.kind.name == "categories":
            return self.append(
                one, sources, {f"table{i}_": with_unknown(table) for i, table in enumerate(own.values())}
            )
        return self.append(one, sources, dict(zip("Wb", own.values(), strict=True)))

    def append_shared(self, place: int, one: Operation, sources: tuple[int, ...]) -> int:
        """Append a member's product, whose arrays the steps of all members have under one name."""
        one = one._replace(members=1, sources=sources)
        if place in self.shared:
            self.found.append(ExportStep(len(self.found), one, self.shared[place]))
            return len(self.found) - 1
        number = self.append(one, sources, dict(zip("Wb", self.views[place][:2], strict=True)))
        self.shared[place] = self.found[number].arrays
        return number

    def append_operation(self, place: int, sources: tuple[int, ...], member: int | None = None) -> int:
        """Append an operation, or a member's share of it; return the step that has its output.

        Readers of a copy read the original.
        """
        one, views = self.network.operations[place], self.views[place]
        if self.network.blocks and one.sources == (INPUTS,):  # the copy of a block
            sources = (next(self.blocks).number,)
        if one.is_head:
            several = bool(self.network.head_names)  # a single head is the output
            head = self.network.heads[one.name if several else ""]
            one = one._replace(activation=head.output, is_head=several)
        if one.kind.name == "copy" and not (self.dropout and one.dropout):
            return sources[0]
        if isinstance(one.layer, Embedding):
            return self.append_embedding(one, sources, embedding_views(self.parameters, one))
        if one.is_dense and one.members > 1:
            return self.append_shared(place, one, sources)
        arrays = [views.first, views.second, *views.state]
        if member is not None:
            k = self.network.members
            each = k // one.members  # in which it counts the units of all
            one = one._replace(members=1, n_in=one.n_in // each, n_out=one.n_out // each)
            arrays = [array.reshape(k, -1)[member] for array in arrays]
        own = dict(zip(("W", "b") if one.is_dense else ARRAYS, arrays, strict=False))
        if (piece := one.kind.piece) is not None:
            parts = parts_of(piece.parameters, arrays[0], one.n_out)
            own = {f"{piece.name}_{parameter.name}": array for parameter, array in parts.items()}
        return self.append(one, sources, own)

    def walk(self, first: int, last: int, places: dict[int, int], member: int | None = None) -> None:
        """Append operations [first, last), or a member's; places : of their outputs, written."""
        for place in range(first, last):
            sources = tuple(places[source] for source in self.network.operations[place].sources)
            places[place] = self.append_operation(place, sources, member)

    def walk_all(self, source: int) -> int:
        """Append all operations, which read `source` for X; return the step that has the output."""
        operations, depth = self.network.operations, len(self.network.operations)
        places = {INPUTS: source}
        if self.network.members == 1:
            self.walk(0, depth, places)
            return places[depth - 1]
        begin = next(place for place, one in enumerate(operations) if one.kind.name == "members")
        self.walk(0, begin, places)
        places[begin] = places[operations[begin].sources[0]]
        ends = []
        for member in range(self.network.members):
            own = {**places}
            self.walk(begin + 1, depth, own, member)
            ends.append(own[depth - 1])
        return self.append_mean(ends)

    def append_gather(self, columns: NDArray[np.int64], n_in: int) -> int:
        """Append what takes some columns of X (rows, n_in); return the step, or X if it has all."""
        if np.array_equal(columns, np.arange(n_in)):
            return INPUTS
        units = len(columns)
        return self.append(Operation(GATHER, "", (), n_in, units), (INPUTS,), {"places": columns})

    def append_mean(self, ends: Sequence[int]) -> int:
        """Append the mean of the outputs of some steps."""
        units, (total, *others) = self.found[ends[0]].one.n_out, ends
        for end in others:
            total = self.append(Operation(KINDS["add"], "", (), units, units), (total, end), {})
        gain = np.full(units, 1 / len(ends), self.parameters.dtype)
        return self.append(Operation(KINDS["scale"], "", (), units, units), (total,), {"gain": gain})


class ExportGraph(NamedTuple):
    """What a format is written of.

    steps : the operations; inputs : what goes in; dtype : of its numbers
    widths : columns of X, and the units of every dense layer
    network : what it is, of which a format may tell; None of several networks
    """

    steps: list[ExportStep]
    inputs: list[GraphInput]
    dtype: np.dtype[Any]
    widths: tuple[int, ...]
    network: Network | None = None

    @property
    def has_blocks(self) -> bool:
        """Whether the inputs are blocks."""
        return self.network is not None and bool(self.network.blocks)

    @property
    def has_heads(self) -> bool:
        """Whether each output is a head's."""
        return any(step.one.is_head for step in self.steps)

    @property
    def has_members(self) -> bool:
        """Whether it is the mean of networks that share matrices."""
        return self.network is not None and self.network.members > 1

    @property
    def outputs(self) -> dict[str, int]:
        """The steps that give the outputs: of heads by their names, else the last one as "output"."""
        return outputs_of(self.steps)


def steps(network: Network, parameters: NDArray[Any], dropout: bool = False) -> list[ExportStep]:
    """Return the operations with views of a flat (P,) vector; readers of a copy read the original.

    After `Members` there are those of the first member, of the second, .., and the mean of what they give.

    dropout : whether copies that end in dropout stay
    """
    made = _Steps(network, parameters, dropout)
    made.walk_all(INPUTS)
    return made.found


def graph_of(network: Network, parameters: NDArray[Any], dropout: bool = False) -> ExportGraph:
    """Return the graph of a network; the arguments are those of `steps`."""
    network, parameters = folded(network, parameters)
    walked = steps(network, parameters, dropout)
    return ExportGraph(walked, inputs_of(network), parameters.dtype, network.widths, network)


def mean_graph(
    networks: Sequence[tuple[Network, NDArray[Any]]], columns: Sequence[NDArray[np.int64]], n_in: int
) -> ExportGraph:
    """Return the graph of the mean of what networks of one input give.

    networks : with their parameters; columns : for each of them the columns of X (rows, n_in) that it reads
    """
    found: list[ExportStep] = []
    ends = []
    for pair, own in zip(networks, columns, strict=True):
        made = _Steps(*folded(*pair), dropout=False, found=found)
        ends.append(made.walk_all(made.append_gather(own, n_in)))
    made.append_mean(ends)
    network, parameters = networks[0]
    return ExportGraph(found, [GraphInput(INPUTS, "X", n_in)], parameters.dtype, (n_in, *network.widths[1:]))


def parameters_of(network: Network, arrays: Mapping[str, NDArray[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the flat (P,) vector whose `steps` have these arrays; what follows from others is not read.

    Raises
    ------
    KeyError, ValueError
        If an array is missing or has another shape.
    """
    parameters = np.zeros(parameter_count(network), dtype)
    for step in steps(network, parameters):
        given = [arrays[name] for name in step.arrays]
        own = [*step.arrays.values()]
        if step.one.kind.name == "categories":
            own, given = [*embedding_views(parameters, step.one).values()], [table[1:-1] for table in given]
        for view, array in zip(own, given, strict=True):
            view[...] = array
    return parameters


def outputs_of(walked: Sequence[ExportStep]) -> dict[str, int]:
    """Return the steps that give the outputs: of heads by their names, else the last one as "output"."""
    heads = {step.one.name: step.number for step in walked if step.one.is_head}
    return heads or {"output": walked[-1].number}


def slots(walked: Sequence[ExportStep], overwrites: Callable[[Operation], bool]) -> list[int]:
    """Return for each step the number of the variable that its output goes into, the least that is free.

    overwrites : whether an operation may write to the variable that it reads for the last time
    """
    last = {source: step.number for step in walked for source in step.one.sources}
    last |= dict.fromkeys(outputs_of(walked).values(), len(walked))
    found: list[int] = []
    for step in walked:
        taken = {
            slot
            for source, slot in enumerate(found)
            if last[source] > step.number or (last[source] == step.number and not overwrites(step.one))
        }
        found.append(next(slot for slot in itertools.count() if slot not in taken))
    return found


def refuse_others(network: Network, what: str) -> None:
    """Raise ValueError in one line for a network that is no chain; what : takes chains only, in words."""
    if network.is_chain:
        return
    raise ValueError(f"{what} takes chains of dense layers only; this network has {network.unlike_a_chain}")
