"""Sparse matrices as users have them: every form and dtype, and what is hostile in one line or right."""

import numpy as np
import pytest
import scipy.sparse
from support.problems import COMPILED_DTYPES
from support.processes import python
from support.selection import few, quick

import fastmlp
from fastmlp import MLPClassifier, MLPRegressor, Network
from fastmlp.backend import registry
from fastmlp.data.arrays import clean_inputs
from fastmlp.kernels.runtime import session
from fastmlp.model.rows import SparseRows

X = np.array([[0, 2, 0, -1], [0, 0, 0, 0], [3, 0, 0, 1], [0, 0, 0, 5], [1, 0, 0, 0]], float)
Y = np.array([1.0, 0, 2, 0, 1])
NETWORK = Network([4, 3, 1], "relu")

FORMS = ("csr", "csc", "coo", "bsr", "dia", "dok", "lil")


VALUES, COLUMNS, ENDS = [2.0, -1, 3, 1, 5, 1], [1, 3, 0, 3, 3, 0], [0, 2, 2, 4, 5, 6]
UNSORTED = [-1.0, 2, 1, 3, 5, 1], [3, 1, 3, 0, 3, 0], ENDS


def of_parts(data, indices, indptr, shape=X.shape, **said):
    """A matrix whose arrays nobody has looked at, and which says of itself what is given."""
    matrix = scipy.sparse.csr_array(shape)
    matrix.data, matrix.indices, matrix.indptr = np.asarray(data), np.asarray(indices), np.asarray(indptr)
    for name, value in said.items():
        setattr(matrix, name, value)
    return matrix


def of_dtype(dtype):
    return lambda: scipy.sparse.csr_array(X.astype(dtype))


def read_only():
    matrix = scipy.sparse.csr_array(X)
    for array in (matrix.data, matrix.indices, matrix.indptr):
        array.flags.writeable = False
    return matrix


RIGHT = {
    "unsorted": lambda: of_parts(*UNSORTED),
    "unsorted, said to be sorted": lambda: of_parts(
        *UNSORTED, has_sorted_indices=True, has_canonical_format=True
    ),
    "duplicates": lambda: of_parts([1.0, 1, -1, 3, 1, 2, 3, 1], [1, 1, 3, 0, 3, 3, 3, 0], [0, 3, 3, 5, 7, 8]),
    "explicit zeros": lambda: of_parts(
        [0.0, 2, -1, -0.0, 3, 1, 5, 0, 1], [0, 1, 3, 2, 0, 3, 3, 0, 0], [0, 3, 4, 6, 7, 9]
    ),
    "int64 indices": lambda: of_parts(VALUES, np.array(COLUMNS, np.int64), np.array(ENDS, np.int64)),
    "read-only": read_only,
    "integers": of_dtype(np.int8),
    "float32": of_dtype(np.float32),
    "long double": of_dtype(np.longdouble),
    "strided values": lambda: of_parts(np.repeat(VALUES, 2)[::2], COLUMNS, ENDS),
    **{f"{form} matrix": lambda form=form: getattr(scipy.sparse, f"{form}_matrix")(X) for form in FORMS},
    **{f"{form} array": lambda form=form: getattr(scipy.sparse, f"{form}_array")(X) for form in FORMS},
}

nan, inf = float("nan"), float("inf")
UNSOUND, ASCENDS = "^X is no sound csr_array", "its indptr must ascend from 0 to 6, the number of values$"
BEYOND, SHAPE = rf"{UNSOUND} of shape \(5, 4\): .* must be in 0 to 3", r"^X must have shape \(rows, 4\)"

