"""python -m benchmarks against COMMIT [ROWS ..]: times a commit over another one, row by row.

Both run from folders of their own, with the dependencies of this environment, and with caches of machine code
that stay for the next comparison. Three pairs of processes, each with its own layout of memory, take turns on
the same cores, A B B A. Rows use public names alone, so that commits with other internals are compared. A row
is marked where the least time and the median are longer by 3 %, and so are three in four turns at all.
"""

import argparse
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import warnings
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import scipy.sparse
from platformdirs import user_cache_path

import fastmlp
from fastmlp.lab.timing import CLOCKS, in_alternation

from .calls import Seconds, seconds_of
from .processes import ROOT, Worker, allowed, answering, print_heading

LEAST_SECONDS, PAIR_SECONDS = 0.02, 1.5
"""What a sample lasts at least, and about all samples of a row by a pair of processes."""

SLOWER = 1.03

FOLDER = Path(os.environ.get("FASTMLP_CACHE_DIR") or user_cache_path("fastmlp")) / "against"

CLOCK = {1: "cpu", 2: "wall"}
"""Clocks by threads: other programs do not count for one thread, and several burn time while they wait."""


# --- rows -------------------------------------------------------------------------------------------------


def drawn(rows, sizes):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((rows, columns), np.float32) for columns in (sizes[0], sizes[-1])]


def training(threads, sizes, rows, layers=(), X=None, **options):
    """Return a training whose network has its own program on the disk, as after many like it."""
    inputs, y = drawn(rows, sizes)
    network = fastmlp.Network(inputs=sizes[0], layers=[*layers]) if layers else fastmlp.Network(sizes)
    options = {"threads": threads, "seed": 0, "progress": False, **options}
    given = network, inputs if X is None else X, y
    fastmlp.fit(*given, **options | {"epochs": 1, "backend": "specialized"})
    return partial(fastmlp.fit, *given, **options)


def around(threads, *inner):
    """Return a training of layers between dense ones."""
    layers = fastmlp.Dense(32, "relu"), *inner, fastmlp.Dense(32, "relu"), fastmlp.Dense(2)
    return training(threads, [16, 2], 640, layers=layers, epochs=10)


def of_all_rows(threads, optimizer):
    return training(threads, SMALL, 200, optimizer=optimizer, batch_size=None, epochs=20)


def sparse(threads):
    X = scipy.sparse.random(2000, 5000, 0.004, "csr", np.float32, 0)
    return training(threads, [5000, 64, 1], 2000, X=X, epochs=1)


def iterated(threads):
    fit = training(threads, SMALL, 32, epochs=100)
    return lambda: [run.epoch for run in fastmlp.iter_fit(*fit.args, **fit.keywords)]


def many(threads, sizes, rows, epochs):
    fit = training(threads, sizes, rows, epochs=epochs)
    call = partial(fastmlp.fit_many, *fit.args, **fit.keywords, n_models=256)
    for _ in range(2):  # so long that the program of many is worth its compilation at the second one
        call(epochs=28_000 // -(-rows // 32))
    return call


def continued(threads):
    model = training(threads, DEEP, 32, epochs=1)()
    return partial(model.fit_more, *drawn(32, DEEP), epochs=1, threads=threads)


def partial_fit(threads):
    X, y = drawn(32, [64, 1])[0], np.arange(32) % 10
    estimator = fastmlp.MLPClassifier((100,), random_state=0).partial_fit(X, y, classes=np.arange(10))
    return partial(estimator.partial_fit, X, y)


def stepping(threads, sizes, rows, by_hand=False):
    stepper, (X, y) = fastmlp.Stepper(fastmlp.Network(sizes), "adam", threads=threads), drawn(rows, sizes)

    def parts():
        stepper.backward((stepper.forward(X, training=True) - y) / len(X), inputs=False)
        stepper.update()

    return parts if by_hand else partial(stepper.step, X, y)


def trained(threads, sizes, rows, method):
    X, y = drawn(rows, sizes)
    return partial(getattr(fastmlp.fit(fastmlp.Network(sizes), X, y, epochs=0, threads=threads), method), X)


FIRST_FIT = """
import sys, time
import numpy as np
X, y = np.random.default_rng(0).random((1797, 64), np.float32), np.arange(1797) % 10
clock = {"cpu": time.process_time, "wall": time.perf_counter}[sys.argv[2]]
began = clock()
import fastmlp
network = fastmlp.Network([64, 100, 10], output="softmax", loss="cross_entropy")
fastmlp.fit(network, X, y, epochs=1, batch_size=32, seed=0, threads=int(sys.argv[1]), progress=False)
print(clock() - began)
"""


def first_fit(threads, **variables):
    """Return the seconds of a new process from the import to the end of its first fit."""
    command = [sys.executable, "-c", FIRST_FIT, str(threads), CLOCK[threads]]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=True)
    return Seconds(done.stdout)


