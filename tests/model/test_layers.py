"""Networks of layers: PyTorch's definitions, one result on every backend and any number of threads."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import scipy.sparse
from selection import seeds

import fastmlp
from fastmlp import (
    SGD,
    Activate,
    Activation,
    Adam,
    AdamW,
    Add,
    BatchNorm,
    Callback,
    Checkpoint,
    Concatenate,
    Dense,
    Dropout,
    LayerNorm,
    Network,
    PReLU,
    Residual,
    RMSNorm,
    Scale,
    SparseAdam,
    Stepper,
    Swish,
)
from fastmlp.model import layers as layers_module
from fastmlp.model.descriptions import described, restored
from fastmlp.model.operations import KINDS

INPUTS, OUTPUTS, ROWS = 7, 3, 50
BLOCK = Residual(LayerNorm(), Dense(9, "silu"), Dense(11))

LISTS = {
    "LayerNorm": [Dense(11, "relu"), LayerNorm(epsilon=1e-3), Dense(OUTPUTS)],
    "RMSNorm": [Dense(11, "tanh"), RMSNorm(), Dense(OUTPUTS)],
    "RMSNorm with an epsilon": [Dense(11, "tanh"), RMSNorm(epsilon=0.1), Dense(OUTPUTS)],
    "PReLU": [Dense(11), PReLU(), Dense(OUTPUTS)],
    "Swish": [Dense(11), Swish(1.3), Dense(OUTPUTS)],
    "Scale": [Dense(11, "tanh"), Scale(), Dense(OUTPUTS)],
    "Residual": [Dense(11, "relu"), BLOCK, BLOCK, Dense(OUTPUTS)],
    "Add": [Dense(11, "relu", name="low"), Dense(11, "tanh"), Add("low"), "gelu", Dense(OUTPUTS)],
    "Add twice": [Dense(11, "silu", name="low"), Add("low"), Add("low"), Dense(OUTPUTS)],
    "Concatenate": [Dense(11, "tanh", name="low"), Dense(5, "relu"), Concatenate("low"), Dense(OUTPUTS)],
    "Activate": [Dense(11), LayerNorm(), Activate("elu"), Dense(OUTPUTS)],
    "BatchNorm": [Dense(11, "relu"), BatchNorm(), Dense(OUTPUTS)],
    "BatchNorm in blocks": [
        BatchNorm(),
        Dense(11, "relu"),
        Residual(BatchNorm(0.3), Dense(11, "silu")),
        Dense(OUTPUTS),
    ],
    "no bias": [Dense(11, "tanh", bias=False), Dense(OUTPUTS, bias=False)],
    "a norm of the inputs": [LayerNorm(), Dense(11, "relu"), Dense(OUTPUTS)],
    "a residual of the inputs": [Residual(Dense(5, "tanh"), Dense(INPUTS)), Dense(OUTPUTS)],
    "residuals that end with a norm and one another": [
        Residual(Dense(INPUTS, "tanh"), LayerNorm()),
        Residual(Dense(5, "relu"), Dense(INPUTS), Residual(Dense(INPUTS))),
        Dense(OUTPUTS),
    ],
    "one layer": [RMSNorm(), Dense(OUTPUTS)],
}

DROPPING = {
    "dropout of inputs": [Dropout(0.3), Dense(11, "relu"), Dense(OUTPUTS)],
    "dropout of a batch norm": [Dense(11, "tanh"), BatchNorm(), Dropout(0.4), Dense(OUTPUTS)],
    "dropout of a norm": [Dense(11, "relu"), LayerNorm(), Dropout(0.4), Dense(OUTPUTS)],
    "dropout with a residual": [
        Dense(11, "relu", name="low"), Dropout(0.4), BLOCK, Add("low"), Dense(OUTPUTS),
    ],
    "dropout at the end of one": [Residual(Dense(INPUTS), Dropout(0.3)), Dropout(0.1), Dense(OUTPUTS)],
    "dropout within one": [Dense(11, "gelu"), Residual(Dropout(0.3), Dense(11, "relu")), Dense(OUTPUTS)],
}  # fmt: skip

OPTIMIZERS = {"SGD": SGD(0.1), "AdamW": AdamW(0.01, weight_decay=0.1), "clipped": Adam(0.01, clip_norm=0.1)}


def network(layers, **options):
    return Network(inputs=INPUTS, layers=layers, **options)


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return rng.normal(size=(ROWS, INPUTS)), rng.normal(size=(ROWS, OUTPUTS))


def train(layers, rows, epochs=4, **options):
    given = {"optimizer": Adam(0.01), "batch_size": 16, "seed": 1, "progress": False, "dtype": "float64"}
    made = layers if isinstance(layers, Network) else network(layers)
    return fastmlp.fit(made, *rows, epochs=epochs, **given | options)


def drawn_at_random(seed):
    """A list of layers of random kinds and widths."""
    rng = np.random.default_rng(seed)
    layers, width, names = [], INPUTS, {}
    for number in range(rng.integers(1, 7)):
        kind = rng.choice(["dense", "norm", "unit", "residual", "read"])
        if kind == "dense":
            width, name = int(rng.integers(1, 20)), f"layer{number}"
            activation = str(rng.choice(["relu", "tanh", "silu", "identity", "gelu"]))
            layers.append(Dense(width, activation, bias=bool(rng.integers(2)), name=name))
            names[name] = width
        elif kind == "norm":
            # Two units would be normalised to 1 and -1, whose derivative is 0 but for rounding.
            norms = [RMSNorm(epsilon=0.01), BatchNorm(), LayerNorm()]
            layers.append(norms[rng.integers(3 if width > 2 else 2)])
        elif kind == "unit":
            layers.append([PReLU(), Swish(), Scale(), "elu", "softplus"][rng.integers(5)])
        elif kind == "residual":
            layers.append(Residual(Scale(), Dense(int(rng.integers(1, 9)), "relu"), "tanh", Dense(width)))
        elif names:
            name = str(rng.choice(list(names)))
            layers.append(Concatenate(name))
            width += names[name]
    return [*layers, Dense(OUTPUTS)]


# --- one result everywhere ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*LISTS, *DROPPING])
def test_backends_agree_with_the_reference(name, rows):
    layers = LISTS.get(name) or DROPPING[name]
    expected = train(layers, rows, backend="reference")
    got = train(layers, rows, backend="fused")
    np.testing.assert_allclose(got.parameters, expected.parameters, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got.history["loss"], expected.history["loss"], rtol=1e-12)
    np.testing.assert_allclose(got.predict(rows[0]), expected.predict(rows[0]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.matrix)])
@pytest.mark.parametrize(
    "name", ["Residual", "Concatenate", "PReLU", "BatchNorm in blocks", "dropout with a residual"]
)
def test_exact_backends_and_threads_have_the_same_bits(name, dtype, rows):
    layers = LISTS.get(name) or DROPPING[name]
    correct = train(layers, rows, backend="fused", dtype=dtype).parameters
    for backend, threads in (("fused", 2), ("packed", 1), ("packed", 3)):
        got = train(layers, rows, backend=backend, threads=threads, dtype=dtype).parameters
        np.testing.assert_array_equal(got, correct)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_every_optimiser_steps_gains(optimizer, rows):
    layers = [Dense(11, "relu"), BLOCK, PReLU(), Dense(OUTPUTS, bias=False)]
    ours, reference = (
        train(network(layers, l2=0.01), rows, optimizer=OPTIMIZERS[optimizer], backend=backend)
        for backend in ("fused", "reference")
    )
    np.testing.assert_allclose(ours.parameters, reference.parameters, rtol=1e-9, atol=1e-12)
    gains = ours.layers["layer_norm1"]["gain"], ours.layers["prelu1"]["gain"]
    assert all((gain != start).all() for gain, start in zip(gains, (1, 0.25), strict=True))


def test_a_list_of_like_layers_is_the_chain():
    chain = Network([INPUTS, 9, 8, OUTPUTS], ["tanh", "relu"], dropout=[0, 0.2], weight_init="he_normal")
    init = {"weight_init": "he_normal"}
    layers = [Dense(9, **init), "tanh", Dense(8, "relu", **init), Dropout(0.2), Dense(OUTPUTS, **init)]
    assert network(layers) == chain
    assert network(layers).sizes == chain.sizes


def test_penalties_of_a_layer_replace_those_of_the_network(rows):
    def layers(**own):
        return [Dense(11, "tanh", name="low", **own), Dense(OUTPUTS)]

    own, none, all_ = (
        train(network(made, l2=l2), rows, backend="fused").parameters
        for made, l2 in ((layers(l2=0.0), 0.1), (layers(), 0.0), (layers(), 0.1))
    )
    assert not np.allclose(own, none)
    assert not np.allclose(own, all_)
    reference = train(network(layers(l2=0.0), l2=0.1), rows, backend="reference").parameters
    np.testing.assert_allclose(own, reference, rtol=1e-9, atol=1e-12)


def test_rates_by_name_and_by_kind(rows):
    layers = [Dense(11, "relu", name="low"), LayerNorm(), Dense(OUTPUTS)]
    before = train(layers, rows, epochs=0)
    optimizer = Adam(0.01, layer_rates={"low": 0.0, "LayerNorm": 0.5})
    after, slow = (train(layers, rows, optimizer=optimizer, backend=name) for name in ("fused", "reference"))
    np.testing.assert_array_equal(after.layers["low"]["weights"], before.layers["low"]["weights"])
    assert (after.layers["layer_norm1"]["gain"] != 1).all()
    np.testing.assert_allclose(after.parameters, slow.parameters, rtol=1e-9, atol=1e-12)


def test_a_residual_s_name_is_for_what_is_in_it(rows):
    layers = [Dense(6, "relu"), Residual(LayerNorm(), Dense(6, name="deep"), name="block"), Dense(OUTPUTS)]
    before = train(layers, rows, epochs=0).layers
    for backend in ("fused", "reference"):
        optimizer = SGD(0.1, layer_rates={"block": 0, "deep": 1.0})
        after = train(layers, rows, optimizer=optimizer, backend=backend).layers
        np.testing.assert_array_equal(after["layer_norm1"]["shift"], before["layer_norm1"]["shift"])
        assert not np.array_equal(after["deep"]["weights"], before["deep"]["weights"])
        assert not np.array_equal(after["dense1"]["weights"], before["dense1"]["weights"])


def test_biases_of_another_model_do_not_become_hidden_ones(rows):
    chain = train([Dense(5, "relu"), Dense(OUTPUTS)], rows)
    with pytest.raises(ValueError, match=r"has dense1 \(dense, 7 to 5\) where .* \(dense, 7 to 5, no bias\)"):
        train([Dense(5, "relu", bias=False), Dense(OUTPUTS)], rows, initial=chain)


def test_an_activation_of_ones_own(rows):
    own = Activation("cubic", lambda z: z + 0.1 * z * z * z)
    layers = [Dense(6), LayerNorm(), own, Dense(OUTPUTS)]
    expected, got = (train(layers, rows, backend=backend) for backend in ("reference", "fused"))
    np.testing.assert_allclose(got.parameters, expected.parameters, rtol=1e-9, atol=1e-12)


# --- PyTorch -----------------------------------------------------------------------------------------


def as_pytorch(torch, model):
    """Return a function of a tensor that is the network by PyTorch's own layers, and its parameters."""
    arrays = {
        layer: {
            name: torch.tensor(array, requires_grad=name not in ("mean", "variance"))
            for name, array in own.items()
        }
        for layer, own in model.layers.items()
    }
    F, counts = torch.nn.functional, {}

    def one(layer, x, seen, training):
        kind = next(k for k, c in NAMES.items() if isinstance(layer, c)) if not isinstance(layer, str) else ""
        if isinstance(layer, (str, Activate)):
            name = layer if isinstance(layer, str) else layer.activation
            return getattr(torch, name, None)(x) if name == "tanh" else getattr(F, name)(x)
        if isinstance(layer, Residual):
            inner = x
            for part in layer.layers:
                inner = one(part, inner, seen, training)
            return x + inner
        if isinstance(layer, (Add, Concatenate)):
            other = seen[layer.layer]
            return x + other if isinstance(layer, Add) else torch.cat([x, other], dim=1)
        counts[kind] = counts.get(kind, 0) + 1
        own = arrays[layer.name or f"{kind}{counts[kind]}"]
        match layer:
            case Dense():
                x = F.linear(x, own["weights"].T, own.get("biases"))
                x = x if layer.activation == "identity" else one(layer.activation, x, seen, training)
            case BatchNorm():
                running = own["mean"], own["variance"]
                x = F.batch_norm(
                    x, *running, own["gain"], own["shift"], training, layer.momentum, layer.epsilon
                )
            case LayerNorm():
                x = F.layer_norm(x, x.shape[1:], own["gain"], own["shift"], layer.epsilon)
            case RMSNorm():
                x = F.rms_norm(x, x.shape[1:], own["gain"], layer.epsilon)
            case PReLU():
                x = F.prelu(x, own["gain"])
            case Swish():
                x = x * torch.sigmoid(own["gain"] * x)
            case Scale():
                x = x * own["gain"]
        if layer.name:
            seen[layer.name] = x
        return x

    def forward(x, training=True):
        counts.clear()
        seen = {}
        for layer in LAYERS_OF(model.network):
            x = one(layer, x, seen, training)
        return x

    return forward, [array for own in arrays.values() for array in own.values()]


