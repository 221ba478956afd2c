"""bfloat16_amx: fused, with the products of all but small layers on AMX tiles, of operands in bfloat16.

Only operands of dense products are bfloat16; all other numbers, and sparse products, stay float32. It wins
where a layer fills whole tiles: a tile instruction multiplies 16 times as many numbers in a cycle as two
ports for float32. Packing the operands then takes more than half of a product's time.
"""

from fastmlp.kernels.estimates import MIXED
from fastmlp.kernels.mixed.products import BY_TILES, slots_of
from fastmlp.kernels.variants import fused

VARIANT = MIXED["bfloat16_amx"]._replace(base=fused.VARIANT, slots=slots_of(BY_TILES))
