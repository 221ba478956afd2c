"""Train multi-layer perceptrons on a CPU, fast: Numba kernels behind the API of a NumPy reference."""

from __future__ import annotations

import atexit
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from fastmlp.system import forks  # first: forks wait for the imports that come after it
from fastmlp.trained import register, register_file

if TYPE_CHECKING:
    from fastmlp.backend.registry import backends as backends
    from fastmlp.callbacks.callback import Callback as Callback
    from fastmlp.callbacks.standard import *  # noqa: F403
    from fastmlp.checkpoints.checkpoint import Checkpoint as Checkpoint
    from fastmlp.checkpoints.saving import load as load
    from fastmlp.checkpoints.saving import save as save
    from fastmlp.checks import CheckpointError as CheckpointError
    from fastmlp.derivatives.attribution import Attribution as Attribution
    from fastmlp.derivatives.input_derivatives import jacobian_many as jacobian_many
    from fastmlp.derivatives.laplace import Posterior as Posterior
    from fastmlp.derivatives.laplace import laplace as laplace
    from fastmlp.distributed.ranks import RankError as RankError
    from fastmlp.distributed.training import DataParallel as DataParallel
    from fastmlp.distributed.training import shard as shard
    from fastmlp.estimators.classifier import MLPClassifier as MLPClassifier
    from fastmlp.estimators.display import LossCurveDisplay as LossCurveDisplay
    from fastmlp.estimators.regressor import MLPRegressor as MLPRegressor
    from fastmlp.files.mapped import MappedArray as MappedArray
    from fastmlp.fitting import fit as fit
    from fastmlp.fitting import iter_fit as iter_fit
    from fastmlp.many.predicting import predict_many as predict_many
    from fastmlp.many.training import InterruptedMany as InterruptedMany
    from fastmlp.many.training import fit_many as fit_many
    from fastmlp.model.activations import Activation as Activation
    from fastmlp.model.averages import *  # noqa: F403
    from fastmlp.model.custom import Layer as Layer
    from fastmlp.model.embeddings import *  # noqa: F403
    from fastmlp.model.gates import *  # noqa: F403
    from fastmlp.model.heads import Head as Head
    from fastmlp.model.initializers import Normal as Normal
    from fastmlp.model.initializers import Uniform as Uniform
    from fastmlp.model.inputs import *  # noqa: F403
    from fastmlp.model.layers import *  # noqa: F403
    from fastmlp.model.loss import *  # noqa: F403
    from fastmlp.model.losses import *  # noqa: F403  # noqa: F403
    from fastmlp.model.network import Network as Network
    from fastmlp.model.norms import *  # noqa: F403
    from fastmlp.model.optimizers import *  # noqa: F403
    from fastmlp.model.optimizers import Group as Group
    from fastmlp.model.optimizers import Rule as Rule
    from fastmlp.model.schedules import *  # noqa: F403
    from fastmlp.model.second_order import LBFGS as LBFGS
    from fastmlp.model.second_order import LevenbergMarquardt as LevenbergMarquardt
    from fastmlp.searches.ensembles import *  # noqa: F403
    from fastmlp.searches.pruning import *  # noqa: F403
    from fastmlp.searches.searches import *  # noqa: F403
    from fastmlp.stepper.rate_finder import RateSearch as RateSearch
    from fastmlp.stepper.rate_finder import find_rate as find_rate
    from fastmlp.stepper.stepper import Stepper as Stepper
    from fastmlp.system.interrupts import Interrupted as Interrupted
    from fastmlp.tables.estimators import TableClassifier as TableClassifier
    from fastmlp.tables.estimators import TableRegressor as TableRegressor
    from fastmlp.tables.frames import TableError as TableError
    from fastmlp.trained.model import Model as Model
    from fastmlp.training.divergence import DivergenceError as DivergenceError

__version__ = "1.0.0"

