"""Windows of rows that come block by block: where they end, what they tell of errors, and their memory."""

import itertools
import json

import numpy as np
import pytest
import scipy.sparse
from support import needs
from support.blocks import BLOCKS, GOOD, NETWORK, ROWS, W, X, Y, fit, no_thread_is_left  # noqa: F401  # a fixture
from support.processes import python
from support.resuming import assert_same

from fastmlp.blocks.sources import Slices, given
from fastmlp.blocks.windows import RowFormat, Windows


def test_slices_of_chosen_rows():
    chosen = np.array([3, 5, 90])
    blocks = [*Slices(X, Y, W).take(chosen)]
    np.testing.assert_array_equal(np.concatenate([block[0] for block in blocks]), X[chosen])
    assert [len(block) for block in blocks] == [3]


def test_windows_behind_the_last_are_an_error():
    row_format = RowFormat(NETWORK, None, 16, None)
    with Windows(given("X", BLOCKS), row_format, 1) as windows:
        windows.next()
        with pytest.raises(RuntimeError, match="the blocks of all 1 epochs have been given"):
            windows.next()


@pytest.mark.parametrize(("rows", "expected"), [(33, [8, 8, 8, 9]), (34, [8, 8, 8, 8, 2]), (32, [8] * 4)])
def test_windows_are_whole_batches_and_a_single_last_row_joins_one(rows, expected):
    """A batch norm has no variance of a single row."""
    row_format = RowFormat(NETWORK, None, 4, 6)
    for cuts in ([0, rows], [0, 8, 9, 32, rows], [*range(rows + 1)]):
        found, window = [], None
        source = given("X", [(X[a:b], Y[a:b]) for a, b in itertools.pairwise(cuts)])
        with Windows(source, row_format, 1) as windows:
            while window is None or not window.last:
                window = windows.next()
                found.append(window.data.inputs.copy())
                windows.release(window)
        assert [len(one) for one in found] == expected
        np.testing.assert_array_equal(np.concatenate(found), X[:rows])


def test_windows_of_sparse_rows_end_by_their_bytes_wherever_blocks_end(windows):
    """The first block said how many rows a window has, and may be nearly empty."""
    windows(size=1 << 10)
    dense = X * (np.arange(ROWS) >= 50)[:, None]
    made = []
    for cuts in ([0, ROWS], [0, 50, 70, ROWS]):
        blocks = [(scipy.sparse.csr_array(dense[a:b]), Y[a:b]) for a, b in itertools.pairwise(cuts)]
        rows, window = [], None
        row_format = RowFormat(NETWORK, None, 4, None)
        with Windows(given("X", blocks), row_format, 1) as filled:
            while window is None or not window.last:
                window = filled.next()
                held = window.data.inputs
                size = sum(array.nbytes for array in held.arrays) + 12 * len(held)
                last = sum(array.nbytes for array in held[-4:].arrays) + 12 * 4
                assert window.last or window.rows % 4 == 0
                assert size - last < (1 << 10)
                rows.append(window.rows)
                filled.release(window)
        made.append(rows)
    assert made[0] == made[1]
    assert made[0][0] > made[0][-2] >= 4
    whole = fit(scipy.sparse.csr_array(dense), Y, shuffle=False)
    assert_same(fit(blocks, shuffle=False), whole)


class Broken:
    """A source of ours that fails in some place."""

    rows = None

    def __init__(self, at_once, *error):
        self.at_once, self.error = at_once, OSError(*error)

    def __iter__(self):
        if self.at_once:
            raise self.error
        return self._blocks()

    def _blocks(self):
        yield GOOD
        raise self.error


@pytest.mark.parametrize("at_once", [True, False])
def test_an_error_of_a_file_is_one_line_with_the_block_s_name(at_once):
    row_format = RowFormat(NETWORK, None, 16, None)
    for error, said in ((["it\nis gone"], "it"), ([], "OSError")):
        match = rf"^block {2 - at_once} of epoch 1: {said}$"
        with (
            Windows(Broken(at_once, *error), row_format, 1) as windows,
            pytest.raises(ValueError, match=match),
        ):
            windows.next()


# --- memory -----------------------------------------------------------------------------------------------

OWN = """
import json, re, sys, threading, time
import numpy as np
import fastmlp
from fastmlp.blocks import windows

path, rows, columns, window_bytes, dtype = json.loads(sys.argv[1])
windows.WINDOW_BYTES = window_bytes

def own():
    with open("/proc/self/status") as file:
        return int(re.search(r"RssAnon:\\s+(\\d+)", file.read())[1]) << 10

class Watch(fastmlp.Callback):
    most = 0
    def on_chunk_end(self, run):
        self.most = max(self.most, own())

X = np.memmap(path, dtype, "r", shape=(rows, columns))
y = np.zeros(rows, np.float32)
network = fastmlp.Network([columns, 2, 1], input_scale=1 / 255)
options = {"batch_size": 256, "backend": "fused", "threads": 1, "dtype": "float32", "epochs": 2}
fastmlp.fit(network, X[:256], y[:256], **options)  # loads, or compiles
before, watch = own(), Watch()
model = fastmlp.fit(network, X, y, callbacks=[watch], **options)
after = own()
print(json.dumps([watch.most - before, after - before, rows * columns * 4]))
"""


@pytest.mark.slow  # processes, 2 s each
@needs.reads_proc
@pytest.mark.parametrize(("dtype", "window"), [("int8", 8 << 20), ("uint8", 32 << 20)])
def test_own_memory_is_two_windows_and_what_is_not_data(dtype, window, tmp_path):
    """docs/blocks.md: two windows with a batch each, a block, row orders of a window, and 8 MiB.

    Bytes stay bytes in a window, which takes a quarter then.
    """
    rows, columns = 100_000, 400
    with open(tmp_path / "x", "wb") as file:
        file.truncate(rows * columns)
    case = json.dumps([str(tmp_path / "x"), rows, columns, window, dtype])
    most, after, whole = json.loads(python("-c", OWN, case).stdout)
    batch, block, orders = 256 * columns * 4, 4 << 20, 40 * window // (columns * 4)
    window, batch = (window // 4, batch // 4) if dtype == "uint8" else (window, batch)
    assert most <= 2 * (window + batch) + block + orders + (8 << 20)
    assert after <= 8 << 20
    assert whole > 8 * (2 * window)
