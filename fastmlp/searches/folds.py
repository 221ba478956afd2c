"""A search's task in short: rows of a fold are taken and preprocessed once for all candidates.

scikit-learn's function takes longer than a small network's fit without training: the function copies the rows
anew, and checks, describes and applies a pipeline. Here the same result is made without a waiting thread. In
unclear cases, and after any error, the task calls scikit-learn's function.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import signal
import time
import traceback
import warnings
from collections.abc import Generator, Iterator
from numbers import Integral, Number
from types import CodeType
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from sklearn import config_context
from sklearn.base import clone
from sklearn.metrics._scorer import _MultimetricScorer, _PassthroughScorer, _Scorer
from sklearn.model_selection._validation import _fit_and_score  # read here as in scikit-learn 1.7 to 1.9
from sklearn.pipeline import Pipeline
from sklearn.utils.metaestimators import _safe_split
from sklearn.utils.validation import _num_samples

from fastmlp.callbacks.callback import Run
from fastmlp.estimators.base import Perceptron, give
from fastmlp.estimators.classifier import MLPClassifier
from fastmlp.estimators.regressor import MLPRegressor
from fastmlp.searches.tasks import FOLD, Call, TaskThread, key_after, set_warning_state, warning_state
from fastmlp.training.training import Training

NETWORKS = (MLPClassifier, MLPRegressor)
"""A derived class of a user may do anything."""

READ = {
    "scorer", "train", "test", "verbose", "parameters", "fit_params", "score_params", "return_train_score",
    "return_parameters", "return_n_test_samples", "return_times", "return_estimator", "split_progress",
    "candidate_progress", "error_score", "caller", "callback_ctx",
}  # fmt: skip
"""The known named arguments of scikit-learn's function."""

PIPELINE_PARAMETERS = {*Pipeline._get_param_names()}
"""No step may have such a name."""


class Fold:
    """The rows of a fold, shared by tasks. train, test : (X, y)"""

    def __init__(self, estimator: Any, X: Any, y: Any, train: Any, test: Any) -> None:
        train, test = np.asarray(train), np.asarray(test)
        self.train = _safe_split(estimator, X, y, train)
        self.test = _safe_split(estimator, X, y, test, train)
        self._transformed: dict[Any, Any] = {}

    def transformed(self, of: str, steps: list[tuple[Any, Any]]) -> tuple[Any, Any]:
        """Return (X, y) of the rows "train" or "test" after fitted steps, given with keys."""
        X, y = getattr(self, of)
        for key, step in steps:
            if (of, key) not in self._transformed:
                self._transformed[of, key] = step.transform(copy.deepcopy(X))  # it may write to its rows
            X = self._transformed[of, key]
        return X, y


class FoldFit(NamedTuple):
    """A network's fit on a fold, up to the training.

    steps : before the network, fitted, each with its key
    """

    network: Perceptron
    fold: Fold
    steps: list[tuple[Any, Any]]
    fitting: Generator[Training, Run, None]
    training: Training


class SharedFolds:
    """The folds and steps shared by a group's tasks. steps : `fitted_steps` of `shared_steps`"""

    def __init__(self, steps: dict[Any, Any]) -> None:
        self.steps = steps
        self._folds: WeakValueDictionary[Any, Fold] = WeakValueDictionary()
        self._filters: dict[int, Any] = {}

    @contextlib.contextmanager
    def as_called(self, function: Any, seen: list[Any], **config: Any) -> Iterator[None]:
        """Enter the warning filters and configuration of scikit-learn's calls.

        seen : the list to which warnings are added, unshown
        """
        key = id(function.warning_filters)
        if key not in self._filters:
            asked = copy.copy(function)
            asked.function = warning_state
            self._filters[key] = asked()
        filters, *shown = self._filters[key]
        set_warning_state(([*filters], *shown))  # that a task leaves, the group replaces for the next one
        with config_context(**function.config | config), warnings.catch_warnings(record=True) as added:
            yield
        seen.extend(added)

    def fold_of(self, call: Call) -> tuple[Any, Fold]:
        """Return the key of a fold's training rows, and the fold."""
        _, (estimator, X, y), named = call
        read = {"X": X, "y": y, **named}
        rows = tuple(id(read[name]) for name in FOLD)
        key = *rows, id(named["test"])
        fold = self._folds.get(key)
        if fold is None:
            fold = self._folds[key] = Fold(estimator, X, y, named["train"], named["test"])
        return rows, fold

    def begun(self, call: Call) -> FoldFit | None:
        """Return a call's fit up to the training; None if scikit-learn must fit."""
        function: Any = call[0]
        _, (estimator, *_), named = call
        network = network_in(estimator, named["parameters"])
        if network is None:
            return None
        rows, fold = self.fold_of(call)
        X, y = fold.train
        steps = []
        for _, step in [] if network is estimator else estimator.steps[:-1]:
            if step is None or step == "passthrough":
                continue
            rows = key_after(rows, step)
            if rows not in self.steps:  # a first task, which fits the step, or one that may differ each time
                return None
            X, fitted = self.steps[rows]
            steps.append((rows, fitted))
        if not function.config["skip_parameter_validation"]:
            network._validate_params()
        fitting = network.fitting(X, y, None, None, among_others=True)
        return FoldFit(network, fold, steps, fitting, next(fitting))