def pieces(threads):
    """Return the number of files of machine code that a first fit makes in an empty cache."""
    with tempfile.TemporaryDirectory() as empty:
        first_fit(threads, FASTMLP_CACHE_DIR=empty)
        count = Seconds(len([*Path(empty).rglob("*.bin")]))  # in the place of seconds
    return lambda: count


TINY, SMALL, DEEP = [3, 4, 1], [8, 12, 1], [17, 64, 64, 6]

ROWS = {
    "fit, 100 steps of 3-4-1": lambda n: training(n, TINY, 4, epochs=100),
    "fit, 100 steps of 8-12-1": lambda n: training(n, SMALL, 32, epochs=100),
    "fit, 200 steps of 16-32-32-2, LayerNorm": lambda n: around(n, fastmlp.LayerNorm()),
    "fit, 200 steps of 16-32-32-2, BatchNorm": lambda n: around(n, fastmlp.BatchNorm()),
    "fit, 200 steps of 16-32-32-2, Dropout": lambda n: around(n, fastmlp.Dropout(0.2)),
    "fit, 200 steps of 16-32-32-2, GLU": lambda n: around(n, fastmlp.GLU(32)),
    "fit, 200 steps of 16-32-32-2, Residual": lambda n: around(n, fastmlp.Residual(fastmlp.Dense(32))),
    "fit, 63 steps of 5000-64-1, sparse rows": sparse,
    "iter_fit, 100 steps of 8-12-1": iterated,
    "fit_more, a step of 17-64-64-6": continued,
    "partial_fit, 32 rows of 64-100-10": partial_fit,
    "fit_many, 256 of 3-4-1, 500 steps": lambda n: many(n, TINY, 4, epochs=500),
    "fit_many, 256 of 8-12-1, 35 steps": lambda n: many(n, SMALL, 200, epochs=5),
    "Stepper, step of 8-12-1 b1": lambda n: stepping(n, SMALL, 1),
    "Stepper, step of 17-64-64-6 b64": lambda n: stepping(n, DEEP, 64),
    "Stepper, forward, backward, update": lambda n: stepping(n, DEEP, 64, by_hand=True),
    "predict 8-12-1": lambda n: trained(n, SMALL, 1, "predict"),
    "predict 784-128-10, 5000 rows": lambda n: trained(n, [784, 128, 10], 5000, "predict"),
    "jacobian 8-12-1, 100 rows": lambda n: trained(n, SMALL, 100, "jacobian"),
    "LevenbergMarquardt, 20 steps of 8-12-1": lambda n: of_all_rows(n, fastmlp.LevenbergMarquardt()),
    "LBFGS, 20 steps of 8-12-1": lambda n: of_all_rows(n, fastmlp.LBFGS()),
    "first fit of a process, 64-100-10": lambda n: partial(first_fit, n),
    "first fit of a process, pieces compiled": pieces,
}
"""Calls to time, by make(threads)."""


def made(name, threads):
    """Return the call of a row, or of a work that peers take as well."""
    if name in ROWS:
        return ROWS[name](threads)
    from . import works  # which may name what an older commit lacks
    from .peers import fastmlp_peer

    (work,) = (one for one in works.WORKS if one.name == name)
    if work.kind == "predict":
        return partial(fastmlp_peer.prepare_predict(work, threads), work.data()[0][0])
    work.fit(epochs=1, backend="specialized", threads=threads)
    return partial(fastmlp_peer.prepare_train(work, threads), 1)


def main():
    """Answer requests [row, calls] by the seconds of a call; of no calls by how many a sample takes."""
    answer, threads, name = answering(), int(sys.argv[1]), None
    clock = CLOCKS[CLOCK[threads]]
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        wanted, calls = json.loads(line)
        try:
            if wanted != name:
                name = call = None  # before the next row takes memory
                call = made(wanted, threads)
                call()
                name = wanted
            if calls:
                answer(value=seconds_of(call, calls, clock))
                continue
            calls = 1
            while (took := seconds_of(call, calls, clock)) * calls < LEAST_SECONDS:
                calls = max(calls + 1, min(10 * calls, int(1.2 * LEAST_SECONDS / took)))
            answer(calls=calls)
        except Exception as error:
            answer(failed=f"{type(error).__name__}: {error}".splitlines()[0])


