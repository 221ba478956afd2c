"""`Model`: a trained network, returned by `fit`."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastmlp.backend import registry
from fastmlp.backend.choice import choose, current_backend
from fastmlp.backend.registry import restored
from fastmlp.data.arrays import clean_rows_of, floating_dtype
from fastmlp.model.backend import Backend, PredictArguments
from fastmlp.model.heads import columns_of_heads
from fastmlp.model.layout import aligned, dense_views, named_views, parameter_count
from fastmlp.model.network import Network
from fastmlp.model.optimizers import SGD
from fastmlp.model.rows import Inputs
from fastmlp.trained import format_of
from fastmlp.trained.portable import Parts, Portable

INPUTS, PARAMETERS = "input_derivatives", "parameter_derivatives"
"""The modules of derivatives, which the package's top registers."""

AT_ONCE = 1 << 20
"""Numbers converted for predictions at a time, instead of a copy of a large array."""

PART_ROWS = 1024
"""Rows with all members' units in memory at a time."""


class ResumableTraining(Protocol):
    """The training for `fit_more` (`fastmlp.training.snapshot.Snapshot`)."""

    def go_on(self, model: Model, X: Any, y: Any, epochs: int, options: dict[str, Any]) -> Model:
        """Return the model after more epochs of the training."""


