"""Process start to trained digits: wall time of whole scripts in new processes, alternated.

The scripts train 64-100-10 on the 1797 digits for 20 epochs with Adam at batch 32 and read
the data from one file, so that fastmlp's need not import scikit-learn for them.
"""

import importlib.util
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

from fastmlp.lab.timing import CLOCKS, once

SAVE = """
import sys, numpy
from sklearn.datasets import load_digits
X, y = load_digits(return_X_y=True)
numpy.savez(sys.argv[1], X=(X / 16).astype("float32"), y=y)
"""
FASTMLP = """
import sys, numpy, fastmlp
data = numpy.load(sys.argv[1])
network = fastmlp.Network([64, 100, 10], hidden="relu", output="softmax", loss="cross_entropy")
X, y = data["X"], data["y"]
model = fastmlp.fit(network, X, y, optimizer=fastmlp.Adam(0.001), epochs=20, batch_size=32, seed=0)
print((model.predict(X).argmax(axis=1) == y).mean())
"""
SKLEARN = """
import sys, warnings, numpy
from sklearn.neural_network import MLPClassifier
warnings.simplefilter("ignore")
data = numpy.load(sys.argv[1])
model = MLPClassifier((100,), batch_size=32, alpha=0, max_iter=20, random_state=0).fit(data["X"], data["y"])
print(model.score(data["X"], data["y"]))
"""
SCRIPTS = {"fastmlp": FASTMLP, "sklearn": SKLEARN, "torch": "import torch\nprint(1.0)"}


def measure(peers, rounds, env, cores):
    """Return three tables by peer: its seconds a round, why it takes no part, and how it failed."""
    seconds, failed = {}, {}
    absent = {peer: "it has no script here" for peer in peers if peer not in SCRIPTS}
    scripts = [peer for peer in peers if peer in SCRIPTS]
    absent |= {peer: "it is not installed" for peer in scripts if importlib.util.find_spec(peer) is None}
    with tempfile.TemporaryDirectory() as folder:
        data = str(Path(folder) / "digits.npz")
        if _run(SAVE, data, env, cores).returncode:
            return {}, dict.fromkeys(peers, "the digits come from scikit-learn, which is not installed"), {}
        for peer in (peer for peer in scripts if peer not in absent):
            for _ in range(2):  # fills the disk caches of code and of compiled kernels
                done = _run(SCRIPTS[peer], data, env, cores)
            if done.returncode:
                failed[peer] = done.stderr.strip().splitlines()[-1]
            elif float(done.stdout) < 0.95:
                failed[peer] = f"training accuracy {done.stdout.strip()}"
            else:
                seconds[peer] = []
        for _ in range(rounds):
            for peer, took in seconds.items():
                took.append(once(partial(_run, SCRIPTS[peer], data, env, cores), CLOCKS["wall"]))
    return seconds, absent, failed


def _run(script, data, env, cores):
    command = ["taskset", "-c", ",".join(map(str, cores)), sys.executable, "-c", script, data]
    return subprocess.run(command, env=env, capture_output=True, text=True)
