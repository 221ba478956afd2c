"""Products of bfloat16 numbers, for the variants that are chosen by a dtype and not by name."""