WRONG = {
    "a column beyond the last": ((VALUES, [1, 3, 0, 4, 3, 0], ENDS), f"{BEYOND}, got 4 in row 2$"),
    "a column below 0": ((VALUES, [1, 3, 0, -1, 3, 0], ENDS), f"{BEYOND}, got -1 in row 2$"),
    "rows that end before they begin": ((VALUES, COLUMNS, [0, 4, 2, 4, 5, 6]), f"{UNSOUND} .*: {ASCENDS}"),
    "rows beyond the values": ((VALUES, COLUMNS, [0, 2, 2, 4, 5, 9]), f"{UNSOUND} .*: {ASCENDS}"),
    "too few rows": (
        (VALUES, COLUMNS, [0, 2, 2, 6]),
        rf"{UNSOUND} .*: its indptr must have 6 numbers, got \(4,\)$",
    ),
    "a row beyond the last": (
        lambda: of_parts(VALUES, [2, 4, 0, 0, 5, 3], [0, 2, 3, 3, 6], shape=(4, 5)).T,
        r"^X is no sound csc_array of shape \(5, 4\): .* must be in 0 to 4, got 5 in column 3$",
    ),
    "fewer indices than values": (
        (VALUES, [1, 3, 0], ENDS),
        rf"{UNSOUND} .*: it has \(6,\) values and \(3,\) indices$",
    ),
    "nan": (([2.0, -1, 3, nan, 5, 1], COLUMNS, ENDS), r"^X must be finite, got nan at X\[2, 3\]$"),
    "inf": (([-inf, *VALUES[1:]], COLUMNS, ENDS), r"^X must be finite, got -inf at X\[0, 1\]$"),
    "a sum that overflows": (
        ([1e308, 1e308], [2, 2], [0, 0, 2, 2, 2, 2]),
        r"^X must be finite, got inf at X\[1, 2\]$",
    ),
    "complex": (of_dtype(complex), "^X must hold real numbers, got dtype complex128$"),
    "too wide": (lambda: scipy.sparse.csr_array((5, 9)), rf"{SHAPE}, got \(5, 9\)$"),
    "zero columns": (lambda: scipy.sparse.csr_array((5, 0)), rf"{SHAPE}, got \(5, 0\)$"),
    "zero rows": (lambda: scipy.sparse.csr_array((0, 4)), "^X must hold at least 1 row, got 0$"),
    "one dimension": (lambda: scipy.sparse.coo_array(X[0]), rf"{SHAPE}, got \(4,\)$"),
}
"""Parts of a matrix, or what makes one, and what is said of it."""


def wrong(name):
    """A matrix of WRONG, with what is said of it."""
    made, message = WRONG[name]
    return made() if callable(made) else of_parts(*made), message


def arrays_of(matrix):
    return [
        getattr(matrix, name) for name in ("data", "indices", "indptr", "row", "col") if hasattr(matrix, name)
    ]


@pytest.mark.parametrize("name", RIGHT)
@pytest.mark.parametrize("dtype", [None, *COMPILED_DTYPES])
def test_every_form_means_its_dense_rows_and_stays_as_it_is(name, dtype):
    given = RIGHT[name]()
    before = [array.copy() for array in arrays_of(given)]
    rows = clean_inputs("X", given, 4, dtype)
    assert rows.dtype == (dtype or (np.float32 if given.dtype == np.float32 else np.float64))
    np.testing.assert_array_equal(rows.matrix().toarray(), X)
    assert rows.indices.tolist() == [1, 3, 0, 3, 3, 0]
    assert (rows.indptr.dtype, rows.indices.dtype) == (np.int64, np.int32)
    for array, copied in zip(arrays_of(given), before, strict=True):
        np.testing.assert_array_equal(array, copied)


@quick(3)
@pytest.mark.parametrize("backend", few(registry.backends()))
@pytest.mark.parametrize("name", ["unsorted", "duplicates", "explicit zeros", "read-only", "csc matrix"])
def test_they_train_as_dense_rows(backend, name):
    sparse_, dense = (
        fastmlp.fit(NETWORK, given, Y, epochs=3, batch_size=2, seed=0, backend=backend)
        for given in (RIGHT[name](), X)
    )
    np.testing.assert_allclose(sparse_.parameters, dense.parameters, rtol=1e-12)
    np.testing.assert_allclose(sparse_.predict(RIGHT[name]()), dense.predict(X), rtol=1e-12)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused_in_one_line(name):
    given, message = wrong(name)
    with pytest.raises((ValueError, TypeError), match=message):
        fastmlp.fit(NETWORK, given, Y, epochs=1)
    model = fastmlp.fit(NETWORK, X, Y, epochs=0, backend="reference")
    with pytest.raises((ValueError, TypeError), match=message):
        model.predict(given)
    validation = message.replace("^X", "^validation X").replace(r"at X", "at validation X")
    with pytest.raises((ValueError, TypeError), match=validation):
        fastmlp.fit(NETWORK, X, Y, epochs=1, validation=(given, Y))


