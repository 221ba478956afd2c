"""Small networks fitted by second order: MATLAB's benchmark problems, and those of R's NNbenchmark.

python -m benchmarks.second_order prints two tables: the loss that each peer comes to in the processor time
that our Levenberg-Marquardt takes for --iterations, and the time of an iteration. Every figure is a median
over --restarts starts, which all peers share; peers and starts take turns, in one process on one core. A peer
that is not installed is named and left out. A loss is the mean of squares over all outputs of scaled targets,
in float64, and is taken from the weights by one function for all. A peer's iterations are fitted to the time
in trials, and the tables say where a peer that was not at its end had another time.

--json FILE keeps all figures; --page writes the tables of docs/second-order.md from such a file.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib.util
import itertools
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import scipy.optimize

import fastmlp
from benchmarks.pages import write_between
from benchmarks.processes import allowed, pin, print_heading
from fastmlp.backend import registry
from fastmlp.lab.machine import cpu
from fastmlp.lab.timing import CLOCKS, once
from fastmlp.model.backend import Data
from fastmlp.model.layout import parameter_count
from fastmlp.system.budget import blas_threads

PAGE = Path(__file__).parent.parent / "docs" / "second-order.md"
BEGIN, END = "<!-- second order: python -m benchmarks.second_order -->\n", "<!-- end of second order -->"

# --- works ----------------------------------------------------------------------------------------------

Rows = tuple[np.ndarray, np.ndarray]


class Work(NamedTuple):
    """Rows to fit, and the units of the hidden layers, of tanh.

    kind : "function" or "classes"; classes have targets 0 and 1, and squared errors as in MATLAB's benchmark
    make : draws the rows
    """

    name: str
    kind: str
    hidden: tuple[int, ...]
    make: Callable[[np.random.Generator], Rows]


def line(low: float, high: float, rows: int) -> np.ndarray:
    return np.linspace(low, high, rows)[:, None]


def sine(rng: np.random.Generator) -> Rows:
    """One period of a sine."""
    X = line(-1, 1, 41)
    return X, np.sin(np.pi * X)


def parity(rng: np.random.Generator) -> Rows:
    X = np.array([[int(digit) for digit in f"{number:03b}"] for number in range(8)], float)
    return X, X.sum(axis=1, keepdims=True) % 2


def engine(rng: np.random.Generator) -> Rows:
    """Torque and emissions by fuel rate and speed: generated, of the kind of MATLAB's engine_dataset."""
    fuel, speed = rng.uniform(size=(2, 1199))
    torque = fuel / (0.2 + speed) * np.exp(-(((speed - 0.4) / 0.5) ** 2)) - 0.3 * speed**2
    emission = np.exp(3 * fuel - 1) / (1 + np.exp(12 * (speed - 0.7))) + 0.3 * np.sin(6 * speed * fuel)
    y = np.stack([torque, emission], axis=1)
    return np.stack([fuel, speed], axis=1), y + 0.02 * y.std(axis=0) * rng.standard_normal(y.shape)


def cholesterol(rng: np.random.Generator) -> Rows:
    """Three levels by 21 wavelengths: generated, of the kind of MATLAB's cho_dataset."""
    factors = rng.standard_normal((264, 4))
    X = factors @ rng.standard_normal((4, 21)) + 0.1 * rng.standard_normal((264, 21))
    y = np.stack([np.exp(factors[:, 0] / 2), factors[:, 1] * factors[:, 2], np.tanh(factors[:, 3])], axis=1)
    return X, y + 0.3 * y.std(axis=0) * rng.standard_normal(y.shape)


def cancer(rng: np.random.Generator) -> Rows:
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    return X, np.eye(2)[y]


def diabetes(rng: np.random.Generator) -> Rows:
    from sklearn.datasets import load_diabetes

    X, y = load_diabetes(return_X_y=True)
    return X, np.eye(2)[(y > np.median(y)).astype(int)]


