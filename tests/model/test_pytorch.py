"""Networks take the steps of networks of PyTorch's functions, and batch norms have its statistics."""

import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from support import custom_components, heads, input_blocks, layer_networks
from support.layer_networks import INPUTS, LISTS, OUTPUTS, ROWS, drawn_at_random, tensors
from support.problems import parameters_for
from support.selection import crossed, seeds

import fastmlp
from fastmlp import Adam, BatchNorm, Dense, LayerNorm, Network, PReLU, Residual, RMSNorm, Scale, Swish
from fastmlp.backend import registry

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
F, optim = torch.nn.functional, torch.optim

RNG = np.random.default_rng(0)


class Case(NamedTuple):
    """A training, and PyTorch's network and losses.

    fit : fit(**options), a model
    X : the inputs of forward, arrays
    forward : forward(model, own, *X, training=), outputs, or a dict; own : tensors of `model.layers`
    losses : losses(outputs), by the names of curves; the first one is minimised
    predicted : predicted(outputs), as of `Model.predict`
    fixed : names of arrays that are not trained
    """

    fit: Callable
    X: list
    forward: Callable
    losses: Callable
    predicted: Callable = lambda outputs: outputs.detach().numpy()
    fixed: tuple = ()
    compared: bool = True


def steps_of_pytorch(parameters, losses, steps=50):
    """The curves of so many steps of Adam on all rows."""
    optimizer, curves = torch.optim.Adam(parameters, 0.01), []
    for _ in range(steps):
        found = losses()
        optimizer.zero_grad()
        next(iter(found.values())).backward()
        optimizer.step()
        curves.append({name: loss.item() for name, loss in found.items()})
    return {name: [step[name] for step in curves] for name in curves[0]}


def held_to_pytorch(case, rtol=1e-6, atol=1e-8, of_curves=1e-8, at_first=1e-12):
    options = {"batch_size": None, "shuffle": False}
    start = case.fit(epochs=0, **options)
    X = [torch.tensor(x) if isinstance(x, np.ndarray) else x for x in case.X]
    own, given = tensors(torch, start, case.fixed), case.X if start.network.blocks else case.X[0]
    forward, found = functools.partial(case.forward, start, own, *X), start.predict(given)
    found = np.hstack([*found.values()] if isinstance(found, dict) else [found])
    np.testing.assert_allclose(found, case.predicted(forward(training=False)), rtol=at_first, atol=1e-12)
    parameters = [one for arrays in own.values() for one in arrays.values() if one.requires_grad]
    curves = steps_of_pytorch(parameters, lambda: case.losses(forward()))
    trained = case.fit(initial=start, epochs=50, **options)
    for name, curve in curves.items():
        np.testing.assert_allclose(trained.history[name], curve, rtol=of_curves)
    for layer, arrays in trained.layers.items() if case.compared else ():
        for name, array in arrays.items():
            np.testing.assert_allclose(array, own[layer][name].detach(), rtol=rtol, atol=atol)
    return trained.predict(given), case.predicted(forward(training=False))


def dense(x, own):
    return F.linear(x, own["weights"].T, own.get("biases"))


# --- lists of layers -------------------------------------------------------------------------------------

LISTED = RNG.normal(size=(ROWS, INPUTS)), RNG.normal(size=(ROWS, OUTPUTS))
GATES = {fastmlp.ReGLU: "relu", fastmlp.GEGLU: "gelu", fastmlp.SwiGLU: "silu"}
"""What PyTorch calls the functions of gates that it has no layers of."""

KINDS = ("dense", "layer_norm", "batch_norm", "group_norm", "rms_norm", "prelu", "swish", "scale")
NAMES = dict(
    zip((Dense, LayerNorm, BatchNorm, fastmlp.GroupNorm, RMSNorm, PReLU, Swish, Scale), KINDS, strict=True)
)
KNOWN = {
    *NAMES, Residual, fastmlp.Activate, fastmlp.Add, fastmlp.Multiply, fastmlp.Concatenate, fastmlp.GLU,
    *GATES,
}  # fmt: skip
OF_PYTORCH = [
    name
    for name, layers in LISTS.items()
    if all(isinstance(one, str) or type(one) in KNOWN for one in layers)
]
"""The lists without new layers of the table that PyTorch has not."""


