"""Which backends there are, and the NumPy one that all others are held to."""
