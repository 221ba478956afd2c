"""`Stepper`: a network with an optimiser for a user's training loop, a batch at a time."""

from __future__ import annotations

import os
from typing import Any, Self

import numpy as np
from numpy.typing import DTypeLike

from fastmlp import checks
from fastmlp.backend import registry
from fastmlp.backend.stepping import steps_of
from fastmlp.checkpoints import checkpoint
from fastmlp.checks import CheckpointError
from fastmlp.data.arrays import by_head, clean_blocks, floating_dtype, joined, of_labels, targets_of_head
from fastmlp.data.sparse import clean_rows, is_sparse
from fastmlp.files import archive
from fastmlp.model.averages import swap_average
from fastmlp.model.backend import Array, Batch, step_totals
from fastmlp.model.descriptions import described
from fastmlp.model.heads import columns_of_heads
from fastmlp.model.inputs import sparse_columns
from fastmlp.model.layout import aligned_copy, dense_views, named_views
from fastmlp.model.loss import Loss
from fastmlp.model.losses import loss_of
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer, as_optimizer, keeping_signs
from fastmlp.model.rows import SparseRows
from fastmlp.model.schedules import Schedule
from fastmlp.model.state import initial_state
from fastmlp.trained.model import Model
from fastmlp.training.preparation import Initial, dropout_key, initial_parameters
from fastmlp.training.snapshot import Snapshot


class Intake:
    """The base of a `Stepper`: takes arrays.

    network : Network; most_rows : of a batch; dtype : of all arrays
    """

    def __init__(self, network: Network, most_rows: int, dtype: np.dtype[Any]) -> None:
        self._dtype, self._most_rows = dtype, most_rows
        self._n_in, self._n_out = network.n_in, network.n_out
        self._scale, self._scaled = dtype.type(network.input_scale), network.input_scale != 1
        self._network, self._blocks, self._loss = network, network.blocks, loss_of(network.loss)
        self._mixes = sparse = sparse_columns(network.blocks)
        """Columns of sparse blocks; a batch has the dense columns before."""
        self._batch = Batch.of(most_rows, self._n_in - sparse, self._n_out, dtype)
        self._views: dict[tuple[int, ...], Batch] = {}
        """Rows of the batch, by the shape of X."""

    def _take(self, X: Any) -> tuple[Batch, SparseRows | None]:
        """Copy X, scaled, to the batch; return views of the batch's rows, and X itself if sparse."""
        if self._mixes:
            rows = X
            if not isinstance(X, SparseRows):  # those of `find_rate` are clean
                rows = clean_blocks("X", self._blocks, X, self._dtype, known=False)
            return self._viewed(rows), rows
        if self._blocks:
            X, _ = joined("X", self._blocks, X)
            if isinstance(X, np.ndarray):
                X = X.astype(self._dtype, copy=False)
        if type(X) is np.ndarray:
            # Most batches have one shape, and views need not be made for every step.
            views = self._views.get(X.shape) or self._viewed(X)
            if X.dtype is self._dtype or X.dtype == self._dtype:  # the first takes half as long
                if self._scaled:
                    np.multiply(X, self._scale, out=views.inputs)
                else:
                    views.inputs[...] = X
                return views, None
        elif is_sparse(X):
            views = self._viewed(X)
            return views, clean_rows("X", X, self._dtype, float(self._scale))
        raise self._refused(X)

    def _viewed(self, X: Any) -> Batch:
        """Return views of as many rows of the batch as X has."""
        if len(X.shape) != 2 or X.shape[1] != self._n_in or not 0 < X.shape[0] <= self._most_rows:
            raise self._refused(X)
        views = self._views[X.shape] = Batch(*(buffer[: X.shape[0]] for buffer in self._batch))
        return views

    def _refused(self, X: Any) -> Exception:
        rows = f"1 to {self._most_rows} rows (most_rows) of {self._n_in}"
        return _refusal("X", X, f"a {self._dtype} array, or sparse matrix, of {rows}")

    def _take_targets(self, y: Any, targets: Array) -> None:
        """Copy targets of another shape or dtype than (rows, n_out); with heads any targets of `fit`."""
        network, rows = self._network, len(targets)
        if network.heads:
            columns = columns_of_heads(network.heads)
            for name, array in by_head("y", y, network).items():
                head, cut = network.heads[name], targets[:, columns[name]]
                if not self._copied(array, loss_of(head.loss), cut):
                    cut[...] = targets_of_head("y" + (name and f"[{name!r}]"), array, head, rows, self._dtype)
        elif not self._copied(y, self._loss, targets):
            width = self._n_out // self._loss.outputs_per_target
            more = f" or ({rows},)" if width == 1 or self._loss.takes_one_column else ""
            more = f", or integer class labels ({rows},)" if self._loss.targets == "distributions" else more
            expected = f"a {self._dtype} array of shape {(rows, width)}{more}"
            raise _refusal("y", y, expected, "" if more else of_labels(y, rows))

    def _copied(self, y: Any, loss: Loss, targets: Array) -> bool:
        """Copy an array of targets or labels to targets (rows, n_out); return False for other y."""
        if type(y) is not np.ndarray:
            return False
        rows, n_out = targets.shape
        columns = n_out // loss.outputs_per_target
        if y.dtype == self._dtype and (y.shape == (rows, columns) or (columns == 1 and y.shape == (rows,))):
            y = y.reshape(rows, columns)
            targets[...] = y if columns == n_out else np.tile(y, loss.outputs_per_target)
        elif y.dtype == self._dtype and loss.takes_one_column and y.shape in ((rows,), (rows, 1)):
            targets[...] = y.reshape(rows, 1)
        elif loss.targets == "distributions" and y.ndim == 1 and y.dtype.kind in "iu":
            _check_labels(y, rows, n_out)
            targets[...] = 0
            targets[np.arange(rows), y] = 1
        else:
            return False
        return True

    def _check(self, what: str, array: Any, shape: tuple[int, ...]) -> None:
        if type(array) is not np.ndarray or array.shape != shape or array.dtype != self._dtype:
            raise _refusal(what, array, f"a {self._dtype} array of shape {shape}")


