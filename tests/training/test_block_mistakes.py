"""What blocks cannot be is refused in one line that names the block."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse
from support.blocks import (
    BLOCKS,
    GOOD,
    PIXELS,
    ROWS,
    W,
    X,
    Y,
    fit,
    no_thread_is_left,  # noqa: F401  # a fixture
)
from support.resuming import assert_same

from fastmlp import Network

nan = np.where(X > 2, np.nan, X)


def failing(epoch_of_error):
    """Blocks whose second one cannot be read in some epoch."""
    epochs = iter(range(1, 99))

    def make():
        epoch = next(epochs)
        yield GOOD
        if epoch == epoch_of_error:
            raise OSError("the disk is gone")
        yield GOOD

    return make


def shorter():
    """Blocks of which there are fewer in the second epoch."""
    made = iter([[GOOD, GOOD], [GOOD]])
    return lambda: next(made)


class Once:
    """It seems that it can be walked again."""

    def __init__(self):
        self._rows = iter([GOOD])

    def __iter__(self):
        return self._rows


MISTAKES = {
    "an iterator": (lambda: iter([GOOD]), "walked once only, got <list_iterator", "give a function"),
    "a generator": (lambda: (block for block in [GOOD]), "once only, got <generator", "give a function"),
    "an array": (lambda: X, "y must be given, unless X is an iterable of blocks (X, y)", "got array"),
    "a number": (lambda: 3, "y must be given", "got 3"),
    "no block": (list, "there is no row in the blocks of epoch 1", ""),
    "no row": (lambda: [(X[:0], Y[:0])], "there is no row in the blocks of epoch 1", ""),
    "walked once": (Once, "there is no row in the blocks of epoch 2", "give a function that makes them anew"),
    "fewer rows": (shorter, "epoch 2 has 103 rows in its blocks", "206 are required"),
    "no pair": (lambda: [GOOD, (X,)], "block 2 of epoch 1: a block must be (X, y) or", "got 1 part"),
    "an array for a block": (lambda: [X], "block 1 of epoch 1: a block must be", "got array"),
    "numbers for a block": (lambda: [[0.0, 1.0]], "block 1 of epoch 1: X must have shape", "got ()"),
    "another width": (lambda: [GOOD, (X[:, :3], Y)], "block 2 of epoch 1: X must have shape", "(103, 3)"),
    "nan": (lambda: [GOOD, (nan, Y)], "block 2 of epoch 1: X must be finite, got nan at X[15, 4]", ""),
    "nan in y": (lambda: [(X, Y * np.nan)], "block 1 of epoch 1: y must be finite", "y[0, 0]"),
    "short y": (lambda: [GOOD, (X, Y[:9])], "block 2 of epoch 1: y must have shape (103, 2)", "(9, 2)"),
    "weights": (lambda: [(X, Y, -W)], "block 1 of epoch 1: weight must be at least 0", ""),
    "sparse": (lambda: [GOOD, (scipy.sparse.csr_array(X), Y)], "block 2 of epoch 1: X is sparse, and", ""),
    "no list": (lambda: lambda: 3, "the function must return an iterable of blocks", "got 3"),
    "zero weights": (lambda: [(X, Y, 0 * W)], "the weights of epoch 1 are all zero", ""),
}  # fmt: skip


def test_what_holds_y_or_is_a_name_is_no_rows_with_y():
    loader = type("Loader", (), {"__iter__": lambda self: iter(BLOCKS)})()
    for blocks in (BLOCKS, loader, lambda: BLOCKS):
        with pytest.raises(TypeError, match=r"^blocks \(X, y\) or .* hold their y, so no other can be given"):
            fit(blocks, Y)
    with pytest.raises(TypeError, match=r"^X must be rows, got the path 'sales.parquet'; open it, as with"):
        fit("sales.parquet", "price")
    with pytest.raises(TypeError, match=r"^y names a column, 'price', of tables of Arrow's and Dask's only"):
        fit(X.tolist(), "price")
    assert_same(fit([tuple(row) for row in X.tolist()], Y), fit(X.astype(float), Y))  # rows may be tuples


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_names_itself_in_one_line(kind):
    make, *words = MISTAKES[kind]
    with pytest.raises((TypeError, ValueError)) as caught:
        fit(make())
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sizes_beyond_all_rows_and_beyond_memory(pixels):
    network = Network([5, 8, 2], "tanh", input_scale=1 / 255)
    for options in ({"window": 10**15}, {"batch_size": 10**15, "window": 10**15}, {"batch_size": 10**18}):
        assert_same(
            fit(pixels, Y, network=network, **options),
            fit(PIXELS, Y, network=network, batch_size=min(options.get("batch_size", 16), ROWS)),
        )
        with pytest.raises(
            ValueError, match=r"no memory for a window of 10+ rows and a batch of 10*6?; choose"
        ):
            fit(**options)


def test_validation_blocks_are_of_the_epoch_that_ends():
    epochs = itertools.count(1)
    with pytest.raises(ValueError, match="validation block 1 of epoch 2: y must"):
        fit(validation=lambda: [(X, Y[: 9 if next(epochs) == 2 else ROWS])])


def test_options_that_blocks_do_not_have():
    with pytest.raises(ValueError, match="window must be at least batch_size=16, got 3"):
        fit(window=3)
    with pytest.raises(ValueError, match="batch_size=None takes all rows at once"):
        fit(batch_size=None)
    with pytest.raises(ValueError, match=r"no fraction of blocks can be split off, got validation=0.2"):
        fit(validation=0.2)
    with pytest.raises(ValueError, match="blocks hold their weights"):
        fit(sample_weight=W)
    with pytest.raises(TypeError, match="window must be a whole number, got 'all'"):
        fit(window="all")


@pytest.mark.parametrize("epoch", [1, 3])
def test_an_error_of_the_user_s_comes_as_it_is_with_the_block_s_name(epoch):
    with pytest.raises(OSError, match="the disk is gone") as caught:
        fit(failing(epoch))
    assert caught.value.__notes__ == [f"while fastmlp waited for block 2 of epoch {epoch}"]
