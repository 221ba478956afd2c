"""Rows of bytes as the numbers that a step multiplies, put where the rows of a batch are gathered."""

# mypy: ignore-errors

from __future__ import annotations

from fastmlp.kernels.codegen.scalars import wide_vectors
from fastmlp.kernels.codegen.views import vector


def convert_bytes(numbers, order, first, scale, out):
    """out (visited, columns) = numbers (rows, columns) uint8 at order (visited,) int64, times scale[0].

    Without an order, rows first, first + 1, .. of them. scale : (1,) float64
    """
    wide_vectors()
    columns, factor = out.shape[1], out.dtype.type(scale[0])
    for i in range(out.shape[0]):
        row = order[i] if len(order) > 0 else first + i
        source, target = vector(numbers, row * columns, columns), vector(out, i * columns, columns)
        for j in range(columns):
            target[j] = out.dtype.type(source[j]) * factor
