"""The public names: from here `fastmlp` imports each at its first use.

A module imported with * has entries of a table, whose classes are public.
"""

# ruff: noqa: F403

from fastmlp.backend.registry import backends as backends
from fastmlp.callbacks.callback import Callback as Callback
from fastmlp.callbacks.standard import EarlyStopping as EarlyStopping
from fastmlp.callbacks.standard import Progress as Progress
from fastmlp.callbacks.standard import ReduceLROnPlateau as ReduceLROnPlateau
from fastmlp.callbacks.standard import TimeLimit as TimeLimit
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
from fastmlp.many.ensembles import Ensemble as Ensemble
from fastmlp.many.predicting import predict_many as predict_many
from fastmlp.many.training import InterruptedMany as InterruptedMany
from fastmlp.many.training import fit_many as fit_many
from fastmlp.model.activations import Activation as Activation
from fastmlp.model.averages import EMA as EMA
from fastmlp.model.averages import SWA as SWA
from fastmlp.model.component import Layer as Layer
from fastmlp.model.embeddings import *
from fastmlp.model.gates import *
from fastmlp.model.heads import Head as Head
from fastmlp.model.initializers import Normal as Normal
from fastmlp.model.initializers import Uniform as Uniform
from fastmlp.model.inputs import *
from fastmlp.model.layers import *
from fastmlp.model.loss import Loss as Loss
from fastmlp.model.loss import RowLoss as RowLoss
from fastmlp.model.losses import *
from fastmlp.model.network import Network as Network
from fastmlp.model.norms import *
from fastmlp.model.optimizers import *
from fastmlp.model.optimizers import Group as Group
from fastmlp.model.optimizers import Rule as Rule
from fastmlp.model.schedules import Constant as Constant
from fastmlp.model.schedules import Cosine as Cosine
from fastmlp.model.schedules import CosineRestarts as CosineRestarts
from fastmlp.model.schedules import Exponential as Exponential
from fastmlp.model.schedules import InverseScaling as InverseScaling
from fastmlp.model.schedules import OneCycle as OneCycle
from fastmlp.model.schedules import Schedule as Schedule
from fastmlp.model.schedules import StepDecay as StepDecay
from fastmlp.model.schedules import Warmup as Warmup
from fastmlp.model.second_order import *
from fastmlp.searches.pruning import MedianStopping as MedianStopping
from fastmlp.searches.pruning import OptunaPruning as OptunaPruning
from fastmlp.stepper.rate_finder import RateSearch as RateSearch
from fastmlp.stepper.rate_finder import find_rate as find_rate
from fastmlp.stepper.stepper import Stepper as Stepper
from fastmlp.system.interrupts import Interrupted as Interrupted
from fastmlp.tables.estimators import TableClassifier as TableClassifier
from fastmlp.tables.estimators import TableRegressor as TableRegressor
from fastmlp.tables.frames import TableError as TableError
from fastmlp.trained.model import Model as Model
from fastmlp.training.divergence import DivergenceError as DivergenceError

__version__: str

def __dir__() -> list[str]: ...
