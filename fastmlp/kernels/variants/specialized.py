"""specialized: a program for each small network, with the network's sizes as constants.

It wins where a step takes at most some tens of microseconds, because there `fused` spends more time on its
branches and loops than on arithmetic. Every loop has a known length, every array a known offset in a
private workspace in L1 or L2, and a layer is code without branches (`fastmlp.kernels.small.padded_step`).
Networks of a few dozen parameters, trained by plain SGD on up to 16 rows, stay in registers for a whole chunk
(`fastmlp.kernels.small.programs`).

The price is a compilation of a second or two for every network, once a machine. Rates, decays of moments,
sizes of penalties and weights are data. Layers with a formula of a row, a user's as well, are part of the
program. Networks with anything else (gelu or silu at the end of a dense layer, batch norms, l1, clipping,
custom losses of rows) run as `fused`.
"""

from fastmlp.kernels.estimates import BUILT_IN
from fastmlp.kernels.variants import fused

VARIANT = BUILT_IN["specialized"]._replace(base=fused.VARIANT)
