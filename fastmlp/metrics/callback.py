"""The callback of `fit(metrics=)`, which measures after every epoch."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastmlp import checks
from fastmlp.callbacks.callback import Callback, Metric, Run
from fastmlp.metrics.formulas import FORMULAS, Measure, chosen, likely, truth
from fastmlp.model.backend import Array, Data
from fastmlp.model.heads import Objective, columns_of_heads
from fastmlp.model.network import Network
from fastmlp.model.rows import unpacked
from fastmlp.trained.model import Model
from fastmlp.training.ranks import Ranks

Given = list[Metric] | dict[str, list[Metric]]
"""The metrics of a network, or of heads by name."""


class Named(NamedTuple):
    """A metric with a name; on(y, weights) returns the measure. weights : None if all are 1"""

    name: str
    on: Callable[[Array, Array | None], Measure]


class Measured(NamedTuple):
    """Outputs of a network or of a head, with metrics."""

    columns: slice
    objective: Objective
    metrics: list[Named]

    def measures_on(self, data: Data) -> tuple[Any, list[tuple[str, Measure]]]:
        """Return the rows with targets, and the measures on these rows by name."""
        targets = data.targets[:, self.columns]
        there: Any = ~np.isnan(targets).any(axis=1)
        there = slice(None) if there.all() else there
        y = truth(self.objective, targets[there]).view()
        y.flags.writeable = False  # it may be the targets themselves
        weights = data.weights[there]
        given = None if (weights == 1).all() else weights
        return there, [(name, on(y, given)) for name, on in self.metrics]


class Metrics(Callback):
    """Writes metrics of sets of rows to the history after every epoch.

    rows : by the prefix of a metric's name in the history, this rank's rows to predict
    ranks : the first rank measures, on all ranks' rows
    """

    def __init__(self, measured: list[Measured], rows: dict[str, Data], ranks: Ranks) -> None:
        self._measured, self._rows, self._ranks = measured, rows, ranks
        self.names = [prefix + metric.name for prefix in rows for one in measured for metric in one.metrics]
        """Curves of the history, written by the callback."""

    def on_train_begin(self, run: Run) -> None:
        """Prepare the measures of each set of rows."""
        gathered = self._ranks.gathered
        self._known = [
            (prefix, one.columns, *one.measures_on(data._replace(targets=targets, weights=weights)))
            for prefix, data in self._rows.items()
            for targets, weights in [(gathered(data.targets), gathered(data.weights))]
            for one in self._measured
        ]

    def on_epoch_end(self, run: Run) -> None:
        """Predict every row once, and measure."""
        model = Model(run.network, run.parameters, {}, run._backend(), None)
        predicted = {}
        for prefix, data in self._rows.items():
            outputs = model.forward(unpacked(data.inputs)) if len(data.weights) else data.targets
            predicted[prefix] = self._ranks.gathered(outputs)
        values: list[float] = []
        with self._ranks.raise_on_all_ranks():
            if self._ranks.first:
                values = [*self._values(predicted)]
        for name, value in zip(self.names, self._ranks.of_first(values), strict=True):
            run.history.setdefault(name, []).append(value)

    def _values(self, predicted: dict[str, Array]) -> Iterable[float]:
        for prefix, columns, rows, measures in self._known:
            outputs = predicted[prefix][rows, columns]
            outputs = outputs[:, 0] if outputs.shape[1] == 1 else outputs
            outputs.flags.writeable = False  # all metrics read the same
            for name, measure in measures:
                try:
                    yield float(measure(outputs))
                except (ValueError, TypeError, ZeroDivisionError) as error:
                    raise ValueError(f"metric {name!r}: {str(error).splitlines()[0]}") from error


def checked_metrics(metrics: Any, network: Network) -> Given:
    """Return checked metrics as a new list, with heads a dict of lists; TypeError for other values."""
    if not (names := network.head_names):
        return _listed("metrics", metrics)
    if not isinstance(metrics, Mapping):
        if _listed("metrics", metrics):
            heads = ", ".join(names)
            raise TypeError(f"metrics must be a dict of lists for {heads}; got {checks.shown(metrics)}")
        return {}
    return {
        checks.choice("head with metrics", name, names): _listed(f"metrics[{name!r}]", of_head)
        for name, of_head in metrics.items()
    }


def _listed(what: str, metrics: Any) -> list[Metric]:
    # The check of abstract classes takes 1 us.
    if type(metrics) not in (tuple, list) and (
        isinstance(metrics, (str, Mapping)) or not isinstance(metrics, Iterable)
    ):
        raise TypeError(f"{what} must be a list of names and functions, got {checks.shown(metrics)}")
    return [*metrics]


def metrics_of(
    metrics: Given,
    on_training: bool,
    network: Network,
    data: Data | None,
    held_out: Data | None,
    ranks: Ranks,
) -> list[Metrics]:
    """Return the callback of metrics, in a list; an empty list without metrics. Errors as of `fit`.

    data : the training rows, None unless all are in memory; held_out : the validation rows; both of this rank
    """
    measured = [*_measured(metrics, network)]
    names = [one.name for part in measured for one in part.metrics]
    if not names:
        return []
    if twice := {name for name in names if names.count(name) > 1 or _is_taken(name, network)}:
        raise ValueError(f"every metric needs a name of its own, got {', '.join(sorted(twice))}")
    rows = {} if held_out is None else {"validation_": held_out}
    if on_training:
        if data is None:
            raise ValueError("training_metrics needs all rows in memory, and these come block by block")
        rows[""] = data
    if not rows:
        raise ValueError("metrics need fit(validation=...), of rows in memory, or training_metrics=True")
    return [Metrics(measured, rows, ranks)]


def _measured(metrics: Given, network: Network) -> Iterable[Measured]:
    """Yield the outputs with metrics, of all outputs or of each head."""
    if isinstance(metrics, list):
        yield Measured(slice(None), network.objective, [_named(one, network.objective) for one in metrics])
        return
    columns = columns_of_heads(network.heads)
    for head, given in metrics.items():
        objective = network.heads[head].objective
        yield Measured(columns[head], objective, [_named(one, objective, f"{head}_") for one in given])


def _is_taken(name: str, network: Network) -> bool:
    """Return True if another curve of the history may have this name."""
    return name in network.loss_curves or name.startswith("validation_")


def _named(metric: Metric, objective: Objective, prefix: str = "") -> Named:
    if isinstance(metric, str):
        return Named(prefix + metric, _by_name(metric, objective))
    name = getattr(metric, "__name__", "")
    if not callable(metric) or not name.isidentifier():
        raise TypeError(f"a metric is a name, or a function that has one, got {checks.shown(metric)}")
    return Named(prefix + name, lambda y, weights: lambda outputs: metric(y, outputs))


def _by_name(name: str, objective: Objective) -> Callable[[Array, Array | None], Measure]:
    """Return the maker of a measure, by the name of a scorer or metric of scikit-learn's."""

    if name not in FORMULAS:
        return _of_scikit_learn(name, objective)

    def on(y: Array, weights: Array | None) -> Measure:
        sign, make = FORMULAS[name]
        metric = make(objective, y, weights)
        if metric is None:
            return _of_scikit_learn(name, objective)(y, weights)

        def measure(outputs: Array) -> float:
            with np.errstate(over="ignore", invalid="ignore"):
                value = sign * metric(outputs)
                if math.isfinite(value):
                    return value
                return _of_scikit_learn(name, objective)(y, weights)(outputs)  # which says what is wrong

        return measure

    return on


