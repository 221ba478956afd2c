"""Settings of an estimator of tables: refused where they are wrong, and made into recipes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.backend.registry import backends, mixed_backend
from fastmlp.model.activations import Activation
from fastmlp.model.layers import Dense, checked_layers
from fastmlp.model.network import Network
from fastmlp.model.optimizers import BY_NAME
from fastmlp.model.state import is_bfloat16
from fastmlp.tables.recipe import MOST_MEMBERS, PRESETS, Recipe, candidates
from fastmlp.tables.tasks import check_transform, costs_of
from fastmlp.tables.writings import Writing

Settings = Mapping[str, Any]
"""An estimator's parameters by their names; None where it shall choose."""


def check(settings: Settings) -> None:
    """Raise ValueError or TypeError for settings that are wrong, but for those of recipes and the dtype."""
    if is_bfloat16(settings["dtype"]):
        mixed_backend(settings["backend"])
    else:
        checks.choice("backend", settings["backend"], ("auto", *backends()))
    for name in ("threads", "levels"):
        if settings[name] is not None:
            checks.whole(name, settings[name], 1)
    for name in ("time", "group"):
        if settings[name] is not None:
            checks.instance(name, settings[name], str, "the name of a column")
    if isinstance(threshold := settings.get("threshold"), str):
        threshold == "balanced" or costs_of(threshold)
    elif threshold is not None:
        checks.real("threshold", threshold, 0, 1, open_low=True, open_high=True)
    if "loss" in settings:
        check_transform(settings["loss"], settings["target_transform"])
    if (monotone := settings["monotone"]) is not None:
        checks.instance("monotone", monotone, Mapping, "a mapping of names of columns to 1 or -1")
        for name, sign in monotone.items():
            checks.whole(f"monotone[{name!r}]", sign, -1, 1)
    if settings["columns"] is not None and not isinstance(settings["columns"], Mapping):
        raise TypeError(f"columns must map names to kinds, got {checks.shown(settings['columns'])}")
    for name, kind in (settings["columns"] or {}).items():
        if not isinstance(kind, str):
            is_pair = isinstance(kind, Sequence) and [*map(type, kind)] == [str, str]
            if not is_pair:
                raise TypeError(f"kind of column {name!r} must be a text, or two, got {checks.shown(kind)}")
            Writing(str(name), *kind)
    if (missing := settings["missing"]) is not None:
        is_sequence = isinstance(missing, Sequence) and not isinstance(missing, str)
        if not (is_sequence and all(isinstance(text, str) for text in missing)):
            raise TypeError(f"missing must be a sequence of texts, got {checks.shown(missing)}")
    for name in ("search", "time_limit"):
        if settings[name] is not None:
            checks.real(name, settings[name], 0, open_low=True)
    if settings["search"] is not None and len(fixed(settings)) == 2:
        raise ValueError("search has nothing to search: hidden layers and learning_rate are given")


def fixed(settings: Settings) -> list[str]:
    """Return what a search must leave as it is: hidden, learning_rate."""
    given = [] if settings["hidden"] is settings["layers"] is None else ["hidden"]
    return given + ([] if settings["learning_rate"] is None else ["learning_rate"])


def _checked_hidden(name: str, widths: object) -> tuple[int, ...]:
    """Return widths of hidden layers; TypeError or ValueError for anything else."""
    if not isinstance(widths, Sequence | np.ndarray) or isinstance(widths, str) or not np.ndim(widths):
        raise TypeError(f"{name} must be widths like (128, 64), got {checks.shown(widths)}")
    return tuple(checks.whole("a hidden layer", width, 1) for width in widths)


def _checked_name(name: str, given: object) -> object:
    """Return a name; TypeError for anything else."""
    checks.instance(name, given, str, "a name")
    return given


_CHECKS: dict[str, Callable[[str, object], Any]] = {
    "members": lambda name, given: checks.whole(name, given, 1, MOST_MEMBERS),
    "epochs": lambda name, given: checks.whole(name, given, 1),
    "batch_size": lambda name, given: checks.whole(name, given, 1),
    "hidden": _checked_hidden,
    "learning_rate": checks.real,
    "dropout": checks.real,
    "l2": checks.real,
    "activation": _checked_name,
}
"""What returns a setting in Python's types, by its name; networks and optimisers check ranges of numbers."""


def recipes_of(settings: Settings) -> tuple[Recipe, ...]:
    """Return the recipes that rows held out decide between; errors as those of `check`."""
    name = settings["preset"]
    preset = "good" if name is None else checks.choice("preset", name, tuple(PRESETS))
    names = {field.name for field in fields(Recipe)}.intersection(settings)
    given = {name: settings[name] for name in names if settings[name] is not None}
    if "optimizer" in given:
        checks.choice("optimizer", given["optimizer"], tuple(BY_NAME))
    given |= {name: check(name, given[name]) for name, check in _CHECKS.items() if name in given}
    if settings["monotone"] and "layers" not in given:
        given = {"activation": "relu"} | given
    if "layers" in given:
        if others := {"hidden", "activation", "dropout"} & given.keys():
            raise ValueError(f"layers says what the hidden layers are; leave out {min(others)}")
        given |= {"hidden": (), "layers": checked_layers(given["layers"])}
        made = Network(inputs=1, layers=[*given["layers"], Dense(1)])
        if any(isinstance(one.activation, Activation) for one in made.operations):
            raise ValueError("layers of a table have activations by name: its file holds no code")
    weight = settings.get("class_weight")
    if weight is not None:
        checks.choice("class_weight", weight, ("balanced",))
    return tuple(replace(one, balanced=weight is not None) for one in candidates(preset, given))
