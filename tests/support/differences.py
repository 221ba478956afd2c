"""Which of a network's numbers differ between two trainings, in words that name a layer's weights or biases.

A test that fails by them names the kernel: the weights of one layer alone, the last columns of a matrix.
"""

import numpy as np

from fastmlp.model.network import Network


def parts_of(sizes, vector):
    """Yield the name and the array of each layer's weights (n_in, n_out) and biases (n_out,)."""
    for number, layer in enumerate(Network(sizes).operations):
        yield f"weights[{number}]", vector[layer.weights : layer.biases].reshape(layer.n_in, layer.n_out)
        yield f"biases[{number}]", vector[layer.biases : layer.end]


def difference(got, expected, allowed=None):
    """Return in words where an array is off by more than is allowed, or by a bit; "" if nowhere."""
    with np.errstate(invalid="ignore"):  # inf - inf
        distance = np.abs(got - expected)
    if allowed is None:
        bits = f"u{expected.itemsize}"
        off = got.view(bits) != expected.view(bits)
    else:
        off = ~(distance <= allowed)  # not >: a nan is off, too
    places = np.argwhere(off)
    if len(places) == 0:
        return ""
    first, last = (tuple(map(int, ends)) for ends in (places.min(axis=0), places.max(axis=0)))
    most = distance[off].max()
    return f"{len(places)} of {off.size}, from {first} to {last} in {off.shape}, by up to {most:.1e}"


def differences(sizes, got, expected, allowed=None):
    """Return the same of the parts of two vectors of parameters (P,), or of moments (.., P)."""
    pairs = zip(np.atleast_2d(got), np.atleast_2d(expected), strict=True)
    found = [
        (name if got.ndim == 1 else f"{name} of moment {row}", difference(part, other, allowed))
        for row, (vector, right) in enumerate(pairs)
        for (name, part), (_, other) in zip(parts_of(sizes, vector), parts_of(sizes, right), strict=True)
    ]
    return "; ".join(f"{name}: {off}" for name, off in found if off)
