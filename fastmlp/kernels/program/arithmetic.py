"""The order of operations of every number in a training, for all exact variants.

A sum of floats depends on the order of its terms. This page states the order. The order depends on the
network, the optimiser, the rows of a batch, the dtype and the machine's vectors, and on nothing else:
variants that are `exact` (`fastmlp.kernels.variant.Variant`) give equal parameters, moments and losses, with
any number of threads, by `train_chunk` and by `gradient` followed by `update`:
`tests/kernels/test_arithmetic.py`.

Multiply-adds round once (`formulas.numbers.fma`) where `fma` is written, and twice elsewhere.

- Products are a chain of fma for each element, k ascending. Logits begin with the bias, k over the inputs;
  the delta of the layer below begins with 0, k over the units; a weight's gradient with 0, k over the rows of
  the batch. Where a chain is cut, the next part begins with the number stored by the part before.
- Sparse inputs have the same chains without the terms whose factor is 0: the sign of a zero apart, no bit
  changes. A row of weights takes no step if its column is empty in the batch. The row still equals the same
  row after a step along a gradient of 0, because the first step of a call sets subnormal numbers to 0.
- Bias gradients begin with 0, and the rows of the batch are added in order. Gradients of gains and shifts of
  a fused chain are summed so over each part of `LOSS_ROWS` rows, and the parts are added in order, from 0.
- The loss is summed in float64, from 0, by parts of `LOSS_ROWS` rows; then divided by `value_divisor`;
  then the sum of the layers' penalties, the first layer's first, is added. A part is summed by halves, row i
  and row i + 8 first (`elementwise.losses.emit_total`).
- A layer's penalty is a sum over rows of weights, a row for each input; `rows_as_one` of these rows count as
  a single row. `with_penalty` adds row r, column k to the chain (r % PENALTY_ROWS, k % PENALTY_LANES), rows
  ascending and then columns, in the dtype. After every group of rows, PENALTY_ROWS times as many as
  give a chain PENALTY_TERMS terms, or PENALTY_ROWS where a row gives more, the chains of a lane are added,
  the first row's first, and the result to the lane's total in float64. At last the lanes' totals are summed
  by halves. The terms of padding, which are 0, change nothing.
- A gradient is complete before any other operation: `with_decay`, then + l1 * sign(weight) where l1 > 0.
- Dropped units are dropped after their activation; the delta is dropped before the multiplication by the
  activation's derivative.
- The norm for clipping is a sum in float64 over the flat vector (`elementwise.by_vectors.squares_of`).
- A step is its rule's formula (`fastmlp.model.rules`); plain SGD's, which also ends tiles, is `sgd_step`.
- Subnormal numbers count as 0 from the first product to the last step (`fastmlp.kernels.codegen.machine`).
"""

# mypy: ignore-errors

from fastmlp.formulas.numbers import fma, where

LOSS_ROWS = 16
"""Rows of a part of the loss's sum."""

PENALTY_ROWS, PENALTY_LANES, PENALTY_TERMS = 4, 8, 16
"""The chains of a layer's penalty, and each chain's terms added before the sum goes to float64."""


def rows_as_one(n_out):
    """Return how many rows of weights a penalty counts as one: as many as 8 lanes hold."""
    if isinstance(n_out, int):
        return max(1, PENALTY_LANES // n_out)
    return where(n_out < PENALTY_LANES, n_out.number(PENALTY_LANES) // n_out, 1)


def with_penalty(l1, half, weight, total):
    """Return total + (l1 + half * |weight|) * |weight|, where half is l2 / 2; l1 : None is 0."""
    size = weight.magnitude()
    return fma(half * size if l1 is None else fma(half, size, l1), size, total)


def with_decay(gradient, l2, weight):
    """Return the gradient plus the derivative of l2 / 2 * weight**2."""
    return fma(l2, weight, gradient)


def sgd_step(parameter, rate, gradient):
    """Return the parameter after a step of plain SGD."""
    return fma(-rate, gradient, parameter)


def chances(rate):
    """Return the least hash (32 bits) of undropped units at this rate, and their factor."""
    return int(rate * 4294967296.0), 1.0 / (1.0 - rate)
