"""Small networks fitted by second order: MATLAB's benchmark problems, and those of R's NNbenchmark.

python -m benchmarks.second_order prints two tables: the loss that each peer comes to in the processor time
that our Levenberg-Marquardt takes for --iterations, and the time of an iteration. Every figure is a median
over --restarts starts, which all peers share; peers and starts take turns, in one process on one core. A peer
that is not installed is left out. A loss is the mean of squares over all outputs of scaled targets, in
float64, and is taken from the weights by one function for all. A peer's iterations are fitted to the time in
trials, and the tables say where a peer that was not at its end had another time. --page writes the tables
into docs/second-order.md.
"""

import argparse
import importlib.util
import itertools
import warnings
from functools import partial
from statistics import median
from typing import NamedTuple

import numpy as np
import scipy.optimize
from sklearn.datasets import load_breast_cancer, load_diabetes

import fastmlp
from fastmlp.backend import registry
from fastmlp.lab.machine import cpu
from fastmlp.lab.timing import CLOCKS
from fastmlp.model.backend import Data
from fastmlp.model.layout import parameter_count
from fastmlp.system.budget import blas_threads

from .calls import seconds_of
from .pages import DOCS, markdown, number, write_between
from .processes import allowed, pin, print_heading

BEGIN, END = "<!-- second order: python -m benchmarks.second_order -->\n", "<!-- end of second order -->"

# --- works ----------------------------------------------------------------------------------------------


class Work(NamedTuple):
    """Rows to fit, scaled: inputs to -1 .. 1, and targets of functions to mean 0 and deviation 1."""

    name: str
    X: np.ndarray
    y: np.ndarray
    network: fastmlp.Network

    @property
    def cells(self):
        sizes = "-".join(map(str, self.network.widths))
        return f"{self.name}, {sizes}", f"{len(self.X)}, {parameter_count(self.network)}"


WORKS = {}
"""Makers of `Work`, by name."""


def work(name, *hidden, given=(), classes=False):
    """Register a function that draws rows, for a network with hidden layers of tanh.

    classes : whether the targets are 0 and 1, with squared errors as in MATLAB's benchmark
    """

    def register(draw):
        def make():
            X, y = draw(np.random.default_rng(0), *given)
            X, y = np.asarray(X, float), np.asarray(y, float).reshape(len(X), -1)
            X = 2 * (X - X.min(axis=0)) / np.ptp(X, axis=0) - 1
            y = y if classes else (y - y.mean(axis=0)) / y.std(axis=0)
            sizes = [X.shape[1], *hidden, y.shape[1]]
            return Work(name, X, y, fastmlp.Network(sizes, "tanh", weight_init="nguyen_widrow"))

        WORKS[name] = make
        return draw

    return register


def line(low, high, rows):
    return np.linspace(low, high, rows)[:, None]


@work("SIN", 5)
def sine(rng):
    """One period of a sine."""
    X = line(-1, 1, 41)
    return X, np.sin(np.pi * X)


@work("PARITY", 10, 10, classes=True)
def parity(rng):
    X = np.array([[int(digit) for digit in f"{number:03b}"] for number in range(8)], float)
    return X, X.sum(axis=1, keepdims=True) % 2


@work("ENGINE (generated)", 30)
def engine(rng):
    """Torque and emissions by fuel rate and speed: generated, of the kind of MATLAB's engine_dataset."""
    fuel, speed = rng.uniform(size=(2, 1199))
    torque = fuel / (0.2 + speed) * np.exp(-(((speed - 0.4) / 0.5) ** 2)) - 0.3 * speed**2
    emission = np.exp(3 * fuel - 1) / (1 + np.exp(12 * (speed - 0.7))) + 0.3 * np.sin(6 * speed * fuel)
    y = np.stack([torque, emission], axis=1)
    return np.stack([fuel, speed], axis=1), y + 0.02 * y.std(axis=0) * rng.standard_normal(y.shape)


@work("CANCER (breast_cancer)", 5, 5, classes=True)
def cancer(rng):
    X, y = load_breast_cancer(return_X_y=True)
    return X, np.eye(2)[y]


