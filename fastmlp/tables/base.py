"""TableEstimator: what the classifier and the regressor of tables share, from a table to trained members."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from fastmlp import checks
from fastmlp.checks import CheckpointError
from fastmlp.data.arrays import checked_weights, floating_dtype
from fastmlp.files import archive
from fastmlp.model.state import is_bfloat16
from fastmlp.system.notices import Bar
from fastmlp.tables import effects, members, report, selection
from fastmlp.tables.categories import Targets
from fastmlp.tables.columns import MISSING
from fastmlp.tables.deadline import Deadline
from fastmlp.tables.effects import REPEATS
from fastmlp.tables.encoding import Encoding, in_doubt, rows_of_columns
from fastmlp.tables.errors import TableError
from fastmlp.tables.frames import as_given, separated
from fastmlp.tables.held_out import ALONE, FOLDS, Dependence, Doubt, dependence_of, doubt
from fastmlp.tables.inputs import have_three, may_embed
from fastmlp.tables.intervals import HeldErrors, errors_of, out_of_fold
from fastmlp.tables.kinds import row_numbers as numbers_of_rows
from fastmlp.tables.reading import ReadOptions, as_frame
from fastmlp.tables.recipe import Recipe
from fastmlp.tables.search import SearchTrial, searched
from fastmlp.tables.settings import check, fixed, recipes_of
from fastmlp.tables.slopes import Sloped
from fastmlp.tables.tasks import Classification, Regression, Several, Task, learned_task, with_targets
from fastmlp.tables.writings import FoundWritings, Given, as_learned, as_written
from fastmlp.trained.model import Model

if TYPE_CHECKING:
    import polars as pl

Array = NDArray[Any]

LEAST_TIME = 20.0
"""Seconds of a time limit below which nobody looks for columns by which rows depend on each other."""


class TableEstimator(Sloped, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Base of TableClassifier and TableRegressor, which say what y means.

    Parameters
    ----------
    columns : mapping of str to str or (str, str), optional
        Kinds of columns that shall not be inferred, by name: number, category, date, text or drop. With a
        kind, how its texts are written: ("number", "$1,234.50"), an example; ("date", "%m/%d/%Y"), a format,
        or one of seconds, milliseconds, microseconds and nanoseconds since 1970.
    time : str, optional
        A column of dates or numbers: what is held out, for recipes, epochs and errors of intervals, are the
        later rows, as the rows to predict will be later.
    group : str, optional
        A column of names, as those of patients: all rows of one are held out together, as the rows to predict
        will be of new ones. The column is not learned from, unless `columns` says its kind. With a time, too,
        the groups that begin last are held out.
    monotone : mapping of str to int, optional
        1 for columns of numbers with which predictions rise, -1 for those with which they fall: of any two
        rows that differ in such columns only, exactly. Of two classes it is the probability of the second;
        more are refused. The hidden activation is relu, unless another that never falls is given.
    missing : sequence of str, optional
        Texts in a file of texts that say that there is no value; None for NA, nan, null, ? and their like.
    levels : int, optional
        Levels of a category that get a column of their own, the most frequent first; the others share one.
        None for 5000, and mean targets in place of more than 300.
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
        How many networks of each recipe are trained. The first ones, one to five, hold out parts of the rows,
        which choose recipes and numbers of epochs; the others have all rows. The mean of those of the best
        recipes predicts.
    time_limit : float, optional
        Seconds that `fit` may take, with reading, compiling and the search: there are fewer networks, epochs
        and rows where it is short. `fastmlp train` counts its report, too.
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
    groups_ : list of (Recipe, list of Model), the recipes that predict, the best first, with their networks
    recipe_ : Recipe, the best one's settings
    models_ : list of Model, all networks, the members
    errors_ : HeldErrors or None, of a regression the errors on rows that members held out, and their sizes by
        the prediction, over the target's deviation
    trials_ : list of Trial, what the search tried
    shortened_ : str or None, in words what `time_limit` has left out
    report_ : dict or None; its "columns" has a row for each column: name, kind, what is done, missing values,
        levels of a category, an example, what is in doubt; `fastmlp train`, and `fit` with `test`, add scores
        on held-out rows
    fingerprint_ : str or None, a digest of the table that was trained on, and of each of `fit_more` behind
    held_ : (rows,) array of bool or None, which rows of that table were held out for the report
    feature_names_in_ : (columns,) array of str, the columns of the table
    """

    _task: str
    report_: dict[str, Any] | None

    def __init__(
        self,
        *,
        columns: Given | None = None,
        time: str | None = None,
        group: str | None = None,
        monotone: Mapping[str, int] | None = None,
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
        time_limit: float | None = None,
        search: float | None = None,
        backend: str = "auto",
        threads: int | None = None,
        dtype: Any = None,
        random_state: Any = None,
        progress: bool | None = False,
    ) -> None:
        given = locals()
        self.__dict__ |= {name: given[name] for name in inspect.signature(TableEstimator).parameters}

    def fit(
        self,
        X: Any,
        y: Any = None,
        sample_weight: Any = None,
        *,
        row_numbers: Collection[str] = (),
        test: Any = None,
    ) -> Self:
        """Learn the columns and train the members.

        Parameters
        ----------
        X : table
            A frame of polars' or pandas', the path of a file (.csv, .tsv, .parquet, .arrow, .npz, .npy),
            a mapping of columns, or an array (rows, n).
        y : (rows,) array or series, or the name of a column of X; several targets as a table, or as a list of
            names: networks have a head for each, and `predict` returns a frame. A regressor takes what holds
            no numbers as classes. Rows without one of them are left out
        sample_weight : (rows,) array of at least 0, optional
        row_numbers : columns to drop because they number the rows of a table of which X is a part
        test : table, optional
            Rows that `report_` is of, with the column y, or a pair (X, y).

        Raises
        ------
        TableError
            A ValueError that names row and column, if a value cannot be used.
        ImportError
            If polars is not installed.

        Warns
        -----
        UserWarning
            If rows have no target, which are left out, a column of X is the target, columns are left out or
            in doubt, `time_limit` has left something out, or rows seem to depend on each other by a column
            that is neither time nor group.
        """
        deadline = Deadline(self.time_limit)
        self._recipes()  # refuses settings before anything is read
        given = self.columns or {}
        frame, target = separated(as_frame(X, self.read_options(given, target=y, learns=True)), y)
        whole, target, texts = as_written(frame, target, given, self.missing_texts, self._task)
        if (name := target.name) in whole.columns and whole[name].equals(target):
            warnings.warn(f"column {name!r} of X is the target: fit(X, {name!r}) leaves it out", stacklevel=2)
        frame, values, weights = self._with_targets(whole, target, sample_weight)
        said = {*row_numbers}
        if len(frame) < len(whole):
            row_numbers = {*row_numbers, *numbers_of_rows(whole)}
        del whole
        self.learn(frame, values, target.name, row_numbers, None, texts)
        rows = (self.report_ or {})["columns"]
        if line := in_doubt([row for row in rows if row["name"] not in said]):
            warnings.warn(line, stacklevel=2)
        targets = Targets(self.task_, values)
        dependence = dependence_of(frame, values, self.time, self.group, self.encoding_.dropped)
        found = self.doubt(frame, values, deadline)
        encoded = self.encoding_.encoded(frame, self.floats, self.progress, targets)
        if test is not None:
            pair = test if isinstance(test, tuple) else (test, y if isinstance(y, str) else None)
            tested, judged, _ = self._read(*pair)
            others = report.simpler(self, frame, values, None, 0, deadline, (tested, judged))
            tested = self.encoding_.encoded(tested, self.floats)
        del frame, X  # what was read from a file is no longer there while members are trained
        self.train(encoded, values, weights, deadline, dependence)
        if test is not None:
            self.report_ = (self.report_ or {}) | report.compared(
                self, report.outputs_in_parts(self, tested), judged, others
            )
        if self.shortened_ is not None:
            by = "there was" if deadline.interrupted else f"time_limit={self.time_limit:g} left"
            warnings.warn(f"{by} room for {self.shortened_}", stacklevel=2)
        if found is not None:
            warnings.warn(found.sentence(f"{found.parameter}={found.column!r}"), stacklevel=2)
        return self

    def doubt(
        self, frame: pl.DataFrame, y: Array, deadline: Deadline, rows: Array | None = None
    ) -> Doubt | None:
        """Return the column by which rows seem to depend on each other, if nobody says and there is time.

        frame, y, rows : as for `learn`, which is called before
        """
        if self.time is not None or self.group is not None or deadline.left < LEAST_TIME:
            return None
        return doubt(frame, y, self.task_, self.encoding_.columns, rows)

    def learn(
        self,
        frame: pl.DataFrame,
        y: Array,
        target: str,
        row_numbers: Collection[str] = (),
        rows: Array | None = None,
        found: FoundWritings | None = None,
    ) -> None:
        """Learn the columns and the task: the first half of `fit`.

        frame, y, target : a table without its target, the target (rows,), and its name
        row_numbers : as for `fit`; rows : (rows,) truth values, of those to learn from; None for all
        found : of the texts of the table
        """
        import polars as pl

        recipes = self._recipes()
        learned = y if rows is None else y[rows]
        if len(learned) < 3:
            raise TableError(f"at least 3 rows are needed, got {len(learned)}")
        names = {"loss": "loss", "target_transform": "transform"}.items()
        of_numbers = {own: self._settings[name] for name, own in names if name in self._settings}
        self.task_ = learned_task(self._task, learned, **of_numbers)
        if self._settings.get("threshold") is not None and self.task_.n_out != 2:
            raise TableError(f"a threshold is between two classes, and the target has {self.task_.n_out}")
        if self._settings.get("class_weight") is not None:
            self.check_single("class_weight")
        for recipe in recipes:  # what they refuse is refused before encoding
            recipe.network(1, self.task_, np.ones(1) if self.monotone else None), recipe.optimizer_of(1)
        of_rows = None if rows is None else pl.Series(rows)
        targets = Targets(self.task_, learned)
        few = targets if targets.are_few else None
        given = {name: one if isinstance(one, str) else one[0] for name, one in (self.columns or {}).items()}
        if self.group is not None:
            given.setdefault(self.group, "drop")
        for name in self.monotone or {}:
            given.setdefault(name, "number")
        if not isinstance((self.columns or {}).get(target, ""), str):
            del given[target]  # it is said how the target is written
        encoding = Encoding.learned(frame, given, self.progress, row_numbers, of_rows, self.levels, few)
        self._name(frame.columns, target)
        if found is not None:
            used = [one for one in found.writings if one.column in encoding.places]
            of_target = [] if found.target is None else [replace(found.target, column=self.target_name_)]
            encoding = replace(encoding, writings=(*used, *of_target))
        self.encoding_ = encoding
        self.fingerprint_: str | None = self.encoding_.fingerprint(frame, y)
        self.report_ = {"columns": rows_of_columns(self.encoding_, frame, found)}
        self.held_: Array | None = None if rows is None else ~rows

    def train(
        self,
        X: Any,
        y: Array,
        weights: Array | None = None,
        deadline: Deadline | None = None,
        dependence: Dependence = ALONE,
    ) -> None:
        """Train the members: the second half of `fit`.

        X : (rows, n) as `encoding_` encodes rows in `floats`, with their targets
        y, weights : (rows,), the targets and weights
        deadline : of `time_limit`, from the beginning of the first half on; None if it begins here
        dependence : of these rows, which says what is held out together
        """
        deadline = Deadline(self.time_limit) if deadline is None else deadline
        numbers = self.encoding_.numbers
        embeds = may_embed(X, numbers)
        recipes = self._recipes()
        recipes = tuple(recipe for recipe in recipes if embeds or not recipe.embeds) or recipes
        targets = self.task_.encoded(y)
        several = have_three(X, numbers) if any(one.embeds for one in recipes) else None
        settings = self._members(deadline, dependence, several)
        self.trials_: list[SearchTrial] = []
        if self.search is not None:
            seconds = min(float(self.search), max(1.0, deadline.left / 2))
            first = next((recipe for recipe in recipes if recipe.embeds), recipes[0])
            recipe, self.trials_ = searched(
                X, targets, weights, self.task_, first, seconds, settings, fixed(self._settings)
            )
            recipes = (recipe,)
        groups, self.shortened_ = selection.train(X, targets, weights, self.task_, recipes, settings)
        self._take(groups, targets, weights, dependence)

    def _take(
        self, groups: list[selection.Group], targets: Array, weights: Array | None, dependence: Dependence
    ) -> None:
        """Have the networks of groups, with the errors or the threshold by the rows that they held out."""
        self.groups_ = [(group.recipe, group.models) for group in groups]
        judged = [pair for group in groups for pair in zip(group.outputs, group.held, strict=True)]
        self.errors_: HeldErrors | None = None
        if isinstance(self.task_, Regression | Several):
            outputs, rows = out_of_fold(judged)
            if isinstance(self.task_, Regression):
                follows = self.models_[0].network.monotone is None
                self.errors_ = errors_of(outputs, rows, targets, dependence, follows)
            own = None if weights is None else weights[rows]
            self.task_ = self.task_.with_shift(outputs, targets[rows], own)
        elif (wanted := self._settings["threshold"]) is not None:
            outputs, rows = out_of_fold(judged)
            own = None if weights is None else weights[rows]
            self.task_ = self.task_.with_threshold(wanted, outputs, targets[rows], own)

    def fit_more(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Go on training on new rows, with what was learned of columns and targets as it is.

        Scales, levels and classes stay, and new levels are what they are to `predict`. Networks hold out
        parts of the new rows, as in `fit`: the errors of intervals, and the threshold, are then those of new
        rows. Scores of `report_` remain those of the model before, and it says so.

        X, y, sample_weight : as for `fit`, of rows that were not learned from; y : None for the column of X
            that has the target's name

        Raises
        ------
        TableError
            As of `fit`; if a class is new, a number is below what the loss takes, or there are too few rows.
        """
        frame, values, weights = self._read(X, y, sample_weight)
        single = [(self.target_name_, self.task_, values)]
        for name, task, own in self.task_.each(values) if isinstance(self.task_, Several) else single:
            if isinstance(task, Regression):
                task.check(own, name)
            elif (new := task.encoded(own) < 0).any():
                raise TableError(f"class {checks.shown(own[new][0])} was not learned", name)
        targets = self.task_.encoded(values)
        if len(values) < FOLDS:
            raise TableError(f"at least {FOLDS} rows with a target are needed, got {len(values)}")
        own, known = self.encoding_.fingerprint(frame, values), (self.fingerprint_ or "").split()
        again = ["the model has learned from this table: errors of intervals will be too small"]
        for line in self.encoding_.remarks(frame) + again * (own in known):
            warnings.warn(line, stacklevel=2)
        dependence = dependence_of(frame, values, self.time, self.group, self.encoding_.dropped)
        encoded = self.encoding_.encoded(frame, self.models_[0].parameters.dtype)
        groups = selection.more(
            encoded, targets, weights, self.task_, self.groups_, self._members(Deadline(), dependence)
        )
        self._take(groups, targets, weights, dependence)
        report, count = self.report_ or {}, len(values)
        before = f"before {count} rows more were learned"
        self.report_ = report | {"held out": ", ".join(filter(None, (report.get("held out"), before)))}
        self.fingerprint_ = " ".join([*known, own])
        return self

    def _members(
        self, deadline: Deadline, dependence: Dependence, several: Array | None = None
    ) -> members.MemberSettings:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        several = np.zeros(0, bool) if several is None else several
        signs = self.encoding_.signs(self.monotone or {})
        several = several & (signs[: len(several)] == 0)
        return members.MemberSettings(
            seed, several, deadline, self.backend, self.threads, self.progress, self.dtype, dependence, signs
        )

    @property
    def recipe_(self) -> Recipe:
        """The recipe that had the least loss on rows held out."""
        return self.groups_[0][0]

    @property
    def models_(self) -> list[Model]:
        """The networks whose mean predicts."""
        return [model for _, models in self.groups_ for model in models]

    @property
    def floats(self) -> np.dtype[Any]:
        """What X is encoded in."""
        own = np.float32 if self.dtype is None or is_bfloat16(self.dtype) else self.dtype
        return floating_dtype(own, np.empty(0))

    def predict(self, X: Any) -> Any:
        """Return what is predicted for each row (rows,): a class, or a number; of several targets a frame.

        X : as for `fit`; columns that the model does not use may be missing
        """
        outputs = self.outputs(X)
        found = self.task_.decoded(outputs)
        names = found.dtype.names
        return found if names is None else as_given(X, {name: found[name] for name in names})

    def outputs(self, X: Any) -> Array:
        """Return the mean of the members' outputs (rows, n_out): probabilities, or standardised numbers.

        Warns
        -----
        UserWarning
            If unusually many rows have a level that was not learned, a column's dtype cannot hold a level, or
            texts are not written as those of the training were.
        """
        check_is_fitted(self)
        frame = self._columns_of(X)
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

    def importances(self, X: Any, y: Any = None, *, repeats: int = REPEATS, random_state: int = 0) -> Any:
        """Return a frame of the columns and of their permutation importance, the greatest first.

        Its columns are column, mean and deviation: how much the log loss, or the RMSE, rises if the column is
        shuffled, over some shuffles. Of the table that was trained on the rows held out are looked at.

        X, y : a table and its target, as for `fit`
        """
        frame, values, _ = self.looked_at(X, y)
        found = effects.importances(self, frame, values, random_state, repeats)
        return as_given(X, [one._asdict() for one in found])

    def effects(self, X: Any, columns: str | Sequence[str], *, random_state: int = 0) -> dict[str, Any]:
        """Return the effect of each of some columns: a frame of its values and the mean predictions there.

        An effect is a partial dependence: the mean prediction of some rows if all had one value. Of classes
        there is a column for the probability of each. Free texts, and what is not learned from, have none.

        X : a table, as for `predict`
        """
        check_is_fitted(self)
        self.check_single("effects")
        names = [columns] if isinstance(columns, str) else [*columns]
        for name in names:
            checks.choice("column", name, [*self.encoding_.places])
        frame = self._columns_of(X)
        outputs = getattr(self.task_, "classes", (self.target_name_,))
        return {
            one.column.name: as_given(X, {one.column.name: one.values} | {
                f"mean {name}": one.means[:, place] for place, name in enumerate(outputs)
            })
            for one in effects.effects(self, frame, names, random_state)
        }  # fmt: skip

    def plot(
        self, X: Any, y: Any = None, panel: str | None = None, *, ax: Any = None, random_state: int = 0
    ) -> Any:
        """Draw the model on a table with Matplotlib; return the Figure of all panels, or the Axes of one.

        X, y : as for `importances`
        panel : losses, confusion, calibration, residuals, importances, intervals, or a column, for its effect
        ax : Axes to draw a panel on; None for new ones
        """
        from fastmlp.tables import plots

        self.check_single("plot")
        frame, values, of = self.looked_at(X, y)
        if panel is None:
            return plots.plot(self, frame, values, random_state, of)
        return plots.plot_one(self, frame, values, panel, ax, random_state)

    def check_single(self, what: str) -> None:
        """Raise ValueError if the model has several targets."""
        if isinstance(self.task_, Several):
            raise ValueError(f"{what} is for a single target, and this model has {len(self.task_.parts)}")

    def _mean_score(self, frame: pl.DataFrame, y: Array) -> float:
        """Return the mean score of several targets: R^2, or the accuracy."""
        assert isinstance(self.task_, Several)
        measures = self.task_.measures(y, self.outputs(frame))
        return float(np.mean([measures[f"{task.measure} of {name}"] for name, task in self.task_.parts]))

    def looked_at(self, X: Any, y: Any) -> tuple[pl.DataFrame, Array, str | None]:
        """Return the rows of a table to judge the model by, their targets, and in words which rows they are.

        They are those that were held out, if the table is the one that was trained on and some were, else all
        rows. The words are None for another table.

        X, y : a table and its target, as for `fit`
        """
        frame, values, _ = self._read(X, y)
        known, own = (self.fingerprint_ or "").split(), self.encoding_.fingerprint(frame, values)
        if own not in known:
            return frame, values, None
        if self.held_ is None or len(self.held_) != len(values) or own != known[0]:
            return frame, values, "rows that the model was trained on"
        return frame.filter(self.held_), values[self.held_], "rows that were held out of the training"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model with its preprocessing to one file, which holds no code; `load` reads it."""
        from fastmlp.tables import storage

        check_is_fitted(self)
        storage.write(path, self)

    def to_onnx(self, path: str | os.PathLike[str]) -> None:
        """Write an ONNX file: "X" (rows, columns) float64, as `coded` gives a table, to "output" (rows, n).

        The output is what `predict` gives of numbers, and of classes the probability of each. What the
        numbers mean is in the file's metadata: names and levels of columns, and classes. Needs the extra
        `onnx`.

        Raises
        ------
        TableError
            If a column is free text.
        ValueError
            If there are several targets, or networks learned logarithms.
        """
        from fastmlp.tables import exporting

        check_is_fitted(self)
        exporting.to_onnx(self, Path(path))

    def to_c(self, path: str | os.PathLike[str], *, name: str | None = None) -> None:
        """Write a C99 header with `void NAME_predict(const double *x, double *out)`, for one row.

        Rows, outputs and errors are those of `to_onnx`; a file beside, which ends in .json, says what the
        numbers mean.

        name : what its functions begin with, an identifier of C; None for the file's name
        """
        from fastmlp.tables import exporting

        check_is_fitted(self)
        exporting.to_c(self, Path(path), name)

    def coded(self, X: Any) -> Array:
        """Return a table as exports take it, (rows, columns) float64.

        A number is as it is, a date in seconds since 1970, and a category the place of its level: NaN where
        there is none, and -1 for a level that was not learned.

        X : as for `predict`
        """
        from fastmlp.tables import exporting

        check_is_fitted(self)
        return exporting.coded(self.encoding_, self._columns_of(X))

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
        from fastmlp.tables import storage

        kept = storage.parsed(path, *archive.read(path))
        if kept["task_"].name != cls._task:
            held = f"a model of a {kept['task_'].name}"
            raise CheckpointError(f"{os.fspath(path)!r} holds {held}, no {cls.__name__}")
        return cls.restored(kept)

    @classmethod
    def restored(cls, kept: dict[str, Any]) -> Self:
        """Return the estimator that a file holds, by attributes as `storage.parsed` returns them."""
        estimator = cls()
        estimator.__dict__ |= kept
        estimator._name([column.name for column in estimator.encoding_.columns], estimator.target_name_)
        return estimator

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what a pickle holds, of an earlier version, too."""
        super().__setstate__(state)
        own = self.__dict__
        if "models_" in own:  # all networks follow one recipe
            own["groups_"] = [(own.pop("recipe_"), own.pop("models_"))]
        if isinstance(own.get("errors_"), np.ndarray):  # without sizes
            own["errors_"] = HeldErrors.of_one_size(own["errors_"])
        later = dict.fromkeys(("trials_", "report_", "fingerprint_", "errors_", "shortened_", "held_"))
        self.__dict__ = type(self)().__dict__ | (later if "groups_" in own else {}) | own

    @property
    def _settings(self) -> dict[str, Any]:
        """The constructor's arguments by their names."""
        return {name: getattr(self, name) for name in self._get_param_names()}

    def _recipes(self) -> tuple[Recipe, ...]:
        """Return the recipes that rows held out decide between; ValueError if a setting is wrong."""
        check(self._settings)
        _ = self.floats  # raises for another dtype
        return recipes_of(self._settings)

    def _name(self, columns: list[str], target: str) -> None:
        self.feature_names_in_, self.n_features_in_ = np.array(columns, dtype=object), len(columns)
        self.target_name_ = target or "y"
        while self.target_name_ in columns:  # a target that was given beside X
            self.target_name_ += " (target)"

    @property
    def missing_texts(self) -> Sequence[str]:
        """Texts that say that there is no value."""
        return MISSING if self.missing is None else self.missing

    def read_options(
        self, kinds: Given | None, only: Sequence[str] | None = None, target: Any = None, learns: bool = False
    ) -> ReadOptions:
        """Return how a file is to be read; classes in the column `target` as the texts that they are.

        Columns remain texts of which it is known how they are written. learns : as of `ReadOptions`
        """
        known = {name: kind if isinstance(kind, str) else "category" for name, kind in (kinds or {}).items()}
        if not learns:
            known |= {one.column: "category" for one in self.encoding_.writings}
        if isinstance(target, (str, list, tuple)) and self._task == Classification.name:
            known |= dict.fromkeys([target] if isinstance(target, str) else map(str, target), "category")
        return ReadOptions(known, only, self.missing_texts, self.progress, learns=learns)

    def _columns_of(self, X: Any) -> pl.DataFrame:
        """Return a table, of a file the columns that the model uses, read as those of the training were."""
        frame = as_frame(X, self.read_options(self.encoding_.kinds, [*self.encoding_.places]))
        return self._as_learned(frame)

    def _separated(self, X: Any, y: Any) -> tuple[pl.DataFrame, pl.Series]:
        """Return a table without its target, and the target, read as those of the training were."""
        frame, target = separated(as_frame(X, self.read_options(self.encoding_.kinds, target=y)), y)
        named = self._as_learned(target.to_frame(self.target_name_))
        return self._as_learned(frame), named.to_series().alias(target.name)

    def _as_learned(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return numbers and dates in place of texts; warn of texts that are not written as they were."""
        lacking = [one for one in self.encoding_.kinds if one[:7] == "column_" and one not in frame.columns]
        if lacking and "" in frame.columns:  # earlier versions learned a column without a name so
            frame = frame.rename({"": lacking[0]})
        frame, lines = as_learned(frame, self.encoding_.writings, self.missing_texts)
        for line in lines:
            warnings.warn(line, stacklevel=5)  # what calls predict
        return frame

    def _read(self, X: Any, y: Any, sample_weight: Any = None) -> tuple[pl.DataFrame, Array, Array | None]:
        """Return the rows of a table that have a target, without it, and targets and weights (rows,).

        y : as for `fit`; None for the column of X that has the target's name
        """
        check_is_fitted(self, "encoding_")
        if y is None:
            task, y = self.task_, self.target_name_
            y = [name for name, _ in task.parts] if isinstance(task, Several) else y
        frame, target = self._separated(X, y)
        return self._with_targets(frame, target, sample_weight, self.task_)

    def _with_targets(
        self, frame: pl.DataFrame, target: pl.Series, sample_weight: Any, learned: Task | None = None
    ) -> tuple[pl.DataFrame, Array, Array | None]:
        """Return the rows that have a target, with targets and weights (rows,); warn of the others."""
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
