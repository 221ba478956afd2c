"""What the first training on a machine compiles, and how long each function takes: CPU seconds, cold cache.

python -m benchmarks.compilation trains 784-128-10 for an epoch on one thread, then predicts, then validates.
The second column counts the calls and operations that Numba types in a function; no noise moves it. A
function's time is without that of the functions that are compiled within it. The rest is what Numba compiles
no function for: register tiles, loading, and the steps themselves.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from typing import Any

import numpy as np


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compilation", description=__doc__)
    parser.add_argument("backend", nargs="?", default="auto", help="default: %(default)s")
    parser.add_argument("dtype", nargs="?", default="float32", choices=("float32", "float64"))
    options = parser.parse_args()
    measure(options.backend, options.dtype)


def measure(backend: str, dtype: str) -> None:
    """Compile in this process, and print the table."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ["FASTMLP_CACHE_DIR"] = cache  # before numba is imported
        from numba.core import event

        import fastmlp

        class Clock(event.Listener):
            """Sums up what each function takes without those that are compiled within it."""

            def __init__(self) -> None:
                self.seconds: Counter[str] = Counter()
                self.typed: Counter[str] = Counter()
                self._began: list[float] = []

            def on_start(self, ev: Any) -> None:
                self._began.append(time.process_time())

            def on_end(self, ev: Any) -> None:
                took = time.process_time() - self._began.pop()
                compiled = ev.data["dispatcher"]
                name = compiled.py_func.__qualname__.split(".")[0]
                self.seconds[name] += took
                self.typed[name] = sum(len(o.type_annotation.calltypes) for o in compiled.overloads.values())
                self._began = [began + took for began in self._began]

        rng = np.random.default_rng(0)
        X, y = rng.standard_normal((600, 784)).astype(dtype), rng.integers(0, 10, 600)
        network = fastmlp.Network([784, 128, 10], "relu", "softmax", "cross_entropy")

        def fit(**options: Any) -> fastmlp.Model:
            return fastmlp.fit(
                network, X, y, epochs=1, batch_size=128, backend=backend, threads=1, progress=False, **options
            )

        clock = Clock()
        with event.install_listener("numba:compile", clock):
            began = time.process_time()
            model = fit()
            trained = time.process_time() - began
            print(f"{'training, ' + model.backend:<28}{trained:6.2f} s")
            for name, seconds in clock.seconds.most_common():
                print(f"    {name:<24}{seconds:6.2f}{clock.typed[name]:6d}")
            print(f"    {'the rest':<24}{trained - clock.seconds.total():6.2f}")
            began = time.process_time()
            model.predict(X)
            print(f"{'prediction after it':<28}{time.process_time() - began:6.2f} s")
            began = time.process_time()
            fit(validation=(X, y))
            print(f"{'validation after it':<28}{time.process_time() - began:6.2f} s")


if __name__ == "__main__":
    main()
