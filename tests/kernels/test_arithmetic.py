"""One arithmetic: variants that are `exact` train with equal bits, whichever way they cut the work."""

import functools
from typing import Any, NamedTuple

import numpy as np
import pytest
from support.differences import difference, differences
from support.problems import COMPILED_DTYPES, parameters_for, targets_for
from support.selection import campaign, matrix
from support.trajectories import BINARY, CLASSES, TRAININGS
from support.updates import update

from fastmlp import SGD, Adam, Network
from fastmlp.backend import registry
from fastmlp.kernels.codegen.machine import NEVER
from fastmlp.kernels.small import eligible
from fastmlp.kernels.thresholds import forced
from fastmlp.model.backend import Chunk, Data
from fastmlp.model.optimizers import Optimizer
from fastmlp.model.state import TrainState

EXACT = {
    name: variant
    for name, variant in registry.variants().items()
    if variant.exact and variant.specialize is None
}


class Steps(NamedTuple):
    """Two passes over random rows, in batches; inputs are of size `scale`."""

    sizes: tuple[int, ...]
    options: dict[str, Any]
    optimizer: Optimizer
    rows: int
    batch: int
    scale: float = 1.0


RECTIFIED = {"hidden": "relu", **CLASSES}

STEPS = {
    # Where tiles end, panels and groups of rows.
    "wide and narrow layers": Steps((65, 33, 10), {**RECTIFIED, "l2": 0.01}, SGD(0.1), 100, 45),
    "turned on its side": Steps((40, 50, 2), {**CLASSES, "l2": 0.01}, SGD(0.1), 100, 45),
    # Penalties of rows of which several count as one; the last layer of the first two is turned on its side.
    "few outputs": Steps((37, 4, 20, 3), {**CLASSES, "l2": 0.02}, SGD(0.1), 100, 45),
    "one output": Steps((70, 33, 1), {"loss": "mse", "l2": 0.02}, Adam(0.01), 100, 45),
    "few outputs of many inputs": Steps((3, 100, 6), {**CLASSES, "l2": 0.02}, SGD(0.1), 100, 45),
    "one layer of one output": Steps((71, 1), {"loss": "mse", "l2": 0.02}, SGD(0.01), 100, 45),
    "no penalty": Steps((40, 50, 3), CLASSES, SGD(0.1), 100, 33),
    "l1": Steps((9, 20, 2), {**CLASSES, "l1": 0.003}, SGD(0.1), 50, 31),
    "copied into panels": Steps((130, 140, 60), RECTIFIED, SGD(0.1), 150, 140),
    "one row": Steps((17, 150, 3), RECTIFIED, SGD(0.1), 5, 1),
    # Losses of more units than are taken batched.
    "many classes": Steps((13, 17, 70), {"hidden": "sigmoid", **CLASSES}, SGD(0.1), 100, 37),
    "many labels": Steps((13, 70), {**BINARY, "l2": 0.3}, SGD(0.1), 100, 37),
    "many numbers": Steps((13, 17, 70), {"loss": "mse", "l2": 0.3}, Adam(0.1), 100, 37),
    # What is packed: sums are cut at `blocked.BLOCK_ROWS` rows, 1024.
    "many rows": Steps((8, 5, 3), {**RECTIFIED, "l2": 0.01}, SGD(0.1), 2300, 2200),
    "many rows, adam": Steps((8, 25, 3), {**RECTIFIED, "l2": 0.01}, Adam(0.1), 2300, 2200),
    "a large layer": Steps((520, 520, 3), {**RECTIFIED, "l2": 0.01}, SGD(0.1), 1100, 1030),
    "a large layer, no penalty": Steps((520, 520, 3), RECTIFIED, SGD(0.1), 1100, 1030),
    "a large layer, momentum": Steps((520, 520, 3), RECTIFIED, SGD(0.1, 0.9), 1100, 1030),
    "subnormal numbers": Steps((9, 7, 1), {"loss": "mse"}, Adam(0.1), 60, 30, scale=1e-40),
    **{
        name: Steps(t.sizes, t.options, t.optimizer, 70, min(t.batch_size or 70, 70))
        for name, t in TRAININGS.items()
    },
    # Of which the own program keeps every parameter in a register.
    "in registers": Steps((3, 4, 1), {"output": "sigmoid", "loss": "mse"}, SGD(0.1), 11, 4),
    "in registers, tanh": Steps((5, 3, 4, 2), {"hidden": ["tanh", "elu"], **BINARY}, SGD(0.1), 27, 13),
}


