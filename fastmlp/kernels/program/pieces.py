"""Which functions of a program are pieces, compiled by themselves (`fastmlp.kernels.jit.lazy`)."""

# ruff: noqa: F821  (`coded` and CODE are bound later)
# mypy: ignore-errors

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numba import types

from fastmlp.kernels.codes import ACTIVATION_CODES, LOSS_CODES, OPERATION_CODES, RULE_CODES, Codes


class ProgramPiece(NamedTuple):
    """How a slot becomes a piece.

    result : the type that it returns, one of Numba's
    codes : the table of its first argument, if each code has machine code of its own; else None
    constant : the template that calls the slot, by the name `coded`, with the constant CODE as that argument
    """

    result: types.Type = types.none
    codes: Codes | None = None
    constant: Callable[..., Any] | None = None


def activate_one(z, out):
    """`activate` for the constant code CODE."""
    coded(CODE, z, out)


def activate_gradient_one(z, a, delta):
    """`activate_gradient` for the constant code CODE."""
    coded(CODE, z, a, delta)


def output_loss_one(output, parameters, share, z, targets, weights, scratch, delta):
    """`output_loss` for the constant code CODE."""
    return coded(CODE, output, parameters, share, z, targets, weights, scratch, delta)


def apply_rule_one(rate, constants, t, g, p, moments):
    """`apply_rule` for the constant code CODE."""
    coded(CODE, rate, constants, t, g, p, moments)


def operate_one(numbers, members, second, gain, shift, x, other, kept, out):
    """`operate` for the constant code CODE."""
    coded(CODE, numbers, members, second, gain, shift, x, other, kept, out)


def operate_gradient_one(
    numbers, members, second, gain, x, other, kept, delta, adds, adds_other, below, below_other
):
    """`operate_gradient` for the constant code CODE."""
    coded(
        CODE, numbers, members, second, gain, x, other, kept, delta, adds, adds_other, below, below_other
    )  # fmt: skip


def gain_gradient_one(numbers, members, second, gain, x, other, kept, delta, out):
    """`gain_gradient` for the constant code CODE."""
    coded(CODE, numbers, members, second, gain, x, other, kept, delta, out)


def run_forward_one(operations, last, parameters, z, out):
    """`run_forward` for the constant code CODE."""
    coded(CODE, operations, last, parameters, z, out)


def run_backward_one(operations, last, parameters, z, first, parts, sums, delta):
    """`run_backward` for the constant code CODE."""
    coded(CODE, operations, last, parameters, z, first, parts, sums, delta)


PIECES = {
    **dict.fromkeys(
        ("affine", "weight_gradient", "bias_gradient", "input_gradient", "gather"), ProgramPiece()
    ),
    **dict.fromkeys(("affine_rows", "weight_gradient_rows", "input_gradient_rows"), ProgramPiece()),
    **dict.fromkeys(("affine_sparse", "weight_gradient_sparse", "list_columns", "flush"), ProgramPiece()),
    **dict.fromkeys(("scatter", "convert_bytes", "drop_placed"), ProgramPiece()),
    **dict.fromkeys(("accumulate", "mark_touched", "sum_over_ranks"), ProgramPiece()),
    **dict.fromkeys(
        ("affine_sparse_rows", "add_sparse_rows", "weight_gradient_sparse_rows", "columns_step"),
        ProgramPiece(),
    ),
    "activate": ProgramPiece(codes=ACTIVATION_CODES, constant=activate_one),
    "activate_gradient": ProgramPiece(codes=ACTIVATION_CODES, constant=activate_gradient_one),
    "output_loss": ProgramPiece(types.float64, LOSS_CODES, output_loss_one),
    **dict.fromkeys(
        ("form_gradient", "rows_forward", "rows_loss", "rows_backward", "weights_step", "layer_step"),
        ProgramPiece(),
    ),
    **dict.fromkeys(
        ("operation_forward", "operation_backward", "vectors_step", "update_vectors"), ProgramPiece()
    ),
    **dict.fromkeys(("parts_forward", "sum_formed", "visit_at"), ProgramPiece(types.int64)),
    **dict.fromkeys(("parts_backward", "apply_whole"), ProgramPiece()),
    **dict.fromkeys(("pass_on", "whole_forward", "whole_backward"), ProgramPiece()),
    **dict.fromkeys(("unit_sums", "unit_distances", "unit_factors", "column_gradients"), ProgramPiece()),
    **dict.fromkeys(("normalise_columns", "normalise_fixed"), ProgramPiece()),
    **dict.fromkeys(
        ("normalise_columns_gradient", "normalise_fixed_gradient", "fixed_gain_gradient"), ProgramPiece()
    ),
    **dict.fromkeys(
        ("block_forward", "block_backward", "blocks_step", "update_blocks", "take_columns", "step_rows"),
        ProgramPiece(),
    ),
    **dict.fromkeys(
        ("angles", "cosines", "cosines_gradient", "sinusoids", "sinusoids_gradient"), ProgramPiece()
    ),
    **dict.fromkeys(("frequencies_gradient", "bins", "look_up"), ProgramPiece()),
    **dict.fromkeys(("orthogonalise_all", "orthogonalise"), ProgramPiece()),
    **dict.fromkeys(("heads_loss", "heads_losses", "heads_outputs", "heads_backward"), ProgramPiece()),
    **dict.fromkeys(("members_loss", "members_outputs", "members_backward"), ProgramPiece()),
    "operate": ProgramPiece(codes=OPERATION_CODES, constant=operate_one),
    "operate_gradient": ProgramPiece(codes=OPERATION_CODES, constant=operate_gradient_one),
    "gain_gradient": ProgramPiece(codes=OPERATION_CODES, constant=gain_gradient_one),
    "run_forward": ProgramPiece(codes=OPERATION_CODES, constant=run_forward_one),
    "run_backward": ProgramPiece(codes=OPERATION_CODES, constant=run_backward_one),
    "apply_rule": ProgramPiece(codes=RULE_CODES, constant=apply_rule_one),
    **dict.fromkeys(("penalty", "penalties"), ProgramPiece(types.float64)),
    **dict.fromkeys(
        ("penalty_gradient", "drop", "clip", "clip_all", "update_all", "update_part"), ProgramPiece()
    ),
}
"""Slots, and other functions that programs share, as products over some rows and a step's phases, by name."""
