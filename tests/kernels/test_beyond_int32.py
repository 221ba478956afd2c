"""Arrays of more than 2^31 numbers: what lies beyond has the bits of a small copy of it.

They are zeros, whose pages a system maps when they are written: of 10 to 40 GB some hundred MB are real.
"""

import numpy as np
import pytest
from support import needs
from support.selection import campaign

import fastmlp
from fastmlp import SGD, Adam, AdamW, Dense, LayerNorm, Network, Numbers, SparseAdam, SparseNumbers
from fastmlp.backend import registry
from fastmlp.model.backend import Chunk, Data, empty_losses
from fastmlp.model.inputs import MOST_LEVELS
from fastmlp.model.layout import parameter_count
from fastmlp.model.rows import ByteRows, SparseRows
from fastmlp.model.state import TrainState

resource = pytest.importorskip("resource")  # not on Windows

BOUND = 2**31
"""The first number that no int32 is."""

ROWS, STEPS = 24, 3
"""Rows that are visited, and steps that share them."""

MOST_BYTES = 6 << 30
"""Real memory that a process may take here."""


def trained(backend, network, optimizer, parameters, data, order, step=0, batch_size=ROWS, moved=None):
    """Numbers of the parameters and moments after steps, and the objectives.

    moved : the places of parameters that are returned; all if None
    """
    rows, dtype, size = max(2, optimizer.moment_rows), parameters.dtype, len(parameters)
    state = TrainState(parameters, np.zeros(size, dtype), np.zeros((rows, size), dtype), step)
    bounds = np.linspace(0, len(order), STEPS + 1).astype(np.int64)
    starts, stops = bounds[:-1].copy(), bounds[1:].copy()
    rates = np.full((STEPS, 2), 0.05)
    chunk = Chunk(order, starts, stops, (stops - starts).astype(float), rates, batch_size)
    losses = empty_losses(network, STEPS)
    registry.get(backend).train_chunk(network, optimizer, state, data, chunk, 7, 2, losses)
    moved = slice(None) if moved is None else moved
    assert np.isfinite(losses).all()
    return [state.parameters[moved], *(row[moved] for row in state.moments), losses]


