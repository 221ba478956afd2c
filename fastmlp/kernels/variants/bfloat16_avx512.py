"""bfloat16_avx512: as bfloat16_amx, by `vdpbf16ps` on vectors, for processors without AMX.

The instruction multiplies twice as many numbers in a cycle as one port for float32. Intel's processors with
two ports gain nothing. Results equal bfloat16_amx up to the rounding of sums.
"""

from fastmlp.kernels.estimates import MIXED
from fastmlp.kernels.mixed.products import BY_LANES, slots_of
from fastmlp.kernels.variants import fused

VARIANT = MIXED["bfloat16_avx512"]._replace(base=fused.VARIANT, slots=slots_of(BY_LANES))
