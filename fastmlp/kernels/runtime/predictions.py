"""Predictions of one model, and call records that models of one network keep for the next predictions."""

from __future__ import annotations

import weakref
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastmlp.kernels.jit.entries import Entries
from fastmlp.kernels.program.records import WORDS, Shape, address_of
from fastmlp.kernels.runtime.calls import NAMES, call_of, words_of_sparse
from fastmlp.kernels.runtime.described import resting_shape_of
from fastmlp.kernels.runtime.validation import check_parameters
from fastmlp.kernels.runtime.workspace import Extent, workspace
from fastmlp.kernels.variant import Buffers
from fastmlp.model.network import Network
from fastmlp.model.sparse import Inputs, SparseRows

Array = NDArray[Any]

IDLE_BYTES = 128 << 20
"""The most bytes that the workspaces of all models may hold between predictions."""


class Reusable:
    """A call that predicts, with its workspace. It is kept for the next prediction: allocating takes 7 us.

    entries : of the backend that predicts; batch : rows that it has room for at a time
    sparse : whether it has room for sparse inputs only, as `extent` says
    kept : whether it may be kept between predictions, see `IDLE_BYTES`
    buffers : see `fastmlp.kernels.variant.Choice`
    most_bytes : of any so far
    """

    most_bytes: ClassVar[int] = 0

    __slots__ = ("__weakref__", "_call", "_entry", "batch", "bytes", "entries", "kept", "sparse")

    def __init__(
        self,
        entries: Entries,
        extent: Extent,
        sparse: bool,
        shape: Shape,
        dtype: np.dtype[Any],
        batch: int,
        buffers: Buffers | None,
    ) -> None:
        work = workspace(extent, batch, 1, dtype, predicting=True, buffers=buffers)
        self.entries, self._entry = entries, entries.get("predict", NAMES[dtype])
        self.sparse = sparse
        self._call = call_of(shape, work)
        self.batch, self.bytes = batch, work.memory.nbytes
        # Counted before the check: two threads may both find no room, but never both take the last.
        _kept[id(self)] = self
        Reusable.most_bytes = max(Reusable.most_bytes, self.bytes)
        if self.bytes <= IDLE_BYTES and _is_full():
            for prediction in list(known_predictions.values()):
                prediction.idle.clear()
        self.kept = not _is_full()
        if not self.kept:
            del _kept[id(self)]

    def predict(self, parameters: Array, inputs: Inputs, out: Array) -> None:
        """Write the network's output for inputs (rows, n_in) to out (rows, n_out)."""
        call = self._call
        words = call.words
        # The address alone: a reference would keep the parameters alive (see `Prediction.watch`).
        words[PARAMETERS] = address_of(parameters)
        words[OUT], words[SAMPLES] = address_of(out), len(inputs)
        if isinstance(inputs, SparseRows):
            for name, given in words_of_sparse(inputs).items():
                words[WORDS[name]] = address_of(given) if isinstance(given, np.ndarray) else given
        else:
            words[INPUTS] = address_of(inputs)
        self._entry(call.address)


PARAMETERS, INPUTS, OUT, SAMPLES = (WORDS[name] for name in ("parameters", "inputs", "out", "samples"))

_kept: weakref.WeakValueDictionary[int, Reusable] = weakref.WeakValueDictionary()
"""The calls that are kept, idle or at work, by their ids."""


def _is_full() -> bool:
    """Whether calls are kept whose workspaces hold too much; of few or small ones nothing is summed."""
    if len(_kept) * Reusable.most_bytes <= IDLE_BYTES:
        return False
    found = [reference() for reference in _kept.valuerefs()]
    return sum(work.bytes for work in found if work is not None) > IDLE_BYTES


class IdleCalls(list[Reusable]):
    """Calls that predictions have left for the next ones, of all models of a network and dtype.

    A prediction pops one and appends it afterwards, so that two threads never use the same one.
    """

    __slots__ = ("__weakref__", "network")

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network  # lives as long, so that no other has its id


_idle: weakref.WeakValueDictionary[Any, IdleCalls] = weakref.WeakValueDictionary()
"""What is shared by network and dtype, as long as a model of theirs has predicted and lives."""


def idle_calls_of(network: Network, dtype: np.dtype[Any]) -> IdleCalls:
    """Return the calls that models of a network share."""
    key = id(network), dtype
    found = _idle.get(key)
    if found is None:
        found = _idle[key] = IdleCalls(network)
    return found


class Prediction(NamedTuple):
    """What all predictions of one model share. It is found by the model's parameters in 0.2 us.

    network : the model's
    dtype : of the parameters, which an array of NumPy's can change in place
    shape : the network in numbers, without dropout
    idle : calls for the next predictions
    watch : a weak reference that removes this when the parameters are deleted
    """

    network: Network
    dtype: np.dtype[Any]
    shape: Shape
    idle: IdleCalls
    watch: weakref.ref[Array]


known_predictions: dict[int, Prediction] = {}
"""What predictions of a model share, by the id of its parameters."""


def prediction_of(network: Network, parameters: Array) -> Prediction:
    """Return what all predictions with these parameters share; ValueError if they are not the network's.

    They are checked once: NumPy does not resize an array that has a weak reference.
    """
    key = id(parameters)
    known = known_predictions.get(key)
    if (
        known is None
        or known.dtype != parameters.dtype
        or (known.network is not network and known.network != network)
    ):
        # A local name: the module's globals may be None already when a process ends.
        predictions = known_predictions
        shape = resting_shape_of(network)
        check_parameters(shape, parameters)
        watch = weakref.ref(parameters, lambda _: predictions.pop(key, None))
        known = known_predictions[key] = Prediction(
            network, parameters.dtype, shape, idle_calls_of(network, parameters.dtype), watch
        )
    return known
