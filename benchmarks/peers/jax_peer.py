"""JAX as its expert writes it: all steps of all epochs in one jitted lax.scan, state donated.

Two choices win on tiny networks and lose on others (784-128-10 batch 32: 143 us against
117), so ways offers them there: parameters as one flat vector (one optimiser loop) and
the scan unrolled by four. The optimisers are written out. XLA's own flags (fast math,
512-bit preference, oneDNN, YNNPACK) made no difference beyond the noise on AVX-512
machines; float64 matmuls stay at a third of the peak.

Tried on larger works, microseconds a step, one core of a Xeon with AVX-512:
             b32 sgd  b128 sgd   28-256-256-2   30-100-1
  as here        111       437            965         26
  unroll 2       113       455            969         26
  unroll 8       115       465           1003         27
  an epoch's rows gathered before its scan, so that a step reads a contiguous batch
                 124       512            934         27
One-hot targets in place of labels change nothing (446 and 446, 980 and 981).
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from fastmlp import Adam

from .works import row_orders

VERSION = jax.__version__

HIDDEN = {"relu": jax.nn.relu, "tanh": jnp.tanh}
OUTPUT = {"sigmoid": jax.nn.sigmoid, "identity": lambda z: z, "softmax": jax.nn.softmax}


def ways(work, threads, shuffle=True):
    """Name to prepare() -> run(epochs), which trains afresh and returns mean losses, the last epoch's last.

    The number of threads is the number of cores the process may use: XLA reads its affinity.
    """
    jax.config.update("jax_enable_x64", work.dtype == "float64")
    X, y = work.data()
    X, y = jnp.asarray(X), jnp.asarray(y, jnp.int32 if work.loss == "cross_entropy" else work.dtype)
    small = work.flops < 5e6
    return {
        f"{'flat' if flat else 'tree'}, unroll {unroll}": partial(_prepare, work, X, y, shuffle, flat, unroll)
        for flat in ([False, True] if small and _bias_rate(work.optimizer) is None else [False])
        for unroll in ([1, 4] if small else [1])
    }


def _prepare(work, X, y, shuffle, flat, unroll):
    start = _start(work)
    unravel = lambda params: params  # noqa: E731
    if flat:
        start, unravel = ravel_pytree(start)

    @partial(jax.jit, donate_argnums=(0, 1), static_argnums=5)
    def train(params, moments, X, y, orders, steps):
        def step(state, rows):
            params, moments, count = state
            batch = (X, y) if rows is None else (_take(X, rows), _take(y, rows))
            loss, grads = jax.value_and_grad(lambda params: _loss(work, unravel(params), *batch))(params)
            params, moments = _update(work.optimizer, params, moments, grads, count + 1)
            return (params, moments, count + 1), loss

        state = params, moments, jnp.int32(0)
        (params, moments, _), losses = jax.lax.scan(step, state, orders, length=steps, unroll=unroll)
        return params, moments, losses

    def run(epochs):
        params = jax.tree.map(jnp.array, start)
        zeros = partial(jax.tree.map, jnp.zeros_like)
        moments = (zeros(params), zeros(params)) if isinstance(work.optimizer, Adam) else ()
        orders = None if work.full_batch else row_orders(work, epochs, shuffle).reshape(-1, work.batch)
        losses = train(params, moments, X, y, orders, epochs * work.steps)[-1]
        return np.asarray(losses).reshape(epochs, -1).mean(axis=1)

    return run


def prepare_predict(work, threads):
    params = jax.tree.map(jnp.array, _start(work))
    forward = jax.jit(lambda params, x: OUTPUT[work.output](_logits(work, params, x)))
    return lambda x: np.asarray(forward(params, x))


def prepare_jacobian(work, threads):
    """Reverse mode, row by row: of fewer outputs than inputs it takes half the time of forward mode."""
    params = jax.tree.map(jnp.array, _start(work))
    of_row = jax.jacrev(lambda x, params: OUTPUT[work.output](_logits(work, params, x)))
    jacobian = jax.jit(jax.vmap(of_row, in_axes=(0, None)))
    return lambda x: np.asarray(jacobian(x, params))


def _start(work):
    model = work.start()
    return list(zip(model.weights, model.biases, strict=True))


def _bias_rate(optimizer):
    return getattr(optimizer, "bias_learning_rate", None)


def _take(values, rows):
    return values.at[rows].get(mode="promise_in_bounds")


def _logits(work, params, X):
    for W, b in params[:-1]:
        X = HIDDEN[work.hidden](X @ W + b)
    W, b = params[-1]
    return X @ W + b


def _loss(work, params, X, y):
    z = _logits(work, params, X)
    if work.loss == "cross_entropy":
        return -jnp.take_along_axis(jax.nn.log_softmax(z), y[:, None], axis=1).mean()
    if work.loss == "binary_cross_entropy":
        return (jax.nn.softplus(z) - y * z).mean()
    return ((OUTPUT[work.output](z) - y) ** 2).mean()


def _update(o, params, moments, grads, count):
    rate = o.learning_rate
    if not isinstance(o, Adam):
        if _bias_rate(o) is None:
            return jax.tree.map(lambda p, g: p - rate * g, params, grads), moments
        pairs = zip(params, grads, strict=True)
        return [(W - rate * dW, b - _bias_rate(o) * db) for (W, b), (dW, db) in pairs], moments
    means = jax.tree.map(lambda m, g: o.beta1 * m + (1 - o.beta1) * g, moments[0], grads)
    squares = jax.tree.map(lambda v, g: o.beta2 * v + (1 - o.beta2) * g * g, moments[1], grads)
    count = count.astype(jax.tree.leaves(params)[0].dtype)
    c1, c2 = 1 / (1 - o.beta1**count), 1 / (1 - o.beta2**count)
    step = lambda p, m, v: p - rate * c1 * m / (jnp.sqrt(c2 * v) + o.epsilon)  # noqa: E731
    return jax.tree.map(step, params, means, squares), (means, squares)
