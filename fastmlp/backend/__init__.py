"""The registry of backends, the choice, and the NumPy reference for tests."""
