"""TableEstimator: the common part of the classifier and the regressor of tables."""

from __future__ import annotations

import os
import warnings
from collections.abc import Collection, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from fastmlp import checks
from fastmlp.checks import CheckpointError
from fastmlp.data.arrays import checked_weights, floating_dtype
from fastmlp.files import archive
from fastmlp.model.state import is_bfloat16
from fastmlp.system.notices import Bar
from fastmlp.tables import effects, held_out, report, search
from fastmlp.tables.attribution import Attributed
from fastmlp.tables.categories import Targets
from fastmlp.tables.columns import MISSING, Array
from fastmlp.tables.encoding import Encoding, in_doubt, rows_of_columns, with_codes
from fastmlp.tables.exporting import Exported
from fastmlp.tables.frames import TableError, as_given, pl, separated
from fastmlp.tables.held_out import ALONE, LEAST_ROWS, Dependence, dependence_of, held_rows
from fastmlp.tables.intervals import HeldErrors, errors_of, out_of_fold
from fastmlp.tables.kinds import Scaled
from fastmlp.tables.kinds import row_numbers as numbers_of_rows
from fastmlp.tables.reading import ReadOptions, as_frame
from fastmlp.tables.recipe import Recipe, balanced, have_three, may_embed, mean_outputs
from fastmlp.tables.search import Deadline, RecipeGroup, TableTraining
from fastmlp.tables.settings import Settings, recipes_of
from fastmlp.tables.targets import with_targets
from fastmlp.tables.tasks import Classification, Regression, Several, Task, learned_task
from fastmlp.tables.writings import FoundWritings, Given, as_learned, as_written
from fastmlp.trained.model import Model


