"""The base of the two estimators: training as scikit-learn does it."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import _fit_context, is_classifier, is_regressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import column_or_1d
from sklearn.utils.validation import validate_data

from fastmlp import checks
from fastmlp.backend.choice import choose, current_backend
from fastmlp.callbacks.callback import Callback, Run
from fastmlp.callbacks.standard import TimeLimit
from fastmlp.data.arrays import floating_dtype
from fastmlp.estimators.convergence import Convergence, OptimizerState, fresh_curves, scoring_of, warn
from fastmlp.estimators.parameters import (
    SPARSE,
    Fitted,
    Parameters,
    hidden_activations,
    hidden_sizes,
    network_of,
    number,
    optimizer_of,
)
from fastmlp.estimators.rows import (
    AUTO_BATCH,
    ComposedOrders,
    ScoredRows,
    generator_of,
    random_state,
    rows_of,
    split,
    start,
)
from fastmlp.fitting import FitOptions, check_callbacks
from fastmlp.model.backend import Data
from fastmlp.model.layout import drawn, flatten, parameter_count
from fastmlp.model.network import Network
from fastmlp.model.optimizers import SGD
from fastmlp.model.state import BFLOAT16, Array, TrainState, initial_state, is_bfloat16
from fastmlp.trained.model import Model
from fastmlp.training.preparation import ready
from fastmlp.training.training import Training

THREADED_FLOPS = 6e7
"""Worker threads pay from this work of an epoch on, 1 ms: starting them takes 0.25 ms in every epoch."""


class TrainingThread(threading.Thread):
    """A thread whose trainings join those of other threads."""

    @classmethod
    def current(cls) -> Self | None:
        """Return the calling thread if it is of this class, else None."""
        thread = threading.current_thread()
        return thread if isinstance(thread, cls) else None

    def train(self, training: Training) -> Run:
        """Return the finished run of a training."""
        raise NotImplementedError


def refuse_others(X: object, y: object) -> None:
    """Raise TypeError for rows and targets that `fastmlp.fit` takes, and estimators do not."""
    if isinstance(y, dict):
        raise TypeError("y must be one array, got a dict; several heads are for fastmlp.fit and a Network")
    is_function = callable(X) and not hasattr(X, "__array__")
    if isinstance(X, (str, os.PathLike)) or isinstance(y, str) or is_function:
        raise TypeError(
            f"X and y must be arrays, got {checks.shown(X)} and {checks.shown(y)}; blocks of rows and names "
            "of columns are for fastmlp.fit and a Network"
        )


class Perceptron(Parameters, Fitted):
    """Base of MLPClassifier and MLPRegressor."""

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    # --- what the subclasses say --------------------------------------------------------------------

    def _learn_targets(self, y: Array, incremental: bool) -> None:
        """Keep the possible values of y; from the second training on check y against these values."""

    def _check_targets(self, y: Array) -> None:
        """Raise ValueError for a y of validation rows with unknown classes."""

    def _targets(self, y: Array) -> Array:
        """Return y as the network's targets (rows, n_out)."""
        raise NotImplementedError

    def _class_weights(self, y: Array, incremental: bool) -> Array | None:
        """Return the weight of each row's class, (rows,), or None."""
        return None

    def _decoded(self, outputs: Array) -> Array:
        """Return predictions for outputs (rows, n_out)."""
        raise NotImplementedError

    def _default_score(self, y: Array, predicted: Array, sample_weight: Array | None) -> float:
        """Return the default score of early stopping."""
        raise NotImplementedError

    # --- training -----------------------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)  # type: ignore[untyped-decorator]
    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Train from a new start, or with warm_start from the last fit.

        Parameters
        ----------
        X : (rows, n_in) array, data frame, CSR or CSC matrix of finite numbers
            Blocks of rows are for `fastmlp.fit` (docs/blocks.md).
        y : (rows,) or (rows, n_out)
            A classifier takes class labels, or 0 and 1, also sparse, for several labels a row; or floats
            (rows, k) that are not all 0 or 1: the probability of each class, in rows that each sum to 1
            within 1e-6. `classes_` are 0 .. k-1 then, and early stopping scores the most probable class.
            A regressor takes real numbers, also sparse if n_out > 1; the poisson loss is defined from 0 on.
        sample_weight : (rows,) array of at least 0, optional
            A batch's loss is the mean weighted with these.

        Returns
        -------
        The estimator itself.

        Raises
        ------
        ValueError, TypeError
            For a mistake in a parameter or in the rows; ValueError also where the training has led to
            parameters that are not finite. A training that `max_iter` ends warns, by a ConvergenceWarning.
        """
        self._train(X, y, sample_weight)
        return self

    def _train(self, X: Any, y: Any, sample_weight: Any, epochs: int | None = None) -> None:
        """Fit, or train on for so many epochs."""
        incremental, callbacks, sizes = epochs is not None, self._all_callbacks(), hidden_sizes(self)
        first = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        with random_state(self.random_state) as given:
            rows, scores = self._rows(X, y, sample_weight, incremental, first)
            rng = generator_of(given, TrainingThread.current() is not None)
            if first:
                self.n_iter_ = self.t_ = 0
                network, parameters = self._drawn(rows, sizes, rng)
            else:
                network, parameters = self._known(rows)
            if self.solver == "lbfgs":
                self._train_lbfgs(network, parameters, rows, callbacks)
            else:
                self._train_stochastic(network, parameters, (rows, scores), rng, epochs, callbacks, first)
        if not checks.finite(parameters):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large values and"
                " need to be preprocessed."
            )
        self._after_fit(X, y)

    def _after_fit(self, X: Any, y: Any) -> None:
        """Set the attributes derived from the trained network and rows."""

    def _rows(self, X: Any, y: Any, sample_weight: Any, incremental: bool, first: bool) -> ScoredRows:
        """Return validated rows in memory."""
        X, y = self._validated(
            X, y, self._dtype() if first else self._current_model().parameters.dtype, first
        )
        self._learn_targets(y, incremental)
        rows = rows_of(
            X, self._targets(y), sample_weight, self._class_weights(y, incremental), number(self.input_scale)
        )
        # As in scikit-learn: errors of X, y and sample_weight come first; lbfgs ignores early_stopping.
        if incremental and self.early_stopping and self.solver != "lbfgs":
            raise ValueError("partial_fit does not support early_stopping=True")
        return rows

    def _validated(self, X: Any, y: Any, dtype: Any, reset: bool) -> tuple[Any, Array]:
        """Return X and y, validated by scikit-learn's rules."""
        for name, array in (("X", X), ("y", y)):
            checks.no_iterator(name, array)
            checks.whole_file(array)
        refuse_others(X, y)
        if y is not None and self._is_clean(X, dtype, y, reset):
            if reset:
                self.n_features_in_ = X.shape[1]
                self.__dict__.pop("feature_names_in_", None)
            return X, y
        options = {"accept_sparse": SPARSE, "multi_output": True, "y_numeric": is_regressor(self)}
        X, y = validate_data(self, X, y, dtype=dtype, reset=reset, **options)
        return X, column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y

    def _all_callbacks(self) -> list[Callback]:
        if self.solver == "lbfgs":
            for name, given in (("dropout", np.any(self.dropout)), ("validation_set", self.validation_set)):
                if given:
                    raise ValueError(f"{name} needs solver 'sgd', 'adam' or an optimizer, got 'lbfgs'")
        callbacks = check_callbacks(self.callbacks, bool(self.progress))
        if any(callback.writes_training for callback in callbacks):
            raise ValueError("Checkpoint keeps trainings of fastmlp.fit; an estimator is kept by pickling it")
        return callbacks if self.max_time is None else [*callbacks, TimeLimit(self.max_time)]

    def _dtype(self) -> Any:
        """Return the dtype to validate X with: float32 stays, unless the user has said."""
        if is_bfloat16(self.dtype):
            return np.float32
        return (np.float64, np.float32) if self.dtype is None else floating_dtype(self.dtype, np.empty(0))

    def _drawn(self, rows: Data, hidden: list[int], rng: np.random.RandomState) -> tuple[Network, Array]:
        """Return the network of the estimator's parameters, and first weights and biases."""
        sizes = [rows.inputs.shape[1], *hidden, rows.targets.shape[1]]
        network = network_of(self, sizes, *self._ends_in())
        if self.layers is not None:
            return network, drawn(network, np.random.default_rng(rng.randint(2**31)), rows.inputs.dtype)
        # The bound of the last layer's draw depends on the hidden layers' activation, too.
        names = [*network.activations[:-1]]
        names += names[-1:] or hidden_activations(self, 1)
        weights, biases = start(sizes, names, self.init, rng)
        return network, flatten(weights, biases, network, rows.inputs.dtype)

    def _known(self, rows: Data) -> tuple[Network, Array]:
        """Return the network with the current settings, and the weights and biases so far."""
        model, n_out = self._current_model(), rows.targets.shape[1]
        sizes = model.network.widths
        if n_out != sizes[-1]:
            raise ValueError(f"y has {n_out} outputs, but {type(self).__name__} was fitted with {sizes[-1]}")
        network = network_of(self, sizes, *self._ends_in())
        if parameter_count(network) != model.parameters.size:
            raise ValueError("layers has changed since the fit before; fit anew")
        return network, model.parameters

    def _train_lbfgs(
        self, network: Network, parameters: Array, data: Data, callbacks: Sequence[Callback]
    ) -> None:
        from fastmlp.estimators import lbfgs

        if is_bfloat16(self.dtype):
            raise ValueError("solver 'lbfgs' takes no dtype 'bfloat16'; choose from: adam, sgd")
        if network.drops or network.needs_batches:
            raise ValueError("Dropout and BatchNorm need solver 'sgd', 'adam' or an optimizer, got 'lbfgs'")
        # The optimiser does not matter: this solver takes gradients only from the backend.
        backend = current_backend(
            choose(
                self.backend, network, SGD(), len(data.inputs), np.dtype(np.float64), self.threads, steps=0
            )
        )
        self._adopt(Model(network, parameters, {"loss": []}, backend, None))
        self.loss_, self.n_iter_ = lbfgs.minimise(
            network, backend, data, parameters, callbacks, iterations=self.max_iter, evaluations=self.max_fun,
            tol=self.tol, ftol=self.ftol, threads=self.threads,
        )  # fmt: skip

    def _train_stochastic(
        self,
        network: Network,
        parameters: Array,
        given: ScoredRows,
        rng: np.random.RandomState,
        epochs: int | None,
        callbacks: Sequence[Callback],
        first: bool,
    ) -> None:
        incremental = epochs is not None
        epochs = self.max_iter if epochs is None else epochs
        (rows, _), held_out = self._with_held_out(given, rng)
        count = len(rows.targets)
        batch_size = self._checked_batch_size(count)
        earlier = getattr(self, "_optimizer", None)  # its moments may be of other parameters
        if not incremental or earlier is None or earlier.moments.shape[1] != parameters.size:
            self._optimizer = self._new_optimizer(parameters)
        state, whole = self._optimizer, bool(self._optimizer.rule.whole)
        scored = getattr(self, "validation_scores_", None) is not None
        if first or scored != self.early_stopping or not hasattr(self, "loss_curve_"):
            fresh_curves(self)
        mixed = is_bfloat16(self.dtype)
        if mixed and whole:
            raise ValueError(f"solver {checks.shown(self.solver)} takes no dtype 'bfloat16'")
        if mixed and parameters.dtype != np.float32:
            raise ValueError(
                f"dtype 'bfloat16' keeps float32 parameters, and these are {parameters.dtype}; fit anew "
                "without warm_start"
            )
        options = FitOptions(
            optimizer=state.rule, epochs=epochs, batch_size=batch_size, shuffle=False, callbacks=callbacks,
            backend=self.backend, threads=self._worth_threads(network, count),
            dtype=BFLOAT16 if mixed else None,
        )  # fmt: skip
        training = ready(
            network, options, rows, held_out and held_out[0], count,
            state=TrainState(parameters, np.empty_like(parameters), state.moments, state.step),
        )  # fmt: skip
        self._adopt(Model(network, parameters, {"loss": []}, current_backend(training.backend), None))  # type: ignore[arg-type]
        score = scoring_of(self, held_out)
        training.orders = ComposedOrders(count, rng) if self.shuffle and not whole else None
        training.stays_finite = False
        training.dropout_key = int(rng.randint(2**32, dtype=np.uint32)) if network.drops else 0
        training.calls_blas = training.calls_blas or score is not None
        try:
            # What reads all rows ends by its own rules, where no score decides.
            endless = incremental or (whole and score is None)
            training.callbacks = [Convergence(self, score, endless), *callbacks]
            thread = TrainingThread.current()
            run = training.finished() if thread is None else thread.train(training)
            interrupted = run.interrupted
        except KeyboardInterrupt as interrupt:  # a second Ctrl-C, or a callback's own
            if interrupt.__context__ is not None:  # an error came after the first
                raise
            interrupted = True
        if interrupted:
            warn("Training interrupted by user.")
        elif run.stop_reason is None and not incremental:
            warn(
                f"Stochastic Optimizer: Maximum iterations ({epochs}) reached and the optimization hasn't"
                " converged yet.",
                ConvergenceWarning,
            )

    def _checked_batch_size(self, rows: int) -> int:
        if self.batch_size == "auto":
            return min(AUTO_BATCH, rows)
        if self.batch_size > rows:
            warn("Got `batch_size` less than 1 or larger than sample size. It is going to be clipped")
        return min(int(self.batch_size), rows)

    def _worth_threads(self, network: Network, rows: int) -> int | None:
        """Return the number of threads of an epoch; None leaves the choice to the backend."""
        long = 6 * parameter_count(network) * rows > THREADED_FLOPS
        return None if self.threads is None and long else self.threads or 1

    def _new_optimizer(self, parameters: Array) -> OptimizerState:
        rule = optimizer_of(self)
        named = self.solver == "sgd" and isinstance(self.learning_rate, str)
        rate = float(self.learning_rate_init)
        return OptimizerState(
            rule=rule,
            schedule=self.learning_rate if named else "constant",
            power=self.power_t,
            initial_rate=rate,
            learning_rate=rate,
            moments=initial_state(parameters, rule.moment_rows).moments,
        )

    # --- validation rows ----------------------------------------------------------------------------

    def _with_held_out(
        self, rows: ScoredRows, rng: np.random.RandomState
    ) -> tuple[ScoredRows, ScoredRows | None]:
        """Return the training rows, and the validation rows or None."""
        if self.validation_set is not None:
            return rows, self._given_validation(rows[0])
        if not self.early_stopping:
            return rows, None
        stratify = is_classifier(self) and rows[0].targets.shape[1] == 1
        return split(rows, self.validation_fraction, stratify, rng)

    def _given_validation(self, trained: Data) -> ScoredRows:
        parts = len(self.validation_set)
        if parts not in (2, 3):
            raise ValueError(f"validation_set must be (X, y) or (X, y, sample_weight), got {parts} parts")
        X, y, *weights = self.validation_set
        X, y = self._validated(X, y, trained.inputs.dtype, False)
        self._check_targets(y)
        rows = rows_of(X, self._targets(y), weights[0] if weights else None, None, number(self.input_scale))
        outputs = rows[0].targets.shape[1]
        if outputs != trained.targets.shape[1]:
            raise ValueError(f"validation_set's y has {outputs} outputs, y has {trained.targets.shape[1]}")
        return rows
