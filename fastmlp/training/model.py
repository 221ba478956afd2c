"""What `fit` returns: a trained network."""

from __future__ import annotations

from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from fastmlp.backend.choice import choose, settled
from fastmlp.backend.registry import restored
from fastmlp.exchange.chains import Parts
from fastmlp.exchange.portable import Portable
from fastmlp.model.backend import Backend
from fastmlp.model.layout import flatten, layer_views
from fastmlp.model.network import Network
from fastmlp.model.optimizers import SGD
from fastmlp.model.sparse import Inputs
from fastmlp.training.data import clean_inputs, floating_dtype

AT_ONCE = 1 << 20
"""Numbers that are converted to predict with them, where all would be a copy of a large array."""


class Training(Protocol):
    """What a model goes on from (`fastmlp.training.more.Continuation`)."""

    def go_on(self, model: Model, X: Any, y: Any, epochs: int, options: dict[str, Any]) -> Model:
        """Return the model that more epochs of the training come to."""


class Model(Portable):
    """A network with its parameters; `to_..` and `from_..` exchange it with other programs.

    Attributes
    ----------
    network : Network
    parameters : (P,) floating, all weights and biases in one vector (see `fastmlp.model.layout`)
    history : dict of lists of float
        "loss", and "validation_loss" where there was validation: one value for every epoch.
    stop_reason : str or None, why training ended before its last epoch
    training : Training or None
        What `fit_more` goes on from: the optimiser with its moments, up to two numbers a parameter; what
        callbacks keep, with `EarlyStopping` one more, and one for the last parameters where the model has
        others; and the row order of an epoch that was stopped in its middle. It is pickled with the model,
        and `save` leaves it out. Set it to None to let go of it.
    """

    def __init__(
        self,
        network: Network,
        parameters: NDArray[Any],
        history: dict[str, list[float]],
        backend: Backend,
        stop_reason: str | None,
        training: Training | None = None,
    ) -> None:
        self.network = network
        self.parameters = parameters
        self.history = history
        self.stop_reason = stop_reason
        self.training = training
        self._backend = backend

    @classmethod
    def assembled(cls, parts: Parts, backend: str) -> Self:
        """Return a model of a network and its parameters, untrained; backend as for `fit`."""
        dtype = floating_dtype(None, np.empty(0, np.result_type(np.float32, *parts.weights, *parts.biases)))
        # Any optimiser and batch: it predicts only, and a program of its own would not be repaid.
        chosen = choose(backend, parts.network, SGD(), 1, dtype, None, 0)
        parameters = flatten(parts.weights, parts.biases, parts.network, dtype)
        return cls(parts.network, parameters, {"loss": []}, settled(chosen), None)

    @property
    def backend(self) -> str:
        """Name of the backend that trained the model and predicts with it."""
        return self._backend.name

    @property
    def weights(self) -> list[NDArray[Any]]:
        """Per layer the weights (n_in, n_out), views into `parameters`."""
        return [weights for weights, _ in layer_views(self.parameters, self.network.sizes)]

    @property
    def biases(self) -> list[NDArray[Any]]:
        """Per layer the biases (n_out,), views into `parameters`."""
        return [biases for _, biases in layer_views(self.parameters, self.network.sizes)]

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the network's output for every row.

        Parameters
        ----------
        X : (rows, n_in) array, or sparse matrix of SciPy's, of finite real numbers

        Returns
        -------
        (rows, n_out) array of the model's dtype

        Raises
        ------
        ValueError, TypeError
            If X is not such an array.
        """
        network, dtype = self.network, self.parameters.dtype
        sizes, scale = network.sizes, network.input_scale
        large = isinstance(X, np.ndarray) and X.size > AT_ONCE and X.ndim == 2
        if not large or (X.dtype == dtype and scale == 1):
            return self.forward(clean_inputs("X", X, sizes[0], dtype, scale))
        out, rows = np.empty((len(X), sizes[-1]), dtype), max(1, AT_ONCE // X.shape[1])
        for start in range(0, len(X), rows):
            some = clean_inputs("X", X[start : start + rows], sizes[0], dtype, scale, first_row=start)
            self._backend.predict(network, self.parameters, some, out[start : start + rows])
        return out

    def forward(self, inputs: Inputs) -> NDArray[Any]:
        """Return the output for inputs (rows, n_in) that are known to be clean, without a check.

        Clean is C-contiguous, or `SparseRows`, finite, of the model's dtype, scaled, and at least one row.
        """
        network, parameters = self.network, self.parameters
        out = np.empty((len(inputs), network.sizes[-1]), parameters.dtype)
        self._backend.predict(network, parameters, inputs, out)
        return out

    def fit_more(self, X: Any, y: Any = None, *, epochs: int, **options: Any) -> Model:
        """Go on with the training that gave this model; return the model that it comes to.

        The optimiser's moments, the number of its steps, schedules, row orders and dropout masks go on where
        they were. On the same rows the model has the bits of one longer `fit`. This model stays as it is.

        Parameters
        ----------
        X, y : as for `fit`, the same rows or others
        epochs : int, at least 0
            So many more. On as many rows as before, an epoch that was under way when the training stopped
            is taken to its end, and counts as one of them; on another number of rows a new one begins.
        **options : sample_weight, validation, callbacks, progress, threads, communicator
            As for `fit`. With a communicator every process has this same model and passes the rows that it
            has; the training before may have had another number of processes, or one. If validation is None
            and the training split off a share of its rows, so it does here. A callback that keeps a state,
            as `EarlyStopping` does, takes over that of the one of its kind if the rows are the same, and
            begins anew on others: with early stopping the training goes on from its last parameters, not
            from the best ones, which the model has.

        Returns
        -------
        Model
            With the history of all epochs.

        Raises
        ------
        ValueError, TypeError
            As `fit`; if the model does not keep its training, as one from a file; or if validation was given
            before and is not now, or the other way round.
        """
        if self.training is None:
            raise ValueError(
                "this model does not keep the training that it comes from; "
                "to train from its weights: fit(network, X, y, initial=model)"
            )
        return self.training.go_on(self, X, y, epochs, options)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_backend": self.backend}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"training": None, **state}, _backend=restored(state["_backend"]))

    def __repr__(self) -> str:
        losses = self.history["loss"]
        trained = f"{len(losses)} epochs" + (f", loss {losses[-1]:.4g}" if losses else "")
        return f"Model({list(self.network.sizes)}, {trained}, backend {self.backend!r})"
