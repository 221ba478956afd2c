"""What each stage of a small network's step takes: python -m benchmarks.stages [SIZES:ROWS ..].

A stage of `specialized` is compiled by itself, and called again and again on a workspace of its own, hot in
the caches. Cycles are those in which independent multiply-adds in registers fill every port; "products" are
the cycles that the stage's multiply-adds take at that rate. The loss and the gather of rows are left out.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numba import types

from fastmlp import Adam, Network
from fastmlp.kernels.codegen.machine import host
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.vectors import NumberArray, counted
from fastmlp.kernels.codes import RULE_CODES
from fastmlp.kernels.elementwise.by_vectors import emit_steps
from fastmlp.kernels.jit.lazy import compile_now, emitted
from fastmlp.kernels.small import stages
from fastmlp.kernels.small.eligible import specialize
from fastmlp.kernels.small.layouts import PaddedLayout, plan
from fastmlp.lab.peak import window
from fastmlp.lab.slot_times import subnormals_flushed
from fastmlp.lab.timing import in_alternation, once
from fastmlp.model.layout import aligned

WORKS = "5-20-10-2:24", "13-60-60-1:50", "30-100-1:100", "54-120-7:200"

TAKEN = types.voidptr, types.intp, types.intp, types.float32
"""The types of what a stage is given here: the workspace, rows, how often, and a scalar for its type."""

TIMES = 200
"""Calls of a stage in one measurement."""


class Stage(NamedTuple):
    """A stage, its multiply-adds for each row, and whether it goes over all blocks of a batch."""

    write: Callable[[Any, Any], None]
    multiply_adds: int = 0
    by_rows: bool = True


def stages_of(constants: Any, where: PaddedLayout) -> dict[str, Stage]:
    """Return the stages of a step by name, in their order."""
    found: dict[str, Stage] = {}

    def add(name: str, layer: int, write: Any, multiply_adds: int = 0, by_rows: bool = True) -> None:
        if write is not None:
            found[f"{name} {layer + 1}"] = Stage(write, multiply_adds, by_rows)

    hidden = [one.activation for one in constants.operations[:-1]]
    layers, above, below = list(enumerate(where.layers)), [*hidden, "identity"], ["identity", *hidden]
    for i, layer in layers:
        add("transpose of W", i, stages.refresh(layer, where), by_rows=False)
    for i, layer in layers:
        add("forward", i, stages.forward(layer, above[i], where), layer.n_in * layer.n_out)
        add("activation", i, stages.activate(layer, above[i]))
    for i, layer in reversed(layers):
        add("weight gradient", i, stages.gradient(layer, where, constants.blocks), layer.n_in * layer.n_out)
        add("input gradient", i, stages.backward(layer, below[i], where), layer.n_in * layer.n_out)
    found["update"] = Stage(update(constants, where), by_rows=False)
    return found


def update(constants: Any, where: PaddedLayout) -> Callable[[Any, Any], None]:
    """Return the stage of the optimiser's step of all parameters."""

    def write(memory: stages.Memory, rows: Any) -> None:
        places = (memory.at(k * where.section) for k in range(where.sections))
        parameters, *others = (NumberArray(memory.builder, memory.dtype, place) for place in places)
        number = Symbol(memory.builder, memory.v.scalar(0.0)).number
        numbers = [number(value) for value in (*Adam().constants, 0.0)]
        entry = RULE_CODES.of_key(constants.rule)
        arrays = [others[0], parameters, *others[1:]]
        emit_steps(entry, where.section, arrays, number(1e-3), numbers, number(7.0))

    return write


def compiled(name: str, stage: Stage) -> Callable[[int, int, int], None]:
    """Return call(address, rows, times) of a stage."""

    def emit(build: Any, arguments: Any, kinds: Any, code: int) -> None:
        work, rows, times, _ = arguments
        with counted(build, times):
            stage.write(stages.Memory(NumberArray(build, kinds[-1], work)), rows)

    address = compile_now(emitted(f"stage {name}", emit), TAKEN)
    place, integer = ctypes.c_void_p, ctypes.c_int64
    call = ctypes.CFUNCTYPE(ctypes.c_int32, *(place,) * 3, integer, integer, ctypes.c_float)(address)
    return lambda *given: call(None, None, *given, 0.0)


def table(work: str, seconds: float) -> list[str]:
    """Return the lines of one network and batch, "5-20-10-2:24"."""
    shape, rows = work.split(":")
    sizes, batch = [int(size) for size in shape.split("-")], int(rows)
    output, loss = ("softmax", "cross_entropy") if sizes[-1] > 1 else ("sigmoid", "binary_cross_entropy")
    bound = specialize(Network(sizes, "tanh", output, loss), Adam(), batch, np.dtype(np.float32))
    if bound is None:
        raise SystemExit(f"{shape} is too large to have a program of its own")
    constants = bound.constants
    where = plan(constants)
    memory = aligned(where.size, np.float32)
    blocks = [min(constants.rows, batch - start) for start in range(0, batch, constants.rows)]
    loop, operations = window("float32", host().vector_bytes, 20_000)
    cycles = operations / (2 * (host().vector_bytes // 4) * host().fma_ports)
    found = stages_of(constants, where)

    def timed(name: str, stage: Stage) -> Callable[[], float]:
        call = compiled(f"{shape} {name}", stage)

        def measure() -> float:
            taken = 0.0
            for count in blocks if stage.by_rows else blocks[:1]:
                memory[...] = 0.01
                call(memory.ctypes.data, count, 2)
                taken += once(lambda count=count: call(memory.ctypes.data, count, TIMES), time.thread_time)
            loop()
            return taken / TIMES * cycles / once(loop, time.thread_time)

        return measure

    taken = in_alternation({name: timed(name, stage) for name, stage in found.items()}, seconds)
    least = {
        name: stage.multiply_adds * batch / (host().vector_bytes // 4) / host().fma_ports
        for name, stage in found.items()
    }
    lines = [f"{shape}, {batch} rows, tanh, Adam", "| stage | cycles | products |", "|---|---|---|"]
    lines += [f"| {name} | {t.median:.0f} | {least[name]:.0f} |" for name, t in taken.items()]
    return [*lines, f"| all | {sum(t.median for t in taken.values()):.0f} | {sum(least.values()):.0f} |"]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.stages", description=__doc__)
    parser.add_argument("works", nargs="*", metavar="SIZES:ROWS", default=WORKS, help=f"default: {WORKS}")
    parser.add_argument("--seconds", type=float, default=0.05, help="for each stage; default 0.05")
    options = parser.parse_args()
    with subnormals_flushed():
        for work in options.works:
            print("\n".join(table(work, options.seconds)), end="\n\n", flush=True)


if __name__ == "__main__":
    main()