def _refusal(what: str, got: Any, expected: str, more: str = "") -> Exception:
    """Return the error for a wrong argument; more : the error's end."""
    if not isinstance(got, np.ndarray) and not is_sparse(got):
        return TypeError(f"{what} must be {expected}, got {checks.shown(got)}{more}")
    return ValueError(f"{what} must be {expected}, got {got.dtype} of shape {got.shape}{more}")


def _check_labels(y: Array, rows: int, n_out: int) -> None:
    """Raise ValueError unless integers (rows,) are class labels."""
    if len(y) != rows or y.min() < 0 or y.max() >= n_out:
        wrong = y[(y < 0) | (y >= n_out)]
        got = f"{wrong[0]}" if len(wrong) else f"{len(y)} of them for {rows} rows"
        raise ValueError(f"y must hold class labels 0..{n_out - 1}, got {got}")


class Stepper(Intake):
    """A network and an optimiser, a step for each call.

    `step` is a step of `fit`, with the same bits. For a custom loss, `forward`, `backward` and `update` are
    the parts of a step. Options are checked and buffers allocated once, and nothing is checked to stay
    finite. No two threads may use a stepper at a time.

    Parameters
    ----------
    network : Network
    optimizer : Optimizer or str
        As for `fit`. For a schedule, every step counts as an epoch, too.
    seed : int, optional
        Fixes the start and the dropout masks, as in `fit`.
    initial : Model or (weights, biases), optional
        The first parameters, which are copied.
    dtype : float32 or float64
        Of all passed and returned arrays.
    most_rows : int
        The most rows of a batch, at least 1; the size of the buffers.
    threads : int
        Upper bound for the threads of a step, at least 1; a step of less than 1 ms takes one. The BLAS of
        "blas" and "reference" keeps the BLAS's setting.
    backend : str
        "auto" takes a program for this network alone if possible, else "fused"; see `fastmlp.backends`.

    Attributes
    ----------
    network : Network
    optimizer : Optimizer
    backend : str
        The name of the backend; for "auto" the name of the choice.
    parameters : (P,) floating, all weights and biases in a vector (see `fastmlp.model.layout`)
        Writable, like `gradients` and `moments`: the next call reads the present numbers.
    gradients : (P,) floating, of the loss alone, overwritten by `backward`; unchanged by `step`
    moments : (m, P) floating, the optimiser's m numbers for each parameter
    steps : int, the number of steps taken, by `step` and `update`
    forwards : int, the number of calls of `forward`
    changes : int, the number of changes of the parameters by a method
    rate_factor : float, at least 0, the factor of the optimiser's learning rates; 1 at first

    Raises
    ------
    ValueError, TypeError
        For a mistake in the arguments, in one line.

    Examples
    --------
    >>> import numpy as np
    >>> from fastmlp import Adam, Network, Stepper
    >>> stepper = Stepper(Network([3, 8, 1]), Adam(0.01), seed=0)
    >>> X, y = np.eye(3, dtype=np.float32), np.ones((3, 1), np.float32)
    >>> losses = [stepper.step(X, y) for _ in range(200)]
    >>> losses[-1] < losses[0] / 100
    True
    """

    def __init__(
        self,
        network: Network,
        optimizer: Optimizer | str,
        *,
        seed: int | None = None,
        initial: Model | Initial | None = None,
        dtype: DTypeLike = "float32",
        most_rows: int = 1024,
        threads: int = 1,
        backend: str = "auto",
    ) -> None:
        checks.instance("network", network, Network, "a Network")
        optimizer = keeping_signs(as_optimizer("optimizer", optimizer, of_batches=True), network)
        optimizer.check_layers(network)
        seed = int.from_bytes(os.urandom(16), "little") if seed is None else checks.whole("seed", seed, 0)
        dtype = floating_dtype(dtype, None)
        most_rows, threads = checks.whole("most_rows", most_rows, 1), checks.whole("threads", threads, 1)
        checks.choice("backend", backend, ("auto", *registry.backends()))
        self.network, self.optimizer = network, optimizer
        self.backend = _fastest(network, optimizer, dtype) if backend == "auto" else backend
        self._predicting = registry.get(self.backend)
        self._seed, self._threads = seed, threads
        super().__init__(network, most_rows, dtype)
        self._state = initial_state(initial_parameters(network, initial, dtype, seed), optimizer.moment_rows)
        optimizer.write_signs(network, self._state.moments)
        self.steps, self._rate_factor, self._key = 0, 1.0, dropout_key(network, seed)
        self.forwards = self.changes = 0
        self._start()

    def _start(self) -> None:
        """Allocate the buffers of calls, and forget the last `forward`."""
        optimizer = self.optimizer
        rates = optimizer.learning_rate, getattr(optimizer, "bias_learning_rate", None)
        self._changes = any(isinstance(rate, Schedule) or callable(rate) for rate in rates)
        self._mixed = np.empty_like(self.parameters)
        self._forward_sparse, self._weighted = False, True
        self._change()
        self._steps = steps_of(
            self.backend, self.network, optimizer, self._state, self._batch, self._key, self._threads
        )
        self._set_rates()

    def _change(self) -> None:
        """Count a change of the parameters, and forget the last forward."""
        self.changes += 1
        self._forward_rows = 0

    # --- steps --------------------------------------------------------------------------------------------

    def step(self, X: Any, y: Array, sample_weight: Array | None = None) -> float:
        """Take a step on a batch; return the objective before the step, as in the history of `fit`.

        Parameters
        ----------
        X : (rows, n_in) array, of the stepper's dtype, or sparse matrix of SciPy's
        y : (rows, n_out) array, of the same dtype; also (rows,) of a single output, of all quantiles, or of
            integer class labels 0..n_out-1 for cross_entropy; with heads a dict of targets
        sample_weight : (rows,) array of the same dtype, at least 0, optional

        Raises
        ------
        ValueError, TypeError
            If an array has another shape or dtype, or more rows than `most_rows`. Numbers are not checked to
            be finite, nor y and sample_weight to be in range.
        """
        self._change()
        views, sparse = self._take(X)
        rows = len(views.weights)
        if type(y) is np.ndarray and y.shape == views.targets.shape and y.dtype == self._dtype:
            views.targets[...] = y
        else:
            self._take_targets(y, views.targets)
        total = float(rows)
        # A batch norm has no variance of a single row.
        if rows == 1:
            self.network.check_rows(np.ones(1, np.int64))
        if sample_weight is not None:
            self._check("sample_weight", sample_weight, (rows,))
            views.weights[...] = sample_weight
            self._weighted, total = True, float(step_totals(sample_weight))
        elif self._weighted:  # the buffer has those of an earlier call; ones stay until the next weights
            self._weighted, self._batch.weights[...] = False, 1
        if self._changes:
            self._set_rates()
        loss = self._steps.step(rows, total, self.steps, sparse)
        self.steps += 1
        return loss

    def forward(self, X: Any, out: Array | None = None, training: bool = False) -> Array:
        """Return the network's outputs for a batch, after the output's activation; of heads side by side.

        Parameters
        ----------
        X : as for `step`
        out : (rows, n_out) array, of the stepper's dtype, optional
            Overwritten and returned; a new array if None.
        training : bool
            True to drop hidden units, as in the next step.

        Raises
        ------
        ValueError, TypeError
            As `step`.
        """
        self.forwards += 1
        self._forward_rows = 0  # until it is done, lest an error leaves half of it
        views, sparse = self._take(X)
        outputs = views.outputs
        if out is not None:
            self._check("out", out, outputs.shape)
        rows = len(outputs)
        if training and rows == 1:
            self.network.check_rows(np.ones(1, np.int64))
        self._steps.forward(rows, training, self.steps, sparse)
        self._forward_rows, self._forward_views, self._forward_sparse = rows, views, sparse is not None
        if out is None:
            # The buffer is overwritten by the next call.
            return outputs.copy()
        out[...] = outputs
        return out

    def backward(self, delta: Array, inputs: bool = True, out: Array | None = None) -> Array | None:
        """Write the gradient of a loss to `gradients`, given the derivative by the outputs.

        Parameters
        ----------
        delta : (rows, n_out) array, of the stepper's dtype
            The derivative by the last result of `forward`. Nothing is averaged over rows here.
        inputs : bool
            True to return the derivative by X, too.
        out : (rows, n_in) array, of the same dtype, optional
            Overwritten with the derivative by X and returned; a new array if None.

        Returns
        -------
        (rows, n_in) array, the derivative by X, if `inputs`; else None

        Raises
        ------
        ValueError, TypeError
            If an array has another shape or dtype; if X was sparse, or blocks, and `inputs` is true; if
            `forward` was not called since the last step.
        """
        rows = self._forward_rows
        if not rows:
            raise ValueError("backward needs the outputs of a forward; call forward first, after every step")
        if inputs and self.network.blocks:
            raise ValueError("backward forms no derivative by blocks of inputs; pass inputs=False")
        views = self._forward_views
        self._check("delta", delta, views.outputs.shape)
        if not inputs:
            views.by_outputs[...] = delta
            self._steps.backward(False)
            return None
        if self._forward_sparse:
            raise ValueError("backward forms no derivative by a sparse X; pass inputs=False")
        if out is None:
            out = np.empty((rows, self._n_in), self._dtype)
        self._check("out", out, (rows, self._n_in))
        views.by_outputs[...] = delta
        self._steps.backward(True)
        # The network has taken X times the scale: by the chain rule the derivative by X has the scale, too.
        np.multiply(views.by_inputs, self._scale, out=out)
        return out

    def update(self) -> None:
        """Take the optimiser's step along `gradients`, with penalties and clipping.

        `gradients` is unchanged. A sparse update moves the rows of the last `forward`. With
        convention="sklearn" the penalties are divided by the number of these rows.
        """
        if self._changes:
            self._set_rates()
        self._change()
        self._steps.update(self.steps)
        self.steps += 1

    @property
    def rate_factor(self) -> float:
        """The factor of the optimiser's learning rates."""
        return self._rate_factor

    @rate_factor.setter
    def rate_factor(self, factor: float) -> None:
        self._rate_factor = checks.real("rate_factor", factor, 0)
        self._set_rates()

    # --- what it holds ------------------------------------------------------------------------------------

    @property
    def parameters(self) -> Array:
        """All weights and biases in a vector (P,); see `fastmlp.model.layout`."""
        return self._state.parameters

    @parameters.setter
    def parameters(self, numbers: Array) -> None:
        self._write("parameters", numbers)

    @property
    def gradients(self) -> Array:
        """The gradient (P,) of the loss alone, which `backward` writes and `update` reads."""
        return self._state.gradients

    @gradients.setter
    def gradients(self, numbers: Array) -> None:
        self._write("gradients", numbers)

    @property
    def moments(self) -> Array:
        """The optimiser's m numbers for each parameter (m, P)."""
        return self._state.moments[: self.optimizer.moment_rows]

    @moments.setter
    def moments(self, numbers: Array) -> None:
        self._write("moments", numbers)

    def _write(self, name: str, numbers: Array) -> None:
        """Copy numbers into an array that kernels have the address of."""
        array = getattr(self, name)
        if numbers is not array:  # as after `stepper.parameters *= 0.5`
            self._check(name, numbers, array.shape)
            array[...] = numbers

    @property
    def layers(self) -> dict[str, dict[str, Array]]:
        """Arrays by layer and name, writable views into `parameters`; see `Model.layers`."""
        return named_views(self.parameters, self.network)

    @property
    def weights(self) -> list[Array]:
        """Per layer of a chain the weights (n_in, n_out), writable views into `parameters`."""
        self.network.check_chain()
        return [weights for weights, _ in dense_views(self.parameters, self.network)]

    @property
    def biases(self) -> list[Array]:
        """Per layer of a chain the biases (n_out,), writable views into `parameters`."""
        self.network.check_chain()
        return [biases for _, biases in dense_views(self.parameters, self.network)]

    def copy(self) -> Self:
        """Return an independent copy of the stepper."""
        make, arguments = self.__reduce__()
        return make(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        options = {
            "seed": self._seed, "dtype": self._dtype, "most_rows": self._most_rows,
            "threads": self._threads, "backend": self.backend,
        }  # fmt: skip
        return _restored, (type(self), self.network, self.optimizer, options, self._snapshot())

    def _snapshot(self) -> Snapshot:
        """Return the state of the stepper, without network and optimiser."""
        sums = np.zeros(2 + len(self.network.heads))
        return Snapshot(
            self.parameters, self.moments, self.steps, 0, sums, {"loss": []}, backend=self.backend,
            seed=self._seed, rate_factor=self._rate_factor, setting={"dropout_key": self._key},
        )  # fmt: skip

    def _take_over(self, held: Snapshot) -> None:
        self.parameters[...], self.moments[...] = held.parameters, held.moments
        self.steps, self._rate_factor, self._key = held.step, held.rate_factor, held.setting["dropout_key"]
        self._start()

    def average_into(self, other: Stepper, tau: float) -> None:
        """Write tau * self.parameters + (1 - tau) * other.parameters to other.parameters.

        Raises ValueError or TypeError if `other` has another number of parameters or another dtype, or if tau
        is not in [0, 1].
        """
        checks.instance("other", other, Stepper, "a Stepper")
        tau = checks.real("tau", tau, 0, 1)
        if other.parameters.shape != self.parameters.shape or other._dtype != self._dtype:
            raise ValueError(
                f"other must have {self.parameters.size} parameters in {self._dtype}, "
                f"got {other.parameters.size} in {other._dtype}"
            )
        # Into a buffer of the stepper: a call after every step allocates nothing.
        np.multiply(self.parameters, self._dtype.type(tau), out=self._mixed)
        other.parameters *= self._dtype.type(1 - tau)
        other.parameters += self._mixed
        other._change()

    def model(self) -> Model:
        """Return a model with a copy of the parameters, to predict, save or export."""
        held = self._exchanged(self._snapshot())
        return Model(self.network, held.parameters, {"loss": []}, self._predicting, None)

    def _exchanged(self, held: Snapshot) -> Snapshot:
        """Return copies with parameters and averages exchanged for predictions; or back."""
        parameters, moments = aligned_copy(held.parameters), held.moments.copy()
        swap_average(self.network, self.optimizer, parameters, moments, held.step)
        return held._replace(parameters=parameters, moments=moments)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the stepper's state to a file, flushed to the disk; `fastmlp.load` reads the model.

        Parameters
        ----------
        path : str or path

        Raises
        ------
        ValueError, OSError
            If a parameter is not finite, or if the file cannot be written; the old file stays then.
        """
        held = self._exchanged(self._snapshot())
        described_parts = {"network": described(self.network), "rule": described(self.optimizer.rule)}
        held = held._replace(setting={**described_parts, **held.setting})
        model = Model(self.network, held.parameters, held.history, self._predicting, None)
        archive.write(path, *archive.separated(checkpoint.record_of(model, held)))

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take over the state of a file of `save`; next steps have the same bits.

        The network and the optimiser's rule must be equal to the file's; rates, rows and backend may differ.

        Parameters
        ----------
        path : str or path

        Raises
        ------
        CheckpointError
            If the file is damaged, holds no stepper, or a stepper of another network, rule or dtype.
        OSError
            If the file cannot be read.
        """
        model, held = checkpoint.read(path, checkpoint.components_of(self.network))
        where = f"{os.fspath(path)!r}"
        if held is None or "rule" not in held.setting:
            raise CheckpointError(f"{where} holds no stepper; load what Stepper.save wrote")
        for what, then, now in (
            ("network", model.network, self.network),
            ("rule of the optimiser", held.setting["rule"], described(self.optimizer.rule)),
            ("dtype", held.parameters.dtype.name, self._dtype.name),
        ):
            if then != now:
                raise CheckpointError(
                    f"{where} is of another {what}: {checks.shown(then)} then, {checks.shown(now)} now"
                )
        with checkpoint.file_errors_of(path):
            checks.whole("dropout_key", held.setting["dropout_key"], 0, 2**32 - 1)
            if held.moments.shape != self.moments.shape:
                raise ValueError("no moments")
        # The file has averages in the parameters' position, so that `fastmlp.load` predicts with averages.
        self._take_over(self._exchanged(held))

    def _set_rates(self) -> None:
        """Write the learning rates of the next step."""
        found = self.optimizer.rates(np.array([self.steps]), 1)
        np.multiply(found, self._rate_factor, out=self._steps.rates)


def _fastest(network: Network, optimizer: Optimizer, dtype: np.dtype[Any]) -> str:
    """Return "specialized" if a program for this network exists, else "fused"."""
    specialize = registry.choice_of("specialized").specialize
    assert specialize is not None
    return "fused" if specialize(network, optimizer, 1, dtype) is None else "specialized"


def _restored(
    kind: type[Stepper], network: Network, optimizer: Optimizer, options: dict[str, Any], held: Snapshot
) -> Stepper:
    initial = None
    if network.settles:  # bins by quantiles, which cannot be drawn; those that are held may not be finite
        zeros = np.zeros_like(held.parameters)
        initial = Model(network, zeros, {"loss": []}, registry.get("reference"), None)
    stepper = kind(network, optimizer, initial=initial, **options)
    stepper._take_over(held)
    return stepper
