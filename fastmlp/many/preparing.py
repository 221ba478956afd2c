"""Preparation of each model's training in turn, after a check of all models."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmlp.backend.lanes import LaneProgram
from fastmlp.callbacks.callback import Callback
from fastmlp.checks import shown
from fastmlp.data.ranks import ALONE
from fastmlp.data.seeding import Streams
from fastmlp.fitting import fit
from fastmlp.many.arguments import Arguments, named
from fastmlp.many.blocks import BlockMembers, Pattern
from fastmlp.many.checkpointing import CallFile, KeepInCallFile, Resumed
from fastmlp.many.lanes import ModelGroup, program_of, saved_together
from fastmlp.model.backend import Array, Data
from fastmlp.model.optimizers import Optimizer, as_optimizer, without_rates
from fastmlp.training.options import FitOptions
from fastmlp.training.prepared import Prepared, cleaned, prepared, scaled
from fastmlp.training.start import initial_parameters


class Checked(NamedTuple):
    """The training plan of a checked model.

    key : equal for models of one group; pattern : None where it has a training of its own
    program : by which it may go together with others; saved : as of `saved_together`
    taken : bytes of the parameters and moments that the model keeps
    """

    key: Any
    program: LaneProgram | None
    pattern: Pattern | None
    saved: float
    taken: int


class Preparation:
    """Prepares the training of any model of a call.

    seeds : of all models
    callbacks : to copy for each; metrics : of all
    threads : of each training; None leaves them to the backend
    resumed : what the models go on from; file : that keeps the call
    """

    def __init__(
        self,
        arguments: Arguments,
        seeds: list[int],
        callbacks: Sequence[Callback],
        metrics: Any,
        threads: int | None,
        resumed: Resumed | None,
        file: CallFile | None,
    ) -> None:
        self._arguments, self._seeds = arguments, seeds
        self._callbacks, self._metrics, self._threads = callbacks, metrics, threads
        self._resumed, self._file = resumed, file
        self._group_sizes: dict[int, int] = {}
        """How many models are trained like each, once all are checked."""
        self._patterns: dict[Any, dict[Any, tuple[Optimizer, Any]]] = {}
        """How models are trained that have a pattern: by options, then by dtype, number of rows and rule."""
        self._kept: dict[int, Data] = {}
        """The rows of models that have been checked, where they are the user's own arrays."""
        self._ones: dict[Any, Array] = {}
        """Weights that all models share, by dtype and number of rows."""
        self._common: tuple[Any, Data] | None = None
        """The rows that a model had last, where models share them, and what they are cleaned for."""

    def training(self, index: int) -> Prepared:
        """Return the training of a model; ValueError or TypeError, which names it, if it cannot be."""
        with named(index):
            saved, called = (None, []) if self._resumed is None else self._resumed.of(index)
            called += [_copied(callback) for callback in self._callbacks]
            if self._file is not None:
                called.append(KeepInCallFile(self._file, index))
            given = self._arguments.of(index)
            network, X, y = given.pop("network"), given.pop("X"), given.pop("y")
            options = FitOptions(
                **given, fit=fit, seed=self._seeds[index], callbacks=(*called,), progress=False,
                threads=self._threads, resume=saved, metrics=self._metrics,
            )  # fmt: skip
            training = prepared(network, X, y, options, trainings=self._group_sizes.get(index, 1))
            if not isinstance(training, Prepared):
                raise TypeError("X must be rows in memory; fit takes rows that come block by block")
        return training._replace(plan=training.plan._replace(model_index=index))

    def members(self, models: list[int], patterns: list[Pattern]) -> BlockMembers:
        """Return models that are trained by patterns, in a block; errors as of `training`."""
        found: dict[int, Data] = {}
        data: list[Data] = []
        shares = self._arguments.shares_rows
        for index, pattern in zip(models, patterns, strict=True):
            key = id(pattern) if shares else index
            if key not in found:
                with named(index):
                    found[key] = self._kept.pop(index) if index in self._kept else self._data(index)
            data.append(found[key])
        initial: list[Array | None] = [None] * len(models)
        if not self._arguments.draws_all:
            initial = [self._initial(*pair) for pair in zip(models, patterns, strict=True)]
        return BlockMembers(models, [self._seeds[index] for index in models], patterns, data, initial)

    def groups(self, workers: int) -> list[ModelGroup]:
        """Return groups of models for so many threads, once all arguments are checked.

        Those of one network, rule and dtype come together: what one leaves the next one finds. What is
        prepared for the check is let go of: the rows of all models may take many times the memory of X.
        """
        groups: dict[Any, ModelGroup] = {}
        arguments, taken = self._arguments, 0
        shared = arguments.by_objects() if self._resumed is None else arguments.each()
        for indices in shared:  # of which the first one's arguments are checked
            one = self._checked(indices[0])
            taken += one.taken * len(indices)
            group = groups.get(one.key) or groups.setdefault(one.key, ModelGroup(one.program, workers))
            group.add(indices, one.pattern, one.saved)
        _check_memory(taken, arguments.count)
        for group in groups.values():
            group.indices.sort()
            self._group_sizes.update(dict.fromkeys(group.indices, len(group.indices)))
        return [*groups.values()]

    def _checked(self, index: int) -> Checked:
        """Check a model's arguments; return how it is trained."""
        known = self._patterns.setdefault(self._arguments.options(index), {})
        if known and (found := self._trained_like(index, known)) is not None:
            return found
        training = self.training(index)
        plan, dtype = training.plan, training.state.parameters.dtype
        program = program_of(plan)
        pattern = None if program is None else Pattern.of(training, program)
        key: Any = (plan.network, plan.optimizer.rule, dtype) if program is None else program.bound
        saved = saved_together(plan, program, pattern is not None)
        taken = training.state.parameters.nbytes * (1 + plan.optimizer.moment_rows)
        found = Checked(key if pattern is None else pattern.schedule, program, pattern, saved, taken)
        if pattern is not None:
            optimizer = as_optimizer("optimizer", self._arguments.value("optimizer", index))
            known[dtype, len(plan.data.weights), without_rates(optimizer)] = optimizer, found
        return found

    def _trained_like(self, index: int, known: dict[Any, tuple[Optimizer, Any]]) -> Checked | None:
        """Return how another model with the same options is trained; None if there is none."""
        with named(index):
            optimizer = as_optimizer("optimizer", self._arguments.value("optimizer", index))
            data = self._data(index)
            like = known.get((data.targets.dtype, len(data.weights), without_rates(optimizer)))
            if like is None or not like[1].pattern.takes(data):
                return None
        other, found = like
        if optimizer != other:
            if found.pattern.optimizer is not other:  # it has an average
                return None
            found = found._replace(pattern=found.pattern.with_optimizer(optimizer))
        self._initial(index, found.pattern)
        X = self._arguments.value("X", index)
        if data.inputs is X and not self._arguments.shares_rows:  # no copy, so that to keep it takes little
            weights = self._ones.setdefault((data.weights.dtype, len(data.weights)), data.weights)
            self._kept[index] = data._replace(weights=weights)
        return found

    def _data(self, index: int) -> Data:
        """Return a model's clean rows, with scaled weights."""
        value = self._arguments.value
        key = None
        if self._arguments.shares_rows:
            key, common = (id(value("network", index)), id(value("dtype", index))), self._common
            if common is not None and common[0] == key:
                return common[1]
        rows = self._arguments.rows(index)
        data = cleaned(value("network", index), *rows, value("dtype", index), ALONE)
        data = scaled(data, rows[2] is not None, ALONE)
        if key is not None:
            self._common = key, data
        return data

    def _initial(self, index: int, pattern: Pattern) -> Array | None:
        """Return the given initial parameters of a model; None if the model draws them."""
        initial = self._arguments.value("initial", index)
        if initial is None:
            return None
        with named(index):
            streams = Streams(self._seeds[index])
            return initial_parameters(pattern.network, initial, pattern.program.dtype, streams)


def _check_memory(taken: int, models: int) -> None:
    """Raise ValueError if the system never has so many bytes for models.

    No page of the array is written: a system refuses what is more than all of its memory at once.
    """
    try:
        np.empty(taken, np.uint8)
    except (MemoryError, ValueError):
        raise ValueError(
            f"{models} models take {taken / 2**30:,.0f} GiB with their parameters and moments, "
            "for which there is no memory; train fewer in a call, or smaller networks"
        ) from None


def _copied(callback: Callback) -> Callback:
    try:
        return copy.deepcopy(callback)
    except TypeError as error:
        raise TypeError(
            f"each model has a copy of {shown(callback)}, which cannot be copied: {error}"
        ) from None