_HOME = {
    "model.activations": "Activation",
    "model.averages": "EMA SWA",
    "checks": "CheckpointError",
    "files.mapped": "MappedArray",
    "many.predicting": "predict_many",
    "many.training": "InterruptedMany fit_many",
    "callbacks.callback": "Callback",
    "callbacks.standard": "EarlyStopping Progress ReduceLROnPlateau TimeLimit",
    "checkpoints.checkpoint": "Checkpoint",
    "training.divergence": "DivergenceError",
    "distributed.ranks": "RankError",
    "distributed.training": "DataParallel shard",
    "estimators.classifier": "MLPClassifier",
    "estimators.display": "LossCurveDisplay",
    "estimators.regressor": "MLPRegressor",
    "model.heads": "Head",
    "model.initializers": "Normal Uniform",
    "system.interrupts": "Interrupted",
    "trained.model": "Model",
    "stepper.rate_finder": "RateSearch find_rate",
    "derivatives.attribution": "Attribution",
    "derivatives.input_derivatives": "jacobian_many",
    "derivatives.laplace": "Posterior laplace",
    "checkpoints.saving": "load save",
    "stepper.stepper": "Stepper",
    "model.network": "Network",
    "model.custom": "Layer",
    "model.loss": "Loss RowLoss",
    "backend.registry": "backends",
    "model.optimizers": "Group Rule",  # with the names of built-in rules, which a custom rule may not have
    "model.schedules": (
        "Constant Cosine CosineRestarts Exponential InverseScaling OneCycle Schedule StepDecay Warmup"
    ),
    "searches.ensembles": "MLPEnsembleClassifier MLPEnsembleRegressor",
    "searches.pruning": "MedianStopping OptunaPruning",
    "searches.searches": (
        "GridSearchCV HalvingGridSearchCV HalvingRandomSearchCV RandomizedSearchCV"
        " cross_val_predict cross_val_score cross_validate learning_curve validation_curve"
    ),
    "tables.frames": "TableError",
    "tables.estimators": "TableClassifier TableRegressor",
    "fitting": "fit iter_fit",
}
"""Names by module, imported at the first use for a quick import of the package."""

_MODULE_OF = {name: module for module, names in _HOME.items() for name in names.split()}

_TABLES = {
    "model.inputs": "BLOCKS",
    "model.layers": "LAYERS",
    "model.losses": "LOSS_CLASSES",
    "model.optimizers": "NAMED",
    "model.second_order": "WHOLE",
}
"""Tables of public classes by module: every entry is public."""


def _of_tables() -> dict[str, Any]:
    """Return the public classes of tables by name."""
    found: dict[str, Any] = {}
    for home, name in _TABLES.items():
        table = getattr(importlib.import_module(f"fastmlp.{home}"), name)
        found |= table if isinstance(table, dict) else {kind.__name__: kind for kind in table}
    return found


def _read_table(*file: Any) -> Any:
    from fastmlp.tables.estimators import opened

    return opened(*file)


def _publish_end(process: int) -> None:
    """Tell the other processes of mpiexec about the end of this process."""
    if "mpi4py.MPI" in sys.modules:
        from fastmlp.distributed.mpi import publish_end

        publish_end(process)


# Before mpi4py's MPI_Finalize. A process that is forked from this one is no rank.
atexit.register(_publish_end, os.getpid())

_EXTENSIONS = {
    **{name: f"derivatives.{name}" for name in ("input_derivatives", "parameter_derivatives", "attribution")},
    "blocks": "blocks.training",
    "checkpoint": "checkpoints.checkpoint",
    "lists": "many.files",
    "metrics": "metrics.callback",
    "saving": "checkpoints.saving",
    "whole_data": "second_order.whole_data",
}
"""Modules that rooms below call by name; any other name is a format's."""

register(lambda name: importlib.import_module(f"fastmlp.{_EXTENSIONS.get(name, f'exchange.{name}')}"))
register_file("table", _read_table)


def __getattr__(name: str) -> Any:
    if name in ("onnx", "testing", "torch"):
        return importlib.import_module(f"fastmlp.{name}")
    if name in _MODULE_OF:
        with forks.collector_off():
            found = getattr(importlib.import_module(f"fastmlp.{_MODULE_OF[name]}"), name)
    elif name == "__all__":
        found = sorted({"__version__", *_MODULE_OF, *_of_tables()})
    elif not name[:1].isupper() or name not in (tables := _of_tables()):  # Python asks for modules, too
        raise AttributeError(f"module 'fastmlp' has no attribute {name!r}")
    else:
        found = tables[name]
    globals()[name] = found  # and looked up only once
    return found


def __dir__() -> list[str]:
    return __getattr__("__all__")
