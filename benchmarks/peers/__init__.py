"""fastmlp against JAX, PyTorch and scikit-learn on the same work: `python -m benchmarks.peers`."""
