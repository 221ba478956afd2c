"""Programs for one network: what has one, that they agree, compile once, and keep only machine code."""

import gc
import os
from collections import Counter

import numpy as np
import pytest
from numba.core.codegen import JITCPUCodegen
from numba.core.extending import _Intrinsic
from numba.core.imputils import builtin_registry
from numba.core.registry import CPUDispatcher, cpu_target
from numba.core.types import Function as NumbaFunction
from support import needs
from support.compilations import compilations
from support.custom_components import quantiles, six_moments, smoothed
from support.exchanged_models import own_gated, own_sine
from support.problems import y_for
from support.processes import python
from support.selection import campaign, matrix, quick
from support.terminals import WATCHED

import fastmlp
from fastmlp import SGD, Adam, AdamW, Dense, Dropout, Group, LayerNorm, Network, RMSprop
from fastmlp.backend import registry
from fastmlp.backend.choice import choose
from fastmlp.kernels.jit import emission
from fastmlp.kernels.small.eligible import lane_program
from fastmlp.kernels.variants import specialized
from fastmlp.model.backend import Chunk, Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.losses import LOSSES
from fastmlp.model.state import initial_state
from fastmlp.testing.slots import OPTIMIZERS

CLASSES = {"output": "softmax", "loss": "cross_entropy"}
BINARY = {"output": "sigmoid", "loss": "binary_cross_entropy"}
FLOAT32 = np.dtype(np.float32)


def specialize(network, optimizer=None, rows=32, dtype=FLOAT32):
    return specialized.VARIANT.specialize(network, optimizer or Adam(), rows, dtype)


def test_what_has_no_stage_has_no_program():
    for network in (
        *(Network([3, 4, 1], "gelu"), Network([3, 4, 1], "silu"), Network([3, 4, 1], l1=0.1)),
        Network(inputs=3, layers=[Dense(4, "tanh"), fastmlp.BatchNorm(), Dense(1)]),
        *(Network(inputs=3, layers=[Dense(4, **k), Dense(1)]) for k in ({"bias": False}, {"l2": 0.1})),
        *(Network([3, 4, 3], loss=smoothed), Network([3, 4, 3], loss=quantiles), Network([3, 4000, 1])),
        Network([3, 4, 2], output="softmax", loss="mse"),
    ):  # fmt: skip
        assert specialize(network) is None
    normed = Network(inputs=3, layers=[Dense(4, "tanh"), LayerNorm(), Dense(1)])
    assert specialize(normed, AdamW(groups={"LayerNorm": Group(decay=0)})) is None
    assert specialize(Network([3, 4, 1]), SGD(0.1, clip_norm=1)) is None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_rule_trains_in_the_small_programs(name):
    """Steps of whole matrices have none; sparse updates have none where a lane is a network."""
    network, rule = Network([3, 4, 2], "tanh"), OPTIMIZERS[name].rule
    assert (specialize(network, OPTIMIZERS[name]) is None) == rule.orthogonal
    in_lanes = lane_program(network, OPTIMIZERS[name], FLOAT32)
    assert (in_lanes is None) == (rule.orthogonal or rule.sparse_updates)


def has_the_bits_of_fused(network, X, y, **options):
    """Train by both; hold parameters, moments and history to one another."""
    ours, theirs = (fastmlp.fit(network, X, y, backend=name, **options) for name in ("specialized", "fused"))
    assert ours.backend == "specialized"
    np.testing.assert_array_equal(ours.parameters, theirs.parameters)
    np.testing.assert_array_equal(ours.training.moments, theirs.training.moments)
    assert ours.history == theirs.history


@matrix
@pytest.mark.parametrize("name", ["six moments", *(pytest.param(name, marks=matrix) for name in OPTIMIZERS)])
def test_every_rule_has_the_bits_of_fused(name):
    optimizer = {**OPTIMIZERS, "six moments": six_moments(0.01)}[name]
    network, rng = Network([5, 6, 2], "tanh", l2=0.01), np.random.default_rng(0)
    X, y = rng.standard_normal((53, 5)), rng.standard_normal((53, 2))
    assert optimizer.rule.orthogonal or specialize(network, optimizer, 16, np.dtype(float)) is not None
    has_the_bits_of_fused(network, X, y, optimizer=optimizer, epochs=4, batch_size=16, seed=1)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_has_programs_of_small_networks(loss):
    entry = LOSSES[loss]
    network = Network([3, 4, 2 * entry.outputs_per_target], "tanh", entry.outputs[0], loss)
    assert specialize(network) is not None
    assert lane_program(network, Adam(), FLOAT32) is not None


