"""Networks that train in the lanes of vectors: each has the bits of a training alone."""

from dataclasses import replace

import numpy as np
import pytest
from support.custom_components import (
    by_element,
    gated,
    of_outputs,
    own_huber,
    quantiles,
    six_moments,
    smoothed,
    snake,
)
from support.custom_layers import LISTS
from support.selection import campaign, matrix, quick

import fastmlp
from fastmlp import SGD, Adam, AdamW, Dense, Dropout, LayerNorm, Network, Quantiles, Residual, Swish
from fastmlp.backend import registry
from fastmlp.kernels.lanes.training import LaneBlocks
from fastmlp.kernels.small.eligible import lane_program
from fastmlp.kernels.small.layouts import lanes_of
from fastmlp.model.averages import swap_average
from fastmlp.model.backend import Chunk, Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.state import TrainState

CLASSES = {"output": "softmax", "loss": "cross_entropy"}
LABELS = {"output": "sigmoid", "loss": "binary_cross_entropy"}
LAYERS = [
    Dense(17, "gelu"), LayerNorm(), Dropout(0.2), Residual(Dense(17, "tanh"), fastmlp.RMSNorm(), Dense(17)),
    fastmlp.PReLU(), Dense(6), Swish(), fastmlp.Scale(), Dense(3),
]  # fmt: skip
NAMED = [
    Dropout(0.1), Dense(6, name="first"), fastmlp.Activate("silu"), Dense(6, "relu"), fastmlp.Add("first"),
    fastmlp.Concatenate("first"), Dense(2),
]  # fmt: skip
CASES = {
    "notebook": (Network([3, 4, 1], output="sigmoid", loss="mse"), SGD(0.3, bias_learning_rate=0.1), 4, 4),
    "unrolled, penalised": (Network([3, 5, 2], "tanh", **CLASSES, l2=0.1), Adam(0.01), 5, 5),
    "rows that stay": (Network([5, 16, 1], output="identity"), Adam(0.01), 40, 40),
    "batches": (Network([5, 16, 1], output="identity", l2=0.01), AdamW(0.01), 50, 20),
    "logits kept": (Network([6, 9, 7, 3], "gelu", **CLASSES), fastmlp.RMSprop(0.01, momentum=0.9), 40, 37),
    "sklearn's": (
        Network([20, 17, 2], "silu", **LABELS, convention="sklearn", l2=0.1), SGD(0.05, momentum=0.9), 30, 8,
    ),
    "averaged": (Network([5, 6, 2], "tanh"), replace(AdamW(0.01), averaging=("ema", 0.9)), 33, 16),
    "unrolled, schedule-free": (Network([3, 4, 2], "tanh"), fastmlp.ScheduleFreeAdamW(0.01, warmup=3), 4, 4),
    "six moments": (Network([5, 6, 2], "tanh", output="identity"), six_moments(0.01), 33, 16),
    "huber": (Network([4, 8, 3], "elu", output="identity", loss="huber"), Adam(0.01, amsgrad=True), 33, 16),
    "layers": (Network(inputs=5, layers=LAYERS, **CLASSES, l2=0.1), Adam(0.01), 40, 18),
    "layers that read others": (Network(inputs=6, layers=NAMED), Adam(0.01), 40, 40),
    "few layers": (
        Network(inputs=3, layers=[Dense(4), LayerNorm(), Residual(Dropout(0.2), Dense(4, "relu")), Dense(1)]),
        SGD(0.1), 20, 9,
    ),
    "unrolled layers": (
        Network(inputs=3, layers=[Dense(4), LayerNorm(), Residual(Swish()), Dropout(0.2), Dense(1)]),
        Adam(0.01), 4, 4,
    ),
    "dropout": (Network([6, 9, 7, 3], ["hardswish", "elu"], **CLASSES, dropout=[0.5, 0.2]), SGD(0.1), 40, 9),
    "unrolled dropout": (Network([3, 4, 1], dropout=0.5), SGD(0.3), 4, 4),
    "clipped": (Network([20, 17, 2], "silu", **LABELS, l2=0.1), AdamW(0.01, clip_norm=0.05), 30, 8),
    "unrolled, clipped": (Network([3, 9, 2], "tanh", l2=0.1), SGD(0.1, clip_norm=0.1), 5, 5),
}  # fmt: skip
LOSSES = {
    "quantiles": {"loss": Quantiles([0.1, 0.5, 0.9])}, "focal": {"loss": fastmlp.Focal(1.5)},
    "gaussian": {"loss": fastmlp.Gaussian()}, "softmax of mse": {"loss": "mse", "output": "softmax"},
    "own element": {"loss": own_huber}, "own element of softmax": {"loss": by_element},
    "own row": {"loss": quantiles}, "own row of logits": {"loss": smoothed},
    "own row of softmax": {"loss": of_outputs},
}  # fmt: skip
OUTPUTS = {name: 4 if name == "gaussian" else 3 for name in LOSSES}
CASES |= {
    f"{name}, {rows} rows": (Network([3, 5, OUTPUTS[name]], "tanh", **options), Adam(0.01), rows, rows)
    for name, options in LOSSES.items()
    for rows in (7, 40)
}
CASES |= {
    **{f"own layers, {name}": (Network(inputs=5, layers=LISTS[name]), Adam(0.01), 40, 16) for name in LISTS},
    "unrolled own layers": (Network(inputs=5, layers=LISTS["narrow"]), Adam(0.01), 4, 4),
    "own layers of the page": (
        Network(inputs=5, layers=[Dense(18), snake, gated, Residual(Dense(18), gated), Dense(1)]),
        SGD(0.1), 20, 20,
    ),
}  # fmt: skip
QUICK, IN_TURNS = ("few layers", "unrolled own layers"), ("notebook", "unrolled dropout", "averaged")
TURNS = {
    name: "float32" if name.endswith("7 rows") or (place % 2 and not name.endswith("rows")) else "float64"
    for place, name in enumerate(CASES)
} | dict.fromkeys(("batches", *QUICK, *IN_TURNS), "float64")
"""The dtype of each case in the matrix: of a loss one is unrolled, and the other in memory. The last ones
have float32 besides."""


