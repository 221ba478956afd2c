"""Lists each column's non-zeros in a batch of sparse rows, by ascending row.

A worker lists its columns of the inputs, once a step, by a counting sort.
"""

# mypy: ignore-errors

import numpy as np

from fastmlp.kernels.codegen.scalars import trailing_zeros

SIX, LOW_SIX = np.uint64(6), np.uint64(63)
"""The shift of a column to its 64-bit word of marks, and the mask of its bit."""

LEAST_LISTED, OF_EACH_ROW = 1 << 12, 8
"""Non-zeros listed before the next columns, altogether and of each row on the average.

So written memory lies on few pages. A batch of digits was listed in 0.6 of the time.
"""


def place_of(indices, first, last, column):
    """Return the first index of the ascending indices[first:last] that is not below `column`."""
    while first < last:
        middle = (first + last) // 2
        if indices[middle] < column:
            first = middle + 1
        else:
            last = middle
    return first


def terms_of(indptr, indices, order, i, first, last, n_in):
    """Return the range [begin, end) of row i's non-zeros in columns [first, last)."""
    row = order[i] if len(order) > 0 else i
    begin, end = indptr[row], indptr[row + 1]
    if first > 0:
        begin = place_of(indices, begin, end, first)
    if last < n_in:
        end = place_of(indices, begin, end, last)
    return begin, end


def list_columns(sparse, order, rows, first, last, n_in, every, zeros, lists, places):
    """List the non-zeros of a batch of `rows` rows in columns [first, last), column by column.

    sparse : (indptr, indices, values) of all rows: (all rows + 1,) int64, int32, floating
    order : (rows,) int64, or empty
    every : whether empty columns are listed, too
    zeros : (counts, marks): (last - first,) int32, (ceil((last - first) / 64),) uint64; 0 before and after
    lists : (columns, starts, samples, numbers), written
    places : (rows,) int64, overwritten

    columns : (last - first + 1,) int64, the listed columns; the last element is their number
    starts : (last - first + 1,) int64; listed column t has elements [starts[t], starts[t + 1]) of
    samples, numbers : of each non-zero its row of the batch, int32, and its value, floating
    """
    indptr, indices, values = sparse
    counts, marks = zeros
    columns, starts, samples, numbers = lists
    width, one = last - first, np.uint64(1)
    for i in range(rows):
        begin, end = terms_of(indptr, indices, order, i, first, last, n_in)
        places[i] = begin
        for p in range(np.uint64(begin), np.uint64(end)):
            k = np.uint64(indices[p] - first)
            counts[k] += 1
            if not every:
                marks[k >> SIX] |= one << (k & LOW_SIX)
    listed, total = np.int64(0), np.int64(0)
    if every:
        for k in range(width):
            columns[k], starts[k] = first + k, total
            count = counts[k]
            counts[k] = total
            total += count
        listed = width
    else:
        for place in range(len(marks)):
            word = marks[place]
            marks[place] = 0
            while word != 0:
                k = (np.uint64(place) << SIX) + np.uint64(trailing_zeros(word))
                word &= word - one
                columns[listed], starts[listed] = first + np.int64(k), total
                count = counts[k]
                counts[k] = total
                total += count
                listed += 1
    starts[listed] = total
    # A processor stores at once to few pages only; going back to a row costs as much as some non-zeros.
    together = max(LEAST_LISTED, OF_EACH_ROW * rows)
    stop = 0
    while stop < listed:
        enough = starts[stop] + together
        while stop < listed and starts[stop] < enough:
            stop += 1
        bound = columns[stop - 1] + 1
        for i in range(rows):
            end = np.uint64(indptr[(order[i] if len(order) > 0 else i) + 1])
            p = np.uint64(places[i])
            while p < end and indices[p] < bound:
                k = np.uint64(indices[p] - first)
                at = np.uint64(counts[k])
                counts[k] += 1
                samples[at] = i
                numbers[at] = values[p]
                p += one
            places[i] = p
    for t in range(listed):
        counts[np.uint64(columns[t] - first)] = 0
    columns[width] = listed
