"""Pipeline steps, fitted once for each fold where parameters are equal."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import joblib
import numpy as np
from sklearn.pipeline import Pipeline

from fastmlp.estimators.base import Joint
from fastmlp.estimators.parameters import PLAIN

Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]

FOLD = ("X", "y", "train")
"""Arguments of scikit-learn's functions that say what rows a pipeline is fitted on."""

_signature = functools.lru_cache(maxsize=8)(inspect.signature)
"""It takes as long as scaling the rows of a small search."""


def arguments_of(call: Call) -> dict[str, Any]:
    """Return a call's arguments by name."""
    function, given, named = call
    return _signature(inspect.unwrap(function)).bind(*given, **named).arguments


@contextmanager
def shared_steps(call: Call, kept: dict[Any, Any]) -> Iterator[None]:
    """Let a call's pipeline take over steps fitted on the same rows.

    Only one that ends in a network of fastmlp's, which does not write to its rows, and has no memory of its
    own. kept : what was fitted, of all calls
    """
    pipeline: Any = call[1][0] if call[1] else None
    if type(pipeline) is not Pipeline or pipeline.memory is not None:
        yield
        return
    arguments = arguments_of(call)
    if not all(name in arguments for name in FOLD):
        yield
        return
    steps = pipeline.memory = SharedSteps(pipeline, tuple(id(arguments[name]) for name in FOLD), kept)
    try:
        yield
    finally:
        if pipeline.memory is steps:
            pipeline.memory = None


class SharedSteps:
    """The fitted steps of a pipeline, in place of a joblib.Memory.

    rows : what the first step is fitted on, in a form that is equal for the same rows
    kept : results of all pipelines, by the rows and the steps that led to them
    """

    def __init__(self, pipeline: Pipeline, rows: Any, kept: dict[Any, Any]) -> None:
        self._pipeline, self._kept = pipeline, kept
        self._led: Any = rows
        """The rows and the steps so far; None where others do not have the same."""

    def cache(self, function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
        """Return a function that fits a step, or finds the fitted step."""
        if not isinstance(self._pipeline.steps[-1][1], Joint):
            return function

        def fit_transform(transformer: Any, X: Any, *given: Any, **named: Any) -> Any:
            here = self._led
            self._led = key_after(here, transformer, named.get("params"))
            if self._led in self._kept:
                return self._kept[self._led]
            if here in self._kept:  # the step may write to its rows, and others shall find them
                X = copy.deepcopy(X)
            fitted = function(transformer, X, *given, **named)
            if self._led is not None:
                self._kept[self._led] = fitted
            return fitted

        return fit_transform


def key_after(rows: Any, transformer: Any, routed: Any = None) -> Any:
    """Return the key of the rows after a step; None without a key. rows : the key before the step"""
    hashed = None if rows is None else _hash(transformer, routed)
    return None if hashed is None else (rows, hashed)


def _hash(transformer: Any, routed: Any) -> Any:
    """Return a key of equal transformers; None for a random transformer."""
    if not hasattr(transformer, "get_params"):
        return None
    own = vars(transformer)  # before it is fitted, its parameters
    routed = routed if any((routed or {}).values()) else None
    plain = routed is None and PLAIN.issuperset(map(type, own.values()))
    for name, value in (own if plain else transformer.get_params()).items():
        if name.endswith("random_state") and not isinstance(value, (int, np.integer)):
            return None  # another draw each time
        if name.endswith("copy") and not value:
            return None  # it writes to rows that may be scored later
    if plain:
        return type(transformer), *((name, type(value), value) for name, value in own.items())
    try:
        return str(joblib.hash((transformer, routed)))
    except Exception:  # what cannot be pickled, as a function of a notebook
        return None