def _of_scikit_learn(name: str, objective: Objective) -> Callable[[Array, Array | None], Measure]:
    """Return the maker of a measure by scikit-learn's function."""
    from sklearn import metrics

    scorers = {one: metrics.get_scorer(one) for one in metrics.get_scorer_names()}
    sign = 1
    if name in scorers:
        scorer = scorers[name]
        sign, function = scorer._sign, scorer._score_func
    else:
        function = getattr(metrics, name, None)
        if not inspect.isfunction(function) or name not in metrics.__all__:
            raise ValueError(
                f"no metric is named {name!r}; choose from sklearn.metrics.get_scorer_names(), or functions "
                "of sklearn.metrics; or give a function f(y, output)"
            )
        scorer = next((one for one in scorers.values() if one._score_func is function), None)
    options = {} if scorer is None else dict(scorer._kwargs)
    takes = inspect.signature(function).parameters
    if "pos_label" in options and options["pos_label"] is None:
        del options["pos_label"]
    of_likely = scorer is not None and scorer._response_method != "predict"
    if of_likely and "labels" in takes and (objective.output == "softmax" or objective.n_out == 1):
        options.setdefault("labels", np.arange(max(2, objective.n_out)))  # rows may lack a class
    predicted = likely if of_likely else chosen

    def on(y: Array, weights: Array | None) -> Measure:
        weighted = {} if weights is None or "sample_weight" not in takes else {"sample_weight": weights}
        return lambda outputs: float(sign * function(y, predicted(objective, outputs), **options, **weighted))

    return on
