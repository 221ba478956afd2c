"""Derivatives by the inputs, in blocks of rows of bounded memory."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.backend import reference, registry
from fastmlp.backend.reference_losses import activate
from fastmlp.data.arrays import clean_rows_of
from fastmlp.data.sparse import is_sparse
from fastmlp.derivatives.tape import Array, Tape, logit_steps, slope_of
from fastmlp.exchange.steps import ExportGraph, graph_of
from fastmlp.model.activations import Activation
from fastmlp.model.heads import columns_of_heads
from fastmlp.model.inputs import columns_of
from fastmlp.model.layers import Activate
from fastmlp.model.network import Network
from fastmlp.model.rows import Inputs, SparseRows
from fastmlp.system.budget import usable_cores
from fastmlp.trained.model import PART_ROWS, Model

if TYPE_CHECKING:
    from fastmlp.kernels.runtime.passes import RowPasses

EXACT = "fused"
"""The backend of bfloat16 models, because rounded products have no derivative."""

MOST_NUMBERS = 1 << 18
"""The most numbers in an array of a tape: 1 or 2 MiB, within L2 or L3."""


idle_passes: weakref.WeakKeyDictionary[Model, RowPasses] = weakref.WeakKeyDictionary()
"""Compiled passes of models, not in use by any call."""


@functools.lru_cache(maxsize=64)
def _bare(network: Network) -> Network:
    """Return the network with the logits as outputs."""
    return network.replaced(output="identity", loss="mse")


class Rows:
    """The rows of a call, in blocks: of compiled passes, or of tapes.

    Parameters
    ----------
    model : the model
    X : as for `Model.predict`
    directions : tangents or cotangents of a row on a tape
    logits : True for derivatives of the logits
    inputs : X as clean rows, if X is clean
    """

    def __init__(
        self, model: Model, X: Any, directions: int = 1, logits: bool = False, inputs: Inputs | None = None
    ) -> None:
        network, self.parameters = model.network, model.parameters
        if checks.flag("logits", logits) and network.members > 1:
            raise ValueError("logits are not defined of a network with Members, whose outputs are a mean")
        self.network, self.scale = network, self.parameters.dtype.type(network.input_scale)
        if inputs is None:
            inputs = clean_rows_of("X", network, X, self.parameters.dtype, known=False)
        self.inputs = inputs
        self.model, self.logits, self.directions, self.numbers = model, logits, directions, 1
        self.n_in = columns_of(network.blocks) if network.blocks else network.n_in
        self.dtype = self.parameters.dtype

    @functools.cached_property
    def graph(self) -> ExportGraph:
        """The steps of the network with input scale 1."""
        return graph_of(self.network.replaced(input_scale=1.0), self.parameters)

    @functools.cached_property
    def ends(self) -> dict[str, int]:
        """The steps of the outputs, or of the logits, by the names of outputs."""
        ends = self.graph.outputs
        return logit_steps(self.graph, ends, self.activations) if self.logits else ends

    @property
    def activations(self) -> dict[str, str | Activation]:
        """The last activations, by the names of the outputs."""
        heads = {name or "output": head.output for name, head in self.network.heads.items()}
        return heads or {"output": self.network.output}

    @property
    def is_compiled(self) -> bool:
        """True if compiled passes take rows back to the inputs."""
        plain = isinstance(self.inputs, np.ndarray) and not self.network.blocks
        fits = not (self.logits and self.network.heads)
        return plain and fits and not registry.is_reference(self.model.backend)

    @property
    def is_chain(self) -> bool:
        """True if the compiled passes of a chain take the rows."""
        return self.is_compiled and self.network.is_chain and not self.network.heads

    def in_columns(self, blocks: int) -> RowPasses | None:
        """Return compiled passes for rows as columns, or None.

        The result is None for fewer rows than some blocks; for large networks, because every block would read
        the weights from memory; and for tangents of softmax, because softmax is not unitwise.
        """
        softmax = self.network.output == "softmax" and not self.logits
        if not self.is_chain or len(self.parameters) > MOST_NUMBERS or (softmax and blocks > 1):
            return None
        from fastmlp.kernels.runtime.passes import block_rows, column_rows

        least = blocks * column_rows(self.dtype)
        return self.passes if least <= block_rows(self.network, self.dtype, len(self)) else None

    @functools.cached_property
    def passes(self) -> RowPasses:
        """Compiled passes."""
        network = _bare(self.network) if self.logits else self.network
        idle = idle_passes.pop(self.model, None)
        if idle is not None and idle.serves(network, self.parameters, len(self.inputs)):
            return idle
        from fastmlp.kernels.runtime.passes import RowPasses

        name = EXACT if registry.is_mixed(self.model.backend) else self.model.backend
        return RowPasses(registry.entries(name), network, self.parameters, len(self.inputs))

    def release(self) -> None:
        """Keep the compiled passes for the model's next call: to make them takes as long as 100 rows."""
        if (passes := self.__dict__.pop("passes", None)) is not None:
            passes.forget()
            idle_passes[self.model] = passes

    def __len__(self) -> int:
        return len(self.inputs)

    def blocks(self) -> Iterator[tuple[slice, Tape]]:
        """Yield the rows of each block with a tape."""
        widest = max([self.n_in, *(step.one.n_out for step in self.graph.steps)])
        most = max(1, min(MOST_NUMBERS // (widest * self.directions), self.at_once(self.numbers)))
        for rows in self.slices(most):
            yield rows, Tape(self.graph, self.dense(rows))

    def slices(self, most: int) -> Iterator[slice]:
        """Yield all rows in blocks of at most so many."""
        for start in range(0, len(self), most):
            yield slice(start, min(start + most, len(self)))

    def at_once(self, numbers: int) -> int:
        """Return the rows of a block with so many numbers a row."""
        return max(1, 16 * MOST_NUMBERS // numbers)

    def dense(self, rows: slice) -> Array:
        """Return rows as an array, with the columns of block after block."""
        inputs = self.inputs
        if not isinstance(inputs, SparseRows):
            return inputs[rows]
        matrix, dense = inputs.matrix()[rows].toarray(), inputs.dense[rows]
        if not self.network.blocks:
            return np.ascontiguousarray(matrix)
        ends, parts = [0, 0], []
        for block in self.network.blocks:
            kind, source = int(block.is_sparse), matrix if block.is_sparse else dense
            parts.append(source[:, ends[kind] : ends[kind] + block.columns])
            ends[kind] += block.columns
        return np.hstack(parts)

    def unit(self, some: slice, index: int) -> Array:
        """Return cotangents (rows, n_out) of a single output."""
        unit = np.zeros((some.stop - some.start, self.network.n_out), self.dtype)
        unit[:, index] = 1
        return unit

    def seeds(self, cotangents: Array) -> dict[int, Array]:
        """Return cotangents of the outputs (.., rows, n_out) by step."""
        if not self.network.head_names:
            return {self.ends["output"]: cotangents}
        columns = columns_of_heads(self.network.heads)
        return {self.ends[name]: cotangents[..., part] for name, part in columns.items()}

    def outputs(self, found: Mapping[int, Array]) -> Array:
        """Return values or tangents of the outputs (.., rows, n_out), heads side by side."""
        return np.concatenate([found[step] for step in self.ends.values()], axis=-1)

    def vectors(self, what: str, value: Any, parts: Mapping[str | None, int]) -> Array:
        """Return vectors of a product as an array (rows, columns); ValueError for another shape.

        parts : columns by the names of heads or blocks; a dict has the names, a list the order
        """
        columns = sum(parts.values())
        if isinstance(value, Mapping):
            if {*value} != {*parts}:
                wanted, got = ", ".join(map(str, parts)), checks.shown([*value])
                raise ValueError(f"{what} must have {wanted}, got {got}")
            value = [value[name] for name in parts]
            value = [np.reshape(one, (-1, parts[name])) for name, one in zip(parts, value, strict=True)]
        if isinstance(value, (list, tuple)) and any(np.ndim(one) == 2 for one in value):
            value = np.hstack(value)
        array = checks.real_array(what, value)
        if array.ndim == 1 and columns == 1:
            array = array.reshape(-1, 1)
        if array.shape != (len(self), columns):
            raise ValueError(f"{what} must have shape {(len(self), columns)}, got {array.shape}")
        if not checks.finite(array := np.ascontiguousarray(array, self.dtype)):
            raise ValueError(f"{what} must be finite")
        return array

    @property
    def columns(self) -> dict[str | None, int]:
        """The columns of the inputs, by the names of blocks."""
        return {one.name: one.columns for one in self.graph.inputs}

    @property
    def outs(self) -> dict[str | None, int]:
        """The outputs, by the names of heads."""
        return {name: head.objective.n_out for name, head in self.network.heads.items()} or {
            None: self.network.n_out
        }

    def output(self, given: Any) -> int:
        """Return the column of the outputs for a caller's name."""
        network = self.network
        if network.head_names:
            columns = columns_of_heads(network.heads)
            name, index = given if isinstance(given, tuple) and len(given) == 2 else (given, None)
            if not isinstance(name, str) or name not in columns:
                raise ValueError(f"output must be one of {', '.join(columns)}, got {checks.shown(given)}")
            units = range(network.n_out)[columns[name]]
            if index is None and len(units) > 1:
                raise ValueError(
                    f"the head {name!r} has {len(units)} outputs; output=({name!r}, 0) is the first"
                )
            return units[0 if index is None else checks.whole("output", index, 0, len(units) - 1)]
        if given is None and network.n_out > 1:
            raise ValueError(f"output must be one of the {network.n_out} outputs, 0 is the first; got None")
        return 0 if given is None else checks.whole("output", given, 0, network.n_out - 1)


def by_rows(rows: Rows, shape: tuple[int, ...], of_block: Callable[[Tape, slice], Array]) -> Array:
    """Return an array (rows, *shape), computed block by block."""
    out = np.empty((len(rows), *shape), rows.dtype)
    for some, tape in rows.blocks():
        out[some] = of_block(tape, some)
    return out


def unit_vectors(rows: int, units: int, dtype: Any) -> Array:
    """Return all unit vectors for each row, (units, rows, units)."""
    return np.broadcast_to(np.eye(units, dtype=dtype)[:, None], (units, rows, units))


def _reverse(rows: Rows, cotangents: Callable[[slice], Array]) -> Iterator[tuple[slice, Array]]:
    """Yield blocks of rows with cotangents (directions, rows, columns).

    cotangents : of the outputs of some rows, (directions, rows, n_out)
    """
    if not rows.is_compiled:
        for some, tape in rows.blocks():
            yield some, tape.pull(rows.seeds(cotangents(some))) * rows.scale
        return
    passes = rows.passes
    step = min(passes.rows, rows.at_once(rows.directions * max(rows.n_in, rows.network.n_out)))
    for some in rows.slices(step):
        passes.forward(rows.dense(some))
        given = np.ascontiguousarray(cotangents(some))
        found = np.empty((*given.shape[:2], rows.n_in), rows.dtype)
        passes.back(given, found)
        yield some, found if rows.scale == 1 else found * rows.scale
    rows.release()


def jacobian(model: Model, X: Any, logits: bool = False) -> Array:
    """Return the Jacobians (rows, n_out, columns) of all rows."""
    outs = model.network.n_out
    rows = Rows(model, X, outs, logits)
    if outs <= 4 * rows.n_in and (passes := rows.in_columns(1)) is not None:
        out = np.empty((len(rows), outs, rows.n_in), rows.dtype)
        passes.jacobian(rows.dense(slice(None)), out)
        rows.release()
        out *= rows.scale
        return out
    if outs <= rows.n_in or (rows.is_compiled and outs <= 4 * rows.n_in):
        out = np.empty((len(rows), outs, rows.n_in), rows.dtype)
        for some, found in _reverse(
            rows, lambda some: unit_vectors(some.stop - some.start, outs, rows.dtype)
        ):
            out[some] = found.transpose(1, 0, 2)
        return out

    rows.directions = rows.n_in

    def of_block(tape: Tape, some: slice) -> Array:
        tangents = rows.outputs(tape.push(unit_vectors(some.stop - some.start, rows.n_in, rows.dtype)))
        return tangents.transpose(1, 2, 0) * rows.scale

    return by_rows(rows, (outs, rows.n_in), of_block)


def jacobian_many(models: Sequence[Model], X: Any, *, logits: bool = False) -> Array:
    """Return the Jacobians of many models for the same rows.

    Parameters
    ----------
    models : list of Model, at least 1, with the same numbers of inputs and outputs
    X : as for `Model.predict`
    logits : True for the outputs before the last activation

    Returns
    -------
    (models, rows, n_out, columns) array, of the common dtype of all models
        Models take turns on all cores.

    Raises
    ------
    ValueError, TypeError
        If models are none, or differ in inputs or outputs; or as `Model.jacobian`.
    """
    if isinstance(models, Model) or not isinstance(models, Sequence) or not models:
        raise TypeError(f"models must be a list of Model, at least one, got {checks.shown(models)}")
    for index, model in enumerate(models):
        checks.instance(f"models[{index}]", model, Model, "a Model")
    shapes = [(model.network.n_in, model.network.n_out) for model in models]
    if len({*shapes}) > 1:
        raise ValueError(f"models must have the same inputs and outputs, got {[*dict.fromkeys(shapes)]}")
    with ThreadPoolExecutor(min(len(models), usable_cores())) as pool:
        return np.stack([*pool.map(lambda model: jacobian(model, X, logits), models)])


def vjp(model: Model, X: Any, U: Any, logits: bool = False) -> Array:
    """Return rows of U times Jacobians, (rows, columns)."""
    rows = Rows(model, X, 1, logits)
    vectors, out = rows.vectors("U", U, rows.outs), np.empty((len(rows), rows.n_in), rows.dtype)
    for some, found in _reverse(rows, lambda some: vectors[None, some]):
        out[some] = found[0]
    return out


def jvp(model: Model, X: Any, V: Any, logits: bool = False) -> Array:
    """Return Jacobians times rows of V, (rows, n_out)."""
    rows = Rows(model, X, 1, logits)
    vectors = rows.vectors("V", V, rows.columns)
    if (passes := rows.in_columns(2)) is not None:
        out = np.empty((len(rows), model.network.n_out), rows.dtype)
        passes.jvp(rows.dense(slice(None)), vectors * rows.scale, out)
        rows.release()
        return out
    return by_rows(
        rows, (model.network.n_out,), lambda tape, some: rows.outputs(tape.push(vectors[some] * rows.scale))
    )


def input_gradient(
    model: Model, X: Any, output: Any = None, logits: bool = False, dense: bool = False
) -> Any:
    """Return derivatives of an output (rows, columns); for sparse X, as CSR."""
    rows = Rows(model, X, 1, logits)
    index = rows.output(output)
    blocks = _reverse(rows, lambda some: rows.unit(some, index)[None])
    if checks.flag("dense", dense) or not is_sparse(X):
        out = np.empty((len(rows), rows.n_in), rows.dtype)
        for some, found in blocks:
            out[some] = found[0]
        return out
    assert isinstance(rows.inputs, SparseRows)
    matrix = rows.inputs.matrix().tocsr()
    values, starts = np.empty(matrix.nnz, rows.dtype), matrix.indptr
    for some, found in blocks:
        stored = slice(starts[some.start], starts[some.stop])
        line = np.repeat(np.arange(some.stop - some.start), np.diff(starts[some.start : some.stop + 1]))
        values[stored] = found[0][line, matrix.indices[stored]]
    kind = scipy.sparse.csr_matrix if isinstance(X, scipy.sparse.spmatrix) else scipy.sparse.csr_array
    return kind((values, matrix.indices.copy(), matrix.indptr.copy()), matrix.shape)


def hvp(model: Model, X: Any, V: Any, output: Any = None, logits: bool = False) -> Array:
    """Return Hessians of an output times rows of V, (rows, columns)."""
    rows = Rows(model, X, 1, logits)
    index, along = rows.output(output), rows.vectors("V", V, rows.columns)
    if (found := _bent_in_columns(rows, index, along * rows.scale, (rows.n_in,))) is not None:
        return found
    return by_rows(
        rows, (rows.n_in,), lambda tape, some: _bent(rows, tape, index, along[some] * rows.scale) * rows.scale
    )


def hessian(model: Model, X: Any, output: Any = None, logits: bool = False) -> Array:
    """Return Hessians of an output (rows, columns, columns)."""
    rows = Rows(model, X, model.network.n_in, logits)
    index = rows.output(output)
    along = np.full((len(rows), rows.n_in), rows.scale, rows.dtype)  # which is read of a single input
    if (found := _bent_in_columns(rows, index, along, (rows.n_in, rows.n_in))) is not None:
        return found if rows.n_in == 1 else found * rows.scale

    def of_block(tape: Tape, some: slice) -> Array:
        unit = unit_vectors(some.stop - some.start, rows.n_in, rows.dtype)
        return _bent(rows, tape, index, unit).transpose(1, 0, 2) * rows.scale**2

    return by_rows(rows, (rows.n_in, rows.n_in), of_block)


def _bent_in_columns(rows: Rows, index: int, tangents: Array, shape: tuple[int, ...]) -> Array | None:
    """Return second derivatives (rows, *shape) of compiled passes, or None."""
    if (passes := rows.in_columns(2)) is None:
        return None
    out, network = np.empty((len(rows), *shape), rows.dtype), passes.network
    slopes = [slope_of(one.activation) for one in network.operations[:-1]] + [slope_of(network.output)]
    passes.hessian(rows.dense(slice(None)), rows.unit(slice(0, len(rows)), index), tangents, slopes, out)
    rows.release()
    out *= rows.scale
    return out


def _bent(rows: Rows, tape: Tape, index: int, tangents: Array) -> Array:
    unit = rows.unit(slice(0, tangents.shape[-2]), index)
    return tape.pull(rows.seeds(unit), tangents=tape.push(tangents))


def hidden(model: Model, X: Any, layer: int | str) -> NDArray[Any]:
    """Return a layer's units (rows, units) after the activation."""
    network, operations = model.network, model.network.operations
    named = {
        one.name: index
        for index, one in enumerate(operations)
        if one.layer is not None and one.kind.key != "members"
    }
    if isinstance(layer, str):
        if layer not in named:
            raise ValueError(f"layer must be one of {', '.join(named)}, got {layer!r}")
        index = named[layer]
    else:
        index = [*named.values()][checks.whole("layer", layer, -len(named), len(named) - 1)]
    one = operations[index]
    after = operations[index + 1] if index + 1 < len(operations) else None
    if after is not None and after.sources == (index,) and isinstance(after.layer, Activate):
        index += 1  # an activation with parameters, or of members, is an operation of its own
    head = network.heads.get(one.name if network.head_names else "") if one.is_head else None
    output = network.output if head is None else head.objective.output
    inputs = clean_rows_of("X", network, X, model.parameters.dtype, known=False)
    parts = []
    for start in range(0, len(inputs), PART_ROWS):
        passed = reference.pass_forward(network, model.parameters, inputs[start : start + PART_ROWS], None, 0)
        ends = one.is_head or index == len(operations) - 1
        parts.append(activate(output, passed.logits[index]) if ends else passed.activations[index])
    return np.concatenate(parts)