def dette(rng: np.random.Generator) -> Rows:
    """Dette and Pepelyshev (2010), their curved function: sfu.ca/~ssurjano/detpep10curv.html."""
    X = rng.uniform(size=(500, 3))
    a, b, c = X.T
    return X, 4 * (a - 2 + 8 * b - 8 * b**2) ** 2 + (3 - 4 * b) ** 2 + 16 * np.sqrt(c + 1) * (2 * c - 1) ** 2


def friedman(rng: np.random.Generator) -> Rows:
    """Friedman, Grosse and Stuetzle (1983): sfu.ca/~ssurjano/fried.html."""
    X = rng.uniform(size=(500, 5))
    a, b, c, d, e = X.T
    return X, 10 * np.sin(np.pi * a * b) + 20 * (c - 0.5) ** 2 + 10 * d + 5 * e


def ishigami(rng: np.random.Generator) -> Rows:
    """Ishigami and Homma (1990): sfu.ca/~ssurjano/ishigami.html."""
    X = rng.uniform(-np.pi, np.pi, size=(500, 3))
    a, b, c = X.T
    return X, np.sin(a) + 7 * np.sin(b) ** 2 + 0.1 * c**4 * np.sin(a)


def sum_of_tanh(x: np.ndarray, *units: tuple[float, float, float]) -> np.ndarray:
    """The sum of s tanh(w x + b) of units (s, w, b)."""
    return sum(s * np.tanh(w * x + b) for s, w, b in units)


def ref153(rng: np.random.Generator) -> Rows:
    """Generated, of the kind of mRef153: three units of tanh of 5 inputs, and noise."""
    X = rng.uniform(-1, 1, size=(153, 5))
    y = np.tanh(2 * X @ rng.standard_normal((5, 3)) + rng.uniform(-1, 1, 3)) @ [1.0, -1.5, 2.0]
    return X, y + 0.1 * rng.standard_normal(153)


def dmod(slopes: tuple[float, ...], rng: np.random.Generator) -> Rows:
    """Generated, of the kind of uDmod1 and uDmod2: units nearly alike, so that J'J is nearly singular."""
    x = line(-1, 1, 51)
    units = [((-1) ** i * 2.0, w, 0.4 * i - 0.8) for i, w in enumerate(slopes)]
    return x, sum_of_tanh(x, *units)


def dreyfus(noise: float, rng: np.random.Generator) -> Rows:
    """Generated, of the kind of uDreyfus1 and uDreyfus2: three units of tanh, without noise and with."""
    x = line(-1, 1, 51)
    y = sum_of_tanh(x, (1.0, 6.0, 3.0), (-1.5, 4.0, 0.0), (1.0, 8.0, -5.0))
    return x, y + noise * rng.standard_normal(x.shape)


def neuro_one(rng: np.random.Generator) -> Rows:
    """Generated, of the kind of uNeuroOne."""
    x = line(-1, 1, 51)
    return x, sum_of_tanh(x, (1.0, 5.0, 2.0), (0.7, -7.0, 3.0)) + 0.05 * rng.standard_normal(x.shape)


def gauss(b: tuple[float, ...], rng: np.random.Generator) -> Rows:
    """Two normals on an exponential, noise of variance 6.25: NIST StRD Gauss1 to Gauss3, certified values."""
    x = line(1, 250, 250)
    y = b[0] * np.exp(-b[1] * x) + b[2] * np.exp(-(((x - b[3]) / b[4]) ** 2))
    return x, y + b[5] * np.exp(-(((x - b[6]) / b[7]) ** 2)) + 2.5 * rng.standard_normal(x.shape)


GAUSS = (
    (98.778211, 0.010497277, 100.48991, 67.481112, 23.129773, 71.994503, 178.99805, 18.389389),
    (99.018328, 0.010994945, 101.88023, 107.03096, 23.578584, 72.04559, 153.2701, 19.525973),
    (98.940369, 0.010945879, 100.69553, 111.63619, 23.3005, 73.705031, 147.76164, 19.668221),
)