@pytest.mark.parametrize("kind", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize(
    "name", ["a column beyond the last", "a column below 0", "rows that end before they begin", "nan"]
)
@pytest.mark.filterwarnings("ignore:.*ConvergenceWarning:")
def test_estimators_refuse_it_too(kind, name):
    given, _ = wrong(name)
    with pytest.raises(ValueError, match=r"^(X is no sound|Input X contains NaN|.*indices|.*index)"):
        kind(max_iter=1).fit(given, Y.astype(int))


def test_a_value_that_does_not_fit_is_named():
    given = scipy.sparse.csr_array(X * 1e39)
    with pytest.raises(ValueError, match=r"^X\[0, 1\] = 2e\+39 does not fit into float32$"):
        fastmlp.fit(NETWORK, given, Y, dtype="float32")


def test_a_value_that_becomes_0_in_float32_is_none():
    given = scipy.sparse.csr_array(np.array([[1e-60, 1.0]]))
    rows = clean_inputs("X", given, 2, np.float32)
    assert (rows.indices.tolist(), rows.values.tolist(), rows.indptr.tolist()) == ([1], [1.0], [0, 1])


def test_booleans_are_0_and_1():
    rows = clean_inputs("X", scipy.sparse.csr_array(X != 0), 4, None)
    np.testing.assert_array_equal(rows.matrix().toarray(), X != 0)


def test_canonical_rows_of_the_dtype_are_not_copied():
    given = scipy.sparse.csr_array(X)
    rows = clean_inputs("X", given, 4, np.float64)
    assert np.shares_memory(rows.values, given.data)
    assert np.shares_memory(rows.indices, given.indices)


@pytest.mark.parametrize("backend", few(registry.backends()))
def test_rows_of_nothing_but_zeros_train(backend):
    sparse_, dense = (
        fastmlp.fit(NETWORK, given, Y, epochs=2, batch_size=2, seed=0, backend=backend)
        for given in (scipy.sparse.csr_array(X.shape), np.zeros(X.shape))
    )
    np.testing.assert_allclose(sparse_.parameters, dense.parameters, rtol=1e-12)


def test_more_columns_than_numbers_of_32_bits_are_refused():
    wide = scipy.sparse.coo_array(([1.0], ([0], [2**31])), shape=(1, 2**31 + 1))
    with pytest.raises(ValueError, match=r"^sparse X may have 2147483647 columns, got 2147483649$"):
        clean_inputs("X", wide, 2**31 + 1, None)


def test_a_batch_of_more_non_zeros_than_are_counted_is_refused(monkeypatch):
    """As one of 2^31 would be, which takes 24 GiB."""
    monkeypatch.setattr(session, "MOST_TERMS", 5)
    options = {"epochs": 1, "backend": "fused", "seed": 0}
    fastmlp.fit(NETWORK, scipy.sparse.csr_array(X), Y, batch_size=2, **options)
    says = r"^a batch may have 4 non-zeros, 5 rows have up to 6; take fewer rows$"
    with pytest.raises(ValueError, match=says):
        fastmlp.fit(NETWORK, scipy.sparse.csr_array(X), Y, batch_size=None, **options)


@pytest.mark.parametrize("backend", few(registry.variants()))
def test_rows_that_begin_beyond_32_bits_are_read_there(backend, tmp_path):
    """As those of a matrix of more than 2^31 non-zeros; of the files only what is written takes room."""
    at = 2**32 + 3
    arrays = [
        np.memmap(tmp_path / name, dtype, "w+", shape=at + 2)
        for name, dtype in (("indices", np.int32), ("values", np.float32))
    ]
    arrays[0][at:], arrays[1][at:] = [1, 3], [2, -1]
    rows = SparseRows(np.array([at, at + 2]), *map(np.asarray, arrays), 4)
    model = fastmlp.fit(NETWORK, X, Y, epochs=0, backend=backend, dtype="float32", seed=0)
    np.testing.assert_allclose(model.forward(rows), model.predict(X[:1]), rtol=1e-6)


def test_labels_and_weights_stay_dense():
    with pytest.raises(TypeError, match=r"^y must be dense, got csr_array; use its toarray"):
        fastmlp.fit(NETWORK, X, scipy.sparse.csr_array(Y[:, None]))


def test_dense_inputs_load_no_scipy_sparse():
    code = (
        "import sys, numpy as np, fastmlp\n"
        "fastmlp.fit(fastmlp.Network([3, 1]), np.ones((4, 3)), np.ones(4), epochs=1, backend='reference')\n"
        "print('scipy.sparse' in sys.modules)"
    )
    assert python("-c", code).stdout.strip() == "False"
