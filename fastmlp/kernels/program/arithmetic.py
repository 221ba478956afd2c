"""The order of operations: one for each number that training computes, and every exact variant follows it.

A sum of floats depends on the order of its terms. Here stands the one order. It depends on the network, the
optimiser, the rows of a batch, the dtype and the machine's vectors, and on nothing else: variants that are
`exact` (`fastmlp.kernels.variant.Variant`) give equal parameters, moments and losses, with any number of
threads, by `train_chunk` and by `gradient` followed by `update`. `tests/test_arithmetic.py` compares them.

Multiply-adds round once (`formulas.numbers.fma`) where `fma` is written, and twice elsewhere.

- Products are one chain of fma for each element, k ascending. Logits begin with the bias, k over the inputs;
  the delta of the layer below begins with 0, k over the units; a weight's gradient with 0, k over the rows of
  the batch. Where a chain is cut, the next part begins with what the one before has stored.
- Sparse inputs have the same chains without the terms whose factor is 0: these change no bit but the sign
  of a zero. Rows of weights that take no step, since no row of the batch has a number for them, are as after
  a step along a gradient of 0: the first step of a call makes 0 of subnormal ones.
- Bias gradients begin with 0, and the rows of the batch are added one by one.
- The loss is summed in float64, from 0, by parts of `LOSS_ROWS` rows; then it is divided by `value_divisor`;
  then the sum of the layers' penalties, the first layer's first, is added. A part is summed by halves, row i
  and row i + 8 first (`elementwise.abreast.emit_total`); one row after another, where outputs are more than
  `MOST_UNITS`.
- A gradient is complete before anything else is done to it: `with_decay`, then, where l1 > 0,
  l1 * sign(weight) is added.
- Dropped units are dropped after their activation; their delta is dropped before it is multiplied by the
  activation's slope.
- The norm that clipping needs is a sum in float64 over the flat vector, in ascending order.
- A step is its rule's formula (`fastmlp.model.rules`); plain SGD's, which also ends tiles, is `descended`.
- Subnormal numbers count as 0 from the first product to the last step (`fastmlp.kernels.codegen.subnormals`).

`specialized` follows it, with exceptions; `variant.Bound.exact` says whether a network's program is none of
them. In the first two the last bits of parameters differ, some eps a step, in the others only those of the
loss that is told:

- networks that live in registers (`small.registers`): a lane is a row, and gradients are sums over lanes, as
  a chain over the rows would need each row's numbers in every lane;
- batches from 1024 rows on, summed in eight groups, which threads share;
- penalties, which are summed in the dtype in any order: one after another, the 4440 weights of 13-60-60-1
  would wait for as many additions, a quarter of its step;
- outputs of more than `MOST_UNITS`, whose losses are taken sixteen rows at once here.
"""

# mypy: ignore-errors

from fastmlp.formulas.numbers import fma

LOSS_ROWS = 16
"""Rows whose losses make one part of the sum."""

MOST_UNITS = 56
"""Of wider outputs the scratch does not hold sixteen rows in float64."""


def with_decay(gradient, l2, weight):
    """Return the gradient plus that of l2 / 2 * weight**2; where l2 > 0."""
    return fma(l2, weight, gradient)


def descended(parameter, rate, gradient):
    """Return the parameter after a step of plain SGD."""
    return fma(-rate, gradient, parameter)