def by_layers(model, own, x, training=True):
    """The outputs of a list of layers, by PyTorch's function of each."""
    seen, counts = {}, {}

    def one(layer, x):
        if isinstance(layer, (str, fastmlp.Activate)):
            name = layer if isinstance(layer, str) else layer.activation
            return torch.tanh(x) if name == "tanh" else getattr(F, name)(x)
        if isinstance(layer, Residual):
            return x + functools.reduce(lambda inner, part: one(part, inner), layer.layers, x)
        if isinstance(layer, fastmlp.Concatenate):
            return torch.cat([x, seen[layer.layer]], dim=1)
        if isinstance(layer, (fastmlp.Add, fastmlp.Multiply)):
            return x + seen[layer.layer] if isinstance(layer, fastmlp.Add) else x * seen[layer.layer]
        if isinstance(layer, fastmlp.GLU):
            first, gate = x.chunk(2, dim=1)
            return F.glu(x) if type(layer) is fastmlp.GLU else first * getattr(F, GATES[type(layer)])(gate)
        kind = NAMES[type(layer)]
        counts[kind] = counts.get(kind, 0) + 1
        arrays = own[layer.name or f"{kind}{counts[kind]}"]
        gain, shift = arrays.get("gain"), arrays.get("shift")
        match layer:
            case Dense():
                x = dense(x, arrays)
                x = x if layer.activation == "identity" else one(layer.activation, x)
            case BatchNorm():
                running = arrays["mean"], arrays["variance"]
                x = F.batch_norm(x, *running, gain, shift, training, layer.momentum, layer.epsilon)
            case LayerNorm():
                x = F.layer_norm(x, x.shape[1:], gain, shift, layer.epsilon)
            case fastmlp.GroupNorm():
                x = F.group_norm(x, layer.groups, gain, shift, layer.epsilon)
            case RMSNorm():
                x = F.rms_norm(x, x.shape[1:], gain, layer.epsilon)
            case PReLU():
                x = F.prelu(x, gain)
            case Swish():
                x = x * torch.sigmoid(gain * x)
            case Scale():
                x = x * gain
        if layer.name:
            seen[layer.name] = x
        return x

    return functools.reduce(lambda x, layer: one(layer, x), model.network.layers, x)


def mse_of(y):
    return lambda outputs: {"loss": F.mse_loss(outputs, torch.tensor(y))}


def flat(layers):
    return [part for one in layers for part in (flat(one.layers) if isinstance(one, Residual) else [one])]


