"""The works of `benchmarks.peers` that are no chains, and the peers that take them."""