def test_programs_differ_where_their_constants_do():
    network = Network([3, 4, 2])
    rules = SGD(0.1), SGD(0.1, 0.9), SGD(0.1, 0.9, True), RMSprop()
    others = {"output": "sigmoid", "loss": "mse"}, BINARY, CLASSES, {"l2": 0.1}
    bound = [
        *(specialize(network, rows=rows) for rows in (32, 64, 65)),
        specialize(network, dtype=np.dtype(float)),
        *(specialize(network, SGD(0.1), rows=rows) for rows in (4, 8)),
        *(specialize(network, rule) for rule in rules),
        *(specialize(Network([3, 4, 2], hidden)) for hidden in ("tanh", "elu")),
        *(specialize(Network([3, 4, 2], **options)) for options in others),
        specialize(Network([3, 4, 3])),
    ]
    assert len({repr(b.constants) for b in bound}) == len(bound)


def test_what_is_data_makes_no_program_of_its_own():
    assert specialize(Network([3, 4, 2]), rows=65) == specialize(Network([3, 4, 2]), rows=5000)
    network = Network([3, 4, 2], l2=0.1)
    for one, other in (
        (Adam(), Adam(0.5, 0.8, 0.9, 1e-3)),
        (Adam(), AdamW(fastmlp.Cosine(0.1, 9), weight_decay=0.3)),
        (SGD(0.1, 0.5), SGD(0.3, 0.9, bias_learning_rate=0.1)),
        (RMSprop(), RMSprop(0.1, 0.5, 1e-3, 0.9)),
    ):
        assert specialize(network, one) == specialize(Network([3, 4, 2], l2=0.7), other, rows=31)


def test_auto_has_a_program_of_its_own_for_some_networks():
    def program(hidden="tanh", sizes=(4, 32, 16, 4)):
        return choose("auto", Network(sizes, hidden), Adam(), 32, FLOAT32, 1).program

    assert program()
    assert not program("gelu")
    assert not program(sizes=(784, 128, 10))


NETWORKS = {
    # every activation, pair, rule and way through the rows: in registers, one block, many blocks
    "notebook": (Network([3, 4, 1], output="sigmoid", loss="mse"), SGD(0.3, bias_learning_rate=0.1), 4),
    "labels": (Network([5, 3, 4, 2], ["softplus", "elu"], **BINARY), SGD(0.1), 13),
    "exp": (Network([1, 33, 1], "leaky_relu", output="exp"), SGD(0.01, 0.5), 33),
    "classes": (Network([17, 5, 100, 3], ["tanh", "sigmoid"], l2=0.1, **CLASSES), AdamW(0.01), 31),
    "one layer": (Network([100, 3], **CLASSES), SGD(0.1, 0.9, True), 65),
    "many rows": (Network([4, 1, 17, 5], ["elu", "softplus"], l2=0.1), RMSprop(0.01, momentum=0.5), 1200),
    "linear": (Network([8, 16, 1], "identity", **BINARY), Adam(0.01), 128),
    "counts": (Network([3, 4, 2], "tanh", loss="negative_binomial"), SGD(0.1), 5),
    "gaussian": (Network([5, 9, 4], "tanh", loss="gaussian", l2=0.1), Adam(0.01), 70),
}
LISTS = {
    # every kind, its own rows of padding, several readers of one output, one block and many blocks
    "everything": (
        [
            Dropout(0.1), Dense(13, "softplus", name="low"), Dropout(0.3), Dense(13, "tanh"),
            fastmlp.Add("low"), "gelu", fastmlp.Residual(LayerNorm(), Dense(9, "relu"), Dense(13)),
            fastmlp.RMSNorm(), Dense(5), fastmlp.PReLU(), fastmlp.Concatenate("low"), fastmlp.Swish(),
            fastmlp.Scale(), Dense(24), own_sine, own_gated, Dense(3),
        ],
        20,
    ),
    "blocks": (
        [
            Dense(21, "relu"), LayerNorm(), Dropout(0.2), Dense(20, "tanh"), own_gated, fastmlp.Scale(),
            Dense(3),
        ],
        100,
    ),
    "first": ([fastmlp.Residual(fastmlp.RMSNorm(), Dense(7)), Dense(64, "relu"), LayerNorm(), Dense(3)], 32),
    "dropout of a chain": ([Dense(12, "relu"), Dropout(0.5), Dense(9, "elu"), Dense(3)], 32),
}  # fmt: skip
NETWORKS |= {
    name: (Network(inputs=7, layers=layers, l2=0.01), AdamW(0.01, weight_decay=0.1), batch_size)
    for name, (layers, batch_size) in LISTS.items()
}
QUICK = {("exp", "float64"), ("first", "float32")}


