"""Copies between the caller's flat vectors and the padded sections of a small network's workspace."""

# mypy: ignore-errors

from fastmlp.kernels.jit.lazy import apart


# Both are pieces: they are called once a chunk, so one compilation for all networks is fast enough.
@apart
def copy_in(work, base, vector, layout):
    """Copy a flat vector (P,) to the section at `base`."""
    for layer in range(layout.shape[0]):
        n_in, n_out, flat, w, down, right, b = layout[layer]
        for i in range(n_in):
            for j in range(n_out):
                work[base + w + i * down + j * right] = vector[flat + i * n_out + j]
        for j in range(n_out):
            work[base + b + j] = vector[flat + n_in * n_out + j]


@apart
def copy_out(work, base, vector, layout):
    """Copy the section at `base` to a flat vector (P,)."""
    for layer in range(layout.shape[0]):
        n_in, n_out, flat, w, down, right, b = layout[layer]
        for i in range(n_in):
            for j in range(n_out):
                vector[flat + i * n_out + j] = work[base + w + i * down + j * right]
        for j in range(n_out):
            vector[flat + n_in * n_out + j] = work[base + b + j]
