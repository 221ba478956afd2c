"""Sessions of machine code: a network's buffers and call record; and predictions of many models."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastmlp.kernels.jit.engine import Entry, each, table_of
from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.program.records import APART, BARRIER, BLANK, WORDS, Call, address_of
from fastmlp.kernels.program.workers import run
from fastmlp.kernels.runtime.described import (
    NAMES,
    check_array,
    check_inputs,
    check_parameters,
    no_rules,
    resting_shape_of,
    rules_of,
    shape_of,
)
from fastmlp.kernels.runtime.workspace import Products, apart, scratch_length, workspace
from fastmlp.kernels.thresholds import value
from fastmlp.kernels.variant import Buffers, SpecializedProgram
from fastmlp.model.backend import Chunk, PredictArguments
from fastmlp.model.layout import ALIGNMENT, aligned, parameter_count
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.rows import ByteRows, Inputs, SparseRows

MOST_TERMS = 2**31
"""A batch must have fewer non-zeros, which are counted in 32 bits."""

IDLE_SESSIONS, IDLE_BYTES = 8, 4 << 20
"""The most idle sessions of chunks, and of predictions, in a backend; the most bytes of a session."""

NO_BARRIER = np.zeros(0, np.int64)
"""The barrier of a prediction, which has a single worker."""

Kind = tuple[Any, ...]
"""All properties of a session, with the ids of descriptions held by the session."""


class Session(Call):
    """A network with all buffers, in one record on which any entry point of a backend runs.

    Arrays of rows and of state are set later.

    code : the backend's entry points
    rows : of a batch, with room in the buffers; None for entry points that read no rows
    optimizer : of the steps; None of a gradient, without steps
    at_rest : for predictions and losses, without dropout and with a batch norm's running state
    predicts : at rest, and without room for losses
    program : of this network alone, in the place of "train_chunk"
    sparse : for sparse inputs; microbatch : as of `Chunk`
    products : (n_in, n_out) of the entry point's products, besides those of the network
    cores : of the process, where the number of workers follows them; else None
    bytes : of all buffers
    chunk : of the steps, if nobody can write to the chunk's arrays
    kind : the key in `Idle`
    """

    def __init__(
        self,
        code: Entries,
        network: Network,
        dtype: np.dtype[Any],
        rows: int | None,
        optimizer: Optimizer | None = None,
        *,
        workers: int = 1,
        at_rest: bool = False,
        predicts: bool = False,
        program: SpecializedProgram | None = None,
        sparse: bool = False,
        microbatch: int = 0,
        products: Products = (),
        cores: int | None = None,
    ) -> None:
        self._code, self._program, self._dtype = code, program, NAMES[dtype]
        self._entries: dict[str, Entry] = {}
        # The descriptions are held, so that their ids are no others'.
        self.network, self.optimizer = network, optimizer
        self.rows, self.workers, self.cores = rows or 0, workers, cores
        self.chunk: Chunk | None = None
        self.barrier = NO_BARRIER
        self.kind: Kind = ()
        shape = resting_shape_of(network) if at_rest else shape_of(network)
        known, rules, values = BLANK, None, dict[str, Any](shape.words)
        buffers = code.variant.buffers
        if rows is not None:
            private = program.private if program else 0
            made = workspace(network, sparse, rows, workers, dtype, private, predicts, buffers, products)
            values["memory"], values["sums"], known = made
        if not at_rest:
            self.barrier = values["barrier"] = np.zeros(BARRIER, np.int64)
            rules = rules_of(optimizer, network) if optimizer else no_rules(len(network.operations))
            moment_rows = optimizer.moment_rows if optimizer else 0
            values |= {"rules": rules[1], "moment_rows": moment_rows, "leads": 1}
            if optimizer and optimizer.rule.orthogonal:
                values |= matrices_for(network, dtype, workers, buffers)
            if rows is not None and network.tables:
                values |= tables_for(network, rows, workers)
        if optimizer and microbatch:
            fewest = 2 if network.needs_batches else 1
            values |= {"accumulated": aligned(parameter_count(network), dtype), "fewest": fewest}
            values["microbatch"] = microbatch
            if optimizer.rule.sparse_updates and network.takes_sparse:
                # The gradient of all microbatches is applied at once, to the columns of all their rows.
                values["nonzero_columns"] = np.empty(network.sparse_in, np.bool_)
        self.bytes = _bytes_of(values)
        super().__init__(known, values, shape, rules)

    def entry(self, template: str) -> Entry:
        """Return an entry point of the backend, for the record's address."""
        entry = self._entries.get(template)
        if entry is None:
            own = self._program if template == "train_chunk" else None
            entry = self._entries[template] = self._code.get(own or template, self._dtype)
        return entry

    def run(self, template: str, workers: int = 0) -> int:
        """Run an entry point by some workers, by default the session's; return their number."""
        work = functools.partial(self.entry(template), self.address)
        return run(work, workers or self.workers, self.barrier)

    def show_chunk(self, chunk: Chunk) -> None:
        """Have the session take a chunk's steps."""
        arrays = chunk[:5]
        head_totals = chunk.totals if chunk.head_totals is None else chunk.head_totals
        names = ("order", "starts", "stops", "totals", "rates", "head_totals")
        self.show(dict(zip(names, (*arrays, head_totals), strict=True)))
        self.chunk = None if any(array.flags.writeable for array in arrays) else chunk

    def make_lists(self, inputs: SparseRows, terms: int, rows: int, room: int = 0) -> None:
        """Have room for the column lists of `rows` sparse rows with up to `terms` non-zeros.

        room : non-zeros to make room for, if the lists grow; by default `terms`
        """
        terms = max(terms, 1)  # rows may be empty
        if terms > self.words[TERMS]:
            values = lists_for(inputs, max(terms, room), rows, self.workers)
            self.set(values)
            self.bytes += _bytes_of(values)


