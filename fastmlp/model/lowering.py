"""Layers lowered to a list of operations, with offsets in the flat vector and the workspace."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from fastmlp.model import gates, norms  # noqa: F401  # the layers of norms are in the table, too
from fastmlp.model.activations import activation_of
from fastmlp.model.builder import Builder
from fastmlp.model.component import INPUTS, Kind, Part
from fastmlp.model.component import LAYERS as LAYERS
from fastmlp.model.embeddings import BLOCKS as BLOCKS
from fastmlp.model.embeddings import Embedding, Grouped
from fastmlp.model.heads import Head
from fastmlp.model.inputs import Blocks, columns_of, sparse_columns
from fastmlp.model.layers import Dense
from fastmlp.model.operations import FusedChain, Operation

KINDS = {
    kind.name: kind
    for kind in (
        *map(Kind, ("dense", "copy", "activation", "members", "concatenate")),
        *(one.kind for one in LAYERS.values() if one.kind.formula or one.kind.state),
        gates.ScaleShift.kind,
        *(one.kind for one in BLOCKS.values() if one.kind.name),
        Grouped.kind,
    )
}
"""All kinds of the package by name; a user's `Layer` is one more."""


def _add_inputs(builder: Builder, blocks: Blocks) -> int:
    """Append blocks of inputs, side by side; return the operation of all units."""
    found: list[int] = []
    column = 0
    for block in blocks:
        if not block.is_sparse:
            found += block.lower_columns(builder, column)
            column += block.columns
    if not found:
        return INPUTS
    whole, *others = found
    for one in others:
        both = whole, one
        whole = builder.append("concatenate", both, sum(map(builder.width, both)), None)
    return whole


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
    sparse_in = sparse_columns(inputs)
    builder = Builder(KINDS, columns_of(inputs) - sparse_in, sparse_in)
    if builder.sparse_in and (not layers or not isinstance(layers[0], Dense)):
        raise ValueError("SparseNumbers need a Dense as the first of layers, which reads them")
    index = INPUTS
    if not isinstance(inputs, int):
        index = _add_inputs(builder, inputs)
    elif heads or not isinstance(layers[0], Dense):
        index = builder.append("copy", (INPUTS,), inputs, None)
    for layer in layers:
        index = layer.lower(builder, index)
    builder.pinned.add(index)
    ends = [head.lower(builder, name, index) for name, head in (heads or {}).items()]
    found = builder.operations
    if heads and builder.members > 1:
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
                activation_of(one.activation) if one.kind.key == "activation" else one.kind
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
        elif one.kind.key == "add" and readers.count(first) == 1 and not placed[first].needs_output:
            placed.append(one._replace(units=placed[first].units, saved=units))
        else:
            placed.append(one._replace(units=units, saved=units + one.width))
            units += one.width + one.saved_units
    return placed
