"""The arguments of `fit_many`, checked for all models, and each model's training in turn."""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fastmlp import checks
from fastmlp.backend.lanes import LaneProgram
from fastmlp.callbacks.callback import Callback
from fastmlp.checks import CheckpointError, shown
from fastmlp.data.arrays import OF_LABELS
from fastmlp.data.sparse import is_sparse
from fastmlp.fitting import fit, options_of
from fastmlp.many.blocks import BlockMembers, Pattern
from fastmlp.many.lanes import ModelGroup, program_of, saved_together
from fastmlp.many.trainings import CallFile, KeepInCallFile, Resumed
from fastmlp.model.backend import Array, Data
from fastmlp.model.network import Network
from fastmlp.model.optimizers import Optimizer, as_optimizer, without_rates
from fastmlp.training.preparation import cleaned, initial_parameters, prepare, scaled
from fastmlp.training.ranks import ALONE
from fastmlp.training.training import Training

ROWS = ("X", "y", "sample_weight")
"""The arguments with a row, or a number, for each row of X."""

OF_EACH = (*ROWS, "rows", "seed", "initial", "optimizer")
"""The arguments that may differ in a pattern; of optimisers the rates."""


class Arguments:
    """The arguments of each model.

    given : by the names of `fit` and "rows"; a list has an item for each model, other values are common
    count : the number of models, by the lists or by `n_models`
    """

    def __init__(self, given: dict[str, Any], n_models: int | None) -> None:
        self._lists = {name: value for name, value in given.items() if isinstance(value, list)}
        self._same = {name: value for name, value in given.items() if name not in self._lists}
        if "X" in self._lists:
            others = [len(value) for name, value in self._lists.items() if name != "X"]
            others += [] if n_models is None else [n_models]
            if _is_one(given.get("network"), given["X"], others):
                self._same["X"] = tuple(self._lists.pop("X"))
        self.count = _count(self._lists, n_models)
        if not self.count:
            return
        blocks = any(map(has_blocks, self.networks))
        for name in ROWS:
            if name in self._same:
                self._same[name] = _array(name, self._same[name], blocks)

    def seeds(self) -> list[int]:
        """Return the seeds of all models: the list, or for an int s the numbers s, s + 1, .."""
        if "seed" in self._lists:
            return [checks.whole(f"seed[{i}]", seed, 0) for i, seed in enumerate(self._lists["seed"])]
        first = self._same["seed"]
        first = int.from_bytes(os.urandom(16), "little") if first is None else checks.whole("seed", first, 0)
        return [first + index for index in range(self.count)]

    def of(self, index: int) -> dict[str, Any]:
        """Return the arguments of a model with rows, without seed; ValueError or TypeError for wrong rows."""
        options = {**self._same, **{name: values[index] for name, values in self._lists.items()}}
        del options["seed"], options["rows"]
        return options | dict(zip(ROWS, self.rows(index), strict=True))

    def by_objects(self) -> Iterable[list[int]]:
        """Return lists of models with identical arguments, but for seeds."""
        weighed = self._same.get("sample_weight", self) is not None
        if weighed and self._same.get("validation", self) is not None:
            return self.each()  # a seed's split may leave rows of weight 0 alone
        lists = [values for name, values in self._lists.items() if name != "seed"]
        if not lists:
            return [[*range(self.count)]]
        indices: dict[Any, list[int]] = {}
        for index, given in enumerate(zip(*[map(id, values) for values in lists], strict=True)):
            indices.setdefault(given, []).append(index)
        return indices.values()

    def each(self) -> Iterable[list[int]]:
        """Return a list for each model."""
        return ([index] for index in range(self.count))

    def options(self, index: int) -> Any:
        """Return a key, equal for models with differences in OF_EACH only."""
        given = [values[index] for name, values in self._lists.items() if name not in OF_EACH]
        return tuple(one if isinstance(one, Network) else id(one) for one in given)

    def rows(self, index: int) -> tuple[Any, Any, Any]:
        """Return X, y and the weights of a model; errors as of `of`."""
        rows, blocks = self.value("rows", index), has_blocks(self.value("network", index))
        arrays = [
            _array(name, self._lists[name][index], blocks) if name in self._lists else self._same[name]
            for name in ROWS
        ]
        if rows is not None:
            rows = _checked_rows(rows, _length(arrays[0]))
            arrays = [_taken(name, one, rows) for name, one in zip(ROWS, arrays, strict=True)]
        X, y, weights = arrays
        return X, y, weights

    def value(self, name: str, index: int) -> Any:
        """Return an argument of a model, unchecked."""
        return self._lists[name][index] if name in self._lists else self._same[name]

    @functools.cached_property
    def shares_rows(self) -> bool:
        """True if all models have the same rows."""
        return not any(name in self._lists for name in (*ROWS, "rows"))

    @property
    def draws_all(self) -> bool:
        """True if all models draw the first parameters."""
        return self._same.get("initial", self) is None

    @property
    def networks(self) -> list[Any]:
        """The networks, each of several models once."""
        given = self._lists.get("network", [self._same.get("network")])
        return list({id(one): one for one in given}.values())


