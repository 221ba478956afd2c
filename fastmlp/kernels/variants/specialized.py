"""specialized: a program for each small network, in which its sizes are constants.

It wins where a step is so short that what `fused` spends on finding its way costs more than the
arithmetic: up to some tens of microseconds. Sizes, activations, loss and kind of optimiser are bound
when the program is compiled, so every loop has a known length, every array a known place in one
private workspace that stays in L1 or L2, and a layer is straight code (`fastmlp.kernels.small.stages`).
Networks of a few dozen parameters, trained by plain SGD on up to 16 rows, live in vector registers
throughout (`fastmlp.kernels.small.registers`). The price is a compilation of a second or two for every
network, once a machine; rates, moments' decays, penalties' sizes and weights are data and need none.
Whatever has no stage here (gelu, silu, dropout, l1, clipping, users' losses of rows) runs as `fused`.

Large batches go through the network in blocks of rows. From 1024 rows on the blocks form eight groups
whose gradients are summed one after another, so that any number of threads gives the same bits.
"""

from __future__ import annotations

from fastmlp.kernels.estimates import OWN
from fastmlp.kernels.variant import Variant
from fastmlp.kernels.variants import fused

VARIANT = Variant("specialized", fused.VARIANT, {}, *OWN["specialized"])
