"""`fit(accumulate=)`: a step along the sum of several batches' gradients is that of one larger batch."""

import itertools
import tracemalloc

import numpy as np
import pytest
import scipy.sparse
from support.auto_choice import have_chosen
from support.refusals import refusals
from support.resuming import assert_same
from support.selection import matrix, quick
from support.threads_as_ranks import Overlapping, Rank, trained

import fastmlp
from fastmlp import SGD, Adam, Cosine, Dense, Head, LayerNorm, Muon, Network, Numbers, Periodic, SparseAdam
from fastmlp.backend import registry
from fastmlp.backend.registry import get_variant

RNG = np.random.default_rng(0)
ROWS, BATCH, BATCHES = 61, 8, 3  # steps of 24, 24 and 13 rows; the last batch has 5
X = RNG.standard_normal((ROWS, 6))
Y = np.stack([np.sin(X[:, 0]), X[:, 1] * X[:, 2]], axis=1)
WEIGHTS = RNG.uniform(0.2, 2.0, ROWS)
CODES = RNG.integers(-1, 5, (ROWS, 2))
SPARSE = scipy.sparse.csr_array(np.where(RNG.random((ROWS, 40)) < 0.1, 1.5, 0.0))
MISSING = np.where(RNG.random((ROWS, 2)) < 0.3, np.nan, Y)
HEADS = {
    "a": Head(2, loss="mse", missing=True),
    "b": Head(3, loss="cross_entropy", output="softmax", loss_weights=[1.0, 2.0, 0.5]),
}
NORMED = Network(inputs=6, layers=[Dense(9), fastmlp.BatchNorm(momentum=0.2), "tanh", Dense(2)])
CHAIN = Network([6, 9, 2], "tanh", dropout=0.2, l1=0.001, l2=0.01)

CASES = {
    "dropout, penalties, weights": (
        CHAIN, X, Y, {"optimizer": Adam(Cosine(0.01, 3)), "sample_weight": WEIGHTS},
    ),
    "penalties that rows share": (
        Network([6, 9, 2], "relu", l2=0.1, convention="sklearn"), X, Y, {"optimizer": SGD(0.05, 0.9)},
    ),
    "clipping": (Network([6, 9, 2], "relu"), X, Y, {"optimizer": SGD(0.1, clip_norm=0.1)}),
    "orthogonal steps": (Network([6, 9, 2], "relu"), X, Y, {"optimizer": Muon(0.01)}),
    "sparse rows": (Network([40, 9, 2], "tanh", l2=0.01), SPARSE, Y, {"optimizer": SparseAdam(0.01)}),
    "heads": (
        Network(inputs=6, layers=[Dense(9, "silu"), LayerNorm()], heads=HEADS),
        X, {"a": MISSING, "b": RNG.integers(0, 3, ROWS)}, {"optimizer": SGD(0.05)},
    ),
    "blocks of inputs": (
        Network(
            inputs=[Numbers(6, Periodic(width=3)), fastmlp.Categories([5, 5], width=2)],
            layers=[Dense(9, "silu"), Dense(2)],
        ),
        [X, CODES], Y, {"optimizer": SparseAdam(0.01)},
    ),
}  # fmt: skip


def fit(case, backend="fused", **options):
    network, x, y, given = CASES[case] if isinstance(case, str) else case
    given = {"epochs": 3, "seed": 0, "backend": backend, **given, **options}
    return fastmlp.fit(network, x, y, **given)


def accumulated(case, backend="fused", **options):
    return fit(case, backend, batch_size=BATCH, accumulate=BATCHES, **options)


OTHERS = [name for name in registry.backends() if name not in ("reference", "fused")]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    "backend", ["reference", "fused", *[pytest.param(name, marks=matrix) for name in OTHERS]]
)
def test_it_is_a_step_on_a_larger_batch(backend, case):
    several, one = accumulated(case, backend), fit(case, backend, batch_size=BATCH * BATCHES)
    # Nine steps, along sums of 24 numbers of about 1 in another order.
    np.testing.assert_allclose(several.parameters, one.parameters, rtol=0, atol=1e-12)
    for name, values in one.history.items():
        np.testing.assert_allclose(several.history[name], values, rtol=1e-12)