@work("CHOLESTEROL (generated)", 15)
def cholesterol(rng):
    """Three levels by 21 wavelengths: generated, of the kind of MATLAB's cho_dataset."""
    factors = rng.standard_normal((264, 4))
    X = factors @ rng.standard_normal((4, 21)) + 0.1 * rng.standard_normal((264, 21))
    y = np.stack([np.exp(factors[:, 0] / 2), factors[:, 1] * factors[:, 2], np.tanh(factors[:, 3])], axis=1)
    return X, y + 0.3 * y.std(axis=0) * rng.standard_normal(y.shape)


@work("DIABETES (scikit-learn's)", 15, 15, classes=True)
def diabetes(rng):
    X, y = load_diabetes(return_X_y=True)
    return X, np.eye(2)[(y > np.median(y)).astype(int)]


@work("mDette", 5)
def dette(rng):
    """Dette and Pepelyshev (2010), their curved function: sfu.ca/~ssurjano/detpep10curv.html."""
    X = rng.uniform(size=(500, 3))
    a, b, c = X.T
    return X, 4 * (a - 2 + 8 * b - 8 * b**2) ** 2 + (3 - 4 * b) ** 2 + 16 * np.sqrt(c + 1) * (2 * c - 1) ** 2


@work("mFriedman", 5)
def friedman(rng):
    """Friedman, Grosse and Stuetzle (1983): sfu.ca/~ssurjano/fried.html."""
    X = rng.uniform(size=(500, 5))
    a, b, c, d, e = X.T
    return X, 10 * np.sin(np.pi * a * b) + 20 * (c - 0.5) ** 2 + 10 * d + 5 * e


@work("mIshigami", 10)
def ishigami(rng):
    """Ishigami and Homma (1990): sfu.ca/~ssurjano/ishigami.html."""
    X = rng.uniform(-np.pi, np.pi, size=(500, 3))
    a, b, c = X.T
    return X, np.sin(a) + 7 * np.sin(b) ** 2 + 0.1 * c**4 * np.sin(a)


@work("mRef153 (generated)", 3)
def ref153(rng):
    """Generated, of the kind of mRef153: three units of tanh of 5 inputs, and noise."""
    X = rng.uniform(-1, 1, size=(153, 5))
    y = np.tanh(2 * X @ rng.standard_normal((5, 3)) + rng.uniform(-1, 1, 3)) @ [1.0, -1.5, 2.0]
    return X, y + 0.1 * rng.standard_normal(153)


ALIKE = [((-1) ** i * 2.0, w, 0.4 * i - 0.8) for i, w in enumerate((3.0, 3.3, 3.6, 3.9, 4.2, 4.5))]
STEEPER = [((-1) ** i * 2.0, w, 0.4 * i - 0.8) for i, w in enumerate((3.0, 5.0, 4.0, 6.0, 8.0))]
THREE, TWO = [(1.0, 6.0, 3.0), (-1.5, 4.0, 0.0), (1.0, 8.0, -5.0)], [(1.0, 5.0, 2.0), (0.7, -7.0, 3.0)]


def sum_of_tanh(rng, units, noise):
    """Generated, of the kind of NNbenchmark's: s tanh(w x + b) of units (s, w, b), and noise."""
    x = line(-1, 1, 51)
    return x, sum(s * np.tanh(w * x + b) for s, w, b in units) + noise * rng.standard_normal(x.shape)


work("uDmod1 (generated)", 6, given=(ALIKE, 0.0))(sum_of_tanh)  # J'J is nearly singular
work("uDmod2 (generated)", 5, given=(STEEPER, 0.0))(sum_of_tanh)
work("uDreyfus1 (generated)", 3, given=(THREE, 0.0))(sum_of_tanh)
work("uDreyfus2 (generated)", 3, given=(THREE, 0.02))(sum_of_tanh)


def gauss(rng, *b):
    """Two normals on an exponential, noise of variance 6.25: NIST StRD Gauss1 to Gauss3, certified values."""
    x = line(1, 250, 250)
    y = b[0] * np.exp(-b[1] * x) + b[2] * np.exp(-(((x - b[3]) / b[4]) ** 2))
    return x, y + b[5] * np.exp(-(((x - b[6]) / b[7]) ** 2)) + 2.5 * rng.standard_normal(x.shape)