class named:
    """Names the model in errors of a `with` block."""

    def __init__(self, index: int) -> None:
        self.index = index

    def __enter__(self) -> None:
        """Enter the block."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, (ValueError, TypeError)):
            kinds = (CheckpointError, TypeError, ValueError)
            named_kind = next(kind for kind in kinds if isinstance(error, kind))
            raise named_kind(f"model {self.index}: {error}") from None


def _count(lists: dict[str, list[Any]], n_models: int | None) -> int:
    """Return the number of models; ValueError for contradictory arguments."""
    counts = {name: len(values) for name, values in lists.items()}
    if n_models is not None:
        counts = {"n_models": checks.whole("n_models", n_models, 0), **counts}
    if not counts:
        raise ValueError("give n_models, or a list with one for each model: of networks, seeds, rows, ..")
    first, *others = counts
    for name in others:
        if counts[name] != counts[first]:
            raise ValueError(
                f"a list has one for each model: {first} {'is' if first == 'n_models' else 'has'} "
                f"{counts[first]}, {name} has {counts[name]}"
            )
    return counts[first]


def has_blocks(network: Any) -> bool:
    """True if X of a network is a list of blocks; another value than a network is refused later."""
    return bool(getattr(network, "blocks", ()))


def _is_one(network: Any, X: list[Any], counts: Collection[int]) -> bool:
    """Return True if a list is the blocks of a single X, and not an X for each model.

    counts : of models, by the other arguments
    """
    if not (has_blocks(network) and len(X) == len(network.blocks)):
        return False
    shapes = [_shape(block) for block in X]
    if not all(len(shape) in (1, 2) for shape in shapes):
        return False
    if counts and len(X) not in counts:  # a block may have wrong columns
        return True
    return all(
        (shape[1] if len(shape) > 1 else 1) == block.columns
        for shape, block in zip(shapes, network.blocks, strict=True)
    )


def _shape(block: Any) -> tuple[int, ...]:
    """Return the shape of rows, also of plain lists; () without a shape, as of several arrays."""
    if not isinstance(block, list):
        return getattr(block, "shape", ())
    try:
        return np.shape(block)
    except ValueError:  # lists of unlike lengths
        return ()


def _array(what: str, value: Any, blocks: bool) -> Any:
    """Return rows as an array, or sparse; blocks of X in a tuple, and named parts unchanged."""
    if (what == "sample_weight" and value is None) or isinstance(value, Mapping) or is_sparse(value):
        return value
    if what == "X" and blocks and isinstance(value, (list, tuple)):
        return tuple(value)
    return checks.real_array(what, value, OF_LABELS if what == "y" else "")


def _length(X: Any) -> int:
    """Return the number of rows of X, or of its first block."""
    blocks = X.values() if isinstance(X, Mapping) else X if isinstance(X, tuple) else [X]
    first = next(iter(blocks), ())
    return int(first.shape[0]) if hasattr(first, "shape") and len(first.shape) else len(first)


def _checked_rows(rows: Any, count: int) -> Any:
    """Return indices of rows (chosen,); ValueError or TypeError unless in `count` rows."""
    array = checks.real_array("rows", rows)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"rows must hold whole numbers, indices in X, got dtype {array.dtype}")
    if array.ndim != 1 or not array.size:
        raise ValueError(f"rows must have shape (chosen,), at least one row, got {array.shape}")
    wrong = array[(array < 0) | (array >= count)]
    if wrong.size:
        raise ValueError(f"rows must be indices in [0, {count}), got {wrong[0]}")
    return array


def _taken(what: str, value: Any, rows: Any) -> Any:
    """Return some rows of X, y or sample_weight."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {name: _taken(f"{what}[{name!r}]", part, rows) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_taken(f"{what}[{index}]", part, rows) for index, part in enumerate(value))
    if is_sparse(value):
        return value.tocsr()[rows]
    array = checks.real_array(what, value)
    if array.ndim == 0 or len(array) <= rows.max():
        raise ValueError(f"{what} must have a row for each of X, got shape {array.shape}")
    return np.ascontiguousarray(array[rows])


