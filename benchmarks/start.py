"""The first minute, as a user has it: whole scripts in new processes, against peers that are installed."""

import importlib.util
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from functools import partial

from .calls import Seconds, Timed, row

CLOCK = """
import time
import numpy as np
began = time.perf_counter()
def lap(what):
    print(what, time.perf_counter() - began)
X, y = np.random.default_rng(0).random((1797, 64), np.float32), np.arange(1797) % 10
"""

FROM = "import sys; sys.path.insert(0, {folder!r})\n{code}assert 'numba' not in sys.modules\n"
"""Code with the package of a folder, which has to do without Numba."""

FIRST = {
    "fastmlp": """
import fastmlp
network = fastmlp.Network([64, 100, 10], output="softmax", loss="cross_entropy")
model = fastmlp.fit(network, X, y, epochs=1, batch_size=32, seed=0, progress=False)
lap("fit")
model.predict(X)
lap("prediction")
""",
    "sklearn": """
import warnings
from sklearn.neural_network import MLPClassifier
warnings.simplefilter("ignore")
model = MLPClassifier((100,), batch_size=32, max_iter=1, random_state=0).fit(X, y)
lap("fit")
model.predict(X)
lap("prediction")
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
lap("fit")
with torch.no_grad():
    model(X).numpy()
lap("prediction")
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
lap("fit")
np.asarray(jax.jit(logits)(p, X))
lap("prediction")
""",
}
"""An epoch of 64-100-10 on 1797 rows, by each."""

SEARCH = """
import warnings
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from {package} import MLPClassifier
warnings.simplefilter("ignore")
X, y = load_breast_cancer(return_X_y=True)
sizes = (8,), (16,), (32,), (64,), (128,), (16, 8), (32, 16), (64, 32), (64, 64), (32, 32, 32)
grid = {{"mlpclassifier__hidden_layer_sizes": sizes, "mlpclassifier__alpha": [1e-4, 1e-2]}}
model = make_pipeline(StandardScaler(), MLPClassifier(random_state=0))
search = GridSearchCV(model, grid, cv=5, n_jobs={jobs}).fit(X, y)
assert search.best_score_ > 0.95
lap("search")
"""


class Script:
    """A call that runs code in a new process, and returns the seconds of the first lap after NumPy's import.

    cold : whether the process has an empty cache
    """

    def __init__(self, code, cold=False):
        self.code, self.cold, self.laps = code, cold, []

    def __call__(self):
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as empty:
            environment = os.environ | ({"FASTMLP_CACHE_DIR": empty} if self.cold else {})
            environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode
            began, command = time.perf_counter(), [sys.executable, "-c", CLOCK + self.code]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            whole = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(done.stderr)
        self.laps.append([float(line.split()[1]) for line in done.stdout.splitlines()] + [whole])
        return Seconds(self.laps[-1][0])

    def said(self):
        """Return the least seconds of later laps, and of the whole process."""
        _, *later, whole = map(min, zip(*self.laps, strict=True))
        said = [f"with a prediction {seconds:.3f} s" for seconds in later]
        return ", ".join([*said, f"the whole process {whole:.2f} s"])


def scripts(code_by_name, cold=False):
    """Return the calls of a row."""
    made = {name: Script(code, cold) for name, code in code_by_name.items()}
    return {name: Timed(one, said=one.said) for name, one in made.items()}


@row("start", "an epoch of 64-100-10")
def first(options):
    return scripts({name: code for name, code in FIRST.items() if importlib.util.find_spec(name)})


@row("start", "an epoch of 64-100-10, nothing compiled", rounds=1)
def cold(options):
    found = {"fastmlp": FIRST["fastmlp"]}
    if options.wheel:
        folder = tempfile.mkdtemp(prefix="fastmlp-wheel-")
        zipfile.ZipFile(options.wheel).extractall(folder)
        found["fastmlp from a wheel"] = FROM.format(folder=folder, code=found["fastmlp"])
    return scripts(found, cold=True)


@row("start", "fastmlp train digits")
def command(options):
    train = [sys.executable, "-m", "fastmlp", "train", "digits", "--quiet"]
    return {"the whole process": partial(subprocess.run, train, capture_output=True, check=True)}


for _jobs in (None, 2):

    @row("start", f"GridSearchCV, 100 fits, n_jobs={_jobs}", _jobs, rounds=2)
    def search(options, jobs):
        packages = "fastmlp", "sklearn.neural_network"
        return scripts({package: SEARCH.format(package=package, jobs=jobs) for package in packages})

    @row("start", f"GridSearchCV, 100 fits, n_jobs={_jobs}, nothing compiled", _jobs, rounds=1)
    def cold_search(options, jobs):
        return scripts({"fastmlp": SEARCH.format(package="fastmlp", jobs=jobs)}, cold=True)
