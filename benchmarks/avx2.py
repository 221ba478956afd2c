"""Runs a benchmark as on an x86 processor without AVX-512: python -m benchmarks.avx2 benchmarks.peers ..

fastmlp and its peers are limited to AVX2 in the same way, by variables that each reads when it is loaded.
Clock, caches and ports stay those of this processor.
"""

import argparse
import os
import sys

LIMITS = {
    "FASTMLP_LEVEL": "x86-64-v3",
    "OPENBLAS_CORETYPE": "Haswell",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2 --xla_cpu_experimental_ynn_fusion_type=",
}
"""Environment variables that keep fastmlp, OpenBLAS, PyTorch with its libraries, and XLA to AVX2.

XLA hands products to YNNPACK, which knows nothing of its flag and takes AVX-512: 226 GF/s on Zen 5, where
AVX2 allows 134. The second flag, of jaxlib 0.10, turns that off.
"""


def limits():
    """Return the variables that hold in this process: those of LIMITS, or none if it is not limited."""
    if os.environ.get("FASTMLP_LEVEL") != LIMITS["FASTMLP_LEVEL"]:
        return {}
    return {name: os.environ[name] for name in LIMITS}


def main():
    """Run the module that the arguments name, in a process that is limited from its start."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.avx2", description=__doc__)
    parser.add_argument("module", help="such as benchmarks.peers or benchmarks.sweep")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="of the module")
    given = parser.parse_args()
    command = [sys.executable, "-m", given.module, *given.arguments]
    os.execve(sys.executable, command, os.environ | LIMITS)


if __name__ == "__main__":
    main()