def problem(steps, dtype):
    """Return a network, its parameters (P,), data, and a chunk that visits them."""
    network, rng = Network(steps.sizes, **steps.options), np.random.default_rng(3)
    inputs = steps.scale * rng.standard_normal((steps.rows, steps.sizes[0]))
    targets = targets_for(network.loss, rng, steps.rows, steps.sizes[-1])
    weights = rng.integers(0, 4, steps.rows)
    data = Data(*(np.ascontiguousarray(a, dtype) for a in (inputs, targets, weights)))
    layers = zip(*parameters_for(steps.sizes, rng, 0.3), strict=True)
    parameters = np.concatenate([part.ravel() for layer in layers for part in layer]).astype(dtype)
    order = np.concatenate([rng.permutation(steps.rows) for _ in range(2)])
    starts = np.concatenate([at + np.arange(0, steps.rows, steps.batch) for at in (0, steps.rows)])
    stops = np.minimum(starts + steps.batch, np.where(starts < steps.rows, 1, 2) * steps.rows)
    totals = [weights[order[slice(*ends)]].sum(dtype=float) for ends in zip(starts, stops, strict=True)]
    rates = rng.uniform(0.001, 0.01, (len(starts), 2))
    chunk = Chunk(order, starts, stops, np.array(totals), rates, steps.batch)
    return network, parameters, data, chunk


def fresh(parameters, optimizer=None):
    """Return a state before the first step; nothing reads the gradients before they are written."""
    rows = 2 if optimizer is None else max(2, optimizer.moment_rows)
    moments = np.zeros((rows, parameters.size), parameters.dtype)
    return TrainState(parameters.copy(), np.full_like(parameters, np.nan), moments, 0)


class Outcome(NamedTuple):
    """What a training ends with: parameters (P,), moments (2, P), losses (steps,)."""

    parameters: np.ndarray
    moments: np.ndarray
    losses: np.ndarray


@functools.cache
def of_workers(name, count):
    """Return a variant whose steps are always shared by so many threads, however small."""
    return registry.backend_of(EXACT[name]._replace(workers=lambda work: count))


def by_chunk(backend, network, optimizer, parameters, data, chunk):
    losses = np.empty(len(chunk.starts))
    state = backend.train_chunk(
        network, optimizer, fresh(parameters, optimizer), data, chunk, 77, None, losses
    )
    return Outcome(state.parameters, state.moments, losses)


def by_gradients(name, network, optimizer, parameters, data, chunk):
    state, losses, backend = fresh(parameters, optimizer), [], registry.get(name)
    for start, stop, rates in zip(chunk.starts, chunk.stops, chunk.rates, strict=True):
        batch = Data(*(array[chunk.order[start:stop]] for array in data))
        losses.append(backend.gradient(network, state.parameters, batch, 77, state.step, state.gradients))
        state = update(name, network, optimizer, state, rates)
    return Outcome(state.parameters, state.moments, np.array(losses))


def in_words(sizes, got, expected):
    """Return which numbers of two outcomes have other bits; "" if none has."""
    found = {
        "parameters": differences(sizes, got.parameters, expected.parameters),
        "moments": differences(sizes, got.moments, expected.moments),
        "losses": difference(got.losses, expected.losses),
    }
    return ", ".join(f"{name} ({off})" for name, off in found.items() if off)