def fit_and_score(task: TaskThread, shared: SharedFolds) -> Generator[None, None, list[Any] | None]:
    """Make a task's call in two parts, before and after the training; return the result.

    None, at any time, if scikit-learn's function must be called. Errors of a signal's handler are raised.
    """
    if len(task.calls) != 1:
        return None
    call = task.calls[0]
    function, _, named = call
    times = [time.time()]
    seen: list[Any] = []
    try:
        if not is_plain(call):
            return None
        with shared.as_called(function, seen, skip_parameter_validation=True):
            begun = shared.begun(call)
        if begun is None:
            return None
        awaited = task.group.add_training(task, begun.training)
    except Exception as error:
        if is_of_a_signal(error):
            raise
        return None
    times.append(time.time())
    yield
    times.append(time.time())
    try:
        with shared.as_called(function, seen):
            give(begun.fitting, awaited.taken_over())
            times.append(time.time())
            found = scores(named["scorer"], begun, "test")
            times.append(time.time())
            result = {"fit_error": None, "test_scores": found}
            if named.get("return_train_score"):
                result["train_scores"] = scores(named["scorer"], begun, "train")
        for one in seen:  # only now: after an error the function is called anew, and gives them itself
            warnings.showwarning(one.message, one.category, one.filename, one.lineno, one.file, one.line)
    except Exception as error:
        if is_of_a_signal(error):
            raise
        return None
    before, _, after, score_time = np.diff(times).tolist()
    more = {
        "n_test_samples": ("return_n_test_samples", _num_samples(begun.fold.test[0])),
        "fit_time": ("return_times", before + awaited.seconds + after),
        "score_time": ("return_times", score_time),
        "parameters": ("return_parameters", named["parameters"]),
    }
    return [result | {name: value for name, (asked, value) in more.items() if named.get(asked)}]


def is_of_a_signal(error: Exception) -> bool:
    """Return True for an error of a signal's handler, which would not come again."""
    handlers = {code_of(signal.getsignal(number)) for number in signal.valid_signals()}
    return any(frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__))


def code_of(handler: Any) -> CodeType | None:
    """Return the code of a function, method, partial function or callable object, or None."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    if callable(handler) and not hasattr(handler, "__code__"):
        handler = type(handler).__call__
    return getattr(handler, "__code__", None)


def is_plain(call: Call) -> bool:
    """Return True for a call of scikit-learn's function with known options only."""
    function: Any
    function, _, named = call
    if getattr(function, "function", None) is not _fit_and_score or not READ.issuperset(named):
        return False
    return not (
        not function.warning_filters  # without any scikit-learn warns
        or function.config["enable_metadata_routing"]
        or function.config["array_api_dispatch"]
        or named["fit_params"]
        or named["score_params"]
        or named["verbose"] > 1
        or named.get("return_estimator")
        or getattr(named.get("callback_ctx"), "_callbacks", ())
        or not reads_predictions(named["scorer"])
    )


def reads_predictions(scorer: Any) -> bool:
    """Return True for a scorer of scikit-learn's that reads predictions only."""
    if type(scorer) is _MultimetricScorer:
        return all(map(reads_predictions, scorer._scorers.values()))
    return type(scorer) in (_Scorer, _PassthroughScorer)


def is_plain_pipeline(pipeline: Pipeline) -> bool:
    """Return True if a pipeline is valid, and only applies its steps."""
    names = [name for name, _ in pipeline.steps]
    return (
        pipeline.memory is None
        and pipeline.verbose is False
        and getattr(pipeline, "transform_input", None) is None
        and len({*names}) == len(names)
        and not any("__" in name or name in PIPELINE_PARAMETERS for name in names)
    )


def network_in(estimator: Any, parameters: Any) -> Perceptron | None:
    """Return the network of an estimator or pipeline, with parameters set.

    None for a network that does more than fit, or cannot begin a fit twice.
    """
    network, prefix = estimator, ""
    if type(estimator) is Pipeline:
        if not is_plain_pipeline(estimator):
            return None
        name, network = estimator.steps[-1]
        prefix = f"{name}__"
    if type(network) not in NETWORKS or any("_skl_callbacks" in vars(one) for one in (estimator, network)):
        return None
    if parameters:
        parameters = clone(parameters, safe=False)
        if not all(name.startswith(prefix) for name in parameters):
            estimator.set_params(**parameters)
            return network_in(estimator, None)
        network.set_params(**{name.removeprefix(prefix): value for name, value in parameters.items()})
    alone = network.solver == "lbfgs" or network.warm_start
    seen = network.verbose or network.progress or len(network.callbacks)
    seeded = network.random_state is None or isinstance(network.random_state, Integral)
    return network if seeded and not alone and not seen else None


def scores(scorer: Any, fit: FoldFit, of: str) -> Any:
    """Return the scores of the rows "train" or "test"; TypeError unless scores are numbers."""
    X, y = fit.fold.transformed(of, fit.steps)
    if type(scorer) is _MultimetricScorer:
        scorer = _MultimetricScorer(scorers=scorer._scorers, raise_exc=True)  # an error, and not its text
    found = scorer(fit.network, X, copy.deepcopy(y))  # a metric may write to it
    return {name: number(one) for name, one in found.items()} if isinstance(found, dict) else number(found)


def number(score: Any) -> Any:
    """Return a score as a Python number where possible."""
    if hasattr(score, "item"):
        with contextlib.suppress(ValueError):
            score = score.item()
    if not isinstance(score, Number):
        raise TypeError(f"a score must be a number, got {score!r}")
    return score
