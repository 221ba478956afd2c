"""The notebook's network in C with constant shapes (notebook.c), compiled here by cc -O3.

Only this one work: what is left when nothing but arithmetic remains.
"""

import ctypes
import shutil
import subprocess
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

if shutil.which("cc") is None:
    raise ImportError("no C compiler (cc)")
SOURCE = Path(__file__).with_name("notebook.c")
VERSION = subprocess.run(["cc", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[
    0
]


def unsupported(work):
    return None if work.target == "notebook" else "written for the notebook's network alone"


def ways(work, threads, shuffle=True, way=""):
    flags = ["-O3 -march=native", "-O3 -march=native -ffast-math"]
    return {flag: partial(_prepare, work, flag.split()) for flag in flags}


def _prepare(work, flags):
    library = Path(tempfile.mkdtemp(prefix="fastmlp-peers-")) / "notebook.so"
    # Linked without the flags: -ffast-math makes gcc 12's library flush subnormals for all of its process.
    code = library.with_suffix(".o")
    subprocess.run(["cc", *flags, "-c", "-fPIC", "-o", code, SOURCE], check=True)
    subprocess.run(["cc", "-shared", "-o", library, code, "-lm"], check=True)
    code.unlink()
    train = ctypes.CDLL(str(library)).train
    train.restype = ctypes.c_float
    train.argtypes = [ctypes.c_long, ctypes.c_float, ctypes.c_float, *[ctypes.c_void_p] * 3]
    library.unlink()  # stays mapped
    library.parent.rmdir()
    (X,), (y,) = work.data()
    start = np.concatenate([array.ravel() for array in work.arrays()])

    def run(epochs):
        params = start.copy()
        o = work.optimizer
        rates = o.learning_rate, o.bias_learning_rate
        return [train(epochs, *rates, params.ctypes.data, X.ctypes.data, y.ctypes.data)]

    return run