def test_a_bit_that_differs_is_reported_with_its_place():
    right, wrong = np.zeros((2, 2, 13))
    wrong[1, 4] = 5e-324
    assert differences((2, 3, 1), right, right) == ""
    assert differences((2, 3, 1), wrong, right) == (
        "weights[0] of moment 1: 1 of 6, from (1, 1) to (1, 1) in (2, 3), by up to 4.9e-324"
    )
    wrong[1, 10] = np.nan
    assert differences((2, 3, 1), wrong[1], right[1], 0.1) == (
        "weights[1]: 1 of 3, from (1, 0) to (1, 0) in (3, 1), by up to nan"
    )


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        pytest.param(name, dtype, marks=campaign if dtype == np.float64 and number % 4 else matrix)
        for number, name in enumerate(STEPS)
        for dtype in COMPILED_DTYPES
    ],
)
def test_exact_variants_train_with_equal_bits(name, dtype):
    given = network, _, data, _ = problem(STEPS[name], dtype)
    found, values = {}, {}
    for backend, variant in EXACT.items():
        for workers in (1, 3) if variant.workers else (1,):
            several = of_workers(backend, workers)
            found[backend, workers] = by_chunk(several, network, STEPS[name].optimizer, *given[1:])
        alone = registry.get(backend)
        found[backend, "gradient, update"] = by_gradients(backend, network, STEPS[name].optimizer, *given[1:])
        values[backend] = alone.evaluate(network, given[1], data)
        if name == "no penalty":  # an evaluation and a gradient add losses in the same order
            unused = np.empty_like(given[1])
            assert alone.gradient(network, given[1], data, 0, 0, unused) == values[backend]
    first, *others = found
    for other in others:
        said = in_words(network.widths, found[other], found[first])
        assert not said, f"{other} is not as {first}: {said}"
    assert all(np.isfinite(array).all() for array in found[first])
    assert len({*values.values()}) == 1, values


TUNED = ("a large layer, momentum", "copied into panels", "many rows, adam")

KIB, MIB = 1 << 10, 1 << 20

RANGES = {
    "block_rows": (32, 256), "streamed_bytes": (1 * MIB, 8 * MIB), "pack_rows": (16, 64),
    "crowded_bytes": (320 * KIB, 2560 * KIB), "pack_always_rows": (32, NEVER),
    "pack_delta_rows": (128, NEVER),
    "slice_rows": (64, 512), "large_bytes": (512 * KIB, 4 * MIB), "many_bytes": (1 * MIB, 4 * MIB),
    "near_block_bytes": (32 * KIB, 128 * KIB), "far_block_bytes": (256 * KIB, 2 * MIB),
    "far_bytes": (1 * MIB, 16 * MIB), "predicted_rows": (64, 512), "thread_us": (5, 80),
}  # fmt: skip
"""The least and the greatest value of each threshold."""

TUNINGS = {
    "least": {name: least for name, (least, _) in RANGES.items()},
    "greatest": {name: greatest for name, (_, greatest) in RANGES.items()},
    "one and the other": {name: values[place % 2] for place, (name, values) in enumerate(RANGES.items())},
}
"""Values of the thresholds."""


@matrix
@pytest.mark.parametrize("name", TUNED)
def test_no_tuning_changes_a_bit(name):
    network, parameters, *given = problem(STEPS[name], np.float32)
    found = {}
    for how, tuning in {"usual": {}, **TUNINGS}.items():
        with forced(tuning):
            for backend, workers in (("tiled", 1), ("fused", 1), ("fused", 3)):
                several = of_workers(backend, workers)
                outcome = by_chunk(several, network, STEPS[name].optimizer, parameters, *given)
                out = np.empty((len(given[0].inputs), network.n_out), np.float32)
                several.predict(network, outcome.parameters, given[0].inputs, out)
                found[how, backend, workers] = [array.tobytes() for array in (*outcome, out)]
    assert {*map(tuple, found.values())} == {tuple(found["usual", "fused", 1])}


SPECIALIZED = [
    name
    for name, s in STEPS.items()
    if eligible.specialize(Network(s.sizes, **s.options), s.optimizer, s.batch, np.dtype("f"))
]
"""Works whose network has a program of its own."""


def own_dtype(name, number):
    """The dtype in which a work is trained if not in both."""
    return np.float32 if "l2" in STEPS[name].options or number % 4 else np.float64


@pytest.mark.parametrize(
    ("name", "dtype"),
    # Each compiles, 1 to 2 s: every second network, and the dtypes take turns. With a penalty the dtype is
    # float32: in float64 the sum of another order has the same bits nearly always.
    [
        pytest.param(
            name, dtype, marks=campaign if dtype != own_dtype(name, number) or number % 2 else matrix
        )
        for number, name in enumerate(SPECIALIZED)
        for dtype in COMPILED_DTYPES
    ],
)
def test_a_program_for_one_network_trains_with_the_same_bits(name, dtype):
    network, *given = problem(STEPS[name], dtype)
    got, expected = (
        by_chunk(registry.get(backend), network, STEPS[name].optimizer, *given)
        for backend in ("specialized", "fused")
    )
    said = in_words(network.widths, got, expected)
    assert not said, f"specialized is not as fused: {said}"
