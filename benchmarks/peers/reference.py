"""The works in plain float64 NumPy: what each peer's loss is held against before it is timed."""

import numpy as np

from .works import make_data, make_start, row_orders, small

# Loss after a few steps: float32 rounding (6e-8) grown by sums over up to 1024 terms and by Adam,
# which divides by the square root of tiny gradients.
RELATIVE_ERROR = {"float32": 2e-4, "float64": 1e-8}


def check(work, run):
    """Raises AssertionError unless the loss of small(work) in its last epoch, unshuffled, is NumPy's.

    run : run(epochs) of a peer, prepared for small(work) with shuffle=False
    """
    epochs = 8 if work.full_batch else 2
    want, before = train(small(work), epochs)
    got = run(epochs)
    error = abs(got - want) / abs(want)
    assert abs(before - want) > 10 * RELATIVE_ERROR[work.dtype] * abs(want), (
        "the check is too short to see a step"
    )
    assert error <= RELATIVE_ERROR[work.dtype], (
        f"{work.name}: loss {got!r}, NumPy has {want!r} (off by {error:.1e})"
    )
    return float(error)


def check_predict(work, predict):
    x = make_data(work)[0]
    weights, biases = make_start(work)
    error = np.abs(predict(x) - _forward(work, x, weights, biases)[-1]).max()
    assert error < RELATIVE_ERROR[work.dtype], f"{work.name}: prediction off by {error:.1e}"
    return float(error)


def train(work, epochs):
    """The mean losses of the last and of the first epoch, rows in their natural order."""
    X, y = make_data(work)
    X = X.astype(float)
    y = np.eye(work.sizes[-1])[y] if work.loss == "cross_entropy" else y.astype(float)
    weights, biases = ([p.astype(float) for p in part] for part in make_start(work))
    o, count = work.optimizer, 0
    params = weights + biases
    rates = [o.rate] * len(weights) + [o.bias_rate or o.rate] * len(biases)
    means, squares = ([np.zeros_like(p) for p in params] for _ in range(2))
    means_of_epochs = []
    for order in row_orders(work, epochs, shuffle=False):
        losses = []
        for rows in order:
            loss, grads = _gradient(work, X[rows], y[rows], weights, biases)
            losses.append(loss)
            count += 1
            for p, g, m, v, rate in zip(params, grads, means, squares, rates, strict=True):
                if o.kind == "sgd":
                    p -= rate * g
                    continue
                m += (1 - o.beta1) * (g - m)
                v += (1 - o.beta2) * (g * g - v)
                p -= rate * m / (1 - o.beta1**count) / (np.sqrt(v / (1 - o.beta2**count)) + o.eps)
        means_of_epochs.append(np.mean(losses))
    return float(means_of_epochs[-1]), float(means_of_epochs[0])


def _forward(work, X, weights, biases):
    """The values of every layer, inputs first."""
    values = [X]
    for W, b in zip(weights, biases, strict=True):
        z = values[-1] @ W + b
        kind = work.hidden if len(values) < len(weights) else work.output
        if kind == "softmax":
            z = np.exp(z - z.max(axis=1, keepdims=True))
            z /= z.sum(axis=1, keepdims=True)
        elif kind == "relu":
            z = np.maximum(z, 0)
        elif kind == "tanh":
            z = np.tanh(z)
        elif kind == "sigmoid":
            z = 1 / (1 + np.exp(-z))
        values.append(z)
    return values


def _gradient(work, X, y, weights, biases):
    values = _forward(work, X, weights, biases)
    p, n = values[-1], len(X)
    if work.loss == "mse":
        loss = np.mean((p - y) ** 2)
        delta = 2 * (p - y) / p.size * (p * (1 - p) if work.output == "sigmoid" else 1)
    else:
        q = np.log(p) * y + (np.log1p(-p) * (1 - y) if work.loss == "binary_cross_entropy" else 0)
        loss = -q.sum() / n
        delta = (p - y) / n
    grads_w, grads_b = [], []
    for i in reversed(range(len(weights))):
        grads_w.insert(0, values[i].T @ delta)
        grads_b.insert(0, delta.sum(axis=0))
        h = values[i]
        delta = (delta @ weights[i].T) * (h > 0 if work.hidden == "relu" else 1 - h * h)
    return loss, grads_w + grads_b