for _number, _units, *_values in (
    (1, 5, 98.778211, 0.010497277, 100.48991, 67.481112, 23.129773, 71.994503, 178.99805, 18.389389),
    (2, 4, 99.018328, 0.010994945, 101.88023, 107.03096, 23.578584, 72.04559, 153.2701, 19.525973),
    (3, 4, 98.940369, 0.010945879, 100.69553, 111.63619, 23.3005, 73.705031, 147.76164, 19.668221),
):
    work(f"uGauss{_number}", _units, given=_values)(gauss)
work("uNeuroOne (generated)", 2, given=(TWO, 0.05))(sum_of_tanh)

# --- networks in NumPy: a flat vector has weights (n_in, n_out) and biases of one layer after another ---


def layers_of(sizes, flat):
    """Return (weights, biases) of every layer, views of a flat vector of any library's."""
    found, at = [], 0
    for n_in, n_out in itertools.pairwise(sizes):
        weights = flat[at : at + n_in * n_out].reshape(n_in, n_out)
        at += n_in * n_out
        found.append((weights, flat[at : at + n_out]))
        at += n_out
    return found


def residuals(task, flat):
    """Return predictions less targets (rows, outputs)."""
    a, (*hidden, last) = task.X, layers_of(task.network.widths, flat)
    for weights, biases in hidden:
        a = np.tanh(a @ weights + biases)
    return a @ last[0] + last[1] - task.y


def jacobian(task, flat):
    """Return the derivatives of the residuals (rows * outputs, P), by one backward pass for each output."""
    layers, activations = layers_of(task.network.widths, flat), [task.X]
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

LM, LBFGS = fastmlp.LevenbergMarquardt(min_gradient=0.0), fastmlp.LBFGS(min_gradient=0.0)


def adam(epochs):
    """Return Adam for so many epochs, whose rate falls by a cosine, and its batches."""
    return fastmlp.Adam(fastmlp.Cosine(0.01, epochs)), 32


def ours(make, task):
    """Train as a user does. make : returns the optimiser of so many epochs, and rows of a batch"""
    network = task.network

    def train(start, iterations):
        optimizer, batch_size = make(iterations)
        initial = tuple(zip(*layers_of(network.widths, start), strict=True))
        model = fastmlp.fit(
            network, task.X, task.y, optimizer=optimizer, epochs=iterations, batch_size=batch_size, seed=0,
            initial=initial, dtype="float64", threads=1, progress=False,
        )  # fmt: skip
        return model.parameters, len(model.history["loss"])

    return train


def scikit_learn(task):
    from sklearn.neural_network import MLPRegressor

    sizes = task.network.widths

    def train(start, iterations):
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


def scipy_least_squares(task):
    method = "lm" if task.y.size >= parameter_count(task.network) else "trf"

    def train(start, iterations):
        found = scipy.optimize.least_squares(
            lambda flat: residuals(task, flat).ravel(), start, partial(jacobian, task),
            method=method, ftol=1e-15, xtol=1e-15, gtol=1e-15, max_nfev=iterations,
        )  # fmt: skip
        return found.x, found.nfev

    return train


def scipy_lbfgs(task):
    """SciPy around our compiled gradient, whose call is prepared once."""
    data, size = Data(task.X, task.y, np.ones(len(task.X))), parameter_count(task.network)
    at, out = np.empty(size), np.empty(size)
    taken = registry.get("fused").bound(task.network, at, data, out)

    def objective(flat):
        at[:] = flat
        return taken(), out

    def train(start, iterations):
        options = {"maxiter": iterations, "maxfun": 10**9, "ftol": 0.0, "gtol": 1e-12}
        found = scipy.optimize.minimize(objective, start, method="L-BFGS-B", jac=True, options=options)
        return found.x, found.nit

    return train


DAMPING, SHRINK, GROW, MOST_DAMPING = 1e-3, 0.1, 10.0, 1e10
"""MATLAB's rule: mu, mu_dec, mu_inc, mu_max."""


