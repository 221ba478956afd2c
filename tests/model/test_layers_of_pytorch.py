"""Networks of layers take the steps of PyTorch's, and batch norms have its running statistics."""

from __future__ import annotations

import numpy as np
import pytest
from support.layer_networks import INPUTS, LISTS, OUTPUTS, ROWS, network, tensors, train
from support.selection import seeds

from fastmlp import (
    GEGLU,
    GLU,
    SGD,
    Activate,
    Adam,
    Add,
    BatchNorm,
    Concatenate,
    Dense,
    GroupNorm,
    LayerNorm,
    Multiply,
    PReLU,
    ReGLU,
    Residual,
    RMSNorm,
    Scale,
    Stepper,
    SwiGLU,
    Swish,
)


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


def as_pytorch(torch, model):
    """Return a function of a tensor that is the network by PyTorch's own layers, and its parameters."""
    arrays = tensors(torch, model, ("mean", "variance"))
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
        if isinstance(layer, (Add, Multiply, Concatenate)):
            other = seen[layer.layer]
            if isinstance(layer, Concatenate):
                return torch.cat([x, other], dim=1)
            return x + other if isinstance(layer, Add) else x * other
        if isinstance(layer, GLU):
            first, gate = x.chunk(2, dim=1)
            return F.glu(x) if type(layer) is GLU else first * getattr(F, GATES[type(layer)])(gate)
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
            case GroupNorm():
                x = F.group_norm(x, layer.groups, own["gain"], own["shift"], layer.epsilon)
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


GATES = {ReGLU: "relu", GEGLU: "gelu", SwiGLU: "silu"}
"""What PyTorch calls the functions of gates that it has no layers of."""

NAMES = {
    "dense": Dense,
    "layer_norm": LayerNorm,
    "batch_norm": BatchNorm,
    "group_norm": GroupNorm,
    "rms_norm": RMSNorm,
    "prelu": PReLU,
    "swish": Swish,
    "scale": Scale,
    "residual": Residual,
    "add": (Add, Multiply),
    "gate": GLU,
    "concatenate": Concatenate,
    "activation": Activate,
}


KNOWN = {Dense, LayerNorm, BatchNorm, GroupNorm, RMSNorm, PReLU, Swish, Scale, Residual, Activate}
KNOWN |= {Add, Multiply, Concatenate, GLU, *GATES}
OF_PYTORCH = [
    name
    for name, layers in LISTS.items()
    if all(isinstance(one, str) or type(one) in KNOWN for one in layers)
]
"""The lists without new layers of the table that PyTorch has not."""


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


@pytest.mark.parametrize("name", OF_PYTORCH)
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
