"""One picture of a search: its scores over each parameter, and over the budget of a halving one."""

from __future__ import annotations

from collections import defaultdict
from numbers import Real
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.system.packages import needed

LOG_RATIO = 20.0
"""A parameter whose values differ by more than this factor is shown on a logarithmic scale."""


def plot(search: Any, metric: str | None) -> Any:
    """Return a matplotlib Figure of a fitted search's results; see `GridSearchCV.plot`."""
    results = search.cv_results_
    names = [name.removeprefix("mean_test_") for name in results if name.startswith("mean_test_")]
    if metric is None:
        metric = search.refit if search.refit in names else names[0]
    checks.choice("metric", metric, names)
    needed("matplotlib", "plot", "a picture")
    from matplotlib.figure import Figure

    budget = results.get("n_resources")
    spent = None if budget is None else f"param_{search.resource}"  # which has a panel of its own
    parameters = [name for name in results if name.startswith("param_") and name != spent]
    panels = len(parameters) + (budget is not None)
    figure = Figure(figsize=(4.2 * panels, 3.8), layout="constrained")
    axes = [*figure.subplots(1, panels, sharey=True, squeeze=False)[0]]
    means, deviations = results[f"mean_test_{metric}"], results[f"std_test_{metric}"]
    axes[0].set_ylabel(metric)
    for one, name in zip(axes, parameters, strict=False):
        places = _places(one, results[name])
        shown = {"fmt": ".", "color": "0.7", "zorder": 1}
        one.errorbar(places, means, yerr=deviations, **shown)
        one.scatter(places, means, c=means if budget is None else budget, zorder=2)
        one.set_xlabel(name.removeprefix("param_").rpartition("__")[2])
    if budget is not None:
        _draw_budget(axes[-1], results["params"], budget, means, search.resource)
    return figure


def _places(axes: Any, values: Any) -> Any:
    """Return where values of a parameter stand on the axis, which it sets up; NaN where there is none."""
    given = [None if value is np.ma.masked else value for value in values]
    numbers = [value for value in given if value is not None]
    if all(isinstance(value, Real) and not isinstance(value, bool) for value in numbers):
        places = np.array([np.nan if value is None else float(value) for value in given])
        if min(numbers) > 0 and max(numbers) > LOG_RATIO * min(numbers):
            axes.set_xscale("log")
        return places
    texts = list(dict.fromkeys(map(str, given)))
    axes.set_xticks(range(len(texts)), texts)
    return np.array([texts.index(str(value)) for value in given])


def _draw_budget(axes: Any, candidates: Any, budget: Any, means: Any, resource: str) -> None:
    """Draw a line for each candidate, as far as it came."""
    lines = defaultdict(list)
    for candidate, spent, mean in zip(candidates, budget, means, strict=True):
        own = {name: value for name, value in candidate.items() if name != resource}
        lines[repr(own)].append((spent, mean))
    for points in lines.values():
        axes.plot(*zip(*points, strict=True), ".-", alpha=0.7)
    axes.set(xscale="log", xlabel=resource.rpartition("__")[2])
    axes.set_xticks(np.unique(budget), map(str, np.unique(budget)))
    axes.minorticks_off()
