"""What the first training on a machine compiles, and how long each function takes: CPU seconds, cold cache.

python -m benchmarks.compilation trains 784-128-10 for an epoch on one thread. The second column counts the
calls and operations that Numba types in a function; no noise moves it. A function's time is without that of
the functions that are compiled within it. The rest is what Numba compiles no function for: register tiles,
loading, and the steps themselves.
"""

import argparse
import os
import tempfile
import time
from collections import Counter

import numpy as np


def main():
    """Compile in this process, and print the table."""
    argparse.ArgumentParser(prog="python -m benchmarks.compilation", description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FASTMLP_CACHE_DIR"] = cache  # before numba is imported
        from numba.core import event

        import fastmlp

        class Clock(event.Listener):
            """Sums up what each function takes without those that are compiled within it."""

            def __init__(self):
                self.seconds, self.typed, self.began = Counter(), Counter(), []

            def on_start(self, ev):
                self.began.append(time.process_time())

            def on_end(self, ev):
                took, compiled = time.process_time() - self.began.pop(), ev.data["dispatcher"]
                name = compiled.py_func.__qualname__.split(".")[0]
                self.seconds[name] += took
                self.typed[name] = sum(len(o.type_annotation.calltypes) for o in compiled.overloads.values())
                self.began = [began + took for began in self.began]

        rng, clock = np.random.default_rng(0), Clock()
        X, y = rng.standard_normal((600, 784), np.float32), rng.integers(0, 10, 600)
        network = fastmlp.Network([784, 128, 10], "relu", "softmax", "cross_entropy")
        with event.install_listener("numba:compile", clock):
            began = time.process_time()
            fastmlp.fit(network, X, y, epochs=1, batch_size=128, threads=1, progress=False)
            trained = time.process_time() - began
    print(f"{'training':<28}{trained:6.2f} s")
    for name, seconds in clock.seconds.most_common():
        print(f"    {name:<24}{seconds:6.2f}{clock.typed[name]:6d}")
    print(f"    {'the rest':<24}{trained - clock.seconds.total():6.2f}")


if __name__ == "__main__":
    main()
