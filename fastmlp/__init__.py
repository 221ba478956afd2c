"""Train multi-layer perceptrons on a CPU, fast: Numba kernels behind the API of a NumPy reference."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastmlp.system import forks  # noqa: F401  # forks wait for the imports that come after it

if TYPE_CHECKING:
    from fastmlp.backend.registry import backends
    from fastmlp.distributed.data_parallel import DataParallel
    from fastmlp.distributed.ranks import RankError
    from fastmlp.distributed.shards import shard
    from fastmlp.estimators.classifier import MLPClassifier
    from fastmlp.estimators.display import LossCurveDisplay
    from fastmlp.estimators.regressor import MLPRegressor
    from fastmlp.files.archive import CheckpointError
    from fastmlp.files.mapped import MappedArray
    from fastmlp.model.activations import Activation
    from fastmlp.model.initializers import Normal
    from fastmlp.model.losses import Loss, RowLoss
    from fastmlp.model.network import Network
    from fastmlp.model.optimizers import SGD, Adam, AdamW, RMSprop, SparseAdam
    from fastmlp.model.rules import Rule
    from fastmlp.model.schedules import (
        Constant,
        Cosine,
        Exponential,
        InverseScaling,
        StepDecay,
        Warmup,
    )
    from fastmlp.system.interrupts import Interrupted
    from fastmlp.tables.errors import TableError
    from fastmlp.tables.estimators import TableClassifier, TableRegressor
    from fastmlp.training.callbacks import Callback, EarlyStopping, Progress, TimeLimit
    from fastmlp.training.checkpoint import Checkpoint, load, save
    from fastmlp.training.divergence import DivergenceError
    from fastmlp.training.model import Model
    from fastmlp.training.pruning import OptunaPruning
    from fastmlp.training.trainer import fit

__version__ = "0.1.0"

_HOME = {
    "model.activations": ("Activation",),
    "files.archive": ("CheckpointError",),
    "files.mapped": ("MappedArray",),
    "training.callbacks": ("Callback", "EarlyStopping", "Progress", "TimeLimit"),
    "training.checkpoint": ("Checkpoint", "load", "save"),
    "training.divergence": ("DivergenceError",),
    "distributed.data_parallel": ("DataParallel",),
    "distributed.ranks": ("RankError",),
    "distributed.shards": ("shard",),
    "estimators.classifier": ("MLPClassifier",),
    "estimators.display": ("LossCurveDisplay",),
    "estimators.regressor": ("MLPRegressor",),
    "model.initializers": ("Normal",),
    "system.interrupts": ("Interrupted",),
    "model.losses": ("Loss", "RowLoss"),
    "training.model": ("Model",),
    "training.pruning": ("OptunaPruning",),
    "model.network": ("Network",),
    "model.optimizers": ("SGD", "Adam", "AdamW", "RMSprop", "SparseAdam"),
    "backend.registry": ("backends",),
    "model.rules": ("Rule",),
    "model.schedules": ("Constant", "Cosine", "Exponential", "InverseScaling", "StepDecay", "Warmup"),
    "tables.errors": ("TableError",),
    "tables.estimators": ("TableClassifier", "TableRegressor"),
    "training.trainer": ("fit",),
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
    "DataParallel",
    "DivergenceError",
    "EarlyStopping",
    "Exponential",
    "Interrupted",
    "InverseScaling",
    "Loss",
    "LossCurveDisplay",
    "MLPClassifier",
    "MLPRegressor",
    "MappedArray",
    "Model",
    "Network",
    "Normal",
    "OptunaPruning",
    "Progress",
    "RMSprop",
    "RankError",
    "RowLoss",
    "Rule",
    "SparseAdam",
    "StepDecay",
    "TableClassifier",
    "TableError",
    "TableRegressor",
    "TimeLimit",
    "Warmup",
    "__version__",
    "backends",
    "fit",
    "load",
    "save",
    "shard",
]


def __getattr__(name: str) -> Any:
    if name in ("onnx", "testing"):
        return importlib.import_module(f"fastmlp.{name}")
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'fastmlp' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"fastmlp.{_MODULE_OF[name]}"), name)
    return found  # and asked for only once


def __dir__() -> list[str]:
    return sorted(__all__)
