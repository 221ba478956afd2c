"""The first minute, as a user has it: whole scripts in new processes, against the peers that are installed.

python -m benchmarks.start prints one table. Rounds of all scripts take turns, so that a machine's drift hits
all alike; a figure is the least of its rounds, and a cold one, with an empty cache directory each time, the
least of fewer. "after numpy" is the time from the end of NumPy's own import to the end of the first fit, and
of the first prediction after it. With --wheel an epoch is measured from a wheel with machine code, too, as
FASTMLP_PREBUILD=x86-64-v3,x86-64-v4 python -m build --wheel makes it; nothing loads Numba then.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from typing import NamedTuple

from fastmlp.lab.machine import cpu

CLOCK = """
import time
import numpy as np
began = time.perf_counter()
def lap(what):
    print(what, time.perf_counter() - began)
"""

FROM = "import sys; sys.path.insert(0, {folder!r})\n{code}assert 'numba' not in sys.modules\n"
"""Code with the package of a folder, which has to do without Numba."""

DATA = "X = np.random.default_rng(0).random((1797, 64), np.float32); y = np.arange(1797) % 10\n"

FIRST = {
    "fastmlp": """
import fastmlp
network = fastmlp.Network([64, 100, 10], output="softmax", loss="cross_entropy")
model = fastmlp.fit(network, X, y, epochs=1, batch_size=32, seed=0, progress=False)
lap("first fit")
model.predict(X)
lap("and prediction")
""",
    "sklearn": """
import warnings
from sklearn.neural_network import MLPClassifier
warnings.simplefilter("ignore")
model = MLPClassifier((100,), batch_size=32, max_iter=1, random_state=0).fit(X, y)
lap("first fit")
model.predict(X)
lap("and prediction")
""",
    "torch": """
import torch
model = torch.nn.Sequential(torch.nn.Linear(64, 100), torch.nn.ReLU(), torch.nn.Linear(100, 10))
optimizer, loss = torch.optim.Adam(model.parameters()), torch.nn.CrossEntropyLoss()
X, y = torch.from_numpy(X), torch.from_numpy(y)
for rows in torch.randperm(len(X)).split(32):
    optimizer.zero_grad()
    loss(model(X[rows]), y[rows]).backward()
    optimizer.step()
lap("first fit")
with torch.no_grad():
    model(X).numpy()
lap("and prediction")
""",
    "jax": """
import jax, jax.numpy as jnp
rng = np.random.default_rng(0)
p = [rng.normal(0, 0.1, s).astype(np.float32) for s in ((64, 100), (100,), (100, 10), (10,))]
def logits(p, x):
    return jax.nn.relu(x @ p[0] + p[1]) @ p[2] + p[3]
def loss(p, x, t):
    return -jnp.mean(jax.nn.log_softmax(logits(p, x))[jnp.arange(len(t)), t])
def epoch(p, x, t):
    def step(p, rows):
        return [a - 0.1 * g for a, g in zip(p, jax.grad(loss)(p, *rows))], 0
    return jax.lax.scan(step, p, (x, t))[0]
