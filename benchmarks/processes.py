"""Processes of benchmarks: their cores, their threads, their limits, and the heading of a table."""

import contextlib
import json
import os
import platform
import subprocess
import sys
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[1]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")

LIMITS = {
    "FASTMLP_LEVEL": "x86-64-v3",
    "OPENBLAS_CORETYPE": "Haswell",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "XLA_FLAGS": "--xla_cpu_max_isa=AVX2 --xla_cpu_experimental_ynn_fusion_type=",
}
"""Environment variables that keep fastmlp, OpenBLAS, PyTorch with its libraries, and XLA to AVX2.

Each library reads its variable when it is loaded. Clock, caches and ports stay those of this processor. XLA
hands products to YNNPACK, which ignores the first flag and takes AVX-512: 226 GF/s on Zen 5, where AVX2
allows 134. The second flag, of jaxlib 0.10, turns that off.
"""


def allowed():
    """Numbers of the cores, ascending; all of the machine's on macOS and Windows, which tell no others."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def pin(cores):
    """Have this process run on these cores only; on macOS and Windows it runs on any."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)


def limits():
    """Return the variables of LIMITS that hold in this process; none in a process without limits."""
    if os.environ.get("FASTMLP_LEVEL") != LIMITS["FASTMLP_LEVEL"]:
        return {}
    return {name: os.environ[name] for name in LIMITS}


def environment(threads):
    """The environment of a child: threads set, bytecode kept, and OpenBLAS's own choice within `limits`."""
    env = dict(os.environ, TORCHINDUCTOR_COMPILE_THREADS="1")
    env |= dict.fromkeys(THREAD_VARIABLES, str(threads))
    for name in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "PYTHONDONTWRITEBYTECODE"):
        env.pop(name, None)
    return env | limits()


START = f"import fastmlp, sys; sys.path.insert(0, {str(ROOT)!r}); from benchmarks.{{0}} import main; main()"
"""fastmlp is imported from the checkout that PYTHONPATH names, and the works are those of this checkout."""


class Worker:
    """A process that answers JSON lines; it computes while all others wait.

    module : of this folder, whose `main` runs there; arguments : its texts
    cores : which the process may use, with a thread for each
    checkout : the directory with the fastmlp to import; variables : of the environment
    """

    def __init__(self, module, *arguments, cores, checkout=ROOT, **variables):
        inherited = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        env = environment(len(cores)) | {"PYTHONPATH": os.pathsep.join([str(checkout), *inherited])}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        pinned = partial(pin, cores) if hasattr(os, "sched_setaffinity") else None
        command = [sys.executable, "-c", START.format(module), *arguments]
        self.process = subprocess.Popen(
            command, env=env | variables, cwd=checkout, preexec_fn=pinned, **pipes
        )

    def send(self, *request):
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()

    def turn(self, *request):
        """Return the answer to a request."""
        self.send(*request)
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()

    def read(self):
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"failed": f"died with status {self.process.wait()}"}


def answering():
    """Return answer(**values), which writes a line to the pipe; what libraries print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return lambda **values: print(json.dumps(values), file=answers)


def print_heading(command):
    """Print the machine, the versions and the command, which stand above a table."""
    from fastmlp.lab.machine import cpu

    load = f"load {os.getloadavg()[0]:.1f}, " if hasattr(os, "getloadavg") else ""
    print(f"{cpu()}, {os.cpu_count()} cores, {load}{versions()}")
    print(f"python -m {command} {' '.join(sys.argv[1:])}\n")


def versions():
    """Return the installed versions, in words."""
    found = [f"Python {platform.python_version()}"]
    for package in ("numpy", "numba", "llvmlite", "torch", "jax", "scikit-learn"):
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return ", ".join(found)
