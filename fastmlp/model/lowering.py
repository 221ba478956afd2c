"""Arguments of `Network` lowered to a list of operations, with offsets in the flat vector and the workspace.

A network is a chain of equal dense layers, by `sizes`, `hidden` and `dropout`, or a list of layers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from numbers import Real
from typing import Any, NamedTuple

from fastmlp import checks
from fastmlp.model.activations import Activation, activation_of
from fastmlp.model.embeddings import Embedding, Grouped
from fastmlp.model.gates import GLU, Concatenate, ReadsEarlier
from fastmlp.model.heads import Head
from fastmlp.model.initializers import NGUYEN_WIDROW, checked_inits
from fastmlp.model.inputs import Blocks, InputBlock, checked_inputs, columns_of, sparse_columns
from fastmlp.model.layers import (
    Activate,
    Dense,
    Dropout,
    Members,
    Residual,
    checked_activation,
    checked_dropout,
    checked_layers,
)
from fastmlp.model.norms import GroupNorm
from fastmlp.model.operations import INPUTS, KINDS, FusedChain, Kind, Operation, custom_kind
from fastmlp.model.part import Part


class _Lowering:
    """The lowering of layers to operations, layer after layer."""

    def __init__(self, inputs: int | Blocks) -> None:
        self.sparse_in = sparse_columns(inputs)
        """Sparse columns of X for the first `Dense`."""
        self.inputs = columns_of(inputs) - self.sparse_in
        self.tables = 0
        """Columns with tables so far."""
        self.operations: list[Operation] = []
        self.names: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.within: tuple[str, ...] = ()
        self.pinned: set[int] = set()
        """Operations with later readers, whose output must not change."""
        self.members, self.members_at = 1, INPUTS
        """The number of networks from here on, and the operation of the split."""

    def width(self, source: int) -> int:
        """Return the units of a source."""
        return self.inputs if source == INPUTS else self.operations[source].width

    def append(
        self, kind: Kind, sources: tuple[int, ...], n_out: int, layer: Part | None, **more: Any
    ) -> int:
        """Append an operation; return the operation's number."""
        self.counts[kind.label] = self.counts.get(kind.label, 0) + 1
        given = layer.name if layer is not None else None
        name = more.pop("full_name", given) or f"{kind.label}{self.counts[kind.label]}"
        n_in = more.pop("n_in", None) or self.width(sources[0])
        fields = {"layer": layer, "within": self.within, "networks": self.members, **more}
        self.operations.append(Operation(kind, name, sources, n_in, n_out, **fields))
        index = len(self.operations) - 1
        if given is not None:
            self.remember(given, index)
        return index

    def remember(self, name: str, index: int) -> None:
        """Let later layers read an operation by a name."""
        self.names[name] = index
        self.pinned.add(index)

    def add(self, layer: Part, source: int) -> int:
        """Append a layer after a source; return the operation of the layer's output."""
        match layer:
            case Members():
                if self.members > 1:
                    raise ValueError(f"a network has Members once, got {layer!r} after them")
                self.members, self.members_at = layer.count, len(self.operations)
                return self.append(KINDS["members"], (source,), self.width(source) * layer.count, layer)
            case Dense() if self.members > 1:
                return self.shared(layer, source)
            case Dense():
                with_parameters, around = custom_kind(layer.activation), self.within
                ends = layer.activation if with_parameters is None else "identity"
                sparse_in, self.sparse_in = self.sparse_in, 0
                n_in = self.width(source) + sparse_in
                sparse_in = n_in if source == INPUTS else sparse_in
                index = self.append(
                    KINDS["dense"], (source,), layer.units, layer, activation=ends, n_in=n_in,
                    sparse_in=sparse_in,
                )  # fmt: skip
                if with_parameters is not None:
                    self.within = (*([layer.name] if layer.name else ()), *around)
                    index = self.append(with_parameters, (index,), layer.units, Activate(layer.activation))
                    self.within = around
                    if layer.name:
                        self.remember(layer.name, index)
                return index
            case Dropout():
                return self.dropped(layer, source)
            case Activate():
                with_parameters, at = custom_kind(layer.activation), self.operations[source]
                if with_parameters is not None:
                    return self.append_by_row(with_parameters, (source,), layer)
                if layer.name is None and self.ends_open(source) and at.is_dense:
                    given: Any = layer.activation
                    self.operations[source] = at._replace(activation=given)
                    return source
                n = self.width(source)
                return self.append(KINDS["activation"], (source,), n, layer, activation=layer.activation)
            case Residual():
                self.pinned.add(source)
                inner, around = source, self.within
                self.within = (*([layer.name] if layer.name else ()), *around)
                for one in layer.layers:
                    inner = self.add(one, inner)
                self.within = around
                return self.joined(KINDS["add"], (inner, source), layer, "a Residual")
            case Concatenate():
                both = source, self.named(layer.layer)
                units = [self.width(one) // self.members for one in both]
                return self.append_by_row(KINDS["concatenate"], both, layer, *units)
            case ReadsEarlier():
                both, what = (source, self.named(layer.layer)), f"{type(layer).__name__}({layer.layer!r})"
                return self.joined(KINDS[layer.kind], both, layer, what)
            case GLU():
                return self.gated(layer, source)
            case GroupNorm():
                return self.grouped(layer, source)
        kind = KINDS[layer.kind]
        if kind.is_unitwise or kind.state:  # the units of all members are one row
            return self.append(kind, (source,), self.width(source), layer)
        return self.append_by_row(kind, (source,), layer)

    def append_by_row(self, kind: Kind, sources: tuple[int, ...], layer: Part, *units: int) -> int:
        """Append an operation on whole rows, separate for each member; units : of each source."""
        k = self.members
        units = units or (self.width(sources[0]) // k,)
        return self.append(kind, sources, sum(units), layer, n_in=units[0], subrows=k)

    def gated(self, layer: GLU, source: int) -> int:
        """Append a gate of the halves of each row, after a product if `units` is set."""
        if layer.units is not None:
            around = self.within
            self.within = (*([layer.name] if layer.name else ()), type(layer).__name__, *around)
            source = self.add(Dense(2 * layer.units), source)
            self.within = around
        units, odd = divmod(self.width(source) // self.members, 2)
        if odd:
            raise ValueError(
                f"{layer!r} needs a layer of an even number of units before it, got {2 * units + 1}"
            )
        self.pinned.add(source)
        return self.append(
            KINDS[layer.kind], (source, source), units, layer, n_in=units, subrows=self.members, second=units
        )

    def grouped(self, layer: GroupNorm, source: int) -> int:
        """Append a norm of groups of units."""
        units = self.width(source) // self.members
        if units % layer.groups:
            raise ValueError(f"{layer!r} needs a multiple of {layer.groups} units before it, got {units}")
        units //= layer.groups
        cuts = self.members * layer.groups
        return self.append(KINDS[layer.kind], (source,), units, layer, n_in=units, subrows=cuts)

    def shared(self, layer: Dense, source: int) -> int:
        """Append a product shared by all members, between factors of each member, and an activation."""
        if layer.weight_init == NGUYEN_WIDROW:
            raise ValueError(f"after Members no Dense takes weight_init={NGUYEN_WIDROW!r}, got {layer!r}")
        k, around = self.members, self.within
        name = layer.name or f"dense{self.counts.get('dense', 0) + 1}"
        self.within = (*([layer.name] if layer.name else ()), *around)
        bare = replace(layer, activation="identity", name=None)
        n_in = self.width(source) // k
        index = self.append(KINDS["scale"], (source,), n_in * k, bare, full_name=name, part="r")
        product = replace(bare, bias=False, bias_init="zeros")
        index = self.append(
            KINDS["dense"], (index,), layer.units, product, full_name=name, n_in=n_in, subrows=k
        )
        index = self.append(KINDS["scale_shift"], (index,), layer.units * k, bare, full_name=name, part="s")
        if layer.activation != "identity":
            index = self.add(Activate(layer.activation), index)
        self.within = around
        if layer.name:
            self.remember(layer.name, index)
        return index

    def add_block(self, block: InputBlock, column: int) -> list[int]:
        """Append the embedding of a block of inputs; return the operations of the block's units."""
        n, embedding = block.columns, block.made_by
        source = self.append(KINDS["copy"], (INPUTS,), n, None, n_in=n, column=column)
        if embedding is None:
            return [source]
        units, width, tables = embedding.units_of(n), embedding.linear_units, self.tables
        self.tables += len(embedding.tables)
        made = self.append(KINDS[embedding.kind], (source,), units, embedding, column=tables)
        if width is not None:
            made = self.append(KINDS["grouped"], (made,), n * width, Grouped(units // n, width))
        return [*[source] * embedding.keeps_numbers, made]

    def add_inputs(self, blocks: Blocks) -> int:
        """Append blocks of inputs, side by side; return the operation of all units."""
        found: list[int] = []
        column = 0
        for block in blocks:
            if not block.is_sparse:
                found += self.add_block(block, column)
                column += block.columns
        if not found:
            return INPUTS
        whole, *others = found
        for one in others:
            both = whole, one
            whole = self.append(KINDS["concatenate"], both, sum(map(self.width, both)), None)
        return whole

    def add_head(self, name: str, head: Head, source: int) -> int:
        """Append the layers of a head; return the operation of the head's logits."""
        for layer in head.layers:
            source = self.add(layer, source)
        return self.add(Dense(head.units, name=name or None), source)

    def ends_open(self, source: int) -> bool:
        """True if an operation can take an activation: nothing ends or reads the operation yet."""
        here = self.operations[source]
        return source not in self.pinned and here.dropout == 0 and here.activation == "identity"

    def dropped(self, layer: Dropout, source: int) -> int:
        """End an operation with dropout, or a copy of the operation if other layers read the operation."""
        if layer.rate == 0:
            return source
        if source in self.pinned or self.operations[source].dropout:
            source = self.append(KINDS["copy"], (source,), self.width(source), None)
        self.operations[source] = self.operations[source]._replace(dropout=layer.rate)
        return source

    def joined(self, kind: Kind, both: tuple[int, int], layer: Part, what: str) -> int:
        """Append a formula of the rows of two operations with equal units."""
        widths = tuple(map(self.width, both))
        if widths[0] != widths[1]:
            verb = "adds" if kind.name == "add" else "multiplies"
            raise ValueError(f"{what} {verb} layers of {widths[0]} and {widths[1]} units; they must be equal")
        return self.append(kind, both, widths[0], layer)

    def named(self, name: str) -> int:
        """Return the operation of a layer's name."""
        if name not in self.names:
            known = ", ".join(self.names) or "none has a name yet"
            raise ValueError(f"no earlier layer has the name {checks.shown(name)}; choose from: {known}")
        if self.names[name] < self.members_at:
            raise ValueError(
                f"the layer {name!r} stands before Members; a layer after them reads one after them"
            )
        return self.names[name]


def lowered(
    inputs: int | Blocks,
    layers: Sequence[Part],
    output: str,
    l1: float,
    l2: float,
    heads: Mapping[str, Head] | None = None,
) -> tuple[Operation, ...]:
    """Return the operations of a network, placed in the flat vector and in a row of the workspace.

    ValueError if widths do not fit, a name is unknown or stands twice, or the last layer is not a plain
    `Dense`.
    """
    if not heads and (not isinstance(layers[-1], Dense) or layers[-1].activation != "identity"):
        raise ValueError(
            "the last of layers must be a Dense without an activation, which gives the logits; "
            "output= says what comes after them"
        )
    lowering = _Lowering(inputs)
    if lowering.sparse_in and (not layers or not isinstance(layers[0], Dense)):
        raise ValueError("SparseNumbers need a Dense as the first of layers, which reads them")
    index = INPUTS
    if not isinstance(inputs, int):
        index = lowering.add_inputs(inputs)
    elif heads or not isinstance(layers[0], Dense):
        index = lowering.append(KINDS["copy"], (INPUTS,), inputs, None)
    for layer in layers:
        index = lowering.add(layer, index)
    lowering.pinned.add(index)
    ends = [lowering.add_head(name, head, index) for name, head in (heads or {}).items()]
    found = lowering.operations
    if heads and lowering.members > 1:
        raise ValueError("heads do not go with Members")
    names = [one.name for one in found if not one.part]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two layers have the name {twice[0]!r}; one without a name has its kind and number")
    if not heads:
        found[-1] = found[-1]._replace(activation=output)
    for end in ends:
        found[end] = found[end]._replace(is_head=True)
    readers = [source for one in found for source in one.sources]
    written: set[int] = set()
    for i in reversed(range(len(found))):
        one, first, adds = found[i], found[i].sources[0], []
        for source in one.sources:
            adds.append(source in written)
            if not one.second:  # whose sources are the parts of one row
                written.add(source)
        written.update(one.sources)
        below = found[first] if one.is_dense and first != INPUTS and readers.count(first) == 1 else None
        gates = below is not None and below.is_dense and below.activation == "relu"
        found[i] = one._replace(adds=tuple(adds), gates=gates)
        if gates:
            found[first] = found[first]._replace(gated=True)
    _join_units(found, readers)
    return tuple(_placed(found, readers, l1, l2))


def _join_units(found: list[Operation], readers: Sequence[int]) -> None:
    """Fuse the elementwise operations after products shared by members; see `Operation.fused`.

    Separate operations would go through memory: all members' units of a batch exceed L2 by far.
    """
    for start in [index for index, one in enumerate(found) if one.subrows > 1 and one.is_dense]:
        end = start
        while end + 1 < len(found) - 1 and readers.count(end) == 1 and found[end].dropout == 0:
            following = found[end + 1]
            if following.sources != (end,) or not following.kind.is_unitwise or following.is_head:
                break
            end += 1
        if end > start:
            parts = [
                activation_of(one.activation) if one.kind.name == "activation" else one.kind
                for one in found[start + 1 : end + 1]
            ]
            found[start:end] = [one._replace(joined=True) for one in found[start:end]]
            found[end] = found[end]._replace(fused=FusedChain(tuple(parts)))


def _placed(
    operations: Iterable[Operation], readers: Sequence[int], l1: float, l2: float
) -> Iterable[Operation]:
    """Return the operations with offsets; readers : the sources of all operations."""
    end = units = sums = 0
    placed: list[Operation] = []
    for one in operations:
        start = end
        if one.is_dense:
            dense: Any = one.layer
            biases, trained = start + one.n_in * one.n_out, start + (one.n_in + 1) * one.n_out
            one = one._replace(
                l1=l1 if dense.l1 is None else dense.l1, l2=l2 if dense.l2 is None else dense.l2
            )
            end = trained
        elif isinstance(one.layer, Embedding):
            sizes = {"weights": 0, "biases": 0, "state": 0}
            for name, shape in one.layer.arrays(one.columns).items():
                sizes[one.layer.sections.get(name, "weights")] += math.prod(shape)
            _, biases, trained, end = itertools.accumulate(sizes.values(), initial=start)
        else:
            gain, shift = (one.subrows * length for length in one.kind.lengths(one.n_out))
            biases, trained = start + gain, start + gain + shift
            end = trained + len(one.kind.state) * one.n_out
        one = one._replace(weights=start, biases=biases, trained=trained, end=end)
        first = one.sources[0]
        if one.is_fused:
            placed.append(one._replace(units=placed[first].units, saved=units, sums=sums))
            sums += trained - start
        elif one.kind.name == "add" and readers.count(first) == 1 and not placed[first].needs_output:
            placed.append(one._replace(units=placed[first].units, saved=units))
        else:
            placed.append(one._replace(units=units, saved=units + one.width))
            units += one.width + one.saved_units
    return placed


# --- the arguments of `Network` -------------------------------------------------------------------------

MAX_PARAMETERS = 2**31
"""The most parameters of a network: 8 GiB in float32, and the same again for gradients and each moment.
Larger networks are refused before any allocation."""


USUAL = "relu", 0.0, "glorot_uniform", "zeros"
"""The defaults of hidden, dropout, weight_init and bias_init."""


def chain_layers(
    sizes: Sequence[int], hidden: Sequence[Any], dropout: Sequence[float], **inits: Any
) -> tuple[Part, ...]:
    """Return the layers of a chain; inits : weight_init and bias_init of all layers."""
    layers: list[Part] = []
    for units, activation, rate in zip(sizes[1:-1], hidden, dropout, strict=True):
        layers.append(Dense(units, activation, **inits))
        if rate:
            layers.append(Dropout(rate))
    return (*layers, Dense(sizes[-1], **inits))


class Chain(NamedTuple):
    """A chain of dense layers: sizes, hidden activations, dropout, initialisers."""

    sizes: tuple[int, ...]
    hidden: tuple[str | Activation, ...]
    dropout: tuple[float, ...]
    weight_init: Any
    bias_init: Any


def as_chain(inputs: int | Blocks, operations: Sequence[Operation]) -> Chain | None:
    """Return the chain of a network of equal dense layers; None for other networks."""
    if not isinstance(inputs, int) or not all(one.is_dense for one in operations):
        return None
    dense: list[Any] = [one.layer for one in operations]
    plain = {replace(one, units=1, activation="identity") for one in dense}
    first = Dense(1, weight_init=dense[0].weight_init, bias_init=dense[0].bias_init)
    if plain != {first}:
        return None
    *hidden, _ = operations
    return Chain(
        (inputs, *(one.n_out for one in operations)), tuple(one.activation for one in hidden),
        tuple(one.dropout for one in hidden), first.weight_init, first.bias_init,
    )  # fmt: skip


def checked_chain(sizes: Any, hidden: Any, dropout: Any, weight_init: Any, bias_init: Any) -> Chain:
    """Return the chain of these arguments of `Network`."""
    sizes = _check_sizes(sizes)
    depth = len(sizes) - 2
    if checks.sequence(hidden) is None:  # even if there is no hidden layer that would take it
        checked_activation("hidden activation", hidden)
    if isinstance(dropout, Real):
        checked_dropout(dropout)
    hidden = _one_per_layer("hidden", hidden, (str, Activation), depth)
    dropout = _one_per_layer("dropout", dropout, Real, depth)
    return Chain(
        sizes, tuple(checked_activation("hidden activation", one) for one in hidden),
        tuple(map(checked_dropout, dropout)), *checked_inits(weight_init, bias_init),
    )  # fmt: skip


def checked_list(
    inputs: Any,
    layers: Any,
    given: tuple[Any, ...],
    l1: float,
    l2: float,
    heads: Mapping[str, Head] | None = None,
) -> tuple[Chain | dict[str, Any], tuple[Operation, ...]]:
    """Return the chain, or the facts of another network, for a list of layers; and the operations."""
    if not all(
        type(one) in (type(other), int) and one == other for one, other in zip(given, USUAL, strict=True)
    ):
        raise TypeError(
            "hidden, dropout, weight_init and bias_init go with sizes; with layers each layer has its own"
        )
    inputs, layers = checked_inputs(inputs, MAX_PARAMETERS), checked_layers(layers)
    try:
        operations = lowered(inputs, layers, "identity", l1, l2, heads)
    except RecursionError:
        raise ValueError("the layers are nested too deeply") from None
    if operations[-1].end > MAX_PARAMETERS:
        raise ValueError("the layers have more parameters than 2^31")
    chain = None if heads else as_chain(inputs, operations)
    return chain or {"inputs": inputs, "layers": layers}, operations


def _check_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    if (listed := checks.sequence(sizes)) is None:
        raise TypeError(f"sizes must be a sequence like [n_in, hidden, n_out], got {checks.shown(sizes)}")
    checked = tuple(checks.whole("every one of sizes", size, 1, MAX_PARAMETERS) for size in listed)
    if len(checked) < 2:
        raise ValueError(f"sizes must hold at least n_in and n_out, got {checks.shown(list(checked))}")
    count = sum((n_in + 1) * n_out for n_in, n_out in pairwise(checked))
    if count > MAX_PARAMETERS:
        raise ValueError(f"sizes {checks.shown(list(checked))} make {count:.3g} parameters; at most 2^31 fit")
    return checked


def _one_per_layer(what: str, value: object, one: type | tuple[type, ...], depth: int) -> tuple[Any, ...]:
    if isinstance(value, one):
        return (value,) * depth
    if (listed := checks.sequence(value)) is None:
        raise TypeError(f"{what} must be one value or one for each hidden layer, got {checks.shown(value)}")
    if len(listed) != depth:
        raise ValueError(f"{what} must hold one value for each of {depth} hidden layers, got {len(listed)}")
    return tuple(listed)