@quick(1)
@pytest.mark.parametrize(
    ("name", "dtype"),
    # Each compiles, 3 s: of chains the dtypes take turns, and one chain and one list are quick.
    [
        pytest.param(name, dtype, marks=marks)
        for place, name in enumerate(NETWORKS)
        for turn, dtype in enumerate(("float32", "float64"), place)
        for marks in [
            () if (name, dtype) in QUICK else campaign if turn % 2 and name not in LISTS else matrix
        ]
    ],
)
def test_a_program_for_one_network_has_the_bits_of_fused(name, dtype):
    network, optimizer, batch_size = NETWORKS[name]
    assert specialize(network, optimizer, batch_size, np.dtype(dtype)) is not None
    rng, rows = np.random.default_rng(0), 2 * batch_size + 1 + batch_size // 3  # the last batch is short
    X, y = rng.standard_normal((rows, network.n_in)), y_for(network.loss, rng, rows, network.n_out)
    options = {"optimizer": optimizer, "batch_size": batch_size, "epochs": 6, "seed": 0, "dtype": dtype}
    has_the_bits_of_fused(network, X, y, sample_weight=rng.integers(0, 3, rows), **options)


@matrix
@pytest.mark.parametrize("dtype", [np.float32, pytest.param(np.float64, marks=matrix)])
def test_any_number_of_threads_gives_the_same_bits(dtype, monkeypatch):
    shared = specialized.VARIANT._replace(name="shared", workers=lambda work: work.threads)
    monkeypatch.setitem(registry.registered, "shared", shared)
    network, optimizer, rows = Network([4, 9, 3], "tanh", **CLASSES), Adam(0.01), 3001
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((rows, 4)), rng.integers(0, 3, rows)
    options = {"optimizer": optimizer, "batch_size": 2000, "epochs": 5, "seed": 0, "dtype": dtype}
    first, *others = (
        fastmlp.fit(network, X, y, backend="shared", threads=threads, **options) for threads in (1, 2, 3, 5)
    )
    for model in others:
        np.testing.assert_array_equal(model.parameters, first.parameters)
        assert model.history == first.history


# --- compiled once, and nothing kept ---------------------------------------------------------------


def test_rates_weights_and_rows_compile_nothing():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 3)), rng.standard_normal(40)

    def fit(optimizer, **options):
        fastmlp.fit(
            Network([3, 4, 1], l2=0.1), X, y, optimizer=optimizer, epochs=2, backend="specialized", **options
        )

    fit(Adam())
    with compilations() as compiled:
        fit(AdamW(0.1, 0.8, weight_decay=0.3), batch_size=7, threads=2)
        fit(Adam(fastmlp.Cosine(0.1, 9)), sample_weight=np.arange(40), batch_size=1, shuffle=False)
    assert compiled == []


TRAIN = """
import sys, numpy as np, fastmlp
X = np.linspace(-1, 1, 10).reshape(5, 2)
for hidden in ("tanh", "elu"):
    network = fastmlp.Network([2, 3, 1], hidden)
    initial = [np.full((2, 3), 0.1), np.ones((3, 1))], [np.zeros(3), np.zeros(1)]
    model = fastmlp.fit(
        network, X, X[:, 0], epochs=4, optimizer=fastmlp.SGD(0.1), backend="specialized", initial=initial,
        progress=False,
    )
    print(model.parameters.tolist())
"""