def torch_lm(task):
    """Levenberg-Marquardt as an expert writes it in PyTorch: vmap of jacrev, and Cholesky's factors."""
    import torch
    from torch.func import functional_call, jacrev, vmap

    torch.set_num_threads(1)
    sizes = task.network.widths
    parts = []
    for n_in, n_out in itertools.pairwise(sizes):
        parts += [torch.nn.Linear(n_in, n_out), torch.nn.Tanh()]
    net = torch.nn.Sequential(*parts[:-1]).double().requires_grad_(False)
    X, y = torch.from_numpy(task.X), torch.from_numpy(task.y)
    by_parameters = vmap(jacrev(lambda given, x: functional_call(net, given, (x,))), (None, 0))
    given = dict(net.named_parameters())
    lengths = [one.numel() for one in given.values()]
    eye = torch.eye(sum(lengths), dtype=torch.float64)

    def unflat(flat):
        pieces = zip(given.items(), flat.split(lengths), strict=True)
        return {name: piece.view(one.shape) for (name, one), piece in pieces}

    def train(start, iterations):
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


def optimistix_lm(task):
    """Optimistix's Levenberg-Marquardt with all iterations in one compiled loop."""
    import equinox as eqx
    import jax
    import jax.numpy as jnp
    import optimistix as optx

    jax.config.update("jax_enable_x64", True)
    X, y, sizes = jnp.asarray(task.X), jnp.asarray(task.y), task.network.widths

    def errors(flat, args):
        a, (*hidden, last) = X, layers_of(sizes, flat)
        for weights, biases in hidden:
            a = jnp.tanh(a @ weights + biases)
        return (a @ last[0] + last[1] - y).ravel(), None

    solver = optx.LevenbergMarquardt(rtol=1e-15, atol=1e-15)
    struct, tags = jax.ShapeDtypeStruct((y.size,), y.dtype), frozenset()
    given = {"args": None, "options": {}}

    @jax.jit
    def loop(flat, iterations):
        state = solver.init(errors, flat, None, {}, struct, None, tags)
        arrays, rest = eqx.partition(state, eqx.is_array)

        def step(_, carried):
            flat, arrays = carried
            flat, state, _ = solver.step(errors, flat, **given, state=eqx.combine(arrays, rest), tags=tags)
            return flat, eqx.filter(state, eqx.is_array)

        flat, arrays = jax.lax.fori_loop(0, iterations, step, (flat, arrays))
        state = eqx.combine(arrays, rest)
        return solver.postprocess(errors, flat, None, None, {}, state, tags, optx.RESULTS.successful)[0]

    return lambda start, iterations: (np.asarray(loop(start, iterations)), iterations)


PEERS = {
    "LM": ("fastmlp", partial(ours, lambda epochs: (LM, None))),
    "L-BFGS": ("fastmlp", partial(ours, lambda epochs: (LBFGS, None))),
    "Adam": ("fastmlp", partial(ours, adam)),
    "scikit-learn lbfgs": ("sklearn", scikit_learn),
    "SciPy lbfgs, our gradient": ("scipy", scipy_lbfgs),
    "PyTorch LM": ("torch", torch_lm),
    "optimistix LM": ("optimistix", optimistix_lm),
    "SciPy least_squares": ("scipy", scipy_least_squares),
}
"""By name: the package that a peer needs, and how the peer is prepared."""


# --- measuring ------------------------------------------------------------------------------------------

MOST_ITERATIONS = 10**6
FEW, LEAST_SECONDS = 5, 0.03
"""Iterations of a short fit; what a longer one takes more at least, which gives the time of an iteration."""


class Figures(NamedTuple):
    """Medians over the starts: the loss, the seconds of a fit and of an iteration."""

    loss: float
    seconds: float
    iteration: float


def timed(train, start, most):
    """Return the seconds of a fit, its flat vector and its iterations."""
    kept = []
    took = seconds_of(lambda: kept.append(train(start, most)), 1, CLOCKS["cpu"])
    return took, *kept[0]


def rate_of(train, start):
    """Return the seconds of an iteration, without those of a fit."""
    few, count = min(timed(train, start, FEW)[0] for _ in range(3)), FEW
    while True:
        count *= 7
        spent, _, taken = timed(train, start, count)
        if taken < count or spent - few > LEAST_SECONDS or count > MOST_ITERATIONS:
            break
    if taken < count:  # it has come to its end
        spent = min(timed(train, start, count)[0] for _ in range(5))
    return max(spent - few, 1e-9) / max(taken - FEW, 1)


