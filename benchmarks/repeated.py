"""Many short trainings of one network, not one of which is worth a program of its own.

python -m benchmarks.repeated fits 4-20-14-3 again and again, by "fused" and by "auto", each in a new process.
"auto" has the network's program compiled once the fits have lost as long as that takes. All begin with the
same cache, which has all but that program, and "auto" runs a second time with what it left there.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FITS = """
import collections, sys, time
import numpy as np
import fastmlp

backend, count = sys.argv[1], int(sys.argv[2])
rng = np.random.default_rng(0)
X, y = rng.standard_normal((256, 4)), rng.standard_normal((256, 3))
network = fastmlp.Network([4, 20, 14, 3], "tanh", l2=1e-4)

def fit(seed, epochs=1500):
    return fastmlp.fit(
        network, X, y, epochs=epochs, batch_size=32, seed=seed, threads=1, progress=False, backend=backend
    ).backend

fit(0, 1)
began, taken = time.perf_counter(), collections.Counter()
for seed in range(count):
    taken[fit(seed)] += 1
print(f"{time.perf_counter() - began:.2f} s, {time.process_time():.2f} s of processor time |", dict(taken))
"""


def run(backend, count, cache):
    """Return what a new process prints of so many fits."""
    command = [sys.executable, "-c", FITS, backend, str(count)]
    environment = {**os.environ, "FASTMLP_CACHE_DIR": str(cache)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.repeated", description=__doc__)
    parser.add_argument("--fits", type=int, default=400, help="of each process; default %(default)s")
    count = parser.parse_args().fits
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        warm, auto = Path(folder, "warm"), Path(folder, "auto")
        run("fused", 0, warm)
        shutil.copytree(warm, auto)
        print(f"| {count} fits | took | backends at their ends |\n|---|---|---|")
        for name, backend, cache in (
            ("fused", "fused", warm), ("auto", "auto", auto), ("auto, a later process", "auto", auto),
        ):  # fmt: skip
            print(f"| {name} | {run(backend, count, cache)} |", flush=True)


if __name__ == "__main__":
    main()
