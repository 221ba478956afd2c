"""TableClassifier and TableRegressor: scikit-learn's estimators for tables of mixed columns."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from fastmlp import checks
from fastmlp.backend.registry import backends, mixed_backend
from fastmlp.files.archive import CheckpointError
from fastmlp.model.activations import Activation
from fastmlp.model.layers import Dense, checked_layers
from fastmlp.model.network import Network
from fastmlp.model.optimizers import BY_NAME
from fastmlp.model.precision import is_bfloat16
from fastmlp.system.bars import Bar
from fastmlp.tables import members, storage
from fastmlp.tables.columns import MOST_LEVELS
from fastmlp.tables.encoding import Encoding
from fastmlp.tables.errors import TableError
from fastmlp.tables.frames import as_frame, separated
from fastmlp.tables.inputs import may_have_bins
from fastmlp.tables.intervals import errors_of, half_width, shifts
from fastmlp.tables.read_options import ReadOptions
from fastmlp.tables.recipe import PRESETS, Recipe, candidates
from fastmlp.tables.search import SearchTrial, searched
from fastmlp.tables.tasks import TASKS, Classification, Regression, targets_of
from fastmlp.tables.texts import MISSING
from fastmlp.training.data import floating_dtype
from fastmlp.training.model import Model

if TYPE_CHECKING:
    import polars as pl

Array = NDArray[Any]


class TableEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Base of TableClassifier and TableRegressor, which say what y means.

    Parameters
    ----------
    columns : mapping of str to str, optional
        Kinds of columns that shall not be inferred, by name: number, category, date, text or drop.
    missing : sequence of str, optional
        Texts in a file of texts that say that there is no value; None for NA, nan, null, ? and their like.
    levels : int, optional
        Levels of a category that get a column of their own, the most frequent first; the others share one.
        None for 1000.
    preset : str, optional
        How much time is given: fast, good or best, the recipes of `PRESETS` with what else is given in place
        of their own. Rows that are held out decide between those of one preset. None for good.
    hidden : sequence of int, optional
        Units of the hidden layers. This and the following: None takes what the preset's recipes have.
    layers : list of layers, optional
        The hidden layers, as those of `fastmlp.Network`, in the place of hidden, activation and dropout.
    activation, optimizer : str, optional
        Names of the hidden layers' activation and of the optimiser, as for the command line.
    learning_rate : float, optional
        The rate of the first step, which falls to 0 along a cosine.
    epochs, batch_size : int, optional
    dropout, l2 : float, optional
        As for `fastmlp.Network`.
    members : int, optional
        How many networks are trained, each held against another part of the rows; their mean predicts.
    search : float, optional
        Seconds in which the hidden layers and the rate are searched for before, as far as they are not given.
    backend, threads, dtype : as for `fastmlp.fit`, "bfloat16" too; dtype float32 if None
    random_state : int, RandomState or None
    progress : bool or None
        Progress bars on stderr; None shows them if it is a terminal, and in a notebook.

    Attributes
    ----------
    encoding_ : Encoding, what was learned of the columns
    task_ : Classification or Regression
    models_ : list of Model, the members
    recipe_ : Recipe, the settings that they were trained with
    errors_ : (n,) array or None, of a regression the errors on rows that members held out, ascending, over
        the target's deviation
    trials_ : list of Trial, what the search tried
    report_ : dict or None, what `fastmlp train` found on held-out rows
    fingerprint_ : str or None, a digest of the table that was trained on
    feature_names_in_ : (columns,) array of str, the columns of the table
    """

    _task: str
    report_: dict[str, Any] | None

    def __init__(
        self,
        *,
        columns: Mapping[str, str] | None = None,
        missing: Sequence[str] | None = None,
        levels: int | None = None,
        preset: str | None = None,
        hidden: Sequence[int] | None = None,
        layers: Sequence[Any] | None = None,
        activation: str | None = None,
        optimizer: str | None = None,
        learning_rate: float | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        dropout: float | None = None,
        l2: float | None = None,
        members: int | None = None,
        search: float | None = None,
        backend: str = "auto",
        threads: int | None = None,
        dtype: Any = None,
        random_state: Any = None,
        progress: bool | None = False,
    ) -> None:
        self._keep(locals())

    def _keep(self, parameters: dict[str, Any]) -> None:
        """Set the constructor's arguments, unchanged: scikit-learn's clone relies on that."""
        names = self._get_param_names()
        self.__dict__ |= {name: parameters[name] for name in names}

    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, row_numbers: Collection[str] = ()
    ) -> Self:
        """Learn the columns and train the members.

        Parameters
        ----------
        X : table
            A frame of polars' or pandas', the path of a file (.csv, .tsv, .parquet, .arrow, .npz, .npy),
            a mapping of columns, or an array (rows, n).
        y : (rows,) array or series, or the name of a column of X
        sample_weight : (rows,) array of at least 0, optional
        row_numbers : columns to drop because they number the rows of a table of which X is a part

        Raises
        ------
        TableError
            A ValueError that names row and column, if a value cannot be used.
        ImportError
            If polars is not installed.
        """
        self._check()
        frame = as_frame(X, self.read_options(self.columns, target=y))
        frame, target = separated(frame, y)
        if not len(frame):
            raise TableError("there are no rows")
        values = targets_of(target, self._task)
        if len(values) != len(frame):
            raise TableError(f"X has {len(frame)} rows, and y {len(values)}")
        weights = None if sample_weight is None else np.asarray(sample_weight, float)
        if weights is not None and weights.shape != values.shape:
            raise TableError(f"sample_weight must have shape {values.shape}, has {weights.shape}")
        self.learn(frame, values, target.name, row_numbers)
        encoded = self.encoding_.encoded(frame, self.floats, self.progress)
        del frame, X  # what was read from a file is no longer there while members are trained
        return self.train(encoded, values, weights)

    def learn(
        self,
        frame: pl.DataFrame,
        y: Array,
        target: str,
        row_numbers: Collection[str] = (),
        rows: Array | None = None,
    ) -> None:
        """Learn the columns and the task: the first half of `fit`.

        frame, y, target : a table without its target, the target (rows,), and its name
        row_numbers : as for `fit`; rows : (rows,) truth values, of those to learn from; None for all
        """
        import polars as pl

        recipes, _ = self._check()
        learned = y if rows is None else y[rows]
        if len(learned) < 3:
            raise TableError(f"at least 3 rows are needed, got {len(learned)}")
        self.task_ = TASKS[self._task].learned(learned)
        for recipe in recipes:  # what they refuse is refused before encoding
            recipe.network(1, self.task_), recipe.optimizer_of(1)
        of_rows = None if rows is None else pl.Series(rows)
        self.encoding_ = Encoding.learned(
            frame, self.columns, self.progress, row_numbers, of_rows, self.levels or MOST_LEVELS
        )
        self.fingerprint_: str | None = self.encoding_.fingerprint(frame, y)
        self.report_ = None
        self._name(frame.columns, target)

    def train(self, X: Any, y: Array, weights: Array | None = None) -> Self:
        """Train the members: the second half of `fit`.

        X : (rows, n) as `encoding_` encodes rows in `floats`; y, weights : (rows,), the targets and weights
        """
        recipes, given = self._check()
        recipes = tuple(recipe for recipe in recipes if not recipe.bins or may_have_bins(X))
        targets = self.task_.encoded(y)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        settings = members.MemberSettings(seed, self.backend, self.threads, self.progress, self.dtype)
        self.trials_: list[SearchTrial] = []
        if self.search is not None:
            seconds = float(self.search)
            recipe, self.trials_ = searched(
                X, targets, weights, self.task_, recipes[0], seconds, settings, given
            )
            recipes = (recipe,)
        self.recipe_: Recipe
        self.errors_: Array | None
        self.models_: list[Model]
        trained = members.train(X, targets, weights, self.task_, recipes, settings)
        self.recipe_, self.models_, held = trained
        regresses = self._task == Regression.name
        self.errors_ = errors_of(self.models_, X, targets, held) if regresses else None
        return self

    @property
    def floats(self) -> np.dtype[Any]:
        """What X is encoded in."""
        own = np.float32 if self.dtype is None or is_bfloat16(self.dtype) else self.dtype
        return floating_dtype(own, np.empty(0))

    def predict(self, X: Any) -> Array:
        """Return what is predicted for each row (rows,): a class, or a number.

        X : as for `fit`; columns that the model does not use may be missing
        """
        outputs = self.outputs(X)
        return self.task_.decoded(outputs)

    def outputs(self, X: Any) -> Array:
        """Return the mean of the members' outputs (rows, n_out): probabilities, or standardised numbers.

        Warns
        -----
        UserWarning
            If unusually many rows have a level that was not learned, or a column's dtype cannot hold a level.
        """
        check_is_fitted(self)
        frame = as_frame(
            X, self.read_options(self.encoding_.kinds, [column.name for column in self.encoding_.used])
        )
        found, dtype = [np.empty((0, self.task_.n_out))], self.models_[0].parameters.dtype
        rows = 0
        with Bar(len(frame), "row", "predicting", self.progress) as bar:
            for piece in self.encoding_.pieces(frame, dtype):
                if piece.shape[0]:
                    found.append(members.outputs(self.models_, piece))
                    rows += piece.shape[0]
                    bar.move(rows)
        for line in self.encoding_.remarks(frame):
            warnings.warn(line, stacklevel=3)  # what calls predict
        return np.concatenate(found)

    def trained_on(self, frame: pl.DataFrame, y: Array) -> bool:
        """Return whether a table without its target, and the targets (rows,), are those of the training."""
        return self.fingerprint_ == self.encoding_.fingerprint(frame, y)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model with its preprocessing to one file, which holds no code; `load` reads it."""
        check_is_fitted(self)
        kept = storage.StoredEstimator(
            self.encoding_, self.task_, self.models_, self.recipe_, self.trials_, self.target_name_,
            None if self.missing is None else list(self.missing), self.report_, self.fingerprint_,
            self.errors_,
        )  # fmt: skip
        storage.write(path, kept)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return the model in a file that `save` wrote.

        Raises
        ------
        CheckpointError
            If the file is damaged, or holds a model of another kind.
        OSError
            If it cannot be read.
        """
        found = load(path)
        if not isinstance(found, cls):
            raise CheckpointError(f"{os.fspath(path)!r} holds a {type(found).__name__}, no {cls.__name__}")
        return found

    def _name(self, columns: list[str], target: str) -> None:
        self.feature_names_in_, self.n_features_in_ = np.array(columns, dtype=object), len(columns)
        self.target_name_ = target or "y"

    def _recipes(self) -> tuple[Recipe, ...]:
        """Return the recipes that rows held out decide between."""
        preset = "good" if self.preset is None else checks.choice("preset", self.preset, tuple(PRESETS))
        names = {field.name for field in fields(Recipe)}.intersection(self._get_param_names())
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if "optimizer" in given:
            checks.choice("optimizer", given["optimizer"], tuple(BY_NAME))
        if "members" in given:
            checks.whole("members", given["members"], 1, storage.MOST_MEMBERS)
        for name in ("epochs", "batch_size"):
            if name in given:
                checks.whole(name, given[name], 1)
        if self.levels is not None:
            checks.whole("levels", self.levels, 1)
        if "hidden" in given:
            if not isinstance(given["hidden"], Sequence | np.ndarray) or isinstance(given["hidden"], str):
                raise TypeError(f"hidden must be widths like (128, 64), got {checks.shown(given['hidden'])}")
            given["hidden"] = tuple(given["hidden"])
        if "layers" in given:
            if others := {"hidden", "activation", "dropout"} & given.keys():
                raise ValueError(f"layers says what the hidden layers are; leave out {min(others)}")
            given |= {"hidden": (), "layers": checked_layers(given["layers"])}
            made = Network(inputs=1, layers=[*given["layers"], Dense(1)])
            if any(isinstance(one.activation, Activation) for one in made.operations):
                raise ValueError("layers of a table have activations by name: its file holds no code")
        return candidates(preset, given)

    def _check(self) -> tuple[tuple[Recipe, ...], list[str]]:
        """Return the recipes, and what a search must leave as it is; ValueError if a setting is wrong."""
        if is_bfloat16(self.dtype):
            mixed_backend(self.backend)
        else:
            checks.choice("backend", self.backend, ("auto", *backends()))
            _ = self.floats  # raises for another dtype
        if self.threads is not None:
            checks.whole("threads", self.threads, 1)
        if self.search is not None:
            checks.real("search", self.search, 0, open_low=True)
        if self.columns is not None and not isinstance(self.columns, Mapping):
            raise TypeError(f"columns must map names to kinds, got {checks.shown(self.columns)}")
        if isinstance(self.missing, str):
            raise TypeError(f"missing must be a sequence of texts, got {checks.shown(self.missing)}")
        given = [] if self.hidden is self.layers is None else ["hidden"]
        given += [] if self.learning_rate is None else ["learning_rate"]
        if self.search is not None and len(given) == 2:
            raise ValueError("search has nothing to search: hidden layers and learning_rate are given")
        return self._recipes(), given

    def read_options(
        self, kinds: Mapping[str, str] | None, only: Sequence[str] | None = None, target: Any = None
    ) -> ReadOptions:
        """Return how a file is to be read; classes in the column `target` as the texts that they are."""
        missing = MISSING if self.missing is None else self.missing
        classes = (
            {target: "category"} if isinstance(target, str) and self._task == Classification.name else {}
        )
        return ReadOptions({**(kinds or {}), **classes}, only, missing, self.progress)

    def _targets(self, X: Any, y: Any) -> tuple[pl.DataFrame, Array]:
        """Return a table without its target, and the target."""
        check_is_fitted(self)
        frame, target = separated(as_frame(X, self.read_options(self.encoding_.kinds, target=y)), y)
        return frame, targets_of(target, self._task, self.task_)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "models_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.categorical = tags.input_tags.string = True
        return tags


