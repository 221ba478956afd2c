"""Copies between the caller's flat vectors and the padded sections of a small network's workspace.

They are written for one network, by whole vectors: where a call is one step, they are all that it adds to it.
"""

# mypy: ignore-errors

from numba import types

from fastmlp.kernels.codegen.arrays import VectorNumbers
from fastmlp.kernels.codegen.symbols import Symbol
from fastmlp.kernels.codegen.vectors import counted, data_pointer
from fastmlp.kernels.jit.disposable import Intrinsic
from fastmlp.kernels.small.padded import up


def copy_row(memory, source, target, count, most):
    """Write a copy of `count` elements by the longest vectors, the last overlapping the one before."""
    v = memory.vectors(min(most, 1 << (count.bit_length() - 1)))
    for at in (*range(0, count - v.lanes + 1, v.lanes), *([count - v.lanes] if count % v.lanes else [])):
        v.store(v.load(v.shift(source, at * v.itemsize)), v.shift(target, at * v.itemsize))


def copies(plan, memory_of, inwards):
    """Return the intrinsic (work, number, vector) that copies a flat vector (P,) to a section, or back.

    The copy to a section writes 0 to the padding of its rows. memory_of : `stages.Memory`
    """

    @Intrinsic
    def copy(typingctx, work, number, vector):
        def codegen(context, builder, signature, values):
            memory = memory_of(context, builder, work, values[0])
            flat = data_pointer(context, builder, vector, values[2])
            base = Symbol(builder, values[1]) * plan.section
            for layer in plan.layers:
                _copy_layer(memory, flat, layer, base, plan.most, inwards)
            return context.get_dummy_value()

        return types.none(work, types.intp, vector), codegen

    return copy


def _copy_layer(memory, flat, layer, base, most, inwards):
    """Write the copy of a layer's weights and biases, or of its gain and shift."""
    v, size, builder = memory.vectors(layer.lanes), memory.itemsize, memory.builder
    n_in, n_out = layer.n_in, layer.n_out

    def rows(count, given, own, length, stride):
        """Write the copies of `count` rows of `length` numbers, one after another there, `stride` apart here."""
        if length == stride:
            count, length, stride = count * stride // v.lanes, v.lanes, v.lanes
        with counted(builder, count) as i:
            there = v.shift(memory.v.shift(flat, given * size), i * (length * size))
            here = v.shift(memory.at(base + own), i * (stride * size))
            if inwards and length < stride:
                v.store(v.zero, v.shift(here, (stride - v.lanes) * size))
            copy_row(memory, *((there, here) if inwards else (here, there)), length, most)

    if layer.weights < 0:
        return
    if layer.gain:
        rows(1, layer.flat, layer.weights, layer.gain, up(layer.gain, layer.lanes))
        if layer.shift:
            rows(1, layer.flat + layer.gain, layer.biases, n_out, layer.out_stride)
        return
    if not layer.is_transposed:
        rows(n_in, layer.flat, layer.weights, n_out, layer.out_stride)
    else:
        if inwards:
            with counted(builder, n_out * layer.in_stride, v.lanes) as i:
                v.store(v.zero, v.shift(memory.at(base + layer.weights), i * size))
        there = VectorNumbers(builder, memory.dtype, memory.v.shift(flat, layer.flat * size))
        here = VectorNumbers(builder, memory.dtype, memory.at(base + layer.weights))
        with counted(builder, n_in) as i:
            for j in range(n_out):
                if inwards:
                    here[i + j * layer.in_stride] = there[i * n_out + j]
                else:
                    there[i * n_out + j] = here[i + j * layer.in_stride]
    rows(1, layer.flat + n_in * n_out, layer.biases, n_out, layer.out_stride)
