"""Blocks of inputs take the steps of PyTorch's definitions, and only rows of a batch move."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.input_blocks import CODES, EMBEDDINGS, LEVELS, NUMBERS, RNG, Y, fit, network
from support.layer_networks import tensors

import fastmlp
from fastmlp import SGD, Adam, Categories, Dense, Network, Periodic, SparseAdam, Stepper


def units_of_numbers(torch, embedding, own, x):
    """The units of numbers x as the papers define them, number after number; own : tensors by name"""
    if embedding is None:
        return x
    found = [x] if isinstance(embedding, Periodic) and embedding.linear else []
    for g in range(x.shape[1]):
        value = x[:, g : g + 1]
        if isinstance(embedding, Periodic):
            frequencies = own["periodic1"]["frequencies"][g]
            z = 2 * math.pi * value * frequencies
            if embedding.linear:
                units = torch.cos(z + own["periodic1"]["phases"][g])
            else:
                units = torch.cat([torch.sin(z), torch.cos(z)], dim=1)
        else:
            edges, slopes = own["piecewise_linear1"]["edges"][g], own["piecewise_linear1"]["slopes"][g]
            units = (value - edges) * slopes
            units = torch.cat([units[:, :1].clamp(min=-1), units[:, 1:].clamp(min=0)], dim=1)
            units = torch.cat([units[:, :-1].clamp(max=1), units[:, -1:].clamp(max=2)], dim=1)
        if "grouped1" in own:
            units = units @ own["grouped1"]["weights"][g] + own["grouped1"]["biases"][g]
        found.append(units)
    return torch.cat(found, dim=1)


def as_pytorch(torch, model):
    own = tensors(torch, model, ("edges", "slopes"))
    embedding = model.network.inputs[0].embedding

    def forward(numbers, codes):
        tables = list(own["categories1"].values())
        parts = [units_of_numbers(torch, embedding, own, numbers)]
        parts += [
            torch.nn.functional.embedding(column + 1, table)
            for column, table in zip(codes.T, tables, strict=True)
        ]
        x = torch.cat(parts, dim=1)
        x = torch.nn.functional.silu(x @ own["dense1"]["weights"] + own["dense1"]["biases"])
        x = (
            torch.nn.functional.layer_norm(x, x.shape[1:]) * own["layer_norm1"]["gain"]
            + own["layer_norm1"]["shift"]
        )
        return x @ own["dense2"]["weights"] + own["dense2"]["biases"]

    return forward, own


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_fifty_steps_of_pytorch(name):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = network(EMBEDDINGS[name], dropout=0)
    options = {"batch_size": None, "shuffle": False}
    start = fit(net, epochs=0, **options)
    forward, own = as_pytorch(torch, start)
    given = torch.tensor(NUMBERS), torch.tensor(CODES), torch.tensor(Y)
    np.testing.assert_allclose(
        start.predict([NUMBERS, CODES]), forward(*given[:2]).detach(), rtol=1e-12, atol=1e-12
    )
    parameters = [one for arrays in own.values() for one in arrays.values() if one.requires_grad]
    optimizer, losses = torch.optim.Adam(parameters, 0.01), []
    for _ in range(50):
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(forward(*given[:2]), given[2])
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    trained = fit(net, initial=start, epochs=50, **options)
    np.testing.assert_allclose(trained.history["loss"], losses, rtol=1e-9)
    for layer, arrays in trained.layers.items():
        for array_name, array in arrays.items():
            np.testing.assert_allclose(array, own[layer][array_name].detach(), rtol=1e-6, atol=1e-8)


def test_only_rows_of_a_batch_move_as_in_pytorch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    net = Network(inputs=[Categories((50,), width=4)], layers=[Dense(1)])
    codes = RNG.integers(0, 50, (30, 1))
    options = {"batch_size": 5, "shuffle": False, "backend": "fused", "dtype": "float64", "progress": False}
    start = fastmlp.fit(net, [codes], Y[:30, :1], epochs=0, seed=0, **options)
    model = fastmlp.fit(
        net, [codes], Y[:30, :1], optimizer=SparseAdam(0.1), epochs=2, initial=start, **options
    )
    table = torch.nn.Embedding(51, 4, sparse=True, dtype=torch.float64)
    table.weight.data[...] = torch.tensor(start.layers["categories1"]["column0"])
    w, b = (torch.tensor(start.layers["dense1"][name], requires_grad=True) for name in ("weights", "biases"))
    sparse, dense = torch.optim.SparseAdam([table.weight], 0.1), torch.optim.Adam([w, b], 0.1)
    for at in [*range(0, 30, 5)] * 2:
        out = table(torch.tensor(codes[at : at + 5, 0] + 1)) @ w + b
        loss = torch.nn.functional.mse_loss(out, torch.tensor(Y[at : at + 5, :1]))
        for one in (sparse, dense):
            one.zero_grad()
        loss.backward()
        sparse.step()
        dense.step()
    # PyTorch's SparseAdam adds epsilon, 1e-8, before it corrects the root for its start, its Adam afterwards.
    moved = model.layers["categories1"]["column0"]
    np.testing.assert_allclose(moved, table.weight.detach(), rtol=1e-5, atol=1e-6)
    unseen = np.setdiff1d(np.arange(50), codes) + 1
    np.testing.assert_array_equal(*(one.layers["categories1"]["column0"][unseen] for one in (model, start)))


def test_a_stepper_of_the_reference_moves_the_rows_that_fit_moves():
    net = Network(inputs=[Categories((50,), width=4)], layers=[Dense(1)])
    codes = RNG.integers(0, 50, (30, 1))
    options = {"seed": 0, "backend": "reference", "dtype": "float64"}
    stepper = Stepper(net, SparseAdam(0.1), **options)
    for at in range(0, 30, 5):
        stepper.step([codes[at : at + 5]], Y[at : at + 5, :1])
    options |= {"batch_size": 5, "shuffle": False, "progress": False}
    fitted = fastmlp.fit(net, [codes], Y[:30, :1], optimizer=SparseAdam(0.1), epochs=1, **options)
    np.testing.assert_array_equal(stepper.parameters, fitted.parameters)


@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_the_parts_of_a_step_move_the_rows_that_it_moves(backend):
    net = Network(inputs=[Categories((50,), 4), Categories((9,), 2, sparse=True)], layers=[Dense(1)])
    for optimizer in (Adam(0.1, clip_norm=0.1), SparseAdam(0.1)):
        whole, parts = (Stepper(net, optimizer, seed=0, dtype="float64", backend=backend) for _ in range(2))
        for at in range(0, 30, 5):
            codes, y = RNG.integers(-1, (50, 9), (5, 2)), Y[at : at + 5, :1]
            rows = [codes[:, :1], codes[:, 1:]]
            whole.step(rows, y)
            parts.backward(2 * (parts.forward(rows) - y) / y.size, inputs=False)
            parts.update()
            np.testing.assert_allclose(parts.parameters, whole.parameters, rtol=0, atol=1e-12)


def test_sparse_moves_the_rows_of_a_batch_alone_with_any_rule():
    start, model = (fit(network(sparse=True), epochs=epochs, batch_size=None) for epochs in (0, 3))
    dense = fit(network(), epochs=3, batch_size=None)
    for column, codes in enumerate(CODES.T):
        before, after, all_move = (
            one.layers["categories1"][f"column{column}"] for one in (start, model, dense)
        )
        moved = (before != after).any(axis=1)
        np.testing.assert_array_equal(moved, np.isin(np.arange(-1, LEVELS[column]), codes))
        if column < 2:  # each level is in the only batch: nothing tells the two apart
            np.testing.assert_array_equal(after, all_move)


@pytest.mark.parametrize("name", EMBEDDINGS)
@pytest.mark.parametrize("backend", ["reference", "fused"])
def test_the_gradient_is_that_of_finite_differences(backend, name):
    net, rng = network(EMBEDDINGS[name]), np.random.default_rng(3)
    stepper = Stepper(net, SGD(0.1), seed=0, initial=fit(net, epochs=0), backend=backend, dtype="float64")
    stepper.parameters[...] += 0.1 * rng.standard_normal(stepper.parameters.shape) * (stepper.parameters != 0)
    weight = rng.standard_normal(Y.shape)
    stepper.forward([NUMBERS, CODES], training=True)
    stepper.backward(weight, inputs=False)
    gradients = stepper.gradients.copy()
    direction, before, h = rng.standard_normal(gradients.shape), stepper.parameters.copy(), 1e-6
    for arrays in (layers for key, layers in stepper.layers.items() if key == "piecewise_linear1"):
        for array in arrays.values():  # bins are no parameters
            place = (array.ctypes.data - stepper.parameters.ctypes.data) // 8
            direction[place : place + array.size] = 0

    def value(step):
        stepper.parameters[...] = before + step * direction
        return float((stepper.forward([NUMBERS, CODES], training=True) * weight).sum())

    difference = (value(h) - value(-h)) / (2 * h)
    assert difference == pytest.approx(float(gradients @ direction), rel=1e-5, abs=1e-6)