class TableClassifier(ClassifierMixin, TableEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier of the rows of a table.

    Its parameters and attributes are those of `TableEstimator`, and:

    Parameters
    ----------
    class_weight : str, optional
        "balanced": every class counts the same, however many rows it has.

    Attributes
    ----------
    classes_ : (n,) array, the classes, ascending
    """

    _task = Classification.name

    def __init__(
        self,
        *,
        columns: Mapping[str, str] | None = None,
        missing: Sequence[str] | None = None,
        levels: int | None = None,
        preset: str | None = None,
        hidden: Sequence[int] | None = None,
        layers: Sequence[Any] | None = None,
        activation: str | None = None,
        optimizer: str | None = None,
        learning_rate: float | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        dropout: float | None = None,
        l2: float | None = None,
        members: int | None = None,
        class_weight: str | None = None,
        search: float | None = None,
        backend: str = "auto",
        threads: int | None = None,
        dtype: Any = None,
        random_state: Any = None,
        progress: bool | None = False,
    ) -> None:
        self._keep(locals())

    @property
    def classes_(self) -> Array:
        """The classes (n,), ascending."""
        check_is_fitted(self)
        assert isinstance(self.task_, Classification)
        return np.array(self.task_.classes)

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class (rows, n), in the order of `classes_`."""
        return self.outputs(X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy for a table and its target, which may be the name of a column."""
        from sklearn.metrics import accuracy_score

        frame, values = self._targets(X, y)
        assert isinstance(self.task_, Classification)
        codes, found = self.task_.encoded(values), self.outputs(frame).argmax(axis=1)
        return float(accuracy_score(codes, found, sample_weight=sample_weight))

    def _recipes(self) -> tuple[Recipe, ...]:
        if self.class_weight is not None:
            checks.choice("class_weight", self.class_weight, ("balanced",))
        return tuple(replace(one, balanced=self.class_weight is not None) for one in super()._recipes())


class TableRegressor(RegressorMixin, TableEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A regressor of the rows of a table; its parameters and attributes are those of `TableEstimator`."""

    _task = Regression.name

    def predict_interval(self, X: Any, coverage: float = 0.9) -> tuple[Array, Array]:
        """Return the lower and upper ends, (rows,) each, of intervals that hold a share of the numbers.

        The prediction is in the middle, and all are of one width: the share is held over all rows, by the
        errors on rows that the members held out.

        Raises
        ------
        ValueError
            If fewer rows were held out than such a share needs, or the model was written before there were
            intervals.
        """
        width = half_width(self._errors, coverage) * self._deviation
        predicted = self.predict(X)
        return predicted - width, predicted + width

    def predict_quantiles(self, X: Any, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> Array:
        """Return quantiles of each row's number (rows, quantiles): the prediction and a number for each.

        Raises
        ------
        ValueError
            As for `predict_interval`.
        """
        added = shifts(self._errors, quantiles) * self._deviation
        return self.predict(X)[:, None] + added

    @property
    def _errors(self) -> Array:
        check_is_fitted(self)
        if self.errors_ is None:
            raise ValueError("the model was written before there were intervals; train it again")
        return self.errors_

    @property
    def _deviation(self) -> float:
        assert isinstance(self.task_, Regression)
        return self.task_.deviation

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R^2 for a table and its target, which may be the name of a column."""
        from sklearn.metrics import r2_score

        frame, values = self._targets(X, y)
        return float(r2_score(values, self.predict(frame), sample_weight=sample_weight))


ESTIMATORS: dict[str, type[TableClassifier] | type[TableRegressor]] = {
    one._task: one for one in (TableClassifier, TableRegressor)
}
"""The estimators by their task."""


def load(path: str | os.PathLike[str]) -> TableClassifier | TableRegressor:
    """Return the classifier or regressor in a file; errors as those of `TableClassifier.load`."""
    kept = storage.read(path)
    estimator = ESTIMATORS[kept.task.name](missing=kept.missing)
    estimator.encoding_, estimator.task_, estimator.models_ = kept.encoding, kept.task, kept.models
    estimator.recipe_, estimator.trials_, estimator.report_ = kept.recipe, kept.trials, kept.report
    estimator.fingerprint_, estimator.errors_ = kept.fingerprint, kept.errors
    estimator._name([column.name for column in kept.encoding.columns], kept.target)
    return estimator