def places_beyond(rng, count):
    """Places of ROWS rows among so many, the last one among them, and most near the end."""
    far = rng.integers(count - count // 16 - ROWS, count, 4 * ROWS)
    found = {count - 1, *rng.integers(0, count, ROWS).tolist(), *far.tolist()}
    return np.array(sorted(found)[-ROWS:])


def with_targets(rng, inputs, small, places, count, n_out, dtype):
    """Data of many rows and of the visited ones alone."""
    targets, weights = np.zeros((count, n_out), dtype), np.zeros(count, dtype)
    targets[places], weights[places] = rng.standard_normal((ROWS, n_out)), 1
    return Data(inputs, targets, weights), Data(small, targets[places], weights[places])


def of_rows(rng, backend, dtype):
    """Rows of more than 2^31 numbers in all; rows beyond the first 2^31."""
    kind = str(rng.choice(["dense", "bytes", "sparse", "long"]))
    n_in = 1 if kind == "long" else int(2 ** rng.uniform(1, 11))
    dtype = np.float32 if kind == "long" else dtype
    count = int(BOUND * rng.uniform(1.001, 1.3)) // n_in + ROWS
    if kind == "sparse":
        count = int(rng.integers(1000, 10_000))
    places = places_beyond(rng, count)
    network = Network([n_in, int(rng.integers(1, 40)), 2], hidden=str(rng.choice(["relu", "tanh", "gelu"])))
    small = rng.standard_normal((ROWS, n_in)).astype(dtype)
    if kind == "bytes":
        numbers = np.zeros((count, n_in), np.uint8)
        numbers[places] = some = rng.integers(0, 256, (ROWS, n_in), np.uint8)
        big, small = (ByteRows(one, np.dtype(dtype), 1 / 255) for one in (numbers, some))
    elif kind == "sparse":
        small = SparseRows.of(small * (rng.random((ROWS, n_in)) < 0.5))
        counts = np.full(
            count, BOUND // count + rng.integers(1, 9)
        )  # of others, whose numbers are never read
        counts[places] = np.diff(small.indptr)
        indptr = np.concatenate([[0], np.cumsum(counts)])
        indices, values = np.zeros(indptr[-1], np.int32), np.zeros(indptr[-1], dtype)
        for number, place in enumerate(places):
            at, own = slice(*indptr[place : place + 2]), slice(*small.indptr[number : number + 2])
            indices[at], values[at] = small.indices[own], small.values[own]
        big = SparseRows(indptr, indices, values, n_in)
    else:
        big = np.zeros((count, n_in), dtype)
        big[places] = small
    both = with_targets(rng, big, small, places, count, 2, dtype)
    optimizer = [SGD(0.05), SGD(0.05, 0.9), Adam(0.01), AdamW(0.01, weight_decay=0.1)][rng.integers(4)]
    start = rng.uniform(-0.5, 0.5, parameter_count(network)).astype(dtype)
    turn = rng.permutation(ROWS)
    found = [
        trained(backend, network, optimizer, start.copy(), data, order)
        for data, order in zip(both, (places[turn], turn), strict=True)
    ]
    if kind in ("dense", "long"):
        first = int(places[-8])  # those before are not predicted: 2^31 predictions take 17 GB
        for one, inputs in zip(found, (big[first:], small[-8:]), strict=True):
            out = np.zeros((len(inputs), 2), dtype)
            registry.get(backend).predict(network, start, inputs, out)
            one.append(out[places[-8:] - first] if len(out) > 8 else out)
    return kind, found


def steps_and_predictions(backend, network, optimizer, start, moved, data, order):
    """What `trained` returns, and predictions; start : of the parameters `moved`, all others are 0"""
    parameters = np.zeros(parameter_count(network), start.dtype)
    parameters[moved] = start
    found = trained(backend, network, optimizer, parameters, data, order, moved=moved)
    out = np.empty((ROWS, 1), start.dtype)
    registry.get(backend).predict(network, parameters, data.inputs, out)
    return [*found, out]


def of_columns(rng, backend, dtype):
    """Weights of 2^31 numbers for sparse columns, of which steps move those that the rows have."""
    units = int(rng.choice([1, 1, 2, 3, 8, 16]))
    columns = min(BOUND - 1, (BOUND - 64) // units - 1)
    used = np.unique(
        np.r_[0, rng.integers(0, columns, 20), columns - 1 - rng.integers(0, 50, 20), columns - 1]
    )
    dense = rng.standard_normal((ROWS, len(used))) * (rng.random((ROWS, len(used))) < 0.3)
    few = SparseRows.of(dense.astype(dtype))
    many = SparseRows(few.indptr, used[few.indices].astype(np.int32), few.values, columns)
    targets, weights = rng.standard_normal((ROWS, 1)).astype(dtype), np.ones(ROWS, dtype)
    start = rng.uniform(-0.5, 0.5, (len(used) + 1) * units + units + 1).astype(dtype)
    rule, order, found = SparseAdam(0.01), rng.permutation(ROWS), []  # other rules write all weights
    for inputs, places in ((many, used), (few, np.arange(len(used)))):
        network = Network(inputs=[SparseNumbers(inputs.n_in)], layers=[Dense(units, "tanh"), Dense(1)])
        of_places = (places[:, None] * units + np.arange(units)).ravel()
        moved = np.r_[of_places, inputs.n_in * units : parameter_count(network)]
        data = Data(inputs, targets, weights)
        found.append(steps_and_predictions(backend, network, rule, start, moved, data, order))
    return f"{units} units", found


def of_tables(rng, backend, dtype):
    """Tables of categories whose rows have up to 2^31 numbers in all."""
    columns = int(rng.integers(1, 9))
    width = (BOUND - 1000) // (columns * (MOST_LEVELS + 1))
    levels = [MOST_LEVELS - int(rng.integers(9)) for _ in range(columns)]
    used = [np.unique(np.r_[0, rng.integers(0, n, 8), n - 1 - rng.integers(0, 9, 8), n - 1]) for n in levels]
    few = np.stack([rng.integers(0, len(one), ROWS) for one in used], axis=1)
    many = np.stack([one[codes] for one, codes in zip(used, few.T, strict=True)], axis=1)
    numbers = rng.standard_normal((ROWS, 2))
    targets, weights = rng.standard_normal((ROWS, 1)).astype(dtype), np.ones(ROWS, dtype)
    order, found, start = rng.permutation(ROWS), [], None
    of_few = [np.arange(len(one)) for one in used]
    for counts, places, codes in ((levels, used, many), ([*map(len, used)], of_few, few)):
        inputs = [Numbers(2), fastmlp.Categories(counts, width=width)]
        network = Network(inputs=inputs, layers=[Dense(5, "tanh"), LayerNorm(), Dense(1)])
        moved = moved_by(network, places)
        start = rng.uniform(-0.5, 0.5, len(moved)).astype(dtype) if start is None else start
        rows = np.ascontiguousarray(np.concatenate([numbers, codes], axis=1), dtype)
        data = Data(rows, targets, weights)
        found.append(steps_and_predictions(backend, network, SGD(0.05), start, moved, data, order))
    return f"{columns} tables of rows of {width}", found


def moved_by(network, levels):
    """The places of parameters that steps may move: rows of levels, and all that is in no table."""
    found, end = [], 0
    for table, own in zip(network.tables, levels, strict=True):
        found.append(np.arange(end, table.start))
        rows = np.r_[0, own + 1]  # the first one is of what is missing
        found.append((table.start + rows[:, None] * table.width + np.arange(table.width)).ravel())
        end = table.start + (table.levels + 1) * table.width
    return np.concatenate([*found, np.arange(end, parameter_count(network))])


def of_products(rng, backend, dtype):
    """Predictions by weights of 2^31 numbers, of which few are not 0; all are whole, so sums are exact."""
    n_in = int(2 ** rng.uniform(7, 24))  # a worker's scratch takes 256 bytes a unit of the widest layer
    n_out = BOUND // (n_in + 1)
    network = Network([n_in, n_out])
    parameters = np.zeros(parameter_count(network), dtype)
    weights, biases = parameters[: n_in * n_out].reshape(n_in, n_out), parameters[n_in * n_out :]
    rows, columns = ({0, n - 1, *(n - 1 - rng.integers(0, n, 9) // 4).tolist()} for n in (n_in, n_out))
    rows, columns = sorted(rows), sorted(columns)
    corner = np.ix_(rows, columns)
    weights[corner] = rng.integers(-9, 10, (len(rows), len(columns)))
    biases[columns] = rng.integers(-9, 10, len(columns))
    count = int(rng.integers(1, 3))
    inputs, out = np.zeros((count, n_in), dtype), np.zeros((count, n_out), dtype)
    inputs[:, rows] = rng.integers(-9, 10, (count, len(rows)))
    registry.get(backend).predict(network, parameters, inputs, out)
    expected = inputs[:, rows] @ weights[corner] + biases[columns]
    return f"{n_in}-{n_out}, {count} rows", [[out[:, columns], out.sum()], [expected, expected.sum()]]


def beside_reference(rng, backend, network, optimizer, scale, dtype, **options):
    """What `trained` returns of a backend and of the reference, from parameters up to `scale`."""
    inputs, targets = (rng.standard_normal((ROWS, n)).astype(dtype) for n in (network.n_in, network.n_out))
    data, order = Data(inputs, targets, np.ones(ROWS, dtype)), rng.permutation(ROWS)
    start = rng.uniform(-scale, scale, parameter_count(network)).astype(dtype)
    return [
        trained(one, network, optimizer, start.copy(), data, order, **options)
        for one in (backend, "reference")
    ]


def of_batches(rng, backend, dtype):
    """Steps of few rows with room for a batch that has more than 2^31 numbers of all units."""
    sizes = [int(rng.integers(1, 9)), int(rng.integers(500, 2000)), int(rng.integers(1, 5))]
    network = Network(sizes, hidden="tanh", dropout=float(rng.choice([0, 0.2])))
    batch_size = int(BOUND * rng.uniform(1.01, 1.1)) // (4 * sum(sizes[1:]) + sizes[0])
    found = beside_reference(rng, backend, network, SGD(0.05), 0.05, dtype, batch_size=batch_size)
    return f"{sizes}, batches of {batch_size}", found


def of_steps(rng, backend, dtype):
    """Steps after the 2^31st and the 2^32nd."""
    sizes = [int(rng.integers(1, 9)), int(rng.integers(1, 40)), int(rng.integers(1, 5))]
    network = Network(sizes, hidden="tanh", dropout=0.2)
    step = int(rng.choice([BOUND, 2 * BOUND, 2**40])) - int(rng.integers(0, 5))
    # With the usual epsilon the rounding error of a gradient near 0 takes a whole step.
    optimizer = Adam(0.01, epsilon=1e-3) if rng.random() < 0.5 else SGD(0.05, 0.9)
    found = beside_reference(rng, backend, network, optimizer, 0.5, dtype, step=step)
    return f"{sizes} from step {step}", found


KINDS = {
    # whether the bits are those of the other
    of_rows: True,
    of_columns: True,
    of_tables: True,
    of_products: True,
    of_batches: False,
    of_steps: False,
}


def check(kind, seed):
    """Draw a case and hold it to what is small; return what it is, in words."""
    rng = np.random.default_rng([seed, [*KINDS].index(kind)])
    # With other backends steps write all gradients; no array of float64 with two rows of 2^31 is mapped.
    moves_few = kind in (of_columns, of_tables)
    backend = "fused" if moves_few else str(rng.choice([*registry.choices()]))
    dtype = np.float64 if not moves_few and rng.random() < 0.3 else np.float32
    words, (found, expected) = kind(rng, backend, dtype)
    words = f"{kind.__name__} {words}, {backend}, {np.dtype(dtype)}, seed {seed}"
    # A BLAS predicts a row in other bits beside other rows. Objectives are float64, of whatever numbers.
    eps = max(np.finfo(one.dtype).eps for one in found)
    tolerance = 0 if KINDS[kind] and backend != "blas" else 200 * eps
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, tolerance, tolerance, err_msg=words)
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    assert most < MOST_BYTES, f"{words}: {most / 2**30:.1f} GiB"
    return words


@campaign  # 10 to 60 s each
@needs.linux("memory that is mapped when it is written")
@pytest.mark.xdist_group("memory")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_what_lies_beyond_has_the_bits_of_what_is_small(kind, seed):
    check(kind, seed)
