"""What learns tables: fastmlp, trees that are boosted, and networks of others, each in one function.

Peers have their defaults and, as their authors advise, end early: on a fifth of the training rows, after 50
rounds without a lower loss; their number of rounds is a limit that is not reached. RealMLP-TD and TabM-D
choose their best epoch by the log loss on that fifth, the first without smoothing of labels, as pytabkit's
page says. All get the columns as frames of pandas', categories as such, and one thread.
"""

import ast
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import polars as pl
from sklearn.model_selection import train_test_split

from fastmlp.tables.tasks import Classification

from .sets import Split

STOP_SHARE, PATIENCE, MOST_ROUNDS = 0.2, 50, 5000

Outputs = Callable[[pl.DataFrame], np.ndarray]
"""From rows to probabilities (rows, classes), or numbers (rows,) in the unit of `Task.encoded`."""


class Learner(NamedTuple):
    """A learner of tables.

    package : that it comes with; train : returns what predicts; slow : whether it gets fewer splits and rows
    """

    package: str
    train: Callable[..., Outputs]
    slow: bool = False


def own(split: Split, **settings: Any) -> Outputs:
    """fastmlp's, with settings of `TableClassifier` or `TableRegressor`."""
    from fastmlp import TableClassifier, TableRegressor

    kind = TableClassifier if _classifies(split) else TableRegressor
    return kind(random_state=split.seed, threads=1, **settings).fit(split.frame, split.y).outputs


def lightgbm(split: Split) -> Outputs:
    import lightgbm

    kind = lightgbm.LGBMClassifier if _classifies(split) else lightgbm.LGBMRegressor
    model = kind(n_estimators=MOST_ROUNDS, random_state=split.seed, n_jobs=1, verbose=-1)
    columns, parts = Columns(split.frame), Parts(split)
    X, y = columns(split.frame), parts.y
    stop = lightgbm.early_stopping(PATIENCE, verbose=False)
    held = (X.iloc[parts.stop], y[parts.stop])
    model.fit(X.iloc[parts.rows], y[parts.rows], eval_set=[held], callbacks=[stop])
    return _outputs(model, columns)


def xgboost(split: Split) -> Outputs:
    import xgboost

    kind = xgboost.XGBClassifier if _classifies(split) else xgboost.XGBRegressor
    model = kind(
        n_estimators=MOST_ROUNDS, early_stopping_rounds=PATIENCE, enable_categorical=True, n_jobs=1,
        random_state=split.seed,
    )  # fmt: skip
    columns, parts = Columns(split.frame), Parts(split)
    X, y = columns(split.frame), parts.y
    held = (X.iloc[parts.stop], y[parts.stop])
    model.fit(X.iloc[parts.rows], y[parts.rows], eval_set=[held], verbose=False)
    return _outputs(model, columns)


def catboost(split: Split) -> Outputs:
    import catboost

    kind = catboost.CatBoostClassifier if _classifies(split) else catboost.CatBoostRegressor
    columns, parts = Columns(split.frame, texts=True), Parts(split)
    model = kind(
        early_stopping_rounds=PATIENCE, cat_features=columns.categories, random_seed=split.seed,
        thread_count=1, verbose=False, allow_writing_files=False,
    )  # fmt: skip
    X, y = columns(split.frame), parts.y
    model.fit(X.iloc[parts.rows], y[parts.rows], eval_set=(X.iloc[parts.stop], y[parts.stop]))
    return _outputs(model, columns)


def histogram_boosting(split: Split) -> Outputs:
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    kind = HistGradientBoostingClassifier if _classifies(split) else HistGradientBoostingRegressor
    model = kind(
        early_stopping=True, max_iter=MOST_ROUNDS, n_iter_no_change=PATIENCE, validation_fraction=STOP_SHARE,
        random_state=split.seed,
    )  # fmt: skip
    columns = Columns(split.frame)
    return _outputs(model.fit(columns(split.frame), split.task.encoded(split.y)), columns)


def realmlp(split: Split) -> Outputs:
    from pytabkit import RealMLP_TD_Classifier, RealMLP_TD_Regressor

    if _classifies(split):
        model = RealMLP_TD_Classifier(**_ON_CPU, random_state=split.seed, use_ls=False, **_BY_LOG_LOSS)
    else:
        model = RealMLP_TD_Regressor(**_ON_CPU, random_state=split.seed)
    return _of_pytabkit(model, split)