def _bytes_of(values: dict[str, Any]) -> int:
    return sum(value.nbytes for value in values.values() if isinstance(value, np.ndarray))


class Idle:
    """Unused sessions of a backend, for the next chunk or prediction.

    To choose, lay out and allocate a session's buffers takes ten times as long as a step of a small network.
    Two threads never have the same session: a session of `take` is the caller's until `leave`.
    """

    def __init__(self) -> None:
        self._sessions: list[Session] = []

    def take(self, kind: Kind) -> Session | None:
        """Return the last session left of a kind, or None."""
        for session in reversed(self._sessions):
            if session.kind == kind:
                try:
                    self._sessions.remove(session)
                except ValueError:  # another thread has taken it
                    continue
                return session
        return None

    def leave(self, kind: Kind, session: Session) -> None:
        """Leave a session for reuse; not after an error, when workers may have abandoned the session."""
        if session.bytes <= IDLE_BYTES:
            session.kind = kind
            self._sessions.append(session)
            del self._sessions[:-IDLE_SESSIONS]


def words_of_inputs(inputs: Inputs | ByteRows) -> dict[str, Any]:
    """Return a call's arrays and numbers of inputs, by names of `fastmlp.kernels.program.records`."""
    samples = len(inputs)
    if isinstance(inputs, SparseRows):
        dense, (indptr, indices, values) = inputs.dense, inputs.arrays
        return {
            "inputs": dense, "indptr": indptr, "indices": indices, "values": values, "samples": samples,
            "n_in": dense.shape[1],
        }  # fmt: skip
    if isinstance(inputs, ByteRows):
        return {"numbers": inputs.numbers, "scale": np.array([inputs.scale]), "samples": samples}
    return {"inputs": inputs, "samples": samples}