# --- in the process that compares ---------------------------------------------------------------------------


def compare(arguments):
    """Run the command."""
    options = parsed(arguments)
    first, second = installed(options.commit), installed(options.to)
    names, cores = (first[0], second[0]), allowed()[: options.threads]

    def started(cores):
        return [Worker("against", str(options.threads), cores=cores, **given) for _, given in (first, second)]

    print_heading("benchmarks")
    print(f"{names[1]} over {names[0]}, {CLOCK[options.threads]} clock on cores {cores}\n")
    compilers = started(allowed())  # nothing is timed before all code is on the disk
    rows = [row for row in options.rows if both_have(row, names, compilers)]
    pairs, slower = [started(cores) for _ in range(1 if options.quick else 3)], 0
    print(f"{'seconds, or pieces, and quotients':67}least    best  median  quartiles")
    for row in rows:
        before, after = samples(row, pairs, options.rounds)
        best, median = min(after) / min(before), np.median(after) / np.median(before)
        low, high = np.percentile(np.divide(after, before), (25, 75))
        slower += (is_slower := min(best, median) > SLOWER and low > 1)
        figures = f"{min(before):12.4g}{best:8.3f}{median:8.3f}  {low:.3f} to {high:.3f}"
        print(f"{row[:60]:60}{figures}{'  slower' if is_slower else ''}", flush=True)
    print(f"\n{slower} of {len(rows)} rows are slower by more than {SLOWER - 1:.0%}")
    for worker in (*compilers, *chain(*pairs)):
        worker.close()


def parsed(arguments):
    from .works import WORKS

    parser = argparse.ArgumentParser(prog="python -m benchmarks against", description=__doc__)
    parser.add_argument("commit", metavar="COMMIT", help="compared with; or a checkout's folder")
    parser.add_argument("rows", nargs="*", metavar="ROWS", help="parts of the rows' names; default: all")
    parser.add_argument("--to", metavar="OTHER", default="HEAD", help="the other commit; default %(default)s")
    parser.add_argument("--tree", dest="to", action="store_const", const=ROOT, help="this checkout as OTHER")
    parser.add_argument("--threads", type=int, choices=CLOCK, default=1, help="default %(default)s")
    parser.add_argument("--rounds", type=int, default=40, help="most turns of a pair; default %(default)s")
    parser.add_argument("--quick", action="store_true", help="one pair of processes in place of three")
    options = parser.parse_intermixed_args(arguments)
    names = [*ROWS, *(one.name for one in WORKS if one.threads == options.threads)]
    options.rows = [name for name in names if any(part in name for part in options.rows or [""])]
    if not options.rows:
        parser.error(f"no row has such a name; the rows: {'; '.join(names)}")
    return options


def installed(name):
    """Return the first digits of a commit, or a folder's name, and the arguments of a `Worker` for it."""
    if Path(name, "fastmlp").is_dir():
        tree = Path(name).resolve()
    else:
        tree = FOLDER / git("rev-parse", "--verify", f"{name}^{{commit}}").decode()[:10]
    if not tree.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER) as part:
            with tarfile.open(fileobj=io.BytesIO(git("archive", tree.name, "fastmlp"))) as archive:
                archive.extractall(Path(part, tree.name), filter="data")
            Path(part, tree.name).rename(tree)
    cache = str(FOLDER / f"cache of {tree.name}")
    return tree.name, {"checkout": tree, "FASTMLP_CACHE_DIR": cache, "FASTMLP_PREBUILD": "none"}


def git(*arguments):
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.decode().strip())
    return done.stdout


def both_have(row, names, workers):
    """Compile a row on both sides at once; print why not, and return False, where one lacks the row."""
    for one in workers:
        one.send(row, 1)
    answers = zip(names, [one.read() for one in workers], strict=True)
    if lacking := [f"{name}: {answer['failed']}" for name, answer in answers if "failed" in answer]:
        print(f"{row}: left out, {'; '.join(lacking)}")
    return not lacking


def samples(row, pairs, rounds):
    """Return what both sides measure, in turns A B B A of each pair of processes."""
    found, calls = ([], []), None
    for pair in pairs:
        ready = [one.turn(row, 0)["calls"] for one in pair]
        calls = calls or ready[0]

        def sample(side, pair=pair, calls=calls):
            found[side].append(pair[side].turn(row, calls)["value"])
            return found[side][-1]

        sides = {side: partial(sample, side) for side in range(2)}
        in_alternation(sides, PAIR_SECONDS / 2, least=1, most=rounds)
    return found