@pytest.mark.slow  # two processes, 3 s
def test_a_second_process_loads_every_network_from_the_disk_cache(tmp_path):
    first, second = (
        python("-W", "error", "-c", WATCHED + TRAIN, FASTMLP_CACHE_DIR=str(tmp_path)) for _ in range(2)
    )
    said = first.stderr.splitlines()
    assert len(said) == 2, first.stderr
    assert all("float64 and a 2-3-1 network" in line and "once for this network" in line for line in said)
    assert second.stderr == ""
    assert second.stdout == first.stdout
    assert len(set(first.stdout.splitlines())) == 2, "one network's program served the other"


def census():
    """What there is of the kinds of things that a program is made of."""
    gc.collect()
    kinds = (_Intrinsic, emission.Intrinsic, NumbaFunction, CPUDispatcher, JITCPUCodegen)
    found = Counter(type(thing) for thing in gc.get_objects() if issubclass(type(thing), kinds))
    registered = len(builtin_registry.functions) + len(cpu_target.target_context._defns)
    return found, registered


def train_by(backend, sizes, **options):
    """Take a step of a network's own program."""
    network = Network(sizes, **options)
    rows, (n_in, n_out) = 2, (sizes[0], sizes[-1])
    data = Data(np.ones((rows, n_in)), np.ones((rows, n_out)), np.ones(rows))
    state = initial_state(np.full(parameter_count(Network(sizes)), 0.1))
    chunk = Chunk(np.arange(rows), np.zeros(1, int), np.full(1, rows), np.ones(1), np.full((1, 2), 0.1), rows)
    backend.train_chunk(network, SGD(0.1), state, data, chunk, 0, 1, np.empty(1))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"l2": 0.1}], ids=["registers", "blocks"])
def test_a_program_keeps_its_machine_code_and_nothing_else(options, monkeypatch):
    monkeypatch.setenv("FASTMLP_CACHE", "0")
    kept = registry.backend_of(specialized.VARIANT)
    train_by(kept, (1, 2, 1), **options)  # what programs share is made now
    before, registered = census()
    backend = registry.backend_of(specialized.VARIANT)
    train_by(backend, (2, 1, 1), **options)
    after, still_registered = census()
    assert after == before, "what the program was made of has stayed"
    assert still_registered == registered, "Numba knows something of it"
    del backend
    assert census() == (before, registered)


SEARCH = f"""
import ctypes, gc, sys
import numpy as np, fastmlp

X = np.linspace(-1, 1, 64).reshape(16, 4)

def train(i):
    # A twentieth live in registers: Adam takes the rest to memory.
    optimizer = fastmlp.SGD(0.1) if i % 20 == 0 else fastmlp.Adam(0.01)
    network = fastmlp.Network([4, 1 + i % 25, 1 + i // 25, 1], "tanh")
    fastmlp.fit(
        network, X, X[:, 0], optimizer=optimizer, epochs=1, batch_size=8, seed=0, backend="specialized",
        progress=False,
    )

def resident():
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * {4096}

for i in range(4):  # what the first ones import stays
    train(i)
before = resident()
for i in range(4, 4 + int(sys.argv[1])):
    train(i)
print((resident() - before) / int(sys.argv[1]))
"""


@needs.linux("/proc, and glibc's heap")
@pytest.mark.parametrize(
    "networks", [pytest.param(8, marks=pytest.mark.slow), pytest.param(300, marks=pytest.mark.campaign)]
)
def test_a_search_over_networks_keeps_less_than_a_megabyte_each(networks, tmp_path, report_figure):
    for kind in ("cold", "warm"):
        done = python("-c", WATCHED + SEARCH, networks, FASTMLP_CACHE_DIR=str(tmp_path))
        assert bool(done.stderr) == (kind == "cold"), done.stderr
        each = float(done.stdout)
        report_figure(f"{networks} networks, {kind}: {each / 1e6:.2f} MB each")
        assert each < 1e6


@needs.reads_proc
def test_pass_managers_are_freed():
    """A program takes some 70, of 16 KiB each."""
    codegen = emission._Codegen("test")

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    before = resident()
    for _ in range(500):
        codegen._function_pass_manager()
        codegen._module_pass_manager()
    assert resident() - before < 4 << 20
