"""Train multi-layer perceptrons on a CPU, fast: Numba kernels behind the API of a NumPy reference."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastmlp import forks  # noqa: F401  # forks wait for the imports that come after it

if TYPE_CHECKING:
    from fastmlp.activations import Activation
    from fastmlp.archive import CheckpointError
    from fastmlp.callbacks import Callback, EarlyStopping, Progress, TimeLimit
    from fastmlp.checkpoint import Checkpoint, load, save
    from fastmlp.divergence import DivergenceError
    from fastmlp.estimators.classifier import MLPClassifier
    from fastmlp.estimators.display import LossCurveDisplay
    from fastmlp.estimators.regressor import MLPRegressor
    from fastmlp.initializers import Normal
    from fastmlp.interrupts import Interrupted
    from fastmlp.losses import Loss, RowLoss
    from fastmlp.model import Model
    from fastmlp.network import Network
    from fastmlp.optimizers import SGD, Adam, AdamW, RMSprop
    from fastmlp.registry import backends
    from fastmlp.rules import Rule
    from fastmlp.schedules import (
        Constant,
        Cosine,
        Exponential,
        InverseScaling,
        StepDecay,
        Warmup,
    )
    from fastmlp.trainer import fit

__version__ = "0.1.0"

_HOME = {
    "activations": ("Activation",),
    "archive": ("CheckpointError",),
    "callbacks": ("Callback", "EarlyStopping", "Progress", "TimeLimit"),
    "checkpoint": ("Checkpoint", "load", "save"),
    "divergence": ("DivergenceError",),
    "estimators.classifier": ("MLPClassifier",),
    "estimators.display": ("LossCurveDisplay",),
    "estimators.regressor": ("MLPRegressor",),
    "initializers": ("Normal",),
    "interrupts": ("Interrupted",),
    "losses": ("Loss", "RowLoss"),
    "model": ("Model",),
    "network": ("Network",),
    "optimizers": ("SGD", "Adam", "AdamW", "RMSprop"),
    "registry": ("backends",),
    "rules": ("Rule",),
    "schedules": ("Constant", "Cosine", "Exponential", "InverseScaling", "StepDecay", "Warmup"),
    "trainer": ("fit",),
}
"""Names by the module that holds them; loaded when first touched, so that the import is quick."""

_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "SGD",
    "Activation",
    "Adam",
    "AdamW",
    "Callback",
    "Checkpoint",
    "CheckpointError",
    "Constant",
    "Cosine",
    "DivergenceError",
    "EarlyStopping",
    "Exponential",
    "Interrupted",
    "InverseScaling",
    "Loss",
    "LossCurveDisplay",
    "MLPClassifier",
    "MLPRegressor",
    "Model",
    "Network",
    "Normal",
    "Progress",
    "RMSprop",
    "RowLoss",
    "Rule",
    "StepDecay",
    "TimeLimit",
    "Warmup",
    "__version__",
    "backends",
    "fit",
    "load",
    "save",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'fastmlp' has no attribute {name!r}")
    return getattr(importlib.import_module(f"fastmlp.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
