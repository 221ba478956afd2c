"""Recipes of the learner of tables beside its defaults: python -m benchmarks.tables.recipes.

    python -m benchmarks.tables.recipes                        # what the file of results has not yet
    python -m benchmarks.tables.recipes --names good prelu CatBoost --splits 2
    python -m benchmarks.tables.recipes --names good --tables Wages1 --again
    python -m benchmarks.tables.page                           # the rows in docs/measured/tables.md

It trains on the tables to choose by, of at most 3000 training rows, in this process, which keeps to one core.
A line of the file of results is a table's; a run that was ended goes on where it was. Seconds are those of
the processor, without compiling. Separate from `benchmarks.tables`, which compares what a user can ask for.
"""

import argparse
import itertools
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from fastmlp.model.layers import Dense
from fastmlp.system.compiling import seconds_compiling
from fastmlp.tables import selection
from fastmlp.tables.estimators import TableClassifier, TableRegressor
from fastmlp.tables.recipe import Recipe
from fastmlp.tables.tasks import Classification

from .. import processes
from .extended import EmbeddedLevels, InDense, Learning, coded
from .learners import LEARNERS, Outputs
from .rows import Row, add_rows, version_of
from .sets import CHOOSE, FEW_ROWS, Split, judged, split_of
from .tried import TRIED, Tried

RESULTS = Path(__file__).with_name("recipes.jsonl")
FILES = "benchmarks/tables/tried.py", "benchmarks/tables/extended.py"
"""Files that recipes stand in: a row of theirs is that of a commit of fastmlp and of these."""

PEER = "CatBoost"
"""Trained by the same command, since its seconds are compared."""

NAMES = (*TRIED, PEER)

COMPILED_SHARE = 0.5
"""Of a training's time: one that spent more of it on compiling is done again."""


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tables.recipes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--names", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help="default all"
    )
    parser.add_argument("--tables", nargs="+", choices=tuple(CHOOSE), default=tuple(CHOOSE), metavar="TABLE")
    parser.add_argument("--splits", type=int, default=1, help="default %(default)s")
    parser.add_argument("--again", action="store_true", help="rows that are there, too")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FILE")
    parser.add_argument("--core", type=int, default=processes.allowed()[-1], help="default the last one")
    options = parser.parse_args()
    processes.pin({options.core})
    warnings.filterwarnings("ignore")
    versions = dict.fromkeys(TRIED, version_of("fastmlp", *FILES))
    if PEER in options.names:
        versions[PEER] = version_of(LEARNERS[PEER].package)
    for table in options.tables:
        version_of(CHOOSE[table].package)
    planned = (
        {"name": name, "table": table, "split": split, "version": versions[name]}
        for split, name, table in itertools.product(range(options.splits), options.names, options.tables)
    )
    add_rows(
        options.results,
        planned,
        lambda row: _measured(row["name"], split_of(row["table"], row["split"], FEW_ROWS)),
        _in_words,
        options.again,
    )


def _in_words(row: Row) -> str:
    return f"{row['name']}, {row['table']}, split {row['split']}: {row['loss']:.4f}, {row['seconds']:.1f} s"


def _measured(name: str, split: Split) -> dict[str, float]:
    """Return score, loss and seconds of what is trained on a split."""
    while True:
        processor, clock, compiled = time.process_time(), time.perf_counter(), seconds_compiling()
        outputs = LEARNERS[PEER].train(split) if name == PEER else trained(TRIED[name], split)
        share = (seconds_compiling() - compiled) / (time.perf_counter() - clock)
        seconds = (time.process_time() - processor) * (1 - share)
        if share <= COMPILED_SHARE:
            score, loss = judged(split, outputs(split.held))
            return {"score": score, "loss": loss, "seconds": round(seconds, 3)}


class Given:
    """An estimator whose recipes are those that it is given."""

    recipes: tuple[Recipe, ...]
    codes: bool = True

    def _recipes(self) -> tuple[Recipe, ...]:
        return self.recipes

    def learn(self, *given: Any) -> None:
        """Learn the columns, as `fit` does; categories are codes where recipes embed them."""
        super().learn(*given)
        if not self.codes:
            self.encoding_ = replace(self.encoding_, codes=())
        if any(isinstance(one, EmbeddedLevels) for one in self.recipes):
            self.encoding_ = InDense.of(self.encoding_, coded)
        elif not all(isinstance(one.layers[0], Dense) for one in self.recipes if one.layers):
            self.encoding_ = InDense.of(self.encoding_)  # what stands before a `Dense` takes no sparse X

    def train(self, X: Any, y: np.ndarray, *more: Any) -> None:
        """Train with the recipes, of which some learn from X and y before."""
        self.recipes = tuple(
            one.learned(X, y, self.encoding_) if isinstance(one, Learning) else one for one in self.recipes
        )
        super().train(X, y, *more)


class GivenClassifier(Given, TableClassifier):
    """A classifier of given recipes."""


class GivenRegressor(Given, TableRegressor):
    """A regressor of given recipes."""


def trained(tried: Tried, split: Split, **settings: Any) -> Outputs:
    """Return what predicts after a training of a split; settings : of the estimator"""
    kind = GivenClassifier if isinstance(split.task, Classification) else GivenRegressor
    estimator = kind(random_state=split.seed, threads=1, **settings)
    estimator.recipes, estimator.codes = tried.recipes, tried.codes
    with mock.patch.object(selection, "LEAST_FOLDS", tried.parts):
        return estimator.fit(split.frame, split.y).outputs


if __name__ == "__main__":
    main()
