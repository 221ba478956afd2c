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
from fastmlp.kernels.jit.lazy import compile_now, emitted
from fastmlp.kernels.small.eligible import specialize
from fastmlp.kernels.small.layouts import PaddedLayout, plan
from fastmlp.kernels.small.padded_step import PaddedStep
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

    write: Callable[[PaddedStep, Any], None]
    multiply_adds: int = 0
    by_rows: bool = True


def stage_of(number: int, layer: Any, name: str, products: int) -> Stage:
    """Return a stage of a layer; number : from 1 on; name : of the method; products : its matrix products"""

    def write(step: PaddedStep, rows: Any) -> None:
        getattr(step, name)(step.plan.layers[number - 1], rows)

    return Stage(write, products * layer.n_in * layer.n_out)


def stages_of(where: PaddedLayout) -> dict[str, Stage]:
    """Return the stages of a step by name, in their order."""
    found = {"transposes of W": Stage(lambda step, rows: step.refresh(), by_rows=False)}
    layers = list(enumerate(where.layers, 1))
    for i, layer in layers:
        found[f"forward {i}"] = stage_of(i, layer, "dense_forward", 1)
    for i, layer in reversed(layers):
        for name, products in (("activate_gradient", 0), ("gradient", 1), ("pass_down", i > 1)):
            found[f"{name} {i}"] = stage_of(i, layer, name, products)
    found["update"] = Stage(update, by_rows=False)
    return found


def update(step: PaddedStep, rows: Any) -> None:
    """Write the optimiser's step of all parameters."""
    number = Symbol(step.builder, step.v.scalar(0.0)).number
    step.update([number(1e-3)] * 2, [number(value) for value in (*Adam().constants, 0.0)], number(7.0), None)


def compiled(name: str, stage: Stage, constants: Any) -> Callable[[int, int, int], None]:
    """Return call(address, rows, times) of a stage."""

    def emit(build: Any, arguments: Any, kinds: Any, code: int) -> None:
        work, rows, times, _ = arguments
        with counted(build, times):
            stage.write(PaddedStep(NumberArray(build, kinds[-1], work), constants), rows)

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
    found = stages_of(where)

    def timed(name: str, stage: Stage) -> Callable[[], float]:
        call = compiled(f"{shape} {name}", stage, constants)

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