def held_by_layers(layers):
    fit = functools.partial(layer_networks.train, layers, LISTED, backend="fused")
    # Biases before a batch norm have a gradient of rounding errors, which Adam makes steps of.
    compared = not any(isinstance(layer, BatchNorm) for layer in flat(layers))
    case = Case(fit, [LISTED[0]], by_layers, mse_of(LISTED[1]), fixed=("mean", "variance"), compared=compared)
    np.testing.assert_allclose(*held_to_pytorch(case, 1e-4, 1e-6, 1e-6, 1e-10), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", OF_PYTORCH)
def test_fifty_steps_of_layers(name):
    held_by_layers(LISTS[name])


@pytest.mark.parametrize("seed", seeds(0, 40, 200))
def test_fifty_steps_of_layers_drawn_at_random(seed):
    held_by_layers(drawn_at_random(seed))


# --- chains, in batches ----------------------------------------------------------------------------------

CHAINS = {
    "AdamW": (
        *(("gelu", "elu"), (F.gelu, F.elu), "cross_entropy", F.cross_entropy),
        *(fastmlp.AdamW(0.01, clip_norm=0.5), optim.AdamW, {}),
    ),
    "RMSprop": (
        *(("silu", "softplus"), (F.silu, F.softplus), "binary_cross_entropy"),
        *(
            F.binary_cross_entropy_with_logits,
            fastmlp.RMSprop(0.01, momentum=0.5),
            optim.RMSprop,
            {"momentum": 0.5},
        ),
    ),
    "SGD": (
        *(("leaky_relu", "tanh"), (F.leaky_relu, torch.tanh), "poisson", F.poisson_nll_loss),
        *(fastmlp.SGD(0.01, 0.9, True), optim.SGD, {"momentum": 0.9, "nesterov": True}),
    ),
    "Adam": (
        *(("relu", "sigmoid"), (F.relu, torch.sigmoid), "huber", F.huber_loss, Adam(0.01), optim.Adam, {}),
    ),
    "AMSGrad": (
        *(("tanh", "relu"), (torch.tanh, F.relu), "mse", F.mse_loss, Adam(0.01, beta2=0.9, amsgrad=True)),
        *(optim.Adam, {"betas": (0.9, 0.9), "amsgrad": True}),
    ),
}
"""Activations, PyTorch's, a loss, PyTorch's, an optimiser, and PyTorch's of the rate 0.01 with options."""


@crossed(backend=registry.backends(), name=CHAINS)
def test_batches_of_chains(backend, name):
    held_by_batches(backend, *CHAINS[name])


def held_by_batches(backend, hidden, modules, loss, criterion, ours, theirs, options):
    """Hold five epochs in batches of 8, the last one of 6, to PyTorch's."""
    sizes, rng = (4, 7, 5, 3), np.random.default_rng(0)
    initial = parameters_for(sizes, rng)
    X, y = rng.standard_normal((30, 4)), rng.dirichlet(np.ones(3), 30)
    given = {"epochs": 5, "batch_size": 8, "shuffle": False, "initial": initial, "backend": backend}
    model = fastmlp.fit(Network(sizes, hidden, loss=loss), X, y, optimizer=ours, progress=False, **given)
    weights, biases = ([torch.tensor(one, requires_grad=True) for one in part] for part in initial)
    optimizer, curve = theirs([*weights, *biases], 0.01, **options), []
    for start in [*range(0, 30, 8)] * 5:
        x, target = (torch.tensor(array[start : start + 8]) for array in (X, y))
        for w, b, module in zip(weights, biases, (*modules, lambda z: z), strict=True):
            x = module(x @ w + b)
        optimizer.zero_grad()
        value = criterion(x, target)
        value.backward()
        if ours.clip_norm:
            torch.nn.utils.clip_grad_norm_([*weights, *biases], ours.clip_norm)
        optimizer.step()
        curve.append(value.item() * len(x) / 30)
    np.testing.assert_allclose(model.history["loss"], np.reshape(curve, (5, 4)).sum(axis=1), rtol=1e-11)
    for got, w in zip(model.weights, weights, strict=True):
        np.testing.assert_allclose(got, w.detach().numpy(), atol=1e-11)


# --- blocks of inputs, heads and members -----------------------------------------------------------------


def units_of_numbers(embedding, own, x):
    """The units of numbers x as the papers define them, number after number; own : tensors by name"""
    if embedding is None:
        return x
    found = [x] if isinstance(embedding, fastmlp.Periodic) and embedding.linear else []
    for g in range(x.shape[1]):
        value = x[:, g : g + 1]
        if isinstance(embedding, fastmlp.Periodic):
            z = 2 * math.pi * value * own["periodic1"]["frequencies"][g]
            if embedding.linear:
                units = torch.cos(z + own["periodic1"]["phases"][g])
            else:
                units = torch.cat([torch.sin(z), torch.cos(z)], dim=1)
        else:
            edges, slopes = (own["piecewise_linear1"][name][g] for name in ("edges", "slopes"))
            units = (value - edges) * slopes
            units = torch.cat([units[:, :1].clamp(min=-1), units[:, 1:].clamp(min=0)], dim=1)
            units = torch.cat([units[:, :-1].clamp(max=1), units[:, -1:].clamp(max=2)], dim=1)
        if "grouped1" in own:
            units = units @ own["grouped1"]["weights"][g] + own["grouped1"]["biases"][g]
        found.append(units)
    return torch.cat(found, dim=1)


def of_codes(own, codes):
    tables = own["categories1"].values()
    return [F.embedding(column + 1, table) for column, table in zip(codes.T, tables, strict=True)]


def by_blocks(model, own, numbers, codes, training=True):
    embedding = model.network.inputs[0].embedding
    x = torch.cat([units_of_numbers(embedding, own, numbers), *of_codes(own, codes)], dim=1)
    x = F.silu(dense(x, own["dense1"]))
    x = F.layer_norm(x, x.shape[1:], own["layer_norm1"]["gain"], own["layer_norm1"]["shift"])
    return dense(x, own["dense2"])


@pytest.mark.parametrize("name", input_blocks.EMBEDDINGS)
def test_fifty_steps_of_blocks_of_inputs(name):
    net = input_blocks.network(input_blocks.EMBEDDINGS[name], dropout=0)
    X, fit = [input_blocks.NUMBERS, input_blocks.CODES], functools.partial(input_blocks.fit, net)
    case = Case(fit, X, by_blocks, mse_of(input_blocks.Y), fixed=("edges", "slopes"))
    held_to_pytorch(case, of_curves=1e-9)


def by_sparse_blocks(model, own, numbers, codes, csr, training=True):
    arrays = map(torch.tensor, (csr.indptr, csr.indices, csr.data))
    rows, w = torch.sparse_csr_tensor(*arrays, csr.shape, check_invariants=True), own["dense1"]["weights"]
    beside = torch.cat([numbers, *of_codes(own, codes)], dim=1)
    n = beside.shape[1]
    z = beside @ w[:n] + torch.sparse.mm(rows, w[n:]) + own["dense1"]["biases"]
    return dense(F.silu(z), own["dense2"])


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta")
def test_fifty_steps_of_sparse_blocks():
    parts = [fastmlp.Numbers(3), fastmlp.Categories(input_blocks.LEVELS, width=2), fastmlp.SparseNumbers(70)]
    X = [input_blocks.NUMBERS, input_blocks.CODES, input_blocks.WORDS]
    fit = functools.partial(input_blocks.fit, Network(inputs=parts, layers=[Dense(8, "silu"), Dense(2)]), X=X)
    held_to_pytorch(Case(fit, X, by_sparse_blocks, mse_of(input_blocks.Y)), of_curves=1e-9)


def by_heads(model, own, x, training=True):
    trunk = torch.relu(dense(x, own["dense1"]))
    trunk = F.layer_norm(trunk, (12,), own["layer_norm1"]["gain"], own["layer_norm1"]["shift"])
    hidden = torch.tanh(dense(trunk, own["own"]))
    return {name: dense(hidden if name == "kind" else trunk, own[name]) for name in model.network.heads}


def losses_of_heads(net, y, weighted, outputs):
    """Means over the entries that are there, with PyTorch's weights, after the sum by the heads' factors."""
    price, flag = (torch.tensor(y[name]) for name in ("price", "flag"))
    there = ~torch.isnan(price)
    factors = torch.tensor(heads.UNIT_WEIGHTS if weighted else (1.0, 1.0), dtype=torch.float64)
    each = F.huber_loss(outputs["price"], torch.nan_to_num(price), reduction="none") * factors
    kinds = torch.tensor(np.asarray(y["kind"], float))
    rows = ~torch.isnan(kinds)
    weight = torch.tensor(heads.CLASS_WEIGHTS, dtype=torch.float64) if weighted else None
    known = ~torch.isnan(flag)
    found = {
        "price": each[there].sum() / there.sum(),
        "kind": F.cross_entropy(outputs["kind"][rows], kinds[rows].long(), weight=weight),
        "flag": F.binary_cross_entropy_with_logits(outputs["flag"][known], flag[known]),
    }
    total = sum(net.heads[name].weight * loss for name, loss in found.items())
    return {"loss": total, **{f"{name}_loss": loss for name, loss in found.items()}}


def predicted_of_heads(logits):
    ends = {
        "price": logits["price"], "kind": F.softmax(logits["kind"], 1), "flag": torch.sigmoid(logits["flag"]),
    }  # fmt: skip
    return np.hstack([one.detach().numpy() for one in ends.values()])


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("missing", [False, True])
def test_fifty_steps_of_heads(missing, weighted):
    net, y = heads.network(missing, weighted), heads.GAPS if missing else heads.WHOLE
    losses = functools.partial(losses_of_heads, net, y, weighted)
    held_to_pytorch(
        Case(functools.partial(heads.fit, net, y), [heads.X], by_heads, losses, predicted_of_heads)
    )


def by_members(model, own, x, training=True):
    """Outputs of each member (rows, members, units)."""

    def shared(x, own):
        return ((x * own["r"]) @ own["weights"]) * own["s"] + own["biases"]

    x = torch.relu(dense(x, own["dense1"]))
    x = torch.tanh(shared(x[:, None].expand(-1, 5, -1), own["low"]))
    x = x + F.silu(shared(x, own["dense3"]))
    return shared(torch.where(x > 0, x, own["prelu1"]["gain"] * x), own["dense4"])


def test_fifty_steps_of_members():
    case = Case(
        functools.partial(layer_networks.train, layer_networks.SHARING, LISTED, backend="fused"),
        [LISTED[0]],
        by_members,
        lambda outputs: {"loss": ((outputs - torch.tensor(LISTED[1])[:, None]) ** 2).mean()},
        lambda outputs: outputs.mean(dim=1).detach().numpy(),
    )
    held_to_pytorch(case, 1e-4, 1e-6, 1e-6, 1e-10)


# --- custom components -----------------------------------------------------------------------------------


def focal_loss(z, y):
    entropy = F.binary_cross_entropy_with_logits(z, y, reduction="none")
    return ((1 - torch.exp(-entropy)) ** 2 * entropy).mean()


def quantile_loss(z, y):
    q, r = torch.tensor([0.1, 0.5, 0.9], dtype=z.dtype), z - y
    return torch.maximum((1 - q) * r, -q * r).mean()


CUSTOM = {
    "mish, focal": ((custom_components.mish,) * 2, (F.mish,) * 2, custom_components.focal, focal_loss),
    "sine, quantiles": (
        *((custom_components.sine,) * 2, (lambda z: torch.sin(3 * z),) * 2),
        *(custom_components.quantiles, quantile_loss),
    ),
    "mish, smoothed": (
        *((custom_components.mish,) * 2, (F.mish,) * 2, custom_components.smoothed),
        functools.partial(F.cross_entropy, label_smoothing=0.1),
    ),
}


@pytest.mark.parametrize("name", CUSTOM)
def test_batches_of_custom_components(name):
    held_by_batches("fused", *CUSTOM[name], custom_components.OwnAdam(0.01), optim.Adam, {})


# --- what is PyTorch's besides ---------------------------------------------------------------------------


def test_a_batch_norm_keeps_running_statistics():
    layers = [BatchNorm(momentum=0.2), Dense(OUTPUTS)]
    model = layer_networks.train(layers, LISTED, epochs=3, batch_size=ROWS, backend="fused")
    norm = torch.nn.BatchNorm1d(INPUTS, momentum=0.2, dtype=torch.float64)
    for _ in range(3):
        norm(torch.tensor(LISTED[0]))
    own = model.layers["batch_norm1"]
    np.testing.assert_allclose(own["mean"], norm.running_mean, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(own["variance"], norm.running_var, rtol=1e-9)


def test_only_rows_of_a_batch_move():
    net = Network(inputs=[fastmlp.Categories((50,), width=4)], layers=[Dense(1)])
    codes, y = RNG.integers(0, 50, (30, 1)), RNG.normal(size=(30, 1))
    options = {"batch_size": 5, "shuffle": False, "backend": "fused", "dtype": "float64", "progress": False}
    start = fastmlp.fit(net, [codes], y, epochs=0, seed=0, **options)
    model = fastmlp.fit(
        net, [codes], y, optimizer=fastmlp.SparseAdam(0.1), epochs=2, initial=start, **options
    )
    table = torch.nn.Embedding(51, 4, sparse=True, dtype=torch.float64)
    table.weight.data[...] = torch.tensor(start.layers["categories1"]["column0"])
    w, b = (torch.tensor(start.layers["dense1"][name], requires_grad=True) for name in ("weights", "biases"))
    optimizers = torch.optim.SparseAdam([table.weight], 0.1), torch.optim.Adam([w, b], 0.1)
    for at in [*range(0, 30, 5)] * 2:
        out = table(torch.tensor(codes[at : at + 5, 0] + 1)) @ w + b
        loss = F.mse_loss(out, torch.tensor(y[at : at + 5]))
        for one in optimizers:
            one.zero_grad()
        loss.backward()
        for one in optimizers:
            one.step()
    # PyTorch's SparseAdam adds epsilon, 1e-8, before it corrects the root for its start, its Adam afterwards.
    moved = model.layers["categories1"]["column0"]
    np.testing.assert_allclose(moved, table.weight.detach(), rtol=1e-5, atol=1e-6)
    unseen = np.setdiff1d(np.arange(50), codes) + 1
    np.testing.assert_array_equal(*(one.layers["categories1"]["column0"][unseen] for one in (model, start)))
