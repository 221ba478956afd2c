"""One fit in a process of its own: python -m benchmarks.tables.worker TABLE LEARNER SPLIT ROWS CORE.

Prints a line of JSON: the score (accuracy or R^2) and the loss (log loss, or the RMSE over the target's
deviation) on the rows held out, the loss of a constant, seconds of the processor and of the clock, and how
far the process's memory grew, in MB. Reading the table and loading the learner's package are not counted.
"""

import argparse
import importlib
import json
import os
import resource
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from ..processes import pin
from .learners import learner_of
from .sets import Split, judged, split_of


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tables.worker", description=__doc__)
    parser.add_argument("table")
    parser.add_argument("learner")
    for number in ("split", "rows", "core"):
        parser.add_argument(number, type=int)
    options = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not reach the answer
    pin({options.core})
    warnings.filterwarnings("ignore")
    split = split_of(options.table, options.split, options.rows)
    learner, settings = learner_of(options.learner)
    importlib.import_module(MODULES.get(learner.package, learner.package))
    outputs, training = _measured(lambda: learner.train(split, **settings))
    found, predicting = _measured(lambda: outputs(split.held))
    row = dict(zip(("score", "loss"), judged(split, found), strict=True))
    row |= {"constant": judged(split, _constant(split))[1], "train": training, "predict": predicting}
    print(json.dumps(row), file=answers, flush=True)


MODULES = {
    "fastmlp": "fastmlp.tables.estimators",
    "xgboost-cpu": "xgboost",
    "scikit-learn": "sklearn.ensemble",
}
"""Packages whose module has another name."""


def _measured(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clock, processor = time.perf_counter(), time.process_time()
    found = work()
    took = {"seconds": time.perf_counter() - clock, "processor": time.process_time() - processor}
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return found, {name: round(value, 3) for name, value in (took | {"MB": grown}).items()}


def _constant(split: Split) -> np.ndarray:
    row = split.task.constant(split.task.encoded(split.y))
    return np.broadcast_to(row, (len(split.held_y), len(row)))


if __name__ == "__main__":
    main()
