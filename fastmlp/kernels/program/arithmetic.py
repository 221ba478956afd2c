"""The order of operations: one for each number that training computes, and every exact variant follows it.

A sum of floats depends on the order of its terms. This page states that order. It depends on the network, the
optimiser, the rows of a batch, the dtype and the machine's vectors, and on nothing else: variants that are
`exact` (`fastmlp.kernels.variant.Variant`) give equal parameters, moments and losses, with any number of
threads, by `train_chunk` and by `gradient` followed by `update`. `tests/test_arithmetic.py` compares them.

Multiply-adds round once (`formulas.numbers.fma`) where `fma` is written, and twice elsewhere.

- Products are one chain of fma for each element, k ascending. Logits begin with the bias, k over the inputs;
  the delta of the layer below begins with 0, k over the units; a weight's gradient with 0, k over the rows of
  the batch. Where a chain is cut, the next part begins with what the one before has stored.
- Sparse inputs have the same chains without the terms whose factor is 0: these change no bit but the sign
  of a zero. A row of weights takes no step if its column is empty in the batch. It still equals the same row
  after a step along a gradient of 0, because the first step of a call sets its subnormal numbers to 0.
- Bias gradients begin with 0, and the rows of the batch are added one by one.
- The loss is summed in float64, from 0, by parts of `LOSS_ROWS` rows; then it is divided by `value_divisor`;
  then the sum of the layers' penalties, the first layer's first, is added. A part is summed by halves, row i
  and row i + 8 first (`elementwise.abreast.emit_total`).
- A gradient is complete before anything else is done to it: `with_decay`, then, where l1 > 0,
  l1 * sign(weight) is added.
- Dropped units are dropped after their activation; their delta is dropped before it is multiplied by the
  activation's slope.
- The norm that clipping needs is a sum in float64 over the flat vector (`elementwise.totals.emit_sum`).
- A step is its rule's formula (`fastmlp.model.rules`); plain SGD's, which also ends tiles, is `descended`.
- Subnormal numbers count as 0 from the first product to the last step (`fastmlp.kernels.codegen.subnormals`).

`specialized` follows it, with two exceptions; `variant.Bound.exact` is true where neither applies to a
network's program. The first changes the last bits of parameters, by some eps a step. The second changes only
the last bits of the reported loss:

- batches of 1024 rows and more: they are summed in eight groups, which threads share;
- penalties: their terms are summed in the dtype and in any order. In one chain, the 4440 weights of
  13-60-60-1 would be 4440 additions of which each waits for the one before, a quarter of the step.
"""

# mypy: ignore-errors

from fastmlp.formulas.numbers import fma

LOSS_ROWS = 16
"""Rows whose losses make one part of the sum."""


def with_decay(gradient, l2, weight):
    """Return the gradient plus the derivative of l2 / 2 * weight**2."""
    return fma(l2, weight, gradient)


def descended(parameter, rate, gradient):
    """Return the parameter after a step of plain SGD."""
    return fma(-rate, gradient, parameter)
