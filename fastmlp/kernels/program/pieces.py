"""Which functions of a program are pieces, compiled by themselves (`fastmlp.kernels.jit.lazy`)."""

# ruff: noqa: F821  (`coded` and CODE are bound later)
# mypy: ignore-errors

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from numba import types

from fastmlp.kernels.codes import ACTIVATION_CODES, LOSS_CODES, RULE_CODES, Codes


class Piece(NamedTuple):
    """How a slot becomes a piece.

    result : the type that it returns, one of Numba's
    codes : the table of its first argument, if each code has machine code of its own; else None
    constant : the template that calls the slot, by the name `coded`, with the constant CODE as that argument
    """

    result: types.Type = types.none
    codes: Codes | None = None
    constant: Callable[..., Any] | None = None


def activate_one(z, out):
    """As `activate`, for the code CODE."""
    coded(CODE, z, out)


def activate_gradient_one(z, a, delta):
    """As `activate_gradient`, for the code CODE."""
    coded(CODE, z, a, delta)


def output_loss_one(output, parameters, share, z, targets, weights, scratch, delta):
    """As `output_loss`, for the code CODE."""
    return coded(CODE, output, parameters, share, z, targets, weights, scratch, delta)


def apply_rule_one(rate, constants, t, g, p, first, second):
    """As `apply_rule`, for the code CODE."""
    coded(CODE, rate, constants, t, g, p, first, second)


PIECES = {
    **dict.fromkeys(("affine", "weight_gradient", "bias_gradient", "input_gradient", "gather"), Piece()),
    **dict.fromkeys(("affine_rows", "weight_gradient_rows", "input_gradient_rows"), Piece()),
    **dict.fromkeys(("affine_sparse", "weight_gradient_sparse", "list_columns", "flush"), Piece()),
    **dict.fromkeys(("scatter", "convert_bytes"), Piece()),
    **dict.fromkeys(("affine_sparse_rows", "weight_gradient_sparse_rows", "columns_step"), Piece()),
    "activate": Piece(codes=ACTIVATION_CODES, constant=activate_one),
    "activate_gradient": Piece(codes=ACTIVATION_CODES, constant=activate_gradient_one),
    "output_loss": Piece(types.float64, LOSS_CODES, output_loss_one),
    **dict.fromkeys(
        ("rows_forward", "rows_loss", "rows_backward", "weights_step", "layer_step", "sum_over_ranks"),
        Piece(),
    ),
    "apply_rule": Piece(codes=RULE_CODES, constant=apply_rule_one),
    **dict.fromkeys(("penalty", "penalties"), Piece(types.float64)),
    **dict.fromkeys(("penalty_gradient", "drop", "clip", "clip_all", "update_all", "update_part"), Piece()),
}
"""By name: slots, and other functions that programs share, as products over some rows and a step's phases."""