NAMES = {
    "dense": Dense,
    "layer_norm": LayerNorm,
    "batch_norm": BatchNorm,
    "rms_norm": RMSNorm,
    "prelu": PReLU,
    "swish": Swish,
    "scale": Scale,
    "residual": Residual,
    "add": Add,
    "concatenate": Concatenate,
    "activation": Activate,
}


def LAYERS_OF(made):
    return made.facts["layers"] if not made.is_chain else [one.layer for one in made.operations]


def steps_of_pytorch(torch, model, rows, steps):
    """Return the outputs before, the losses, and the parameters after so many steps of Adam on all rows."""
    X, y = map(torch.tensor, rows)
    forward, parameters = as_pytorch(torch, model)
    before, losses = forward(X, training=False).detach().numpy(), []
    optimizer = torch.optim.Adam([one for one in parameters if one.requires_grad], 0.01)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(forward(X), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return before, losses, forward(X, training=False).detach().numpy(), parameters


def held_to_pytorch(layers, rows):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    start = train(layers, rows, epochs=0)
    before, losses, after, parameters = steps_of_pytorch(torch, start, rows, 50)
    np.testing.assert_allclose(start.predict(rows[0]), before, rtol=1e-10, atol=1e-12)
    ours = train(layers, rows, epochs=50, batch_size=ROWS, initial=start, backend="fused")
    np.testing.assert_allclose(ours.history["loss"], losses, rtol=1e-6)
    np.testing.assert_allclose(ours.predict(rows[0]), after, rtol=1e-4, atol=1e-6)
    arrays = [array for own in ours.layers.values() for array in own.values()]
    for array, expected in zip(arrays, parameters, strict=True):
        if not any(isinstance(layer, BatchNorm) for layer in flat(layers)):
            # Biases before a batch norm have a gradient of rounding errors, which Adam makes steps of.
            np.testing.assert_allclose(array, expected.detach(), rtol=1e-4, atol=1e-6)


def flat(layers):
    return [part for one in layers for part in (flat(one.layers) if isinstance(one, Residual) else [one])]


@pytest.mark.parametrize("name", LISTS)
def test_fifty_steps_of_pytorch(name, rows):
    held_to_pytorch(LISTS[name], rows)


@pytest.mark.parametrize("seed", seeds(0, 40, 200))
def test_fifty_steps_of_pytorch_by_networks_drawn_at_random(seed, rows):
    held_to_pytorch(drawn_at_random(seed), rows)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("backend", ["fused", "reference"])
@pytest.mark.parametrize("seed", range(6))
def test_the_gradient_is_that_of_finite_differences(seed, backend, training, rows):
    layers = [Dense(INPUTS, "tanh"), BatchNorm(), Residual(BatchNorm()), *drawn_at_random(seed)]
    stepper = Stepper(network(layers), SGD(0.1), seed=0, dtype="float64", backend=backend)
    rng = np.random.default_rng(seed)
    stepper.parameters[...] += 0.1 * np.abs(rng.normal(size=stepper.parameters.size))  # away from gains of 1
    X, by_outputs = rows[0][:9], rng.normal(size=(9, OUTPUTS))
    stepper.forward(X, training=training)
    by_X = stepper.backward(by_outputs).copy()
    gradient, along = stepper.gradients.copy(), rng.normal(size=stepper.parameters.size)
    for one in stepper.network.operations:
        if not one.trains_bias:
            along[one.biases : one.end] = 0
        # In training the running state is not read, and in predictions it is no parameter.
        along[one.trained : one.end] = 0
    across, h, start = rng.normal(size=X.shape), 1e-6, stepper.parameters.copy()

    def value(step):
        stepper.parameters[...] = start + step * along
        return float((stepper.forward(X + step * across, training=training) * by_outputs).sum())

    difference = (value(h) - value(-h)) / (2 * h)
    expected = gradient @ along + (by_X * across).sum()
    assert difference == pytest.approx(expected, rel=1e-5, abs=1e-6)


def test_a_batch_norm_keeps_running_statistics(rows):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    X, _ = rows
    model = train([BatchNorm(momentum=0.2), Dense(OUTPUTS)], rows, epochs=3, batch_size=ROWS, backend="fused")
    norm = torch.nn.BatchNorm1d(INPUTS, momentum=0.2, dtype=torch.float64)
    for _ in range(3):
        norm(torch.tensor(X))
    np.testing.assert_allclose(model.layers["batch_norm1"]["mean"], norm.running_mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(model.layers["batch_norm1"]["variance"], norm.running_var, rtol=1e-9)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_a_batch_norm_refuses_a_batch_of_one_row(backend, rows):
    layers, line = [Dense(5), BatchNorm(), Dense(OUTPUTS)], "at least 2 rows in every batch, and one has 1"
    one = rows[0][:1], rows[1][:1]
    for some, batch_size in ((rows, 1), (one, None), (one, 7), ([(one[0], one[1])], 7)):
        given = (some, None) if isinstance(some, list) else some
        with pytest.raises(ValueError, match=line):
            train(layers, given, batch_size=batch_size, backend=backend)
    stepper = Stepper(network(layers), Adam(), dtype="float64", backend=backend)
    with pytest.raises(ValueError, match=line):
        stepper.step(rows[0][:1], rows[1][:1])
    with pytest.raises(ValueError, match=line):
        stepper.forward(rows[0][:1], training=True)
    assert stepper.forward(rows[0][:1]).shape == (1, OUTPUTS)


# --- what surrounds a training -----------------------------------------------------------------------

EVERYTHING = [
    Dense(16, "silu"), LayerNorm(), Dropout(0.1), Residual(BatchNorm(), Dense(16, "tanh"), Dense(16)),
    Dense(8, "tanh", name="low"), PReLU(), Concatenate("low"), Swish(), RMSNorm(), Scale(), Dense(OUTPUTS),
]  # fmt: skip


def test_a_training_goes_on_with_the_same_bits(rows, tmp_path):
    whole = train(EVERYTHING, rows, epochs=6)
    half = train(EVERYTHING, rows, epochs=3, callbacks=[Checkpoint(tmp_path / "half")])
    np.testing.assert_array_equal(half.fit_more(*rows, epochs=3).parameters, whole.parameters)
    resumed = train(EVERYTHING, rows, epochs=6, resume=tmp_path / "half")
    np.testing.assert_array_equal(resumed.parameters, whole.parameters)
    X, y = rows
    blocks = [(X[at : at + 15], y[at : at + 15]) for at in range(0, ROWS, 15)]
    made = fastmlp.fit(
        network(EVERYTHING), blocks, optimizer=Adam(0.01), epochs=6, batch_size=16, seed=1, dtype="float64",
        progress=False, window=ROWS,
    )  # fmt: skip
    np.testing.assert_array_equal(made.parameters, whole.parameters)


class StopAt(Callback):
    def on_chunk_end(self, run):
        if run.step == 10:
            run.stop("enough")


def test_a_row_left_alone_joins_the_batch_before_it(rows, tmp_path, monkeypatch):
    """Of 50 rows in batches of 7 the last batch has 8, for arrays, blocks, steps and trainings that go on."""
    X, y = rows
    given = {"batch_size": 7, "epochs": 3}
    unshuffled = train(EVERYTHING, rows, shuffle=False, **given)
    stepper = Stepper(network(EVERYTHING), Adam(0.01), seed=1, dtype="float64")
    for at in 3 * [*range(0, 49, 7)]:
        stop = ROWS if at == 42 else at + 7
        stepper.step(X[at:stop], y[at:stop])
    np.testing.assert_array_equal(stepper.parameters, unshuffled.parameters)
    blocks = [(X[at : at + 15], y[at : at + 15]) for at in range(0, ROWS, 15)]
    for window in (7, 12, 49, 50):  # the last of 7 and of 49 have one row
        made = train(EVERYTHING, (blocks, None), shuffle=False, window=window, **given)
        np.testing.assert_array_equal(made.parameters, unshuffled.parameters)
    whole = train(EVERYTHING, rows, **given)
    expected = train(EVERYTHING, rows, backend="reference", **given)
    np.testing.assert_allclose(whole.parameters, expected.parameters, rtol=1e-9, atol=1e-12)
    monkeypatch.setattr("fastmlp.training.loop.MAX_CHUNK_STEPS", 1)
    monkeypatch.setattr("fastmlp.training.streamed.MAX_CHUNK_STEPS", 1)
    for some, options in ((rows, {}), ((blocks, None), {"window": ROWS})):
        path = tmp_path / f"stopped{len(options)}"
        train(EVERYTHING, some, callbacks=[Checkpoint(path), StopAt()], **given, **options)
        resumed = train(EVERYTHING, some, resume=path, **given, **options)
        np.testing.assert_array_equal(resumed.parameters, whole.parameters)
    single = train(EVERYTHING, rows, batch_size=ROWS - 1, epochs=2)
    np.testing.assert_array_equal(
        single.parameters, train(EVERYTHING, rows, batch_size=None, epochs=2).parameters
    )


def test_files_and_pickles(rows, tmp_path):
    model = train(EVERYTHING, rows)
    fastmlp.save(model, tmp_path / "model")
    for other in (fastmlp.load(tmp_path / "model"), pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert other.network == model.network
        np.testing.assert_array_equal(other.predict(rows[0]), model.predict(rows[0]))
    assert restored(described(model.network)) == model.network


def test_a_stepper_takes_the_steps_of_fit(rows):
    stepper = Stepper(network(EVERYTHING), Adam(0.01), seed=1, dtype="float64")
    for _ in range(3):
        stepper.step(*rows)
    fitted = train(EVERYTHING, rows, epochs=3, batch_size=ROWS, shuffle=False)
    np.testing.assert_array_equal(stepper.parameters, fitted.parameters)


def test_a_model_tells_its_layers(rows):
    model = train(EVERYTHING, rows, epochs=0)
    shapes = {name: {part: array.shape for part, array in own.items()} for name, own in model.layers.items()}
    assert shapes["low"] == {"weights": (16, 8), "biases": (8,)}
    assert shapes["layer_norm1"] == {"gain": (16,), "shift": (16,)}
    model.layers["low"]["weights"][...] = 7
    assert (model.parameters == 7).sum() == 128
    table = str(model.network)
    assert table.splitlines()[0].split() == ["layer", "reads", "outputs", "parameters"]
    assert f"{model.parameters.size:,}" in table
    assert eval(repr(model.network)) == model.network


def test_every_kind_is_trained_here():
    met = {
        one.kind.name
        for layers in (*LISTS.values(), *DROPPING.values())
        for one in network(layers).operations
    }
    # A fixed norm is what predictions have in the place of a batch norm; the others have files of their own.
    elsewhere = {"fixed_norm", "own", "periodic", "piecewise_linear", "grouped", "categories"}
    elsewhere |= {"members", "scale_shift"}
    assert met == set(KINDS) - elsewhere


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: network([Dense(4, "relu")]), ValueError, "must be a Dense without an activation"),
        (lambda: network([Dense(4), LayerNorm()]), ValueError, "the last of layers must be a Dense"),
        (lambda: network([Dense(4), Residual(Dense(5)), Dense(3)]), ValueError, "layers of 5 and 4 units"),
        (lambda: network([Dense(4), Add("low"), Dense(3)]), ValueError, "no earlier layer has the name"),
        (lambda: network([Dense(4, name="a"), Dense(4, name="a"), Dense(3)]), ValueError, "two layers have"),
        (lambda: network([]), ValueError, "layers must hold at least one layer"),
        (lambda: network(Dense(3)), TypeError, "layers must be a list of layers"),
        (lambda: network([Dense]), TypeError, "make an instance of it"),
        (lambda: network(["rleu", Dense(3)]), ValueError, "unknown activation 'rleu'"),
        (lambda: network([Dense(3)], hidden="tanh"), TypeError, "go with sizes"),
        (lambda: Network([3, 2], inputs=3, layers=[Dense(2)]), TypeError, "sizes, or inputs and layers"),
        (lambda: Network(), TypeError, "sizes, or inputs and layers"),
        (lambda: network([LayerNorm(), Dense(7, name="layer_norm1"), Dense(3)]), ValueError, "two layers"),
        (lambda: Dense(3, name="LayerNorm"), ValueError, "must not be that of a kind of layers"),
        (lambda: Add(["a"]), TypeError, "layer must be the name of an earlier layer"),
        (lambda: network([layers_module.Part(), Dense(3)]), TypeError, "a layer must be one of Dense"),
        (lambda: network([type("Own", (Dense,), {})(3)]), TypeError, "a layer must be one of Dense"),
        (lambda: network([Dense(3)], hidden=np.ones(2)), TypeError, "go with sizes"),
        (lambda: network([Dense(2**31), Dense(2**31)]), ValueError, r"more parameters than 2\^31"),
        (lambda: Dense(0), ValueError, "units must be at least 1"),
        (lambda: Dense(3, bias=False, bias_init="uniform"), ValueError, "bias=False has no bias_init"),
        (lambda: Dense(3, name="a b"), ValueError, "must be a word"),
        (lambda: Dropout(1), ValueError, r"dropout must be in \[0, 1\)"),
        (lambda: Residual(), ValueError, "at least one layer"),
        (lambda: LayerNorm(0), ValueError, "epsilon must be above 0"),
        (lambda: network(EVERYTHING).sizes, AttributeError, "no chain of like dense layers"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(make, error, message):
    with pytest.raises(error, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_what_a_list_refuses_when_it_is_trained(backend, rows):
    X, y = rows
    sparse = scipy.sparse.csr_matrix(X)
    with pytest.raises(ValueError, match="sparse X needs a network whose first layer is a Dense"):
        train([LayerNorm(), Dense(OUTPUTS)], (sparse, y), backend=backend)
    train([Dense(5), LayerNorm(), Dense(OUTPUTS)], (sparse, y), backend=backend)
    with pytest.raises(ValueError, match="must be a dict, by names or kinds of layers"):
        train(EVERYTHING, rows, optimizer=SGD(0.1, layer_rates=(1, 2)), backend=backend)
    with pytest.raises(ValueError, match="layer_rates: no layer is 'lo'; choose from: dense1, Dense, "):
        train(EVERYTHING, rows, optimizer=SGD(0.1, layer_rates={"lo": 1}), backend=backend)
    other = train([Dense(5), LayerNorm(), Dense(OUTPUTS)], rows, epochs=0)
    with pytest.raises(ValueError, match=r"it has dense1 \(dense, 7 to 5\) where the network has dense1"):
        train(EVERYTHING, rows, initial=other, backend=backend)
    with pytest.raises(ValueError, match="its arrays stand by name in `layers`"):
        other.weights  # noqa: B018


@pytest.mark.parametrize("name", ["LayerNorm", "a norm of the inputs"])
def test_bytes_and_an_optimiser_of_touched_rows(name, rows):
    X, y = rows
    for inputs, options in (
        (X, {"optimizer": SparseAdam(0.01)}),
        ((np.abs(X) * 60).clip(0, 255).astype(np.uint8), {"dtype": "float32"}),
    ):
        made = network(LISTS[name], input_scale=1 / 255) if inputs.dtype == np.uint8 else LISTS[name]
        expected, got = (
            train(made, (inputs, y), backend=backend, **options) for backend in ("reference", "fused")
        )
        tolerance = 1e-5 if inputs.dtype == np.uint8 else 1e-12
        np.testing.assert_allclose(got.parameters, expected.parameters, rtol=tolerance, atol=tolerance)
