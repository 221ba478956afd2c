"""JAX on inputs that are mostly zeros, for `benchmarks.sparse`: all steps of all epochs in a jitted lax.scan.

Three ways to the first layer, of which an expert would keep the fastest: dense rows; rows as JAX's own BCOO;
and sums of gathered rows of W, whose derivative is a scatter.
"""

from functools import partial
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import sparse


def _dense(X):
    return (jnp.asarray(X.toarray()),)


def _of_dense(W, rows):
    return rows @ W


def _terms(X):
    shape = X.shape[0], -1
    return jnp.asarray(X.data.reshape(shape)), jnp.asarray(X.indices.astype(np.int32).reshape(shape))


def _of_bcoo(W, values, columns):
    rows = sparse.BCOO(
        (values, columns[..., None]),
        shape=(len(values), len(W)),
        indices_sorted=True,
        unique_indices=True,
    )
    return rows @ W


def _of_gathered(W, values, columns):
    return jnp.einsum("bn,bnh->bh", values, W[columns])


WAYS = {"dense": (_dense, _of_dense), "BCOO": (_terms, _of_bcoo), "gather": (_terms, _of_gathered)}


def trainings(X, y, hidden, batch, rate):
    """Return by name what trains for so many epochs by plain SGD.

    X : csr_array, with as many numbers in each row; y : (rows,) classes; hidden : units of the hidden layers
    """
    sizes, rng = (X.shape[1], *hidden, int(y.max()) + 1), np.random.default_rng(0)
    start = [
        (jnp.asarray(0.05 * rng.standard_normal(shape), X.dtype), jnp.zeros(shape[1], X.dtype))
        for shape in pairwise(sizes)
    ]

    def orders(epochs):
        return np.concatenate([rng.permutation(len(y)) for _ in range(epochs)]).reshape(-1, batch)

    def prepared(hold, first_layer):
        arrays, labels = hold(X), jnp.asarray(y, jnp.int32)

        @partial(jax.jit, donate_argnums=0)
        def train(params, arrays, labels, orders):
            def loss_of(params, rows, labels):
                (W, b), *others = params
                z = first_layer(W, *rows) + b
                for W, b in others:
                    z = jax.nn.relu(z) @ W + b
                return -jnp.take_along_axis(jax.nn.log_softmax(z), labels[:, None], axis=1).mean()

            def step(params, rows):
                *some, own = (values.at[rows].get(mode="promise_in_bounds") for values in (*arrays, labels))
                loss, grads = jax.value_and_grad(loss_of)(params, some, own)
                return jax.tree.map(lambda p, g: p - rate * g, params, grads), loss

            return jax.lax.scan(step, params, orders)

        return lambda epochs: np.asarray(
            train(jax.tree.map(jnp.array, start), arrays, labels, orders(epochs))[1]
        )

    return {f"JAX {name}": prepared(*way) for name, way in WAYS.items()}
