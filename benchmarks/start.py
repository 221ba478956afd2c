"""The first minute, as a user has it: whole scripts in new processes, against the peers that are installed.

python -m benchmarks.start prints one table. Rounds of all scripts take turns, so that a machine's drift hits
all alike; a figure is the least of its rounds, and a cold one, with an empty cache directory each time, the
least of fewer. "after numpy" is the time from the end of NumPy's own import to the end of the first fit, and
of the first prediction after it. With --wheel an epoch is measured from a wheel with machine code, too, as
FASTMLP_PREBUILD=x86-64-v3,x86-64-v4 python -m build --wheel makes it; nothing loads Numba then.

python -m benchmarks.start --against COMMIT installs that commit and this checkout in turns, into a new
environment of each --python, and prints a table of both: the installation, where all that fastmlp requires is
there, and processes after it. Of a "first" process the cache is empty. pip fills the environment before.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from fastmlp.kernels.codegen import machine

from .processes import ROOT, allowed, pin, print_heading

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
import warnings
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from {package} import MLPClassifier
warnings.simplefilter("ignore")
X, y = {data}(return_X_y=True)
grid = {{"mlpclassifier__hidden_layer_sizes": {sizes}, "mlpclassifier__alpha": {penalties}}}
model = make_pipeline(StandardScaler(), MLPClassifier(random_state=0))
search = GridSearchCV(model, grid, cv={folds}, n_jobs={jobs}).fit(X, y)
assert search.best_score_ > 0.95
lap("search")
"""

WINE = {
    "data": "load_wine", "sizes": [(8,), (16,), (32,), (64,), (16, 8), (32, 16)], "folds": 4,
    "penalties": [1e-4, 1e-3, 1e-2], "jobs": None,
}  # fmt: skip
CANCER = {
    "data": "load_breast_cancer", "folds": 5, "penalties": [1e-4, 1e-2],
    "sizes": [(8,), (16,), (32,), (64,), (128,), (16, 8), (32, 16), (64, 32), (64, 64), (32, 32, 32)],
}  # fmt: skip

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

    for what in ("numpy", "numpy, fastmlp; fastmlp.fit, fastmlp.Network, fastmlp.Adam"):
        yield Script(f"import {what}, whole process", [sys.executable, "-c", f"import {what}"], False)
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
    for words, given in (
        ("18 candidates, 4 folds, 133 rows", WINE),
        ("100 fits, n_jobs=None", CANCER | {"jobs": None}),
        ("100 fits, n_jobs=2", CANCER | {"jobs": 2}),
    ):
        for package, cold in (("fastmlp", True), ("fastmlp", False), ("sklearn.neural_network", False)):
            name = f"GridSearchCV, {words}, by {package}{', cold' * cold}"
            yield Script(name, python(SEARCH.format(package=package, **given)), cold)


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
    parser.add_argument("--against", metavar="COMMIT", help="compare installations, --rounds of each")
    parser.add_argument("--python", nargs="+", default=[sys.executable], help="to install for; default: this")
    options = parser.parse_args()
    print_heading("benchmarks.start")
    if options.against:
        for interpreter in options.python:
            compare_installations(options.against, interpreter, options.rounds, options.only)
        return
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


FORKED = "import os, fastmlp\nif os.fork():\n    os.wait()\n    os._exit(0)\n" + FIRST["fastmlp"]
"""An epoch in a process that was forked after the import."""

FROM_A_WHEEL = "from a wheel, first process"

INSTALLED: dict[str, tuple[str, int]] = {
    "first process": (FIRST["fastmlp"], 0),
    "second process": (FIRST["fastmlp"], 0),
    "first process, one core": (FIRST["fastmlp"], 1),
    "second process, one core": (FIRST["fastmlp"], 1),
    "first process, estimator in float64": (README.format(package="fastmlp"), 0),
    "second process, estimator in float64": (README.format(package="fastmlp"), 0),
    "first process, in a fork": (FORKED, 0),
    "first process, without machine code": (FIRST["fastmlp"], 0),
}
"""What processes of an installation run, in this order, and how many cores they may use; 0 for all."""