@pytest.mark.parametrize("backend", ["reference", "fused"])
@pytest.mark.parametrize("rows", [ROWS, 57])  # 57: a row that is left alone joins a batch of 8
def test_batch_norms_are_pytorch_s_accumulation(rows, backend):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    case = NORMED, X[:rows], Y[:rows], {"optimizer": SGD(0.1, 0.9), "shuffle": False}
    start = fit(case, epochs=0)
    dense, norm, last = torch.nn.Linear(6, 9), torch.nn.BatchNorm1d(9, momentum=0.2), torch.nn.Linear(9, 2)
    module = torch.nn.Sequential(dense, norm, torch.nn.Tanh(), last).double()
    with torch.no_grad():
        for one, name in ((dense, "dense1"), (last, "dense2")):
            one.weight[...] = torch.tensor(start.layers[name]["weights"].T)
            one.bias[...] = torch.tensor(start.layers[name]["biases"])
    optimizer = torch.optim.SGD(module.parameters(), 0.1, 0.9)
    x, y = torch.tensor(X[:rows]), torch.tensor(Y[:rows])
    for _ in range(3):
        for step in range(0, rows, BATCH * BATCHES):
            stop = min(step + BATCH * BATCHES, rows)
            bounds = [*range(step, stop - 1, BATCH), stop]
            for begin, end in itertools.pairwise(bounds):
                loss = torch.square(module(x[begin:end]) - y[begin:end]).sum() / (2 * (stop - step))
                loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model = accumulated(case, backend)
    found = model.layers
    for got, expected in (
        (found["dense1"]["weights"], dense.weight.T), (found["dense2"]["biases"], last.bias),
        (found["batch_norm1"]["gain"], norm.weight), (found["batch_norm1"]["mean"], norm.running_mean),
        (found["batch_norm1"]["variance"], norm.running_var),
    ):  # fmt: skip
        np.testing.assert_allclose(got, expected.detach(), rtol=0, atol=1e-12)


def bits(case, monkeypatch, name, workers):
    variant = get_variant(name)
    if workers > 1:
        variant = variant._replace(workers=lambda work: workers)
    backend = registry.backend_of(variant)
    with monkeypatch.context() as patch:
        have_chosen(patch, backend)
        model = accumulated(case, name)
    return model


EXACT = ("tiled", "specialized")


@quick(2)
@pytest.mark.parametrize("case", [*CASES, (NORMED, X, Y, {})], ids=[*CASES, "batch norm"])
@pytest.mark.parametrize(
    ("name", "workers"), [("fused", 2), *[pytest.param(name, 1, marks=matrix) for name in EXACT]]
)
def test_threads_and_backends_have_the_same_bits(name, workers, case, monkeypatch):
    one = bits(case, monkeypatch, "fused", 1)
    assert_same(bits(case, monkeypatch, name, workers), one)


def test_auto_has_them_too():
    assert_same(accumulated("clipping", "auto"), accumulated("clipping"))


@quick(2)
@pytest.mark.parametrize("kind", [Rank, Overlapping])
@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_ranks_accumulate_as_one_process_does(backend, kind):
    normed = NORMED, X, Y, {"optimizer": SGD(0.1, 0.9)}
    for case in ("dropout, penalties, weights", "sparse rows", "clipping", normed):
        network, x, y, options = CASES[case] if isinstance(case, str) else case
        weights = options.get("sample_weight")

        def job(one, network=network, x=x, y=y, options=options, weights=weights):
            own = slice(*((0, 40), (40, ROWS))[one.rank])
            given = options if weights is None else options | {"sample_weight": weights[own]}
            return accumulated((network, x[own], y[own], given), backend, communicator=one)

        found, expected = trained(2, job, kind), accumulated(case, backend)
        np.testing.assert_allclose(found.parameters, expected.parameters, rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.history["loss"], expected.history["loss"], rtol=1e-12)


def test_memory_is_that_of_a_batch():
    x, y = RNG.standard_normal((2048, 4)), RNG.standard_normal((2048, 1))

    def peak(**options):
        tracemalloc.start()
        fastmlp.fit(Network([4, 400, 1]), x, y, epochs=1, seed=0, backend="fused", **options)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(batch_size=256)  # what is loaded once
    assert peak(batch_size=256, accumulate=8) < 0.25 * peak(batch_size=2048)


test_mistakes_are_said_in_one_line = refusals(
    [
        ({"accumulate": 0}, "accumulate must be at least 1, got 0"),
        ({"accumulate": 2.5}, "accumulate must be a whole number, got 2.5"),
        ({"window": 20, "accumulate": 3}, r"window must be at least batch_size=8 \* accumulate=3, got 20"),
    ],
    lambda **given: fastmlp.fit(CHAIN, X, Y, batch_size=BATCH, **given),
)