class TableEstimator(Attributed, Exported, Settings, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Base of TableClassifier and TableRegressor, which differ in the target; the parameters are `Settings`.

    Attributes
    ----------
    encoding_ : Encoding, the learned columns
    task_ : Classification or Regression, or Several
    groups_ : list of (Recipe, list of Model), the recipes, the best first, with their networks
    recipe_ : Recipe, the best recipe
    models_ : list of Model, all networks
    errors_ : HeldErrors or None, of a regression the errors on rows held out, and their sizes by the
        prediction, over the target's deviation
    shortened_ : str or None, in words the networks, epochs and rows that `time_limit` left out
    report_ : dict; "columns" has a row for each column: name, kind, use, missing values, levels of a
        category, an example, and a doubt; `fit` with `test` adds scores
    fingerprint_ : str, digests of the table of the training, and of each table of `fit_more`
    held_ : (rows,) array of bool or None, rows of that table held out for the report
    feature_names_in_ : (columns,) array of str, the columns of the table
    """

    _task: str
    report_: dict[str, Any]

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None, *, test: Any = None) -> Self:
        """Learn the columns and train the networks.

        Parameters
        ----------
        X : table
            A frame of polars or pandas, the path of a file (.csv, .tsv, .parquet, .arrow, .npz, .npy), a
            mapping of columns, or an array (rows, n).
        y : (rows,) array or series, or the name of a column of X
            Several targets are a table, or a list of names: networks have a head for each, and `predict`
            returns a frame. For a regressor, texts among several targets are classes. Rows without a target
            are left out.
        sample_weight : (rows,) array of at least 0, optional
        test : float, or table, optional
            Rows for the scores of `report_`, beside a constant and a linear model: a fraction of the rows of
            X, held out as `time` and `group` say, or a table with the column y, or a pair (X, y).

        Raises
        ------
        TableError
            A ValueError with row and column, for a value that cannot be used.
        ImportError
            Without polars.

        Warns
        -----
        UserWarning
            If rows without a target are left out, a column of X is the target, columns are left out or in
            doubt, or `time_limit` left something out.
        """
        deadline = Deadline(self.time_limit)
        self._recipes()  # refuses settings before anything is read
        given, seed = self.columns or {}, self._seed
        fraction = 0.0
        if isinstance(test, Real):
            fraction = checks.real("test", test, 0, 1, open_low=True, open_high=True)
        with Bar(None, "", "targets", self.progress):
            frame, target = separated(as_frame(X, self.read_options(given, target=y, learns=True)), y)
            whole, target, texts = as_written(frame, target, given, self.missing_texts, self._task)
            if (name := target.name) in whole.columns and whole[name].equals(target):
                line = f"column {name!r} of X is the target: fit(X, {name!r}) leaves it out"
                warnings.warn(line, stacklevel=2)
            frame, values, weights = self._with_targets(whole, target, sample_weight)
        del X
        if len(values) < (least := LEAST_ROWS + bool(fraction)):
            raise TableError(f"at least {least} rows with a target are needed, got {len(values)}")
        is_part = fraction or len(frame) < len(whole)
        row_numbers = numbers_of_rows(whole) if is_part else []
        learned, held = frame, np.zeros(len(values), bool)
        if fraction:
            with Bar(None, "", "holding out rows", self.progress):
                drops = [name for name, kind in given.items() if kind == "drop"]
                dependence = dependence_of(frame, values, self.time, self.group, [*row_numbers, *drops])
                held = held_rows(values, self._task, fraction, seed, dependence)
            learned, weights = frame.filter(~held), None if weights is None else weights[~held]
        self.learn(learned, values[~held], target.name, row_numbers, texts)
        self.fingerprint_ = self.encoding_.fingerprint(frame, values)
        self.report_ = {"columns": rows_of_columns(self.encoding_, frame, texts)}
        self.held_ = held if fraction else None
        if line := in_doubt(self.report_["columns"]):
            warnings.warn(line, stacklevel=2)
        if fraction:
            tested, judged = frame.filter(held), values[held]
        elif test is not None:
            pair = test if isinstance(test, tuple) else (test, None)
            tested, judged, _ = self._read(*pair)
        del frame, whole
        values = values[~held]
        dependence = dependence_of(learned, values, self.time, self.group, self.encoding_.dropped)
        if test is not None:
            others = report.simpler(self, learned, values, tested, judged, seed, deadline)
            tested = self.encoding_.encoded(tested, self.floats)
        encoded = self.encoding_.encoded(learned, self.floats, self.progress, Targets(self.task_, values))
        del learned  # the frame of a file is freed before the training
        self.train(encoded, values, weights, deadline, dependence)
        if test is not None:
            outputs = report.outputs_in_parts(self, tested)
            self.report_ |= report.compared(self, outputs, judged, others)
        if self.shortened_ is not None:
            by = "there was" if deadline.interrupted else f"time_limit={self.time_limit:g} left"
            warnings.warn(f"{by} room for {self.shortened_}", stacklevel=2)
        return self

    def learn(
        self,
        frame: pl.DataFrame,
        y: Array,
        target: str,
        row_numbers: Collection[str] = (),
        found: FoundWritings | None = None,
    ) -> None:
        """Learn the columns and the task: the first half of `fit`.

        frame, y, target : a table without its target, the target (rows,), and its name
        row_numbers : columns that number the rows of a whole table; found : the writings of the table's texts
        """
        recipes = self._recipes()
        names = {"loss": "loss", "target_transform": "transform"}.items()
        of_numbers = {setting: self._settings[name] for name, setting in names if name in self._settings}
        self.task_ = learned_task(self._task, y, **of_numbers)
        if self._settings.get("threshold") is not None and self.task_.n_out != 2:
            raise TableError(f"a threshold is between two classes, and the target has {self.task_.n_out}")
        if self._settings.get("class_weight") is not None:
            self.check_single("class_weight")
        for recipe in recipes:  # mistakes are refused before encoding
            recipe.network(1, self.task_, np.ones(1) if self.monotone else None), recipe.optimizer_of(1)
        targets = Targets(self.task_, y)
        few = targets if targets.are_few else None
        given = {name: one if isinstance(one, str) else one[0] for name, one in (self.columns or {}).items()}
        if self.group is not None:
            given.setdefault(self.group, "drop")
        if self.time is not None and self.time in frame.columns and frame[self.time].dtype.is_numeric():
            given.setdefault(self.time, "number")  # also where the time numbers the rows
        for name in self.monotone or {}:
            given.setdefault(name, "number")
        if not isinstance((self.columns or {}).get(target, ""), str):
            del given[target]  # the pair says how the target is written
        encoding = Encoding.learned(frame, given, self.progress, row_numbers, self.levels, few)
        if self.time is not None:  # a clipped time would end a trend
            columns = (
                one.linear if one.name == self.time and isinstance(one, Scaled) else one
                for one in encoding.columns
            )
            encoding = replace(encoding, columns=tuple(columns))
        self._name(frame.columns, target)
        if found is not None:
            used = [one for one in found.writings if one.column in encoding.slices]
            of_target = [] if found.target is None else [replace(found.target, column=self.target_name_)]
            encoding = replace(encoding, writings=(*used, *of_target))
        if few is not None and self.layers is None:
            encoding = with_codes(encoding, frame, few, given, self.levels)
        self.encoding_ = encoding

    def train(
        self,
        X: Any,
        y: Array,
        weights: Array | None = None,
        deadline: Deadline | None = None,
        dependence: Dependence = ALONE,
    ) -> None:
        """Train the networks: the second half of `fit`.

        X : (rows, n) as `encoding_` encodes rows in `floats`, with their targets
        y, weights : (rows,), the targets and weights
        deadline : of `time_limit`, from the beginning of the first half; None for a limit from now on
        dependence : of these rows
        """
        numbers, recipes = self.encoding_.numbers, self._recipes()
        if not may_embed(X, numbers):
            recipes = tuple(recipe for recipe in recipes if not recipe.embeds) or recipes
        several = have_three(X, numbers) if any(one.embeds for one in recipes) else None
        deadline = Deadline(self.time_limit) if deadline is None else deadline
        training = self._training(
            X, self.task_.encoded(y), weights, recipes[0], dependence, deadline, several
        )
        groups, self.shortened_ = search.train(training, recipes)
        self._take(groups, training, weights)

    def _training(
        self, X: Any, targets: Array, weights: Array | None, recipe: Recipe, dependence: Dependence,
        deadline: Deadline, several: Array | None = None,
    ) -> TableTraining:  # fmt: skip
        """Return the rows for trainings with the estimator's options; several : as for `inputs_of`"""
        seed = self._seed
        signs = self.encoding_.signs(self.monotone or {})
        several = np.zeros(self.encoding_.numbers, bool) if several is None else several
        several &= signs[: len(several)] == 0
        if recipe.balanced:
            weights = balanced(targets, weights, self.task_.n_out)
        return TableTraining(
            X, targets, weights, self.task_, seed, several, signs, deadline, dependence, self.backend,
            self.threads, self.dtype, self.progress,
        )  # fmt: skip

    def _take(self, groups: list[RecipeGroup], training: TableTraining, weights: Array | None) -> None:
        """Keep the networks of groups, and the errors or the threshold by the rows held out."""
        self.groups_ = [(group.recipe, group.models) for group in groups]
        self.errors_: HeldErrors | None = None
        judged = [pair for group in groups for pair in zip(group.outputs, group.held, strict=True)]
        outputs, rows = out_of_fold(judged)
        true, counted = training.targets[rows], None if weights is None else weights[rows]
        if isinstance(self.task_, Regression):
            follows = self.models_[0].network.monotone is None
            self.errors_ = errors_of(outputs, rows, training.targets, training.dependence, follows)
        self.task_ = self.task_.adjusted(outputs, true, counted, self._settings.get("threshold"))

    def fit_more(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Go on training on new rows, with the learned columns and targets.

        Scales, levels and classes stay; a new level is as for `predict`. Networks hold out parts of the new
        rows, as in `fit`, for the errors of intervals and the threshold. `report_` keeps the scores of the
        model before, and says so.

        X, y, sample_weight : as for `fit`, of new rows; y : None for the column of X with the target's name

        Raises
        ------
        TableError
            As `fit`; for a new class, a number too small for the loss, or too few rows.
        """
        frame, values, weights = self._read(X, y, sample_weight)
        single = [(self.target_name_, self.task_, values)]
        for name, task, column in self.task_.each(values) if isinstance(self.task_, Several) else single:
            if isinstance(task, Regression):
                task.check(column, name)
            elif (new := task.encoded(column) < 0).any():
                raise TableError(f"class {checks.shown(column[new][0])} was not learned", name)
        if len(values) < held_out.FOLDS:
            least = held_out.FOLDS
            raise TableError(f"at least {least} rows with a target are needed, got {len(values)}")
        digest, known = self.encoding_.fingerprint(frame, values), self.fingerprint_.split()
        again = ["the model has learned from this table: errors of intervals will be too small"]
        for line in self.encoding_.remarks(frame) + again * (digest in known):
            warnings.warn(line, stacklevel=2)
        dependence = dependence_of(frame, values, self.time, self.group, self.encoding_.dropped)
        encoded, targets = self.encoding_.encoded(frame, self._dtype), self.task_.encoded(values)
        training = self._training(encoded, targets, weights, self.recipe_, dependence, Deadline())
        self._take(search.more(training, self.groups_), training, weights)
        before = self.report_.get("held out"), f"before {len(values)} rows more were learned"
        self.report_ |= {"held out": ", ".join(filter(None, before))}
        self.fingerprint_ = " ".join([*known, digest])
        return self

    @property
    def recipe_(self) -> Recipe:
        """The recipe with the least loss on rows held out."""
        return self.groups_[0][0]

    @property
    def models_(self) -> list[Model]:
        """All networks, whose mean predicts."""
        return [model for _, models in self.groups_ for model in models]

    @property
    def floats(self) -> np.dtype[Any]:
        """The dtype of X."""
        dtype = np.float32 if self.dtype is None or is_bfloat16(self.dtype) else self.dtype
        return floating_dtype(dtype, np.empty(0))

    @property
    def _dtype(self) -> np.dtype[Any]:
        """The dtype of X for trained networks."""
        return self.models_[0].parameters.dtype

    def predict(self, X: Any) -> Any:
        """Return the predicted class or number of each row (rows,); of several targets a frame.

        X : as for `fit`; unused columns may be missing
        """
        outputs = self.outputs(X)
        found = self.task_.decoded(outputs)
        names = found.dtype.names
        return found if names is None else as_given(X, {name: found[name] for name in names})

    def outputs(self, X: Any) -> Array:
        """Return the networks' mean outputs (rows, n_out): probabilities, or standardised numbers.

        Warns
        -----
        UserWarning
            For unusually many rows with a level that was not learned, a column's dtype that cannot hold a
            level, or texts with another writing than in the training.
        """
        check_is_fitted(self)
        frame, models = self._columns_of(X), self.models_
        batches = self.encoding_.batches(frame, self._dtype)
        found = report.in_parts(
            lambda batch: mean_outputs(models, batch), batches, len(frame), "predicting", self.progress
        )
        for line in self.encoding_.remarks(frame):
            warnings.warn(line, stacklevel=3)  # the caller of predict
        return found

    def score(self, X: Any, y: Any = None, sample_weight: Any = None) -> float:
        """Return the accuracy, or R^2, for a table and its target; of several targets the mean.

        X, y : as for `fit`; y : None for the column of X with the target's name
        """
        frame, values, weights = self._read(X, y, sample_weight)
        return self.task_.score(values, self.outputs(frame), weights)

    def importances(
        self, X: Any, y: Any = None, *, repeats: int = effects.REPEATS, random_state: int = 0
    ) -> Any:
        """Return a frame of the columns and of their permutation importance, the greatest first.

        The columns mean and deviation are of the rise of the log loss, or of the RMSE, over some shuffles of
        a column. Of the table of the training, only rows held out are used.

        X, y : a table and its target, as for `fit`
        """
        frame, values, _ = self.looked_at(X, y)
        found = effects.importances(self, frame, values, random_state, repeats)
        return as_given(X, [one._asdict() for one in found])

    def effects(self, X: Any, columns: str | Sequence[str], *, random_state: int = 0) -> dict[str, Any]:
        """Return the effects of columns by name: frames of values and mean predictions.

        An effect is a partial dependence: the mean prediction of rows with the same value. For classes there
        is a column for each probability. Free texts and unused columns have no effect.

        X : a table, as for `predict`; values come from all rows, means from at most 300 rows, drawn at random
        """
        check_is_fitted(self)
        self.check_single("effects")
        names = [columns] if isinstance(columns, str) else [*columns]
        for name in names:
            checks.choice("column", name, [*self.encoding_.slices])
        outputs = getattr(self.task_, "classes", (self.target_name_,))
        found = {}
        for one in effects.effects(self, self._columns_of(X), names, random_state):
            means = {f"mean {name}": one.means[:, index] for index, name in enumerate(outputs)}
            found[one.column.name] = as_given(X, {one.column.name: one.values} | means)
        return found

    def plot(
        self, X: Any, y: Any = None, panel: str | None = None, *, ax: Any = None, random_state: int = 0
    ) -> Any:
        """Draw the model on a table with Matplotlib; return the Figure of all panels, or the Axes of a panel.

        X, y : as for `importances`
        panel : losses, confusion, calibration, residuals, importances, intervals, or a column, for its effect
        ax : Axes to draw a panel on; None for new Axes
        """
        from fastmlp.tables import plots

        self.check_single("plot")
        frame, values, of = self.looked_at(X, y)
        if panel is None:
            return plots.plot(self, frame, values, random_state, of)
        return plots.plot_one(self, frame, values, panel, ax, random_state)

    def check_single(self, what: str) -> None:
        """Raise ValueError for a model of several targets."""
        if isinstance(self.task_, Several):
            raise ValueError(f"{what} is for a single target, and this model has {len(self.task_.parts)}")

    def looked_at(self, X: Any, y: Any) -> tuple[pl.DataFrame, Array, str | None]:
        """Return rows to judge the model by, their targets, and in words the origin of the rows.

        Of the table of the training these are the rows held out, if there are any; else all rows. The words
        are None for another table.

        X, y : a table and its target, as for `fit`
        """
        frame, values, _ = self._read(X, y)
        known, digest = self.fingerprint_.split(), self.encoding_.fingerprint(frame, values)
        if digest not in known:
            return frame, values, None
        if self.held_ is None or len(self.held_) != len(values) or digest != known[0]:
            return frame, values, "rows that the model was trained on"
        return frame.filter(self.held_), values[self.held_], "rows that were held out of the training"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model with its columns to a file without code; `load` reads the file."""
        from fastmlp.tables import storage

        check_is_fitted(self)
        storage.write(path, self)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Return the model in a file of `save`.

        Raises
        ------
        CheckpointError
            For a damaged file, or a file with another kind of model.
        OSError
            If the file cannot be read.
        """
        from fastmlp.tables import storage

        state = storage.parsed(path, *archive.read(path))
        if state["task_"].name != cls._task:
            held = f"a model of a {state['task_'].name}"
            raise CheckpointError(f"{os.fspath(path)!r} holds {held}, no {cls.__name__}")
        return cls.restored(state)

    @classmethod
    def restored(cls, state: dict[str, Any]) -> Self:
        """Return the estimator with attributes of `storage.parsed`."""
        estimator = cls()
        estimator.__dict__ |= state
        estimator._name([column.name for column in estimator.encoding_.columns], estimator.target_name_)
        return estimator

    @property
    def _seed(self) -> int:
        """A seed of `random_state`, which draws anew from a generator."""
        return int(check_random_state(self.random_state).randint(2**31 - 1))

    @property
    def _settings(self) -> dict[str, Any]:
        """The constructor's arguments by name."""
        return {name: getattr(self, name) for name in self._get_param_names()}

    def _recipes(self) -> tuple[Recipe, ...]:
        """Return the recipes for the choice by rows held out; ValueError for a wrong setting."""
        recipes = recipes_of(self._settings)
        _ = self.floats  # raises for another dtype
        return recipes

    def _name(self, columns: list[str], target: str) -> None:
        self.feature_names_in_, self.n_features_in_ = np.array(columns, dtype=object), len(columns)
        self.target_name_ = target or "y"
        while self.target_name_ in columns:  # a target that was given beside X
            self.target_name_ += " (target)"

    @property
    def missing_texts(self) -> Sequence[str]:
        """Texts of missing values."""
        return MISSING if self.missing is None else self.missing

    def read_options(
        self, kinds: Given | None, only: Sequence[str] | None = None, target: Any = None, learns: bool = False
    ) -> ReadOptions:
        """Return the options for reading a file; classes in the column `target` remain texts.

        Columns with a known writing remain texts. learns : as of `ReadOptions`
        """
        known = {name: kind if isinstance(kind, str) else "category" for name, kind in (kinds or {}).items()}
        if not learns:
            known |= {one.column: "category" for one in self.encoding_.writings}
        if isinstance(target, (str, list, tuple)) and self._task == Classification.name:
            known |= dict.fromkeys([target] if isinstance(target, str) else map(str, target), "category")
        return ReadOptions(known, only, self.missing_texts, self.progress, learns=learns)

    def _columns_of(self, X: Any) -> pl.DataFrame:
        """Return a table, read as the table of the training; of a file only the used columns."""
        frame = as_frame(X, self.read_options(self.encoding_.kinds, [*self.encoding_.slices]))
        return self._as_learned(frame)

    def _separated(self, X: Any, y: Any) -> tuple[pl.DataFrame, pl.Series]:
        """Return a table without its target, and the target, read as in the training."""
        frame, target = separated(as_frame(X, self.read_options(self.encoding_.kinds, target=y)), y)
        named = self._as_learned(target.to_frame(self.target_name_))
        return self._as_learned(frame), named.to_series().alias(target.name)

    def _as_learned(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return numbers and dates in place of texts; warn of texts with another writing."""
        frame, lines = as_learned(frame, self.encoding_.writings, self.missing_texts)
        for line in lines:
            warnings.warn(line, stacklevel=5)  # the caller of predict
        return frame

    def _read(self, X: Any, y: Any, sample_weight: Any = None) -> tuple[pl.DataFrame, Array, Array | None]:
        """Return the rows of a table with a target, without the target, and targets and weights (rows,).

        y : as for `fit`; None for the column of X with the target's name
        """
        check_is_fitted(self, "encoding_")
        if y is None:
            task, y = self.task_, self.target_name_
            y = [name for name, _ in task.parts] if isinstance(task, Several) else y
        return self._with_targets(*self._separated(X, y), sample_weight, self.task_)

    def _with_targets(
        self, frame: pl.DataFrame, target: pl.Series, sample_weight: Any, learned: Task | None = None
    ) -> tuple[pl.DataFrame, Array, Array | None]:
        """Return the rows with a target, and targets and weights (rows,); warn of other rows."""
        if not len(frame):
            raise TableError("there are no rows")
        if len(target) != len(frame):
            raise TableError(f"X has {len(frame)} rows, and y {len(target)}")
        weights = sample_weight
        if weights is not None:
            weights = checked_weights("sample_weight", weights, len(frame), np.dtype(float))
        frame, found, _, y = with_targets(frame, target, self._task, learned)
        if (left := len(found) - len(y)) > 0:
            weights = None if weights is None else weights[found.to_numpy()]
            warnings.warn(f"{left} of {len(found)} rows have no target and are left out", stacklevel=3)
        return frame, y, weights

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "groups_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.categorical = tags.input_tags.string = True
        return tags