class Environment:
    """A new environment of an interpreter in a folder, with a cache directory of its own."""

    def __init__(self, interpreter: str, folder: Path) -> None:
        self.folder, self.cache = folder, folder / "cache"
        folder.mkdir()
        subprocess.run([interpreter, "-m", "venv", folder / "environment"], check=True)
        self.python = folder / "environment" / ("Scripts" if os.name == "nt" else "bin") / "python"

    def run(self, *arguments: str | Path, cores: int = 0, **variables: str) -> str:
        """Run Python with arguments, outside of a checkout; return what it printed."""
        ours = ("FASTMLP_", "PYTHON")
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        pinned = functools.partial(pin, allowed()[:cores]) if cores else None
        done = subprocess.run(
            [self.python, *arguments], env={**inherited, "FASTMLP_CACHE_DIR": str(self.cache), **variables},
            cwd=self.folder, preexec_fn=pinned, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, arguments))[:200]} failed:\n{done.stdout}{done.stderr}")
        return done.stdout

    def pip(self, *arguments: str | Path, **variables: str) -> None:
        """Run pip."""
        self.run("-m", "pip", "--disable-pip-version-check", *arguments, **variables)

    def after_numpy(self, name: str) -> float:
        """Return the seconds after NumPy's import of a process of `INSTALLED`."""
        code, cores = INSTALLED[name.removeprefix("from a wheel, ")]
        variables = {"FASTMLP_PREBUILD": "none"} if name.endswith("without machine code") else {}
        if "first" in name:
            shutil.rmtree(self.cache, ignore_errors=True)
        return float(self.run("-c", CLOCK + DATA + code, cores=cores, **variables).split()[-1])


def compare_installations(commit: str, interpreter: str, rounds: int, only: str) -> None:
    """Install a commit and this checkout in turns, and print the least times of both.

    only : text in the names of the rows that are measured
    """
    checkout = _git("stash", "create").decode().strip() or "HEAD"  # with what is not committed
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: {"before": [], "after": []})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = Environment(interpreter, Path(folder, "filled"))
        empty = Environment(interpreter, Path(folder, "empty"))
        sources = {"before": Path(folder, "before"), "after": Path(folder, "after")}
        for source, tree in zip(sources.values(), (commit, checkout), strict=True):
            with tarfile.open(fileobj=io.BytesIO(_git("archive", tree))) as archive:
                archive.extractall(source, filter="data")
        environment.pip("install", sources["after"], FASTMLP_PREBUILD="none")  # with what it requires
        wheels = {}
        if only in FROM_A_WHEEL:
            level = {"FASTMLP_PREBUILD": machine.level() or "none"}
            for side, source in sources.items():
                environment.pip("wheel", "--no-deps", "-w", source / "dist", source, **level)
                (wheels[side],) = (source / "dist").glob("*.whl")
        for turn in range(rounds):
            for side in [*sources][:: 1 if turn % 2 else -1]:
                for where, into in (("into an empty environment, ", empty), ("", environment)):
                    shutil.rmtree(sources[side] / "build", ignore_errors=True)
                    began, before = time.perf_counter(), os.times()
                    into.pip("install", "--no-deps", "--force-reinstall", sources[side])
                    took, after = time.perf_counter() - began, os.times()
                    found[f"{where}installation"][side].append(took)
                    of_children = sum(after[2:4]) - sum(before[2:4])  # 0 on Windows
                    found[f"{where}installation, processor time"][side].append(of_children)
                shutil.rmtree(environment.cache, ignore_errors=True)
                began = time.perf_counter()
                environment.run("-m", "fastmlp", "train", "digits", "--quiet")
                trained = time.perf_counter() - began
                found["installation and fastmlp train digits"][side].append(took + trained)
                for name in INSTALLED:
                    if only in name:
                        found[name][side].append(environment.after_numpy(name))
                if wheels:
                    environment.pip("install", "--no-deps", "--force-reinstall", wheels[side])
                    found[FROM_A_WHEEL][side].append(environment.after_numpy(FROM_A_WHEEL))
        print(f"| {environment.run('-V').strip()}, seconds | {commit} | this checkout | ratio |")
    print("|---|---|---|---|")
    for name, sides in found.items():
        least, here = min(sides["before"]), min(sides["after"])
        print(f"| {name} | {least:.3f} | {here:.3f} | {here / max(least, 1e-9):.2f} |")
    print()


def _git(*arguments: str) -> bytes:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True).stdout


if __name__ == "__main__":
    main()