class Model(Portable):
    """A network with parameters; `to_..` and `from_..` exchange models with other programs.

    Derivatives of `predict` are exact, in the model's dtype, without dropout, and with the running mean and
    variance of batch norms. Columns are the columns of all blocks of X, one block after another; a column of
    codes has the derivative 0. Outputs are the outputs of all heads, one head after another. `logits=True`
    takes the outputs before the last activation. Rows are taken in blocks, so that memory is the result's
    and a few MB.

    Attributes
    ----------
    network : Network
    parameters : (P,) floating, all weights and biases in one vector (see `fastmlp.model.layout`)
    history : dict of lists of float
        "loss", and "validation_loss" with validation: a value for every epoch; and the curves written to
        `run.history` by callbacks.
    stop_reason : str or None, the reason for an end before the last epoch
    threads : int or None, of the last steps, without short trials of another number; None without steps, as
        of a model from a file
    training : Training or None
        The start of `fit_more`: the optimiser with its moments, the states of callbacks (of `EarlyStopping`
        the best parameters), and the last parameters if the model has others. Pickled with the model, and not
        written by `save`; None frees the memory.
    """

    def __init__(
        self,
        network: Network,
        parameters: NDArray[Any],
        history: dict[str, list[float]] | Callable[[], dict[str, list[float]]],
        backend: Backend,
        stop_reason: str | None,
        training: ResumableTraining | None = None,
        threads: int | None = None,
    ) -> None:
        self.network = network
        self.parameters = parameters
        if callable(history):
            self._history = history
        else:
            self.history = history
        self.stop_reason = stop_reason
        self.training = training
        self.threads = threads
        self._backend = backend

    @classmethod
    def assembled(cls, parts: Parts, backend: str) -> Self:
        """Return an untrained model of a network and parameters; backend as for `fit`."""
        network, arrays_of = parts
        given = [array for arrays in arrays_of for array in arrays]
        dtype = floating_dtype(None, np.empty(0, np.result_type(np.float32, *given)))
        # Any optimiser and batch: it predicts only, and a program of its own would not be repaid.
        chosen = choose(backend, network, SGD(), 1, dtype, None, steps=0)
        parameters = aligned(parameter_count(network), dtype)
        parameters[...] = 0  # biases that a layer has not are in no array
        views = named_views(parameters, network).values()
        for arrays_here, arrays in zip(views, arrays_of, strict=True):
            for view, array in zip(arrays_here.values(), arrays + (1.0, 0.0)[len(arrays) :], strict=False):
                view[...] = array
        return cls(network, parameters, {"loss": []}, current_backend(chosen), None)

    @functools.cached_property
    def history(self) -> dict[str, list[float]]:
        """The curves of the training by name, (epochs,) each; `fit_many` makes them at the first read."""
        return self._history()

    @property
    def backend(self) -> str:
        """Name of the backend for training and predictions."""
        return self._backend.name

    @property
    def layers(self) -> dict[str, dict[str, NDArray[Any]]]:
        """Arrays of each layer by names, as views into `parameters`.

        A layer without a name is "dense1", "layer_norm1", .. A `Dense` has "weights" (n_in, n_out) and
        "biases" (n_out,), other layers the parameters named in docs/layers.md, as "gain" and "shift"
        (n_out,), and `BatchNorm` the running "mean" and "variance".
        """
        return named_views(self.parameters, self.network)

    @property
    def weights(self) -> list[NDArray[Any]]:
        """The weights (n_in, n_out) of each layer of a chain, views into `parameters`; see also `layers`."""
        self.network.check_chain()
        return [weights for weights, _ in dense_views(self.parameters, self.network)]

    @property
    def biases(self) -> list[NDArray[Any]]:
        """The biases (n_out,) of each layer of a chain, views into `parameters`; see also `layers`."""
        self.network.check_chain()
        return [biases for _, biases in dense_views(self.parameters, self.network)]

    def predict(self, X: Any) -> Any:
        """Return the network's output for every row.

        Parameters
        ----------
        X : (rows, n_in) array, or sparse matrix of SciPy's, of finite real numbers, or blocks of inputs

        Returns
        -------
        (rows, n_out) array of the model's dtype; with heads a dict of arrays by the heads' names

        Raises
        ------
        ValueError, TypeError
            For another X.
        """
        network, dtype = self.network, self.parameters.dtype
        scale = network.input_scale
        large = isinstance(X, np.ndarray) and X.size > AT_ONCE and X.ndim == 2
        if not large or (X.dtype == dtype and scale == 1):
            return self.named(self.forward(clean_rows_of("X", network, X, dtype, known=False)))
        out, rows = np.empty((len(X), network.n_out), dtype), max(1, AT_ONCE // X.shape[1])
        for start in range(0, len(X), rows):
            some = clean_rows_of("X", network, X[start : start + rows], dtype, known=False, first_row=start)
            self._backend.predict(network, self.parameters, some, out[start : start + rows])
        return self.named(out)

    def predict_members(self, X: Any) -> NDArray[Any]:
        """Return the outputs of each of a network's `Members`; `predict` returns the mean.

        The outputs are computed by NumPy: the mean may differ from `predict` by roundings.

        Parameters
        ----------
        X : as for `predict`

        Returns
        -------
        (members, rows, n_out) array of the model's dtype

        Raises
        ------
        ValueError, TypeError
            For another X, or a network without `Members`.
        """
        if self.network.members == 1:
            raise ValueError("predict_members needs a network with Members; this one has none")
        from fastmlp.backend import reference

        rows = clean_rows_of("X", self.network, X, self.parameters.dtype, known=False)
        parts = [rows[start : start + PART_ROWS] for start in range(0, len(rows), PART_ROWS)]
        product = reference.product_of_rounded if registry.is_mixed(self.backend) else reference.product
        found = [reference.predict_members(self.network, self.parameters, part, product) for part in parts]
        return np.concatenate(found, axis=1)

    def named(self, out: NDArray[Any]) -> Any:
        """Return outputs (.., n_out) by head; without heads the outputs."""
        if not self.network.head_names:
            return out
        return {name: out[..., columns] for name, columns in columns_of_heads(self.network.heads).items()}

    def forward(self, inputs: Inputs) -> NDArray[Any]:
        """Return the output for clean inputs (rows, n_in), unchecked.

        Clean is C-contiguous, or `SparseRows`, finite, of the model's dtype, scaled, with a row at least.
        """
        network, parameters = self.network, self.parameters
        out = np.empty((len(inputs), network.n_out), parameters.dtype)
        self._backend.predict(network, parameters, inputs, out)
        return out

    def prediction(self, inputs: Inputs, out: NDArray[Any]) -> tuple[Backend, PredictArguments]:
        """Return a prediction for `predict_all`. out : (rows, n_out), to be written"""
        return self._backend, (self.network, self.parameters, inputs, out)

    def fit_more(self, X: Any, y: Any = None, *, epochs: int, **options: Any) -> Model:
        """Go on with the model's training; return the model after more epochs.

        Moments, the number of steps, schedules, row orders and dropout masks go on. On the same rows the
        model has the bits of a longer `fit`, except with `SWA`, whose average began at a fraction of the
        first epochs. This model stays unchanged. The training goes on from the present `parameters`.

        Parameters
        ----------
        X, y : as for `fit`, the same rows or others
        epochs : int, at least 0
            More epochs. On as many rows as before, an epoch under way at the stop is taken to the end, and
            counts; with another number of rows, batch size or rule a new epoch begins. Blocks are the same
            rows if the first window is the same.
        optimizer : as for `fit`; None keeps the optimiser
            With the same rule, as Adam with another rate, moments go on. With another rule moments begin at
            0, and corrections and dropout masks count steps from there. Schedules count all epochs and steps
            since the model's first.
        batch_size : as for `fit`; the same as before if None
        **options : sample_weight, validation, callbacks, progress, threads, communicator
            As for `fit`. With a communicator every process has this same model and passes some rows; the
            training before may have had another number of processes. If validation is None and the training
            split off a fraction of the rows, so does this training. A callback with a state, as
            `EarlyStopping`, goes on from the state of the callback of the same kind if rows, batch size, rule
            and parameters are the same, and begins anew otherwise: with early stopping the training goes on
            from the last parameters, not from the model's best parameters.

        Returns
        -------
        Model
            With the history of all epochs.

        Raises
        ------
        ValueError, TypeError
            As `fit`; for a model without a training, as from a file; for validation before and not now, or
            now and not before; or for a history made shorter.
        """
        if self.training is None:
            raise ValueError(
                "this model does not keep the training that it comes from; "
                "to train from its weights: fit(network, X, y, initial=model)"
            )
        return self.training.go_on(self, X, y, epochs, options)

    def __copy__(self) -> Self:
        return copy.deepcopy(self)  # one that shared arrays would change when the other is written to

    def __getstate__(self) -> dict[str, Any]:
        state = {**self.__dict__, "history": self.history, "_backend": self.backend}
        state.pop("_history", None)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _backend=restored(state["_backend"]))

    def __repr__(self) -> str:
        losses = self.history["loss"]
        trained = f"{len(losses)} epochs" + (f", loss {losses[-1]:.4g}" if losses else "")
        return f"Model({self.network.summary}, {trained}, backend {self.backend!r})"

    # --- by the inputs ------------------------------------------------------------------------------

    def jacobian(self, X: Any, *, logits: bool = False) -> NDArray[Any]:
        """Return the derivatives of all outputs by all inputs, (rows, n_out, columns)."""
        found: NDArray[Any] = format_of(INPUTS).jacobian(self, X, logits)
        return found

    def input_gradient(self, X: Any, output: Any = None, *, logits: bool = False, dense: bool = False) -> Any:
        """Return an output's derivatives by all inputs, (rows, columns).

        Parameters
        ----------
        X : as for `predict`
        output : int, a head's name, or a pair of a head's name and an int
            None for a network with a single output.
        logits : True for the output before the last activation
        dense : True for all derivatives of a sparse X
            Otherwise the derivatives at the non-zeros of X, as a CSR matrix.

        Raises
        ------
        ValueError, TypeError
            In a line, for another X or output.
        """
        return format_of(INPUTS).input_gradient(self, X, output, logits, dense)

    def hessian(self, X: Any, output: Any = None, *, logits: bool = False) -> NDArray[Any]:
        """Return the second derivatives of an output, (rows, columns, columns); output as above."""
        found: NDArray[Any] = format_of(INPUTS).hessian(self, X, output, logits)
        return found

    def jvp(self, X: Any, V: ArrayLike, *, logits: bool = False) -> NDArray[Any]:
        """Return Jacobian-vector products with rows of V (rows, columns): (rows, n_out)."""
        found: NDArray[Any] = format_of(INPUTS).jvp(self, X, V, logits)
        return found

    def vjp(self, X: Any, U: ArrayLike, *, logits: bool = False) -> NDArray[Any]:
        """Return vector-Jacobian products with rows of U (rows, n_out): (rows, columns)."""
        found: NDArray[Any] = format_of(INPUTS).vjp(self, X, U, logits)
        return found

    def hvp(self, X: Any, V: ArrayLike, output: Any = None, *, logits: bool = False) -> NDArray[Any]:
        """Return Hessian-vector products of an output with rows of V: (rows, columns)."""
        found: NDArray[Any] = format_of(INPUTS).hvp(self, X, V, output, logits)
        return found

    def hidden(self, X: Any, layer: int | str) -> NDArray[Any]:
        """Return a layer's units after the activation, (rows, units); members side by side.

        layer : a name, as in `layers` or in `Dense(8, name="code")`, or a number from 0; -1 is the last layer
        """
        found: NDArray[Any] = format_of(INPUTS).hidden(self, X, layer)
        return found

    def attribute(
        self,
        X: Any,
        baseline: ArrayLike | None = None,
        *,
        output: Any = None,
        method: str = "integrated",
        steps: int = 50,
        seed: int | None = 0,
        logits: bool = False,
    ) -> Any:
        """Return attributions: each column's fraction in an output's change from a baseline.

        The values of a row sum to the change of the output, within `error`.

        Parameters
        ----------
        X : as for `predict`, of numbers
        baseline : (columns,) or (rows, columns) array, optional
            The start of the lines, zeros if None. With "expected" a sample (any, columns) of the data.
        output : as of `input_gradient`
        method : "integrated" or "expected"
            Integrated gradients, along a line by Gauss-Legendre quadrature; or expected gradients, the mean
            over lines from drawn baselines, a baseline for each step.
        steps : int, gradients for each row
        seed : int, of the draws
        logits : True for the output before the last activation

        Returns
        -------
        Attribution
            `values` (rows, columns), `change` (rows,), `error`, and `plot(row, names, ax)`.

        Raises
        ------
        ValueError, TypeError
            In a line, for other shapes, or inputs of codes.
        """
        given = X, baseline, output, method, steps, seed, logits
        return format_of("attribution").attribute(self, *given)

    # --- by the parameters --------------------------------------------------------------------------

    def parameter_gradients(self, X: Any, y: Any) -> NDArray[Any]:
        """Return the gradient of each row's loss by all parameters, (rows, P).

        The columns are in the order of `parameters`, named by `parameter_names`. Penalties do not count. The
        mean over rows is the gradient of the loss if all rows and all entries count alike.
        """
        found: NDArray[Any] = format_of(PARAMETERS).parameter_gradients(self, X, y)
        return found

    def gradient_norms(self, X: Any, y: Any) -> NDArray[Any]:
        """Return the Euclidean norms (rows,) of the rows of `parameter_gradients`.

        A row with a large norm moves the parameters most: perhaps a mislabelled row, or worth a label.
        """
        found: NDArray[Any] = format_of(PARAMETERS).gradient_norms(self, X, y)
        return found

    @property
    def parameter_names(self) -> list[str]:
        """Names of all parameters in order, as "dense1.weights[2, 0]": layer, array, index."""
        names: list[str] = format_of(PARAMETERS).parameter_names(self)
        return names
