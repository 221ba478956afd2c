"""What tests of the kernel lab share."""

from fastmlp.lab.machine import CacheLevel, MeasuredMachine
from fastmlp.lab.measurements import Measurement, Results
from fastmlp.lab.timing import Time

CPU = "cpu"

MACHINE = MeasuredMachine(
    "a CPU", 2, 512, 2, {"python": "3"}, {"float32": 100e9, "float64": 50e9},
    [CacheLevel("L1", 32768, 200e9), CacheLevel("memory", 1 << 62, 20e9)],
)  # fmt: skip


def measurement(
    variant, seconds, slot="affine", flops=2.0 * 64**3, traffic=3 * 64 * 64 * 4, threads=1, spread=0.01
):
    taken = Time(seconds * (1 - spread), seconds, seconds * (1 - spread), seconds * (1 + spread), 50)
    return Measurement(slot, "", "64x64x64", "float32", variant, threads, taken, flops, traffic)


def results(*measurements, wrong=(), phased=()):
    return Results(MACHINE, list(measurements), list(wrong), list(phased))


WRONG = """
from fastmlp.kernels import Variant
from fastmlp.kernels.variants import baseline


def bias_gradient(delta, out):
    out[:] = 0
    for i in range(delta.shape[0] - 1):
        for j in range(delta.shape[1]):
            out[j] += delta[i, j]


VARIANT = Variant("lab_wrong", baseline.VARIANT, {"bias_gradient": bias_gradient})
"""