p = jax.block_until_ready(jax.jit(epoch)(p, X[:1792].reshape(56, 32, 64), y[:1792].reshape(56, 32)))
lap("first fit")
np.asarray(jax.jit(logits)(p, X))
lap("and prediction")
""",
}
"""An epoch of 64-100-10 on 1797 rows, by each."""

SEARCH = """
import sys, warnings
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from {package} import MLPClassifier
warnings.simplefilter("ignore")
X, y = load_breast_cancer(return_X_y=True)
sizes = [(8,), (16,), (32,), (64,), (128,), (16, 8), (32, 16), (64, 32), (64, 64), (32, 32, 32)]
grid = {{"mlpclassifier__hidden_layer_sizes": sizes, "mlpclassifier__alpha": [1e-4, 1e-2]}}
model = make_pipeline(StandardScaler(), MLPClassifier(random_state=0))
search = GridSearchCV(model, grid, cv=5, n_jobs={jobs})
search.fit(X, y)
assert search.best_score_ > 0.95
lap("search")
"""

SMALL_SEARCH = """
import warnings
from sklearn.datasets import load_wine
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from {package} import MLPClassifier
warnings.simplefilter("ignore")
X, y = load_wine(return_X_y=True)
grid = {{
    "mlpclassifier__hidden_layer_sizes": [(8,), (16,), (32,), (64,), (16, 8), (32, 16)],
    "mlpclassifier__alpha": [1e-4, 1e-3, 1e-2],
}}
model = make_pipeline(StandardScaler(), MLPClassifier(random_state=0))
search = GridSearchCV(model, grid, cv=4).fit(X, y)
assert search.best_score_ > 0.95
lap("search")
"""

README = """
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from {package} import MLPClassifier
digits = load_digits()
flat = digits.images.reshape((len(digits.images), -1))
X_train, X_test, y_train, y_test = train_test_split(flat, digits.target, test_size=0.5, shuffle=False)
MLPClassifier(random_state=0).fit(X_train, y_train).predict(X_test)
lap("example")
"""


class Script(NamedTuple):
    """A row of the table: words for it, what a new process runs, and whether its cache is empty before."""

    name: str
    command: list[str]
    cold: bool


def scripts(wheel: str | None) -> Iterator[Script]:
    """Yield what is measured, with the peers that are installed; wheel : the folder of an unpacked one."""

    def python(code: str) -> list[str]:
        return [sys.executable, "-c", CLOCK + DATA + code]

    yield Script("import numpy alone, whole process", [sys.executable, "-c", "import numpy"], False)
    for peer, code in FIRST.items():
        if importlib.util.find_spec(peer) is None:
            continue
        yield Script(f"{peer}, an epoch of 64-100-10", python(code), False)
        if peer == "fastmlp":
            yield Script(f"{peer}, an epoch of 64-100-10, cold", python(code), True)
            if wheel:
                unpacked = python(FROM.format(folder=wheel, code=code))
                yield Script(f"{peer}, an epoch of 64-100-10, cold, from the wheel", unpacked, True)
    for package in ("fastmlp", "sklearn.neural_network"):
        yield Script(f"README's first example by {package}", python(README.format(package=package)), False)
    train = [sys.executable, "-m", "fastmlp", "train", "digits", "--quiet"]
    yield Script("fastmlp train digits, whole process", train, False)
    for package, cold in (("fastmlp", True), ("fastmlp", False), ("sklearn.neural_network", False)):
        state = ", cold" if cold else ""
        name = f"GridSearchCV, 18 candidates, 4 folds, 133 rows, by {package}{state}"
        yield Script(name, python(SMALL_SEARCH.format(package=package)), cold)
    for jobs in (None, 2):
        for package, cold in (("fastmlp", True), ("fastmlp", False), ("sklearn.neural_network", False)):
            state = ", cold" if cold else ""
            name = f"GridSearchCV, 100 fits, n_jobs={jobs}, by {package}{state}"
            yield Script(name, python(SEARCH.format(package=package, jobs=jobs)), cold)


class Outcome(NamedTuple):
    """Seconds by what was done; notices : lines that said that something compiles."""

    seconds: dict[str, float]
    notices: int


def run(script: Script, cache: str) -> Outcome:
    """Run a script in a new process; RuntimeError with what it wrote if it fails."""
    environment = {**os.environ, "FASTMLP_CACHE_DIR": cache}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # what an installed package has compiled is kept
    began = time.perf_counter()
    done = subprocess.run(script.command, env=environment, capture_output=True, text=True, check=False)
    whole = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"{script.name} failed:\n{done.stderr}")
    said = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    laps = {} if "-m" in script.command else {what: float(seconds) for what, seconds in said}
    return Outcome({**laps, "whole process": whole}, done.stderr.count("fastmlp: compiling"))


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.start", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="warm turns of each script; default 5")
    parser.add_argument("--cold", type=int, default=2, help="turns with an empty cache; default 2")
    parser.add_argument("--only", default="", metavar="TEXT", help="scripts whose name contains this")
    parser.add_argument("--wheel", metavar="FILE", help="of fastmlp, with machine code")
    options = parser.parse_args()
    print_heading("benchmarks.start")
    with tempfile.TemporaryDirectory() as warm, tempfile.TemporaryDirectory() as unpacked:
        if options.wheel:
            zipfile.ZipFile(options.wheel).extractall(unpacked)
        found = scripts(unpacked if options.wheel else None)
        chosen = [script for script in found if options.only in script.name]
        if not all(script.cold for script in chosen):
            began = time.perf_counter()
            environment = {**os.environ, "FASTMLP_CACHE_DIR": warm}
            subprocess.run(
                [sys.executable, "-m", "fastmlp", "warmup"], env=environment, capture_output=True, check=True
            )
            print(f"fastmlp warmup, cold: {time.perf_counter() - began:.1f} s\n")
        outcomes_of = measured(chosen, options.rounds, options.cold, warm)
    print("| script | seconds after numpy | whole process | compile notices |\n|---|---|---|---|")
    for name, outcomes in outcomes_of.items():
        least = {what: min(one.seconds[what] for one in outcomes) for what in outcomes[0].seconds}
        whole = least.pop("whole process")
        laps = ", ".join(f"{what} {seconds:.3f}" for what, seconds in least.items())
        print(f"| {name} | {laps} | {whole:.2f} | {max(one.notices for one in outcomes)} |")


def measured(chosen: list[Script], rounds: int, cold: int, warm: str) -> dict[str, list[Outcome]]:
    """Return the outcomes of each script, which take turns. warm : the cache of those that are not cold"""
    found: dict[str, list[Outcome]] = {script.name: [] for script in chosen}
    for script in chosen:
        if not script.cold:
            run(script, warm)  # byte code and files are read once
    for turn in range(max(rounds, cold)):
        for script in chosen:
            if turn < (cold if script.cold else rounds):
                with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as empty:
                    found[script.name].append(run(script, empty if script.cold else warm))
    return found


def print_heading(module: str) -> None:
    """Print the machine, the versions and the command, which stand above a table."""
    load = f"load {os.getloadavg()[0]:.1f}, " if hasattr(os, "getloadavg") else ""
    print(f"{cpu()}, {os.cpu_count()} cores, {load}{versions()}")
    print(f"python -m {module} {' '.join(sys.argv[1:])}\n")


def versions() -> str:
    """Return what is installed, in words."""
    packages = [
        name for name in ("numpy", "numba", "llvmlite", "scikit-learn", "torch", "jax") if _is_there(name)
    ]
    return ", ".join(
        [f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in packages)]
    )


def _is_there(package: str) -> bool:
    return importlib.util.find_spec({"scikit-learn": "sklearn"}.get(package, package)) is not None


if __name__ == "__main__":
    main()