WORKS = (
    Work("SIN", "function", (5,), sine),
    Work("PARITY", "classes", (10, 10), parity),
    Work("ENGINE (generated)", "function", (30,), engine),
    Work("CANCER (breast_cancer)", "classes", (5, 5), cancer),
    Work("CHOLESTEROL (generated)", "function", (15,), cholesterol),
    Work("DIABETES (scikit-learn's)", "classes", (15, 15), diabetes),
    Work("mDette", "function", (5,), dette),
    Work("mFriedman", "function", (5,), friedman),
    Work("mIshigami", "function", (10,), ishigami),
    Work("mRef153 (generated)", "function", (3,), ref153),
    Work("uDmod1 (generated)", "function", (6,), functools.partial(dmod, (3.0, 3.3, 3.6, 3.9, 4.2, 4.5))),
    Work("uDmod2 (generated)", "function", (5,), functools.partial(dmod, (3.0, 5.0, 4.0, 6.0, 8.0))),
    Work("uDreyfus1 (generated)", "function", (3,), functools.partial(dreyfus, 0.0)),
    Work("uDreyfus2 (generated)", "function", (3,), functools.partial(dreyfus, 0.02)),
    *(
        Work(f"uGauss{number}", "function", (units,), functools.partial(gauss, GAUSS[number - 1]))
        for number, units in ((1, 5), (2, 4), (3, 4))
    ),
    Work("uNeuroOne (generated)", "function", (2,), neuro_one),
)


class Task(NamedTuple):
    """A work with its rows, scaled: inputs to -1 .. 1, and targets of functions to mean 0 and deviation 1."""

    X: np.ndarray
    y: np.ndarray
    network: fastmlp.Network


def task_of(work: Work) -> Task:
    X, y = work.make(np.random.default_rng(0))
    X, y = np.asarray(X, float), np.asarray(y, float).reshape(len(X), -1)
    X = 2 * (X - X.min(axis=0)) / np.ptp(X, axis=0) - 1
    if work.kind == "function":
        y = (y - y.mean(axis=0)) / y.std(axis=0)
    sizes = [X.shape[1], *work.hidden, y.shape[1]]
    return Task(X, y, fastmlp.Network(sizes, "tanh", weight_init="nguyen_widrow"))


# --- networks in NumPy: a flat vector has weights (n_in, n_out) and biases of one layer after another ---


def layers_of(sizes: tuple[int, ...], flat: Any) -> list[tuple[Any, Any]]:
    """Return (weights, biases) of every layer, views of a flat vector of any library's."""
    found, at = [], 0
    for n_in, n_out in itertools.pairwise(sizes):
        weights = flat[at : at + n_in * n_out].reshape(n_in, n_out)
        at += n_in * n_out
        found.append((weights, flat[at : at + n_out]))
        at += n_out
    return found


def residuals(task: Task, flat: np.ndarray) -> np.ndarray:
    """Return predictions less targets (rows, outputs)."""
    a, (*hidden, last) = task.X, layers_of(task.network.sizes, flat)
    for weights, biases in hidden:
        a = np.tanh(a @ weights + biases)
    return a @ last[0] + last[1] - task.y


def jacobian(task: Task, flat: np.ndarray) -> np.ndarray:
    """Return the derivatives of the residuals (rows * outputs, P), by one backward pass for each output."""
    layers, activations = layers_of(task.network.sizes, flat), [task.X]
    for weights, biases in layers[:-1]:
        activations.append(np.tanh(activations[-1] @ weights + biases))
    rows, outputs = task.y.shape
    found, stop = np.empty((rows, outputs, flat.size)), flat.size
    delta = np.broadcast_to(np.eye(outputs), (rows, outputs, outputs))  # (rows, outputs, units)
    for (weights, _), a in zip(layers[::-1], activations[::-1], strict=True):
        n_in, n_out = weights.shape
        found[:, :, stop - n_out : stop] = delta
        start = stop - n_out - n_in * n_out
        place = found[:, :, start : stop - n_out].reshape(rows, outputs, n_in, n_out)
        found[:, :, start : stop - n_out] = np.multiply(
            a[:, None, :, None], delta[:, :, None, :], out=np.empty_like(place)
        ).reshape(rows, outputs, -1)
        stop, delta = start, (delta @ weights.T) * (1 - a * a)[:, None, :]
    return found.reshape(rows * outputs, -1)


# --- peers: prepare(task) returns train(start, most), which returns the flat vector and the iterations ---