def tabm(split: Split) -> Outputs:
    from pytabkit import TabM_D_Classifier, TabM_D_Regressor

    if _classifies(split):
        model = TabM_D_Classifier(**_ON_CPU, random_state=split.seed, **_BY_LOG_LOSS)
    else:
        model = TabM_D_Regressor(**_ON_CPU, random_state=split.seed)
    return _of_pytabkit(model, split)


_ON_CPU, _BY_LOG_LOSS = {"device": "cpu", "n_threads": 1}, {"val_metric_name": "cross_entropy"}

LEARNERS = {
    "fastmlp": Learner("fastmlp", own),
    "CatBoost": Learner("catboost", catboost),
    "LightGBM": Learner("lightgbm", lightgbm),
    "XGBoost": Learner("xgboost-cpu", xgboost),
    "HistGradientBoosting": Learner("scikit-learn", histogram_boosting),
    "RealMLP-TD": Learner("pytabkit", realmlp, slow=True),
    "TabM-D": Learner("pytabkit", tabm, slow=True),
}


def learner_of(name: str) -> tuple[Learner, dict[str, Any]]:
    """Return a learner and its settings; those of fastmlp's follow its name, as fastmlp:epochs=50,l2=0.1."""
    base, _, text = name.partition(":")
    if base not in LEARNERS or (text and base != "fastmlp"):
        raise SystemExit(f"unknown learner {name!r}; choose from: {', '.join(LEARNERS)}")
    return LEARNERS[base], _settings(text)


def _settings(text: str) -> dict[str, Any]:
    """Return settings that are written as the arguments of a call; a name, as in preset=best, is a text."""
    try:
        call = ast.parse(f"dict({text})", mode="eval").body
    except SyntaxError:
        call = None
    if not isinstance(call, ast.Call) or call.args or any(one.arg is None for one in call.keywords):
        raise SystemExit(f"unknown settings {text!r}; write them as epochs=50,hidden=(64,64),preset=best")
    return {one.arg: _value(one.value) for one in call.keywords}


def _value(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


class Columns:
    """Columns as frames of pandas', with the levels of the training part.

    texts : categories as texts, as CatBoost takes them; filled : numbers that are missing are the mean, as
    pytabkit's networks want them
    """

    def __init__(self, frame: pl.DataFrame, texts: bool = False, filled: bool = False) -> None:
        self.texts = texts
        self.levels = {
            place: sorted(frame[name].cast(pl.String).drop_nulls().unique())
            for place, name in enumerate(frame.columns)
            if not frame[name].dtype.is_numeric()
        }
        numeric = [place for place in range(frame.width) if place not in self.levels]
        self.means = {place: frame[:, place].mean() for place in numeric if filled}

    @property
    def categories(self) -> list[str]:
        return [f"x{place}" for place in self.levels]

    def __call__(self, frame: pl.DataFrame) -> pd.DataFrame:
        columns = {}
        for place, column in enumerate(frame.get_columns()):
            if place not in self.levels:
                numbers = column.cast(pl.Float64)
                columns[f"x{place}"] = numbers.fill_null(self.means.get(place, np.nan)).to_numpy()
            elif self.texts:
                columns[f"x{place}"] = column.cast(pl.String).fill_null("missing").to_list()
            else:
                columns[f"x{place}"] = pd.Categorical(column.cast(pl.String).to_list(), self.levels[place])
        return pd.DataFrame(columns)


class Parts:
    """The training part in two: rows to learn from, and rows that end the training."""

    def __init__(self, split: Split) -> None:
        self.y = split.task.encoded(split.y)
        self.rows, self.stop = train_test_split(
            np.arange(len(self.y)),
            test_size=STOP_SHARE,
            random_state=split.seed,
            stratify=self.y if _classifies(split) else None,
        )


def _classifies(split: Split) -> bool:
    return isinstance(split.task, Classification)


def _outputs(model: Any, columns: Columns) -> Outputs:
    predict = getattr(model, "predict_proba", model.predict)
    return lambda frame: predict(columns(frame))


def _of_pytabkit(model: Any, split: Split) -> Outputs:
    columns, parts = Columns(split.frame, filled=True), Parts(split)
    X = columns(split.frame)
    model.fit(X, parts.y, val_idxs=np.sort(parts.stop), cat_col_names=columns.categories)
    return _outputs(model, columns)
