"""Slots by rows, by default calls of the slots of every variant; operations; and what is compiled by itself.

The functions are templates as in `step_templates`. A variant that works by rows, as `fused`, overrides the
first. Lazy functions (`fastmlp.kernels.jit.lazy`) are compiled by themselves.
"""

# mypy: ignore-errors

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from numba import types

from fastmlp.kernels.codegen.views import no_order, rows_of, vector
from fastmlp.kernels.codes import (
    ACTIVATION_CODES,
    FILE_CODES,
    LOSS_CODES,
    OPERATION_CODES,
    RELU,
    RULE_CODES,
    Codes,
)

if TYPE_CHECKING:
    from fastmlp.kernels.variants.baseline import (
        activate,
        activate_gradient,
        affine,
        affine_sparse,
        input_gradient,
        weight_gradient,
        weight_gradient_sparse,
    )


def streams():
    """Return whether products read rows of X in place, and gradients are applied slice by slice.

    Otherwise the rows of a batch are gathered first, and every gradient is formed whole.
    """
    return False


def affine_rows(x, order, w, b, out, first, last, relu, scratch):
    """Rows [first, last) of out = x @ w + b, then relu where `relu`; order : empty."""
    z = rows_of(out, first, last)
    affine(rows_of(x, first, last), w, b, scratch, z)
    if relu:
        activate(RELU, z, z)


def input_gradient_rows(delta, w, a, out, first, last, relu, scratch):
    """Rows [first, last) of out = delta @ w.T; where `relu`, times the derivative of the relu that made a."""
    below, a = rows_of(out, first, last), rows_of(a, first, last)
    input_gradient(rows_of(delta, first, last), w, scratch, below)
    if relu:
        activate_gradient(RELU, a, a, below)


def weight_gradient_rows(x, order, delta, out, part, update, sums, scratch):
    """out = x.T @ delta, for all inputs; never with a step: update[0] is false."""
    weight_gradient(x, delta, scratch, out)


def affine_sparse_rows(indptr, indices, values, order, w, b, out, relu):
    """`affine_sparse`, then relu where `relu`."""
    affine_sparse(indptr, indices, values, order, w, b, out)
    if relu:
        activate(RELU, out, out)


def add_sparse_rows(indptr, indices, values, order, w, out):
    """out (rows, n_out) += x @ w, of sparse rows x: the chains of `affine_sparse` continue from out."""
    for i in range(out.shape[0]):
        row = order[i] if len(order) > 0 else i
        sums = rows_of(out, i, i + 1)
        bounds, start = vector(indptr, row, 2), vector(sums, 0, out.shape[1])
        affine_sparse_rows(bounds, indices, values, no_order(), w, start, sums, False)


def weight_gradient_sparse_rows(starts, samples, numbers, columns, delta, out, update):
    """`weight_gradient_sparse`, never with a step: update[0] is false."""
    weight_gradient_sparse(starts, samples, numbers, columns, delta, out)


# --- operations -------------------------------------------------------------------------------------------
#
# Each calls the function of an operation's file, without the first argument; nothing if the file has none.


def operation_forward(file, call, start, rows, number, first, last, worker):
    """Take rows [first, last) through operation `number`: `forward` of the file.

    file : a code, see `fastmlp.kernels.codes.file_of`; the rest as in `row_templates.rows_forward`
    """


def operation_backward(file, call, rows, of_all, number, first, last, worker):
    """Write the deltas of an operation's sources, or add to them: `backward` of the file.

    of_all : rows of the batch on all ranks
    """


def operation_gradient(file, call, start, rows, step, number, penalised, rates, top, bottom, worker, workers):
    """Write a worker's part of an operation's gradient, and update unless left whole: `gradient` of the file.

    [top, bottom) : of the rows of the weights of a product; all of another operation
    rates : of weights and of biases; penalised : the factor of the penalties
    """


def operation_update(file, call, step, number, rates, worker, workers):
    """Apply a worker's part of an operation's gradient: `update` of the file."""


def operation_statistics(file, call, rows, of_all, step, number, moves, worker, workers):
    """Compute what an operation needs of the whole batch, with other workers: `statistics` of the file.

    moves : whether running states move
    """


def operation_statistics_gradient(file, call, rows, step, number, worker, workers):
    """Compute what its deltas need of the whole batch: `statistics_gradient` of the file."""


# --- lazy functions: functions compiled by themselves -------------------------------------------------------


class SlotFunction(NamedTuple):
    """A slot as a lazy function.

    result : Numba's type of the result
    codes : the table of its first argument, if each code has machine code; else None
    constant : the template that calls the slot, by the name `coded`, with the constant CODE as first argument
    """

    result: types.Type = types.none
    codes: Codes | None = None
    constant: Callable[..., Any] | None = None


def _by_code(codes, parameters, result=types.none):
    """Return the lazy function of a slot with a code and these parameters."""
    constant = eval(f"lambda {parameters}: coded(CODE, {parameters})", globals())
    return SlotFunction(result, codes, constant)


WITHOUT_RESULT = (
    "affine weight_gradient bias_gradient input_gradient gather scatter flush affine_rows "
    "weight_gradient_rows input_gradient_rows list_columns columns_step affine_sparse "
    "weight_gradient_sparse affine_sparse_rows add_sparse_rows weight_gradient_sparse_rows "
    "convert_bytes drop drop_placed accumulate form_gradient rows_loss "
    "mark_nonzero_columns parts_backward apply_whole pass_on normalise_fixed_gradient "
    "fixed_gain_gradient step_rows orthogonalise_all "
    "orthogonalise sum_over_ranks head_losses penalty_gradient clip clip_all update_all update_part"
)
"""Slots and functions that return nothing, by name."""

SLOT_FUNCTIONS = {
    **dict.fromkeys(WITHOUT_RESULT.split(), SlotFunction()),
    **dict.fromkeys(("parts_forward", "sum_formed", "visit_at"), SlotFunction(types.int64)),
    **dict.fromkeys(("masked_loss", "penalty", "penalties"), SlotFunction(types.float64)),
    "activate": _by_code(ACTIVATION_CODES, "z, out"),
    "activate_gradient": _by_code(ACTIVATION_CODES, "z, a, delta"),
    "output_loss": _by_code(
        LOSS_CODES, "output, parameters, factor, z, targets, weights, scratch, delta", types.float64
    ),
    "apply_rule": _by_code(RULE_CODES, "rate, constants, t, g, p, moments"),
    "operate": _by_code(OPERATION_CODES, "numbers, subrows, second, gain, shift, x, other, saved, out"),
    "operate_gradient": _by_code(
        OPERATION_CODES, "numbers, subrows, second, gain, x, other, saved, delta, adding, below, below_other"
    ),
    "gain_gradient": _by_code(OPERATION_CODES, "numbers, subrows, second, gain, x, other, saved, delta, out"),
    **{
        function.__name__: _by_code(FILE_CODES, ", ".join([*inspect.signature(function).parameters][1:]))
        for function in (
            *(operation_forward, operation_backward, operation_gradient, operation_update),
            *(operation_statistics, operation_statistics_gradient),
        )
    },
    "fused_forward": _by_code(OPERATION_CODES, "operations, last, parameters, z, out"),
    "fused_backward": _by_code(OPERATION_CODES, "operations, last, parameters, z, first, parts, sums, delta"),
}
"""Slots, and other functions shared by programs, as products over rows and a step's phases, by name."""
