"""Products of bfloat16 numbers, for the variant that a dtype chooses and no name of a backend."""