def task(network, optimizer, rows, batch, dtype, seed):
    """The steps of three epochs, from a start of its own, on rows of its own, at rates of its own."""
    rng = np.random.default_rng(seed)
    parameters = (0.5 * rng.standard_normal(parameter_count(network))).astype(dtype)
    moments = np.zeros((max(2, optimizer.moment_rows), len(parameters)), dtype)
    X = rng.standard_normal((rows, network.n_in)).astype(dtype)
    y = rng.integers(0, 2, (rows, network.n_out)).astype(dtype)
    if network.output == "softmax":
        y = np.eye(network.n_out, dtype=dtype)[rng.integers(0, network.n_out, rows)]
    weights = rng.integers(0, 3, rows).astype(dtype)
    starts = np.tile(np.arange(0, rows, batch), 3)
    stops = np.minimum(starts + batch, rows)
    if batch == rows:
        order = np.arange(rows)
    else:
        order = np.concatenate([rng.permutation(rows) for _ in range(3)])
        shift = np.repeat(np.arange(3) * rows, len(starts) // 3)
        starts, stops = starts + shift, stops + shift
    totals = np.array([float(weights[order[a:b]].sum()) for a, b in zip(starts, stops, strict=True)])
    rates = optimizer.rates(np.arange(len(starts)), len(starts) // 3)
    chunk = Chunk(order, starts, stops, totals, rates, batch)
    state = TrainState(parameters, np.zeros_like(parameters), moments, seed)
    return network, optimizer, state, Data(X, y, weights), chunk, 99 + seed


def program_of(task):
    """The program of a network in lanes, whose steps all visit as many rows or not, the same ones or not."""
    network, optimizer, state, _, chunk, _ = task
    visited = {*(chunk.stops - chunk.starts).tolist()}
    rows, stays = (visited.pop() if len(visited) == 1 else 0), len({*chunk.starts.tolist()}) == 1
    return lane_program(network, optimizer, state.parameters.dtype, rows, stays)


def assert_bits_of_tasks(tasks):
    program = program_of(tasks[0])
    assert program is not None
    assert all(program_of(one) == program for one in tasks)
    networks, optimizers, states, data, chunks, keys = zip(*tasks, strict=True)
    every, first = np.arange(len(tasks)), chunks[0]
    moments = [one.moments[: max(1, optimizers[0].moment_rows)].ravel() for one in states]
    block = LaneBlocks(
        registry.entries("specialized"), program, [*zip(networks, optimizers, strict=True)], every, data,
        every, np.array(keys), np.stack([one.parameters for one in states]), np.stack(moments),
    )  # fmt: skip
    totals, rates = [one.totals for one in chunks], [one.rates for one in chunks]
    steps, orders = np.array([one.step for one in states]), [one.order for one in chunks]
    objectives = block.take(steps, orders, first.starts, first.stops, totals, rates)
    for lane, (network, optimizer, state, data, chunk, key) in enumerate(tasks):
        alone = TrainState(*(array.copy() for array in state[:3]), state.step)
        losses = np.empty(len(chunk.starts))
        swap_average(network, optimizer, alone.parameters, alone.moments, alone.step)
        alone = registry.get("fused").train_chunk(network, optimizer, alone, data, chunk, key, 1, losses)
        swap_average(network, optimizer, alone.parameters, alone.moments, alone.step)
        parameters, moments = block.of_model(lane)
        np.testing.assert_array_equal(objectives[lane], losses)
        np.testing.assert_array_equal(parameters, alone.parameters)
        np.testing.assert_array_equal(moments, alone.moments[: len(moments)])


FULL = lanes_of(np.dtype("float32"))
"""Other counts leave lanes without a network, which change nothing."""


@quick(1)
@pytest.mark.parametrize(
    ("name", "dtype", "count"),
    [
        ("batches", "float32", FULL),
        *((name, "float32", 3) for name in QUICK),
        *(pytest.param(name, "float32", 3, marks=matrix) for name in IN_TURNS),
        *(
            pytest.param(name, dtype, 4, marks=matrix if TURNS[name] == dtype else campaign)
            for name in CASES
            for dtype in ("float32", "float64")
        ),
    ],
)
def test_each_network_has_the_bits_of_a_training_alone(name, dtype, count):
    network, optimizer, rows, batch = CASES[name]
    rules = [replace(optimizer, learning_rate=0.002 * (seed + 1)) for seed in range(count)]
    given = rows, batch, np.dtype(dtype)
    assert_bits_of_tasks([task(network, rule, *given, seed) for seed, rule in enumerate(rules)])


@matrix
@pytest.mark.parametrize("batch", [pytest.param(4, marks=matrix), 18])
def test_rates_penalties_and_parameters_of_losses_are_data(batch):
    tasks = [
        task(
            Network([3, 6, 2], "tanh", loss=Quantiles([n / 10, 0.9]), dropout=n / 10, l2=n / 5),
            Adam(0.01 * n, beta1=n / 10, clip_norm=0.1 * n), 20, batch, np.dtype("float32"), n,
        )
        for n in range(1, 4)
    ]  # fmt: skip
    assert_bits_of_tasks(tasks)


def test_other_rates_find_the_program_of_a_network():
    network, dtype = Network([3, 6, 2]), np.dtype("float32")
    first, *others = (lane_program(network, SGD(rate), dtype) for rate in (0.1, 0.2, fastmlp.Cosine(0.3, 5)))
    assert first is not None
    assert all(one is first for one in others)


@pytest.mark.parametrize(
    "network",
    [
        Network([3, 200, 1]),
        Network([3, 4, 2], loss="huber", l1=0.1),
        Network(inputs=3, layers=[Dense(4), fastmlp.BatchNorm(), Dense(1)]),
    ],
    ids=["wide", "l1", "batch norm"],
)
def test_what_has_no_program_goes_alone(network):
    assert program_of(task(network, Adam(), 8, 4, np.dtype("float32"), 0)) is None