Fitted = tuple[np.ndarray, int]
Train = Callable[[np.ndarray, int], Fitted]


LM, LBFGS = fastmlp.LevenbergMarquardt(min_gradient=0.0), fastmlp.LBFGS(min_gradient=0.0)


def adam(epochs: int) -> tuple[fastmlp.Adam, int]:
    """Return Adam for so many epochs, whose rate falls by a cosine, and its batches."""
    return fastmlp.Adam(fastmlp.Cosine(0.01, epochs)), 32


def ours(make: Callable[[int], tuple[Any, int | None]], task: Task) -> Train:
    """Train as a user does. make : returns the optimiser of so many epochs, and rows of a batch"""
    network = task.network

    def train(start: np.ndarray, iterations: int) -> Fitted:
        optimizer, batch_size = make(iterations)
        initial = tuple(zip(*layers_of(network.sizes, start), strict=True))
        model = fastmlp.fit(
            network, task.X, task.y, optimizer=optimizer, epochs=iterations, batch_size=batch_size, seed=0,
            initial=initial, dtype="float64", threads=1, progress=False,
        )  # fmt: skip
        return model.parameters, len(model.history["loss"])

    return train


def scikit_learn(task: Task) -> Train:
    from sklearn.neural_network import MLPRegressor

    sizes = task.network.sizes

    def train(start: np.ndarray, iterations: int) -> Fitted:
        y = task.y if task.y.shape[1] > 1 else task.y[:, 0]
        options = {"activation": "tanh", "solver": "lbfgs", "alpha": 0.0, "tol": 1e-12}
        net = MLPRegressor(
            hidden_layer_sizes=sizes[1:-1], **options, max_iter=iterations, max_fun=10**9, warm_start=True
        )
        # What `fit` does before it calls the solver; scikit-learn takes no start otherwise.
        net.n_outputs_, net.n_layers_, net.out_activation_ = sizes[-1], len(sizes), "identity"
        net.n_iter_, net.t_, net.loss_curve_, net.best_loss_ = 0, 0, [], np.inf
        layers = layers_of(sizes, start.copy())
        net.coefs_, net.intercepts_ = [w for w, _ in layers], [b for _, b in layers]
        net.fit(task.X, y)
        pairs = zip(net.coefs_, net.intercepts_, strict=True)
        return np.concatenate([part.ravel() for pair in pairs for part in pair]), net.n_iter_

    return train


def scipy_least_squares(task: Task) -> Train:
    method = "lm" if task.y.size >= parameter_count(task.network) else "trf"

    def train(start: np.ndarray, iterations: int) -> Fitted:
        found = scipy.optimize.least_squares(
            lambda flat: residuals(task, flat).ravel(), start, functools.partial(jacobian, task),
            method=method, ftol=1e-15, xtol=1e-15, gtol=1e-15, max_nfev=iterations,
        )  # fmt: skip
        return found.x, found.nfev

    return train


def scipy_lbfgs(task: Task) -> Train:
    """SciPy around our compiled gradient, whose call is prepared once."""
    data, size = Data(task.X, task.y, np.ones(len(task.X))), parameter_count(task.network)
    at, out = np.empty(size), np.empty(size)
    taken = registry.get("fused").bound(task.network, at, data, out)

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        at[:] = flat
        return taken(), out

    def train(start: np.ndarray, iterations: int) -> Fitted:
        options = {"maxiter": iterations, "maxfun": 10**9, "ftol": 0.0, "gtol": 1e-12}
        found = scipy.optimize.minimize(objective, start, method="L-BFGS-B", jac=True, options=options)
        return found.x, found.nit

    return train


DAMPING, SHRINK, GROW, MOST_DAMPING = 1e-3, 0.1, 10.0, 1e10
"""MATLAB's rule: mu, mu_dec, mu_inc, mu_max."""


