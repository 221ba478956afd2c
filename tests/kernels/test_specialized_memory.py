"""Programs for one network are compiled once, and keep their machine code and nothing else."""

from __future__ import annotations

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
from support.processes import python
from support.terminals import WATCHED

import fastmlp
from fastmlp import SGD, Adam, AdamW, Network
from fastmlp.backend import registry
from fastmlp.kernels.jit import emission
from fastmlp.kernels.variants import specialized
from fastmlp.model.backend import Chunk, Data
from fastmlp.model.layout import parameter_count
from fastmlp.model.state import initial_state


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