def iterations_for(limit, train, starts, rate):
    """Return so many iterations as take the seconds `limit`; rate : seconds of an iteration, about"""
    count = min(max(1, round(limit / rate)), MOST_ITERATIONS)
    for _ in range(4):
        spent = median(timed(train, start, count)[0] for start in starts[: 3 if limit < 0.1 else 1])
        if 0.9 < spent / limit < 1.1:
            break
        # A peer that has come to its end takes no longer with more.
        count = min(max(1, round(count * min(max(limit / spent, 0.25), 4.0))), MOST_ITERATIONS)
    return count


def measured(task, names, restarts, iterations):
    """Return the figures of each peer; the first one has so many iterations, the others its time."""
    given = task.network, task.X, task.y
    starts = [
        fastmlp.fit(*given, epochs=0, seed=seed, dtype="float64").parameters.copy()
        for seed in range(restarts)
    ]
    trains = {name: PEERS[name][1](task) for name in names}
    for train in trains.values():  # compiles
        train(starts[0], 2)
    rates = [
        {name: rate_of(train, start) for name, train in trains.items()} for start in (starts[0], *starts[:3])
    ]
    rate = {name: median(one[name] for one in rates[1:]) for name in names}  # "auto" settles in the first
    limit = median(timed(trains[names[0]], start, iterations)[0] for start in starts)
    counts = {name: iterations_for(limit, train, starts, rate[name]) for name, train in trains.items()}
    counts[names[0]] = iterations
    found = {name: ([], []) for name in names}
    for start, (name, train) in itertools.product(starts, trains.items()):
        took, flat, _ = timed(train, start, counts[name])
        found[name][0].append(float(np.square(residuals(task, flat)).mean()))
        found[name][1].append(took)
    return {name: Figures(*map(median, values), rate[name]) for name, values in found.items()}


def tables(found, names, options):
    """Return the tables of a run; found : the figures of all peers by work"""
    losses, times, apart, first = [], [], [], names[0]
    for task, figures in found:
        least, limit = min(one.loss for one in figures.values()), figures[first].seconds
        cells = [f"{figures[name].loss:.1e}" for name in names]
        cells = [f"**{cell}**" if float(cell) <= 1.1 * least else cell for cell in cells]
        losses.append([*task.cells, f"{limit:.2g}", *cells])
        times.append([*task.cells, *(number(1e6 * figures[name].iteration) for name in names)])
        shares = {name: figures[name].seconds / limit for name in names}
        apart += [f"{name} on {task.name} ({t:.2g})" for name, t in shares.items() if not 0.8 < t < 1.25]
    text = f"Median loss of {options.restarts} starts, at the processor time of {options.iterations} "
    text += f"iterations of {first}, on {cpu()}, one core.\n\n"
    text += f"{markdown(['work', 'rows, weights', 's', *names], losses)}\n\n"
    if apart:
        text += f"Other times, as fractions of the limit: {', '.join(apart)}.\n\n"
    return f"{text}Microseconds of an iteration:\n\n{markdown(['work', 'rows, weights', *names], times)}"


def main():
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.second_order", description=__doc__)
    parser.add_argument("--restarts", type=int, default=10)
    parser.add_argument("--iterations", type=int, default=150, help="of our Levenberg-Marquardt; default 150")
    parser.add_argument("--only", nargs="*", default=[""], metavar="TEXT", help="works whose name has a text")
    parser.add_argument("--peers", nargs="*", default=[*PEERS], metavar="NAME", help="these peers only")
    parser.add_argument("--page", action="store_true", help="write the tables into the page")
    options = parser.parse_args()
    pin(allowed()[-1:])
    warnings.simplefilter("ignore")
    print_heading("benchmarks.second_order")
    names = [name for name in PEERS if name in options.peers and importlib.util.find_spec(PEERS[name][0])]
    found = []
    with blas_threads(1):
        for name in [name for name in WORKS if any(text in name for text in options.only)]:
            task = WORKS[name]()
            found.append((task, measured(task, names, options.restarts, options.iterations)))
            print(name, flush=True)
    print(text := tables(found, names, options))
    if options.page:
        write_between(DOCS / "second-order.md", BEGIN, END, f"\n{text}\n\n")


if __name__ == "__main__":
    main()
