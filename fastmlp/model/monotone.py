"""Monotone networks: outputs that rise or fall with some inputs, by the signs that weights keep.

Each unit has a direction, 1 or -1: whether it rises or falls where the outputs rise; columns of X without a
constraint have 0. A weight keeps the sign of the product of the directions that it joins, so that every path
from a column to an output has the sign of the column. An optimiser's step ends by setting to 0 what has
crossed 0, the projection on weights of these signs.

Half of a hidden layer's units have the direction -1. An activation that bends up, as relu, then bends the
outputs up by one half of the units and down by the other: these are the convex and the concave units of Runje
and Shankaranarayana, "Constrained monotonic neural networks" (2023), without which a network of relu would be
convex in its constrained inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.activations import ACTIVATIONS, activation_of
from fastmlp.model.heads import Objective
from fastmlp.model.losses import loss_of
from fastmlp.model.operations import INPUTS, Operation

Signs = NDArray[np.int8]


def checked_monotone(given: Any, columns: int) -> tuple[int, ...] | None:
    """Return 1, -1 or 0 for each column of X, None if all are 0; ValueError or TypeError otherwise."""
    if isinstance(given, Mapping):
        for column in given:
            checks.whole("a column of monotone", column, 0, columns - 1)
        given = [given.get(column, 0) for column in range(columns)]
    if (listed := checks.sequence(given)) is None:
        raise TypeError(f"monotone must be a sequence of 1, -1 or 0, got {checks.shown(given)}")
    if len(listed) != columns:
        raise ValueError(f"monotone must hold {columns} numbers, one a column of X, got {len(listed)}")
    signs = tuple(checks.whole("every one of monotone", one, -1, 1) for one in listed)
    return signs if any(signs) else None


def signs_of(
    operations: Sequence[Operation], monotone: Sequence[int], objectives: Sequence[Objective]
) -> Signs:
    """Return the sign that each parameter of a network keeps (P,), 0 of those that keep none.

    monotone : as `checked_monotone` returns it; objectives : of the outputs, or of each head

    ValueError if an operation on constrained inputs is none of those that keep a direction.
    """
    signs, ends = np.zeros(operations[-1].end, np.int8), iter(objectives)
    given, found = np.array(monotone, np.int8), list[Signs]()
    for one in operations:
        columns = given[one.column : one.column + one.n_in]
        read = [columns if at == INPUTS else found[at] for at in one.sources]
        if one.is_dense and len(read[0]) < one.n_in:  # sparse columns, the last ones
            read = [np.append(read[0], given[len(read[0]) - one.n_in :])]
        objective = next(ends) if one.is_head or one is operations[-1] else None
        sign: Any = np.zeros(one.width, np.int8)
        if not any(directions.any() for directions in read):
            pass
        elif one.is_dense and one.subrows == 1:
            if objective is None:
                _check_activation(one)
            sign = 1 - 2 * (np.arange(one.n_out) % 2) if objective is None else _directions_of(objective)
            signs[one.weights : one.biases] = np.outer(read[0], sign).reshape(-1)
        elif one.kind.key in ("copy", "activation", "concatenate") and one.subrows == 1:
            _check_activation(one)
            sign = np.concatenate(read)
        else:
            raise ValueError(
                f"monotone inputs go with Dense layers, activations and dropout, and not through {one.name!r}"
            )
        found.append(sign.astype(np.int8))
    return signs


def _check_activation(one: Operation) -> None:
    """Raise ValueError unless the activation that ends an operation never falls."""
    if not (found := activation_of(one.activation)).rises:
        known = ", ".join(name for name, entry in ACTIVATIONS.items() if entry.rises and entry.hidden)
        raise ValueError(f"monotone inputs need an activation that never falls: {known}; got {found.name!r}")


def _directions_of(objective: Objective) -> Signs:
    """Return the directions of outputs: of a softmax the second class rises, and the first one falls."""
    if (loss := loss_of(objective.loss)).outputs_per_target > 1:
        raise ValueError(f"monotone inputs need one output a target, and the loss {loss.name!r} has more")
    if objective.output != "softmax":
        return np.ones(objective.n_out, np.int8)
    if objective.n_out != 2:
        raise ValueError(f"monotone inputs go with a softmax of two classes, got {objective.n_out}")
    return np.array([-1, 1], np.int8)


def with_signs(parameters: NDArray[Any], network: Any) -> NDArray[Any]:
    """Give drawn parameters (P,) the signs that they keep, in place; return them."""
    if network.monotone is not None:
        signs = network.signs
        np.copyto(parameters, signs * np.abs(parameters), where=signs != 0)
    return parameters


def project(parameters: NDArray[Any], network: Any) -> NDArray[Any]:
    """Set to 0 the parameters (P,) whose signs are not those that they keep, in place; return them."""
    if network.monotone is not None:
        parameters[network.signs * parameters < 0] = 0
    return parameters