# --- trainings ----------------------------------------------------------------------------------------


class Checked(NamedTuple):
    """The training plan of a checked model.

    key : equal for models of a group; pattern : None for a separate training
    program : of lanes, for joint training; saved : as of `saved_together`
    taken : bytes of the model's parameters and moments
    """

    key: Any
    program: LaneProgram | None
    pattern: Pattern | None
    saved: float
    taken: int


class Preparation:
    """Prepares the training of any model of a call.

    seeds : of all models; threads : of each training; None leaves the number to the backend
    callbacks : to copy for each; metrics : of all
    resumed : the trainings to go on from; file : of the call
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
        """The training of models with a pattern: by options, then by dtype, number of rows and rule."""
        self._prepared: dict[int, Data] = {}
        """The checked rows of models, if the user's arrays."""
        self._ones: dict[Any, Array] = {}
        """Common weights, by dtype and number of rows."""
        self._common: tuple[Any, Data] | None = None
        """The last rows, if common to models, and the key of the cleaning."""

    def training(self, index: int) -> Training:
        """Return the training of a model; ValueError or TypeError with the model's index."""
        with named(index):
            saved, called = (None, []) if self._resumed is None else self._resumed.of(index)
            called += [_copied(callback) for callback in self._callbacks]
            if self._file is not None:
                called.append(KeepInCallFile(self._file, index))
            given = self._arguments.of(index)
            network, X, y = given.pop("network"), given.pop("X"), given.pop("y")
            options = {
                **given, "fit": fit, "seed": self._seeds[index], "callbacks": (*called,),
                "progress": False, "threads": self._threads, "resume": saved, "metrics": self._metrics,
            }  # fmt: skip
            checked = options_of(network, options)
            training = prepare(network, X, y, checked, trainings=self._group_sizes.get(index, 1))
            if training.windows is not None:
                raise TypeError("X must be rows in memory; fit takes rows that come block by block")
        training.model_index = index
        return training

    def members(self, models: list[int], patterns: list[Pattern]) -> BlockMembers:
        """Return models with patterns, for a block; errors as of `training`."""
        found: dict[int, Data] = {}
        data: list[Data] = []
        common = self._arguments.shares_rows
        for index, pattern in zip(models, patterns, strict=True):
            key = id(pattern) if common else index
            if key not in found:
                with named(index):
                    found[key] = self._prepared.pop(index) if index in self._prepared else self._data(index)
            data.append(found[key])
        initial: list[Array | None] = [None] * len(models)
        if not self._arguments.draws_all:
            initial = [self._initial(*pair) for pair in zip(models, patterns, strict=True)]
        return BlockMembers(models, [self._seeds[index] for index in models], patterns, data, initial)

    def groups(self, workers: int) -> list[ModelGroup]:
        """Return groups of models for so many threads, after the check of all arguments.

        Models of a network, rule and dtype come together: workspaces are used again. Preparations of the
        check are dropped: the rows of all models may take many times the memory of X.
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
        """Check a model's arguments; return how the model is trained."""
        known = self._patterns.setdefault(self._arguments.options(index), {})
        if known and (found := self._trained_like(index, known)) is not None:
            return found
        training = self.training(index)
        dtype = training.state.parameters.dtype
        program = program_of(training)
        pattern = None if program is None else Pattern.of(training, program)
        alone = training.network, training.optimizer.rule, dtype
        key: Any = alone if program is None else program.specialized
        saved = saved_together(training, program, pattern is not None)
        taken = training.state.parameters.nbytes * (1 + training.optimizer.moment_rows)
        found = Checked(key if pattern is None else pattern.schedule, program, pattern, saved, taken)
        if pattern is not None:
            optimizer = as_optimizer("optimizer", self._arguments.value("optimizer", index))
            known[dtype, len(training.data.weights), without_rates(optimizer)] = optimizer, found
        return found

    def _trained_like(self, index: int, known: dict[Any, tuple[Optimizer, Any]]) -> Checked | None:
        """Return the training of another model with the same options, if any."""
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
            self._prepared[index] = data._replace(weights=weights)
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
        """Return the given initial parameters of a model; None to draw."""
        initial = self._arguments.value("initial", index)
        if initial is None:
            return None
        with named(index):
            return initial_parameters(pattern.network, initial, pattern.program.dtype, self._seeds[index])


def _check_memory(taken: int, models: int) -> None:
    """Raise ValueError if the system never has so many bytes for models.

    No page of the array is written: a system refuses more than all memory at once.
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