def torch_lm(task: Task) -> Train:
    """Levenberg-Marquardt as an expert writes it in PyTorch: vmap of jacrev, and Cholesky's factors."""
    import torch
    from torch.func import functional_call, jacrev, vmap

    torch.set_num_threads(1)
    sizes = task.network.sizes
    parts: list[torch.nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        parts += [torch.nn.Linear(n_in, n_out), torch.nn.Tanh()]
    net = torch.nn.Sequential(*parts[:-1]).double().requires_grad_(False)
    X, y = torch.from_numpy(task.X), torch.from_numpy(task.y)
    by_parameters = vmap(jacrev(lambda given, x: functional_call(net, given, (x,))), (None, 0))
    given = dict(net.named_parameters())
    lengths = [one.numel() for one in given.values()]
    eye = torch.eye(sum(lengths), dtype=torch.float64)

    def unflat(flat: torch.Tensor) -> dict[str, torch.Tensor]:
        pieces = zip(given.items(), flat.split(lengths), strict=True)
        return {name: piece.view(one.shape) for (name, one), piece in pieces}

    def train(start: np.ndarray, iterations: int) -> Fitted:
        pieces = [part for w, b in layers_of(sizes, torch.from_numpy(start)) for part in (w.T.reshape(-1), b)]
        flat, damping = torch.cat(pieces), DAMPING
        r = (functional_call(net, unflat(flat), (X,)) - y).reshape(-1)
        loss = r @ r
        for taken in range(iterations):  # noqa: B007
            blocks = by_parameters(unflat(flat), X)
            J = torch.cat([block.flatten(2) for block in blocks.values()], dim=2).flatten(0, 1)
            H, g = J.T @ J, J.T @ r
            while damping <= MOST_DAMPING:
                factor, failed = torch.linalg.cholesky_ex(H + damping * eye)
                if not failed:
                    tried = flat - torch.cholesky_solve(g[:, None], factor)[:, 0]
                    new = (functional_call(net, unflat(tried), (X,)) - y).reshape(-1)
                    if (lower := new @ new) < loss:
                        flat, r, loss, damping = tried, new, lower, damping * SHRINK
                        break
                damping *= GROW
            else:
                break
        found = unflat(flat)
        pairs = [(found[f"{2 * i}.weight"].T, found[f"{2 * i}.bias"]) for i in range(len(sizes) - 1)]
        return torch.cat([part.reshape(-1) for pair in pairs for part in pair]).numpy(), taken + 1

    return train


def optimistix_lm(task: Task) -> Train:
    """Optimistix's Levenberg-Marquardt with all iterations in one compiled loop."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optimistix as optx

    jax.config.update("jax_enable_x64", True)
    X, y, sizes = jnp.asarray(task.X), jnp.asarray(task.y), task.network.sizes

    def errors(flat: Any, args: Any) -> Any:
        a, (*hidden, last) = X, layers_of(sizes, flat)
        for weights, biases in hidden:
            a = jnp.tanh(a @ weights + biases)
        return (a @ last[0] + last[1] - y).ravel(), None

    solver = optx.LevenbergMarquardt(rtol=1e-15, atol=1e-15)
    struct, tags = jax.ShapeDtypeStruct((y.size,), y.dtype), frozenset()
    given = {"args": None, "options": {}}

    @jax.jit
    def loop(flat: Any, iterations: Any) -> Any:
        state = solver.init(errors, flat, None, {}, struct, None, tags)
        arrays, rest = eqx.partition(state, eqx.is_array)

        def step(_: Any, carried: Any) -> Any:
            flat, arrays = carried
            flat, state, _ = solver.step(errors, flat, **given, state=eqx.combine(arrays, rest), tags=tags)
            return flat, eqx.filter(state, eqx.is_array)

        flat, arrays = jax.lax.fori_loop(0, iterations, step, (flat, arrays))
        state = eqx.combine(arrays, rest)
        return solver.postprocess(errors, flat, None, None, {}, state, tags, optx.RESULTS.successful)[0]

    return lambda start, iterations: (np.asarray(loop(start, iterations)), iterations)


class Peer(NamedTuple):
    """How a network is fitted, and the package that it needs."""

    name: str
    package: str
    prepare: Callable[[Task], Train]


PEERS = (
    Peer("LM", "fastmlp", functools.partial(ours, lambda epochs: (LM, None))),
    Peer("L-BFGS", "fastmlp", functools.partial(ours, lambda epochs: (LBFGS, None))),
    Peer("Adam", "fastmlp", functools.partial(ours, adam)),
    Peer("scikit-learn lbfgs", "sklearn", scikit_learn),
    Peer("SciPy lbfgs, our gradient", "scipy", scipy_lbfgs),
    Peer("PyTorch LM", "torch", torch_lm),
    Peer("optimistix LM", "optimistix", optimistix_lm),
    Peer("SciPy least_squares", "scipy", scipy_least_squares),
)


# --- measuring ------------------------------------------------------------------------------------------

MOST_ITERATIONS = 10**6
FEW, LEAST_SECONDS = 5, 0.03
"""Iterations of a short fit; what a longer one takes more at least, which gives the time of an iteration."""


def loss_of(task: Task, flat: np.ndarray) -> float:
    return float(np.square(residuals(task, flat)).mean())


def seconds(call: Callable[[], Any]) -> float:
    gc.collect()
    return once(call, CLOCKS["cpu"])


def timed(train: Train, start: np.ndarray, most: int) -> tuple[float, int]:
    """Return the seconds and the iterations of a fit."""
    found: list[Fitted] = []
    return seconds(lambda: found.append(train(start, most))), found[0][1]


def rate_of(train: Train, start: np.ndarray) -> float:
    """Return the seconds of an iteration, without those of a fit."""
    few, count = timed(train, start, FEW)[0], FEW
    if few < LEAST_SECONDS:
        few = min(few, *(timed(train, start, FEW)[0] for _ in range(2)))
    while True:
        count *= 7
        spent, taken = timed(train, start, count)
        if taken < count or spent - few > LEAST_SECONDS or count > MOST_ITERATIONS:
            break
    if taken < count:  # it has come to its end
        spent = min(timed(train, start, count)[0] for _ in range(5))
    return max(spent - few, 1e-9) / max(taken - FEW, 1)


def fitted(train: Train, starts: list[np.ndarray], limit: float, rate: float) -> int:
    """Return so many iterations as take the seconds `limit`; rate : seconds of an iteration, about"""
    count = min(max(1, round(limit / rate)), MOST_ITERATIONS)
    for _ in range(4):
        tried = starts[: 3 if limit < 0.1 else 1]
        spent = median(seconds(functools.partial(train, start, count)) for start in tried)
        if 0.9 < spent / limit < 1.1:
            break
        # A peer that has come to its end takes no longer with more.
        count = min(max(1, round(count * min(max(limit / spent, 0.25), 4.0))), MOST_ITERATIONS)
    return count


def measured(work: Work, peers: list[Peer], restarts: int, iterations: int) -> dict[str, Any]:
    """Return all figures of a work: losses, seconds and iterations of every peer."""
    task = task_of(work)
    starts = [
        fastmlp.fit(task.network, task.X, task.y, epochs=0, seed=seed, dtype="float64").parameters.copy()
        for seed in range(restarts)
    ]
    trains = {peer.name: peer.prepare(task) for peer in peers}
    for train in trains.values():  # compiles
        train(starts[0], 2)
    rates: dict[str, list[float]] = {name: [] for name in trains}
    for start in (starts[0], *starts[:3]):
        for name, train in trains.items():
            rates[name].append(rate_of(train, start))
    rate = {name: median(values[1:]) for name, values in rates.items()}  # "auto" settles in the first
    first, *_ = trains
    limit = median(seconds(functools.partial(trains[first], start, iterations)) for start in starts)
    counts = {name: fitted(train, starts, limit, rate[name]) for name, train in trains.items()}
    counts[first] = iterations
    found: dict[str, dict[str, list[float]]] = {name: {"loss": [], "seconds": []} for name in trains}
    for start in starts:
        for name, train in trains.items():
            kept: list[Fitted] = []
            took = seconds(lambda: kept.append(train(start, counts[name])))  # noqa: B023
            found[name]["loss"].append(loss_of(task, kept[0][0]))
            found[name]["seconds"].append(took)
    return {
        "work": work.name, "kind": work.kind, "sizes": task.network.sizes, "rows": len(task.X),
        "parameters": int(starts[0].size), "iterations": counts, "found": found,
        "iteration_us": {name: 1e6 * value for name, value in rate.items()},
    }  # fmt: skip


# --- tables ---------------------------------------------------------------------------------------------


def tables(results: dict[str, Any]) -> str:
    """Return the tables of a run."""
    works, names = results["works"], results["peers"]
    first = names[0]
    losses = [f"| work | rows, weights | s | {' | '.join(names)} |", "|---" * (len(names) + 3) + "|"]
    times = [f"| work | rows, weights | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
    for row in works:
        middle = {name: median(values["loss"]) for name, values in row["found"].items()}
        sizes = "-".join(map(str, row["sizes"]))
        head = f"| {row['work']}, {sizes} | {row['rows']}, {row['parameters']}"
        least = min(middle.values())
        cells = [f"{middle[name]:.1e}" for name in names]
        cells = [f"**{cell}**" if float(cell) <= 1.1 * least else cell for cell in cells]
        losses.append(f"{head} | {median(row['found'][first]['seconds']):.2g} | {' | '.join(cells)} |")
        cells = [f"{row['iteration_us'][name]:.3g}" for name in names]
        times.append(f"{head} | {' | '.join(cells)} |")
    functions = [row for row in works if row["kind"] == "function"]
    shares = [
        median(row["found"]["Adam"]["loss"]) / max(median(row["found"][first]["loss"]), 1e-300)
        for row in functions if "Adam" in row["found"]
    ]  # fmt: skip
    text = f"Median loss of {results['restarts']} starts, at the processor time of {results['iterations']} "
    text += f"iterations of {first}, on {results['machine']}.\n\n" + "\n".join(losses)
    if shares:
        text += (
            f"\n\nOn the fits of functions Adam's loss is {median(shares):.3g} times that of {first} in the"
        )
        text += " median."
    apart = []
    for row, name in itertools.product(works, names):
        took, limit = (median(row["found"][one]["seconds"]) for one in (name, first))
        if not 0.8 < took / limit < 1.25:
            apart.append(f"{name} on {row['work']} ({took / limit:.2g})")
    if apart:
        text += "\n\nThe time was another one, as a share, of " + ", ".join(apart) + "."
    text += "\n\nMicroseconds of an iteration:\n\n" + "\n".join(times)
    if absent := [peer.name for peer in PEERS if peer.name not in names]:
        text += f"\n\nLeft out: {', '.join(absent)}."
    return text


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.second_order", description=__doc__)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=150, help="of our Levenberg-Marquardt; default 150")
    parser.add_argument("--only", nargs="*", default=[""], metavar="TEXT", help="works whose name has a text")
    parser.add_argument("--peers", nargs="*", metavar="NAME", help="these peers only")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where all figures are written")
    parser.add_argument(
        "--page", type=Path, nargs="+", metavar="FILE", help="write the page's tables of such files"
    )
    options = parser.parse_args()
    if options.page:
        results, *others = (json.loads(path.read_text()) for path in options.page)
        found = {row["work"]: row for run in (results, *others) for row in run["works"]}
        results["works"] = [found[work.name] for work in WORKS if work.name in found]
        text = tables(results)
        write_between(PAGE, BEGIN, END, f"{text}\n\n")
        return
    pin(allowed()[-1:])
    warnings.simplefilter("ignore")
    print_heading("benchmarks.second_order")
    wanted = [peer for peer in PEERS if not options.peers or peer.name in options.peers]
    peers = [peer for peer in wanted if importlib.util.find_spec(peer.package)]
    results: dict[str, Any] = {
        "restarts": options.restarts, "iterations": options.iterations, "machine": f"{cpu()}, one core",
        "peers": [peer.name for peer in peers], "works": [],
    }  # fmt: skip
    with blas_threads(1):
        for work in [work for work in WORKS if any(text in work.name for text in options.only)]:
            results["works"].append(measured(work, peers, options.restarts, options.iterations))
            if options.json:
                options.json.write_text(json.dumps(results, indent=1))
            print(work.name, flush=True)
    print(tables(results))


if __name__ == "__main__":
    main()
