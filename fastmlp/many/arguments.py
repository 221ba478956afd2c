"""The arguments of `fit_many`, and the arguments of `fit` for each model."""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np

from fastmlp import checks
from fastmlp.checks import CheckpointError
from fastmlp.data.arrays import OF_LABELS
from fastmlp.data.sparse import is_sparse
from fastmlp.model.network import Network

ROWS = ("X", "y", "sample_weight")
"""The arguments that have a row, or a number, for each row of X."""

OWN = (*ROWS, "rows", "seed", "initial", "optimizer")
"""The arguments in which models may differ that are trained like each other; of optimisers the rates."""


class Arguments:
    """The arguments of each model.

    given : by the names of `fit` and "rows"; a list has one for each model, all else is the same for all
    count : of the models, as the lists say, or `n_models`
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
        """Return the seeds of all models: those of the list, or of an int s the numbers s, s + 1, .."""
        if "seed" in self._lists:
            return [checks.whole(f"seed[{i}]", seed, 0) for i, seed in enumerate(self._lists["seed"])]
        first = self._same["seed"]
        first = int.from_bytes(os.urandom(16), "little") if first is None else checks.whole("seed", first, 0)
        return [first + index for index in range(self.count)]

    def of(self, index: int) -> dict[str, Any]:
        """Return the arguments of a model, without seed, with its rows.

        ValueError or TypeError if the rows are wrong.
        """
        own = {**self._same, **{name: values[index] for name, values in self._lists.items()}}
        del own["seed"], own["rows"]
        return own | dict(zip(ROWS, self.rows(index), strict=True))

    def by_objects(self) -> Iterable[list[int]]:
        """Return lists of models with identical arguments, but for seeds."""
        weighed = self._same.get("sample_weight", self) is not None
        if weighed and self._same.get("validation", self) is not None:
            return self.each()  # a seed's split may leave rows of weight 0 alone
        lists = [values for name, values in self._lists.items() if name != "seed"]
        if not lists:
            return [[*range(self.count)]]
        places: dict[Any, list[int]] = {}
        for index, given in enumerate(zip(*[map(id, values) for values in lists], strict=True)):
            places.setdefault(given, []).append(index)
        return places.values()

    def each(self) -> Iterable[list[int]]:
        """Return a list for each model."""
        return ([index] for index in range(self.count))

    def options(self, index: int) -> Any:
        """Return a key, equal for models that differ in OWN only."""
        given = [values[index] for name, values in self._lists.items() if name not in OWN]
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
        """Whether all models have the same rows."""
        return not any(name in self._lists for name in (*ROWS, "rows"))

    @property
    def draws_all(self) -> bool:
        """Whether all models draw their first parameters."""
        return self._same.get("initial", self) is None

    @property
    def networks(self) -> list[Any]:
        """The networks, each of several models once."""
        given = self._lists.get("network", [self._same.get("network")])
        return list({id(one): one for one in given}.values())


class named:
    """Names the model in errors that a `with` block raises."""

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
    """Return the number of models; ValueError if the arguments do not agree on it."""
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
    """Whether X of a network is a list of blocks; what is no network is found later."""
    return bool(getattr(network, "blocks", ()))


def _is_one(network: Any, X: list[Any], counts: Collection[int]) -> bool:
    """Return whether a list is the blocks of a single X, and not an X for each model.

    counts : of models, as the other arguments say
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
    """Return the shape of rows that may be plain lists; () of what has none, as several arrays."""
    if not isinstance(block, list):
        return getattr(block, "shape", ())
    try:
        return np.shape(block)
    except ValueError:  # lists of unlike lengths
        return ()


def _array(what: str, value: Any, blocks: bool) -> Any:
    """Return rows as an array, or sparse; blocks of X in a tuple, and what has names as it is."""
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
    """Return places of rows (chosen,); ValueError or TypeError if they are no such places in `count` rows."""
    array = checks.real_array("rows", rows)
    if array.size and array.dtype.kind not in "iu":
        raise TypeError(f"rows must hold whole numbers, places in X, got dtype {array.dtype}")
    if array.ndim != 1 or not array.size:
        raise ValueError(f"rows must have shape (chosen,), at least one row, got {array.shape}")
    wrong = array[(array < 0) | (array >= count)]
    if wrong.size:
        raise ValueError(f"rows must be places in [0, {count}), got {wrong[0]}")
    return array


def _taken(what: str, value: Any, rows: Any) -> Any:
    """Return some rows of X, y or sample_weight."""
    if value is None:
        return None
    if isinstance(value, Mapping):
        return {name: _taken(f"{what}[{name!r}]", part, rows) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(_taken(f"{what}[{place}]", part, rows) for place, part in enumerate(value))
    if is_sparse(value):
        return value.tocsr()[rows]
    array = checks.real_array(what, value)
    if array.ndim == 0 or len(array) <= rows.max():
        raise ValueError(f"{what} must have a row for each of X, got shape {array.shape}")
    return np.ascontiguousarray(array[rows])
