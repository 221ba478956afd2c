"""Predictions of one model or many, and calls that models of one network keep for the next predictions."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit.engine import each, table_of
from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.program.records import BARRIER, WORDS, Shape, address_of
from fastmlp.kernels.runtime.calls import NAMES, NetworkCall, words_of
from fastmlp.kernels.runtime.described import resting_shape_of
from fastmlp.kernels.runtime.threads import run
from fastmlp.kernels.runtime.validation import check_array, check_inputs, check_parameters
from fastmlp.kernels.tuning.table import value
from fastmlp.kernels.variant import Buffers
from fastmlp.model.backend import PredictArguments
from fastmlp.model.layout import ALIGNMENT, aligned
from fastmlp.model.network import Network
from fastmlp.model.sparse import Inputs, SparseRows

Array = NDArray[Any]

IDLE_BYTES = 128 << 20
"""The most bytes that the workspaces of all models may hold between predictions."""

PARAMETERS, INPUTS, OUT, SAMPLES, MEMORY = (
    WORDS[name] for name in ("parameters", "inputs", "out", "samples", "memory")
)


class PredictCall(NetworkCall):
    """A call that predicts. It is kept for the next prediction, because allocating takes 7 us.

    entries : of the backend that predicts; rows : of the inputs, which it takes in batches
    kept : whether it may be kept between predictions, see `IDLE_BYTES`
    most_bytes : of any so far
    """

    most_bytes: ClassVar[int] = 0

    __slots__ = ("__weakref__", "entries", "kept")

    def __init__(
        self, entries: Entries, buffers: Buffers | None, network: Network, dtype: Any, rows: int, sparse: bool
    ) -> None:
        entry, rows = entries.get("predict", NAMES[dtype]), min(rows, value("predicted_rows"))
        super().__init__(entry, buffers, network, dtype, rows, resting=True, predicting=True, sparse=sparse)
        self.entries, self.kept = entries, False

    def keep(self) -> None:
        """Have the call kept between predictions, if there is room."""
        # Counted before the check: two threads may both find no room, but never both take the last.
        _kept[id(self)] = self
        PredictCall.most_bytes = max(PredictCall.most_bytes, self.bytes)
        if self.bytes <= IDLE_BYTES and _is_full():
            for prediction in list(known_predictions.values()):
                prediction.idle.clear()
        self.kept = not _is_full()
        if not self.kept:
            del _kept[id(self)]

    def predict(self, parameters: Array, inputs: Inputs, out: Array) -> None:
        """Write the network's output for inputs (rows, n_in) to out (rows, n_out)."""
        words = self.words
        # The addresses alone: a reference would keep the parameters alive (see `Prediction.watch`).
        words[PARAMETERS], words[OUT] = address_of(parameters), address_of(out)
        if self.sparse:
            self.show(words_of(inputs))
        else:
            words[INPUTS], words[SAMPLES] = address_of(inputs), len(inputs)
        self.entry(self.address)


_kept: weakref.WeakValueDictionary[int, PredictCall] = weakref.WeakValueDictionary()
"""The calls that are kept, idle or at work, by their ids."""


def _is_full() -> bool:
    """Whether calls are kept whose workspaces hold too much; of few or small ones nothing is summed."""
    if len(_kept) * PredictCall.most_bytes <= IDLE_BYTES:
        return False
    found = [reference() for reference in _kept.valuerefs()]
    return sum(work.bytes for work in found if work is not None) > IDLE_BYTES


class IdleCalls(list[PredictCall]):
    """Calls that predictions have left for the next ones, of all models of a network and dtype.

    A prediction pops one and appends it afterwards, so that two threads never use the same one.
    network : lives as long, so that no other has its id
    """

    __slots__ = ("__weakref__", "network")
    network: Network


_idle: weakref.WeakValueDictionary[Any, IdleCalls] = weakref.WeakValueDictionary()
"""What is shared by network and dtype, as long as a model of theirs has predicted and lives."""


class Prediction(NamedTuple):
    """What all predictions of one model share. It is found by the model's parameters in 0.2 us.

    network : the model's
    dtype : of the parameters, which an array of NumPy's can change in place
    idle : calls for the next predictions
    watch : a weak reference that removes this when the parameters are deleted
    """

    network: Network
    dtype: np.dtype[Any]
    idle: IdleCalls
    watch: weakref.ref[Array]


known_predictions: dict[int, Prediction] = {}
"""What predictions of a model share, by the id of its parameters."""


def prediction_of(network: Network, parameters: Array) -> Prediction:
    """Return what all predictions with these parameters share; ValueError if they are not the network's.

    They are checked once: NumPy does not resize an array that has a weak reference.
    """
    key, dtype = id(parameters), parameters.dtype
    known = known_predictions.get(key)
    if known is None or known.dtype != dtype or (known.network is not network and known.network != network):
        # A local name: the module's globals may be None already when a process ends.
        predictions = known_predictions
        check_parameters(resting_shape_of(network), parameters)
        idle = _idle.get((id(network), dtype))
        if idle is None:
            idle = _idle[id(network), dtype] = IdleCalls()
            idle.network = network
        watch = weakref.ref(parameters, lambda _: predictions.pop(key, None))
        known = known_predictions[key] = Prediction(network, dtype, idle, watch)
    return known


class CallKind(NamedTuple):
    """What predictions of one network and dtype for the same rows have in common.

    words : of their calls, but for parameters, outputs and memory; call : that keeps what they name
    """

    shape: Shape
    words: NDArray[np.int64]
    call: PredictCall


def predict_all(
    entries: Entries, buffers: Buffers | None, predictions: Sequence[PredictArguments], threads: int
) -> None:
    """Write the outputs of all models of a backend: each has the bits of its `predict`.

    The calls of a thread share its memory, and those of a kind all words but for parameters and outputs.
    buffers : see `fastmlp.kernels.variant.Choice`
    """
    kinds: dict[Any, CallKind] = {}
    own, given, written = [], [], []
    for network, parameters, inputs, out in predictions:
        dtype, rows = parameters.dtype, len(inputs)
        key = id(network), dtype, id(inputs)
        kind = kinds.get(key)
        if kind is None:
            check_inputs(inputs, rows, network.n_in, dtype)
            call = PredictCall(entries, buffers, network, dtype, rows, isinstance(inputs, SparseRows))
            call.set(words_of(inputs))
            kind = CallKind(resting_shape_of(network), np.array(call.words, np.int64), call)
            kinds[key] = kind
        check_parameters(kind.shape, parameters)
        check_array("out", out, (rows, network.n_out), dtype)
        own.append(kind)
        given.append(address_of(parameters))
        written.append(address_of(out))
    records = np.array([kind.words for kind in own])
    most = max(-(-kind.call.bytes // ALIGNMENT) * ALIGNMENT for kind in kinds.values())
    memory = aligned(threads * most, np.uint8)
    records[:, PARAMETERS], records[:, OUT] = given, written
    records[:, MEMORY] = address_of(memory) + np.arange(len(own)) % threads * most
    places = address_of(records) + np.arange(len(own)) * records.strides[0]
    table = table_of([kind.call.entry.address for kind in own], places)
    entry, at = each(), address_of(table)

    def work(worker: int, workers: int) -> None:
        for share in range(worker, threads, workers):  # each with its memory, if threads could not be started
            entry(at, share, threads)

    run(work, threads, np.zeros(BARRIER, np.int64))
