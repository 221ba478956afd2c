"""Train multi-layer perceptrons on a CPU, fast: Numba kernels behind the API of a NumPy reference."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from fastmlp.distributed import ends  # noqa: F401  # has the other processes of mpiexec know of this one's end
from fastmlp.system import forks  # noqa: F401  # forks wait for the imports that come after it
from fastmlp.training import formats

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
    from fastmlp.fitting import fit
    from fastmlp.many.predicting import predict_many
    from fastmlp.many.training import InterruptedMany, fit_many
    from fastmlp.model.activations import Activation
    from fastmlp.model.averages import EMA, SWA
    from fastmlp.model.embeddings import Periodic, PiecewiseLinear
    from fastmlp.model.heads import Head
    from fastmlp.model.initializers import Normal, Uniform
    from fastmlp.model.inputs import Categories, Numbers, SparseNumbers
    from fastmlp.model.layers import (
        Activate,
        Add,
        BatchNorm,
        Concatenate,
        Dense,
        Dropout,
        LayerNorm,
        Members,
        PReLU,
        Residual,
        RMSNorm,
        Scale,
        Swish,
    )
    from fastmlp.model.losses import Loss, RowLoss
    from fastmlp.model.network import Network
    from fastmlp.model.optimizers import *  # noqa: F403  # all of its table
    from fastmlp.model.own_layers import Layer
    from fastmlp.model.own_losses import (
        BinaryFocal,
        CrossEntropy,
        Focal,
        Gaussian,
        Huber,
        NegativeBinomial,
        Quantiles,
    )
    from fastmlp.model.own_rules import Rule
    from fastmlp.model.schedules import (
        Constant,
        Cosine,
        CosineRestarts,
        Exponential,
        InverseScaling,
        OneCycle,
        Schedule,
        StepDecay,
        Warmup,
    )
    from fastmlp.searches.ensembles import MLPEnsembleClassifier, MLPEnsembleRegressor
    from fastmlp.searches.searches import (
        GridSearchCV,
        HalvingGridSearchCV,
        HalvingRandomSearchCV,
        RandomizedSearchCV,
    )
    from fastmlp.searches.validation import (
        cross_val_predict,
        cross_val_score,
        cross_validate,
        learning_curve,
        validation_curve,
    )
    from fastmlp.system.interrupts import Interrupted
    from fastmlp.tables.errors import TableError
    from fastmlp.tables.estimators import TableClassifier, TableRegressor
    from fastmlp.training.callbacks import (
        Callback,
        EarlyStopping,
        Progress,
        ReduceLROnPlateau as ReduceLROnPlateau,
        TimeLimit,
    )
    from fastmlp.training.checkpoint import Checkpoint
    from fastmlp.training.divergence import DivergenceError
    from fastmlp.training.model import Model
    from fastmlp.training.pruning import MedianStopping, OptunaPruning
    from fastmlp.training.rate_finder import RateSearch, find_rate
    from fastmlp.training.saving import load, save
    from fastmlp.training.stepper import Stepper

    __all__ = [
        "EMA",
        "SWA",
        "Activate",
        "Activation",
        "Add",
        "BatchNorm",
        "BinaryFocal",
        "Callback",
        "Categories",
        "Checkpoint",
        "CheckpointError",
        "Concatenate",
        "Constant",
        "Cosine",
        "CosineRestarts",
        "CrossEntropy",
        "DataParallel",
        "Dense",
        "DivergenceError",
        "Dropout",
        "EarlyStopping",
        "Exponential",
        "Focal",
        "Gaussian",
        "GridSearchCV",
        "HalvingGridSearchCV",
        "HalvingRandomSearchCV",
        "Head",
        "Huber",
        "Interrupted",
        "InterruptedMany",
        "InverseScaling",
        "Layer",
        "LayerNorm",
        "Loss",
        "LossCurveDisplay",
        "MLPClassifier",
        "MLPEnsembleClassifier",
        "MLPEnsembleRegressor",
        "MLPRegressor",
        "MappedArray",
        "MedianStopping",
        "Members",
        "Model",
        "NegativeBinomial",
        "Network",
        "Normal",
        "Numbers",
        "OneCycle",
        "OptunaPruning",
        "PReLU",
        "Periodic",
        "PiecewiseLinear",
        "Progress",
        "Quantiles",
        "RMSNorm",
        "RandomizedSearchCV",
        "RankError",
        "RateSearch",
        "Residual",
        "RowLoss",
        "Rule",
        "Scale",
        "Schedule",
        "SparseNumbers",
        "StepDecay",
        "Stepper",
        "Swish",
        "TableClassifier",
        "TableError",
        "TableRegressor",
        "TimeLimit",
        "Uniform",
        "Warmup",
        "__version__",
        "backends",
        "cross_val_predict",
        "cross_val_score",
        "cross_validate",
        "find_rate",
        "fit",
        "fit_many",
        "learning_curve",
        "load",
        "predict_many",
        "save",
        "shard",
        "validation_curve",
    ]

__version__ = "0.1.0"

BACKGROUND_TASKS = "fastmlp.backend.background_tasks"
"""The module with the table of functions that background processes call, see `fastmlp.system.background`."""

_HOME = {
    "model.activations": ("Activation",),
    "model.averages": ("EMA", "SWA"),
    "files.archive": ("CheckpointError",),
    "files.mapped": ("MappedArray",),
    "many.predicting": ("predict_many",),
    "many.training": ("InterruptedMany", "fit_many"),
    "training.callbacks": ("Callback", "EarlyStopping", "Progress", "ReduceLROnPlateau", "TimeLimit"),
    "training.checkpoint": ("Checkpoint",),
    "training.divergence": ("DivergenceError",),
    "distributed.data_parallel": ("DataParallel",),
    "distributed.ranks": ("RankError",),
    "distributed.shards": ("shard",),
    "estimators.classifier": ("MLPClassifier",),
    "estimators.display": ("LossCurveDisplay",),
    "estimators.regressor": ("MLPRegressor",),
    "model.heads": ("Head",),
    "model.initializers": ("Normal", "Uniform"),
    "model.embeddings": ("Periodic", "PiecewiseLinear"),
    "model.inputs": ("Categories", "Numbers", "SparseNumbers"),
    "model.layers": (
        "Activate",
        "Add",
        "BatchNorm",
        "Concatenate",
        "Dense",
        "Dropout",
        "LayerNorm",
        "Members",
        "PReLU",
        "RMSNorm",
        "Residual",
        "Scale",
        "Swish",
    ),
    "system.interrupts": ("Interrupted",),
    "model.losses": ("Loss", "RowLoss"),
    "training.model": ("Model",),
    "training.pruning": ("MedianStopping", "OptunaPruning"),
    "training.rate_finder": ("RateSearch", "find_rate"),
    "training.saving": ("load", "save"),
    "training.stepper": ("Stepper",),
    "model.network": ("Network",),
    "model.own_layers": ("Layer",),
    "model.own_losses": (
        "BinaryFocal",
        "CrossEntropy",
        "Focal",
        "Gaussian",
        "Huber",
        "NegativeBinomial",
        "Quantiles",
    ),
    "backend.registry": ("backends",),
    "model.own_rules": ("Rule",),
    "model.schedules": (
        "Constant",
        "Cosine",
        "CosineRestarts",
        "Exponential",
        "InverseScaling",
        "OneCycle",
        "Schedule",
        "StepDecay",
        "Warmup",
    ),
    "searches.ensembles": ("MLPEnsembleClassifier", "MLPEnsembleRegressor"),
    "searches.searches": (
        "GridSearchCV",
        "HalvingGridSearchCV",
        "HalvingRandomSearchCV",
        "RandomizedSearchCV",
    ),
    "searches.validation": (
        "cross_val_predict",
        "cross_val_score",
        "cross_validate",
        "learning_curve",
        "validation_curve",
    ),
    "tables.errors": ("TableError",),
    "tables.estimators": ("TableClassifier", "TableRegressor"),
    "fitting": ("fit",),
}
"""Names by the module that holds them; loaded when first touched, so that the import is quick."""

_TABLES = ("model.optimizers",)
"""Modules with tables `NAMED` of classes, whose names are public as well."""

_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}


def _names_of(module: str) -> list[str]:
    return [kind.__name__ for kind in importlib.import_module(f"fastmlp.{module}").NAMED]


def _read_table(*file: Any) -> Any:
    from fastmlp.tables.estimators import opened

    return opened(*file)


formats.register(lambda name: importlib.import_module(f"fastmlp.exchange.{name}"))
formats.register_file("table", _read_table)


def __getattr__(name: str) -> Any:
    if name == "__all__":
        return __dir__()
    if name in ("onnx", "testing", "torch"):
        return importlib.import_module(f"fastmlp.{name}")
    tables = [] if name.startswith("_") or name in _MODULE_OF else _TABLES
    home = next((module for module in tables if name in _names_of(module)), _MODULE_OF.get(name))
    if home is None:
        raise AttributeError(f"module 'fastmlp' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(f"fastmlp.{home}"), name)
    return found  # and looked up only once


def __dir__() -> list[str]:
    return sorted({*_MODULE_OF, "__version__", *(name for module in _TABLES for name in _names_of(module))})
