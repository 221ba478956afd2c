"""Rows of bytes stay bytes until a step reads them, and train in the bits of the numbers that they are."""

import numpy as np
import pytest
from support.blocks import ROWS, W, Y, fit, no_thread_is_left  # noqa: F401  # a fixture
from support.resuming import StopAt, assert_same
from support.selection import matrix

import fastmlp
from fastmlp import Checkpoint, Network
from fastmlp.backend import registry
from fastmlp.blocks.sources import Slices
from fastmlp.blocks.windows import RowFormat, Windows
from fastmlp.model.backend import Data
from fastmlp.model.rows import ByteRows, unpacked

COLUMNS = 130
"""More than a network has that has a program of its own."""

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (ROWS, COLUMNS), np.uint8)
NETWORK = Network([COLUMNS, 8, 2], "tanh", dropout=0.2, input_scale=1 / 255)
BACKENDS = [pytest.param(name, marks=[] if name in ("reference", "fused") else matrix)
            for name in registry.backends()]  # fmt: skip


@pytest.fixture
def pixels(tmp_path):
    """A memory map of bytes."""
    PIXELS.tofile(tmp_path / "pixels")
    return np.memmap(tmp_path / "pixels", np.uint8, "r", shape=PIXELS.shape)


def first_window(X, scale=1 / 255, n_in=COLUMNS):
    row_format = RowFormat(Network([n_in, 8, 2], input_scale=scale), np.float32, 16, None)
    with Windows(Slices(X, Y), row_format, 1) as windows:
        return windows.next().data.inputs


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=matrix)])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_makes_of_bytes_what_it_makes_of_their_numbers(backend, dtype):
    if backend.startswith("bfloat16") and dtype == "float64":
        pytest.skip("multiplies float32 parameters")
    backend = registry.get(backend)
    dtype = np.dtype(dtype)
    rows = np.arange(3 * ROWS) * 7 % ROWS  # more than are evaluated together
    data = Data(ByteRows(PIXELS[rows], dtype, 1 / 255), Y[rows].astype(dtype), W[rows].astype(dtype))
    numbers = data._replace(inputs=unpacked(data.inputs))
    assert numbers.inputs.dtype == dtype
    np.testing.assert_array_equal(numbers.inputs, PIXELS[rows].astype(dtype) * dtype.type(1 / 255))
    parameters = RNG.normal(0, 0.1, COLUMNS * 8 + 8 + 8 * 2 + 2).astype(dtype)
    found = []
    for one in (data, numbers):
        gradients = np.empty_like(parameters)
        loss = backend.gradient(NETWORK, parameters, one, 7, 3, gradients)
        found.append([loss, backend.evaluate(NETWORK, parameters, one), *gradients])
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("threads", [1, 2])
def test_a_map_of_bytes_trains_in_the_bits_of_its_array(backend, threads, pixels):
    if backend.startswith("bfloat16"):
        options = {"dtype": "bfloat16", "backend": backend}
    else:
        options = {"dtype": "float32", "backend": backend}
    options |= {"network": NETWORK, "validation": 0.2, "sample_weight": W, "threads": threads}
    assert_same(fit(pixels, Y, **options), fit(PIXELS, Y, **options))
    for window in (16, 30):  # a batch of 16 is carried from one window to the next
        options |= {"shuffle": False, "window": window}
        assert_same(fit(pixels, Y, **options), fit(PIXELS, Y, **options))


def test_an_optimiser_that_updates_sparsely_sees_which_bytes_are_0(tmp_path):
    few = np.where(RNG.random(PIXELS.shape) < 0.05, PIXELS, 0).astype(np.uint8)
    few.tofile(tmp_path / "few")
    mapped = np.memmap(tmp_path / "few", np.uint8, "r", shape=few.shape)
    for backend in ("reference", "fused"):
        options = {"network": NETWORK, "optimizer": fastmlp.SparseAdam(0.01), "backend": backend}
        assert_same(fit(mapped, Y, **options), fit(few, Y, **options))


def test_windows_keep_bytes_where_that_changes_nothing():
    kept = first_window(PIXELS)
    assert isinstance(kept, ByteRows)
    assert kept.numbers.nbytes == PIXELS.size
    np.testing.assert_array_equal(unpacked(kept), unpacked(ByteRows(PIXELS, np.dtype("f4"), 1 / 255)))
    assert isinstance(first_window(PIXELS[:, :128], n_in=128), np.ndarray)  # may be a small network's
    assert isinstance(first_window(PIXELS.astype(np.int16)), np.ndarray)
    with pytest.raises(ValueError, match=r"^block 1 of epoch 1: X\[0, 0\] = \d+ does not fit into float32$"):
        first_window(np.maximum(PIXELS, 1), scale=3e38)


def test_it_goes_on_in_the_middle_of_an_epoch(pixels, tmp_path, chunks):
    options = {"network": NETWORK, "window": 30, "backend": "fused"}
    whole = fit(pixels, Y, **options)
    chunks(steps=1)
    stopped = fit(pixels, Y, callbacks=[Checkpoint(tmp_path / "c", 99), StopAt(4)], **options)
    assert_same(fit(pixels, Y, resume=tmp_path / "c", **options), whole)
    np.testing.assert_array_equal(stopped.fit_more(pixels, Y, epochs=3).parameters, whole.parameters)
    with pytest.raises(fastmlp.CheckpointError, match="data"):
        fit(PIXELS[::-1], Y, resume=tmp_path / "c", **options)