def lists_for(inputs: SparseRows, terms: int, rows: int, workers: int) -> dict[str, Any]:
    """Return the buffers for column lists of `rows` sparse rows with up to `terms` non-zeros."""
    if terms >= MOST_TERMS:
        raise ValueError(
            f"a batch may have {MOST_TERMS - 1} non-zeros, {rows} rows have up to {terms}; take fewer rows"
        )
    free, n_in, every = APART // 8 * workers, inputs.n_in, workers * terms
    return {
        "terms": terms, "list_marks": np.zeros(n_in // 64 + free, np.uint64),
        "list_counts": np.zeros(n_in + 2 * free, np.int32), "list_columns": np.empty(n_in + free, np.int64),
        "list_starts": np.empty(n_in + free, np.int64), "list_samples": np.empty(every, np.int32),
        "list_numbers": np.empty(every, inputs.dtype),
        "list_cursors": np.empty(rows * workers + free, np.int64),
    }  # fmt: skip


def tables_for(network: Network, rows: int, workers: int) -> dict[str, Any]:
    """Return the buffers for the table rows of up to `rows` rows."""
    numbers = np.empty((rows + APART // 8) * workers, np.int64)
    return {"row_marks": np.zeros(network.table_rows, np.int32), "row_numbers": numbers}


def matrices_for(
    network: Network, dtype: np.dtype[Any], workers: int, buffers: Buffers | None
) -> dict[str, Any]:
    """Return the buffers for a rule of orthogonal matrices, see `weight_templates.orthogonalise`."""
    products = [sorted((op.n_in, op.n_out)) for op in network.operations if op.is_dense]
    side, width = (max(sizes) for sizes in zip(*products, strict=True))
    least = buffers([*map(tuple, products), (side, side)], side) if buffers else {}  # type: ignore[list-item]
    scratch = max(scratch_length(width, side, dtype.itemsize), least.get("scratch", 0))
    parts = {
        "matrix_size": max(k * n for k, n in products), "matrix_side": side * side, "matrix_width": width,
        "matrix_scratch": scratch,
    }  # fmt: skip
    parts = {name: apart(length, dtype.itemsize) for name, length in parts.items()}
    length = 2 * parts["matrix_size"] + 2 * parts["matrix_side"] + parts["matrix_width"]
    length += workers * parts["matrix_scratch"]
    return {**parts, "matrices": aligned(length, dtype)}


# --- predictions of one model, and of many at once ----------------------------------------------------

PARAMETERS, OUT, MEMORY, TERMS = (WORDS[name] for name in ("parameters", "out", "memory", "terms"))


def prediction(code: Entries, network: Network, dtype: Any, inputs: Inputs) -> Session:
    """Return a session for predictions of inputs, in batches."""
    rows, sparse = min(len(inputs), value("predicted_rows")), isinstance(inputs, SparseRows)
    return Session(code, network, dtype, rows, at_rest=True, predicts=True, sparse=sparse)


def predict_all(code: Entries, predictions: Sequence[PredictArguments], threads: int) -> None:
    """Write the outputs of all models of a backend, with the bits of `predict`.

    The calls of a thread share memory; calls of a kind share all words but parameters and outputs.
    """
    kinds: dict[Any, Session] = {}
    sessions, read, written = list[Session](), [], []
    for network, parameters, inputs, out in predictions:
        dtype, rows = parameters.dtype, len(inputs)
        key = id(network), dtype, id(inputs)
        session = kinds.get(key)
        if session is None:
            check_inputs(inputs, rows, network.n_in, dtype)
            session = kinds[key] = prediction(code, network, dtype, inputs)
            session.set(words_of_inputs(inputs))
        check_parameters(resting_shape_of(network), parameters)
        check_array("out", out, (rows, network.n_out), dtype)
        sessions.append(session)
        read.append(address_of(parameters))
        written.append(address_of(out))
    records = np.array([np.frombuffer(session.words, np.int64) for session in sessions])
    most = max(-(-session.bytes // ALIGNMENT) * ALIGNMENT for session in kinds.values())
    # A buffer a thread is enough: each model's outputs are written before the next model begins.
    memory = aligned(threads * most, np.uint8)
    records[:, PARAMETERS], records[:, OUT] = read, written
    records[:, MEMORY] = address_of(memory) + np.arange(len(sessions)) % threads * most
    addresses = address_of(records) + np.arange(len(sessions)) * records.strides[0]
    table = table_of([session.entry("predict").address for session in sessions], addresses)
    entry, at = each(), address_of(table)

    def work(worker: int, workers: int) -> None:
        for part in range(worker, threads, workers):  # each with its memory, if threads could not be started
            entry(at, part, threads)

    run(work, threads, np.zeros(BARRIER, np.int64))
