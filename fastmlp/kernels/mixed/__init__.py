"""Products of bfloat16 numbers, for the variants of `dtype="bfloat16"`."""
