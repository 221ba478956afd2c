"""What the first training on a machine compiles, and how long each function takes: CPU seconds, cold cache.

Beside them the calls and operations that Numba types in a function: a count that no noise moves.

python -m benchmarks.compilation [BACKEND [DTYPE]] trains 784-128-10 for an epoch on one thread, then
predicts, then validates. What a function calls is counted where it stands by itself; what no function of
Numba's stands for (register tiles, loading, the steps themselves) is the rest.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections import Counter
from typing import Any

import numpy as np


def main(backend: str = "auto", dtype: str = "float32") -> None:
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
    main(*sys.argv[1:])
