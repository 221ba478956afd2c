"""JAX as its expert writes it: the steps of a turn are one jitted lax.scan, whose state is donated.

The state goes on from turn to turn. Rows are gathered within the scan, the optimisers are written out, and
dropout draws by XLA's own generator, which is faster here than threefry. XLA takes as many threads as the
process may use cores.

A dense gradient of the tables of categories, or of the weights of sparse columns, would be no fair opponent.
The rows of a batch are gathered, and are what the loss is differentiated by; where a code comes twice its
gradients are summed, and Adam's step goes to these rows and to their moments alone, by scatters in place.
`slots` finds the codes that come twice without a sort: every row of a batch writes its number to its code's,
and reads which number is left.
"""

import itertools
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from fastmlp import BatchNorm, Categories, Dense, Dropout, LayerNorm, Members, PReLU, Residual

from .steps import by_epochs

VERSION = jax.__version__

ACTIVATIONS = {"relu": jax.nn.relu, "silu": jax.nn.silu, "identity": lambda z: z}


def unsupported(work):
    """Why a work is left out, or None."""
    return "has no members" if any(isinstance(layer, Members) for layer in work.layers) else None


def ways(work, threads, shuffle=True):
    """Name to prepare() -> run(epochs), which trains and returns mean losses, the last epoch's last."""
    return {"scan": lambda: by_epochs(work, _steps(work, *work.data()), shuffle)}


def _steps(work, x, y):
    """Return steps(orders), the losses of steps on the rows that each line of orders names."""
    block, start = work.block, [jnp.array(array) for array in work.arrays()]
    tables, slots, codes = (), (), None
    if isinstance(block, Categories):
        x[0] = x[0] + 1 + np.cumsum([0, *(levels + 1 for levels in block.levels[:-1])])
        tables, start, codes = jnp.concatenate(start[: len(block.levels)]), start[len(block.levels) :], 0
    elif work.beside:
        tables, start, codes = start[0], start[1:], 1
    if codes is not None:
        slots = jnp.zeros(len(tables), jnp.int32)
    x, y = (
        [jnp.asarray(one, jnp.int32 if one.dtype == np.int64 else None) for one in part] for part in (x, y)
    )
    zeros = partial(jax.tree.map, jnp.zeros_like)
    state = {
        "dense": (start, zeros(start), zeros(start)), "tables": (tables, zeros(tables), zeros(tables)),
        "slots": slots, "running": _running(work), "step": jnp.int32(0),
    }  # fmt: skip
    key = jax.random.key(0, impl="unsafe_rbg")

    def step(state, rows, x, y):
        x, y = ([_rows(one, rows) for one in part] for part in (x, y))
        (parameters, *moments), step = state["dense"], state["step"] + 1
        keys = (jax.random.fold_in(jax.random.fold_in(key, step), i) for i in itertools.count())
        looked_up = () if codes is None else _rows(state["tables"][0], x[codes])

        def loss(parameters, looked_up):
            statistics = []
            return _loss(work, iter(parameters), looked_up, x, y, statistics, keys), statistics

        by = jax.value_and_grad(loss, (0, 1), has_aux=True)
        (value, statistics), (gradients, by_rows) = by(parameters, looked_up)
        adam = partial(_adam, work.optimizer, step.astype(jnp.float32))
        moved = [adam(*one) for one in zip(parameters, gradients, *moments, strict=True)]
        state = state | {"dense": tuple(map(list, zip(*moved, strict=True))), "step": step}
        if codes is not None:
            state |= _touched(adam, state["tables"], state["slots"], x[codes], by_rows)
        state["running"] = [
            0.9 * old + 0.1 * new for old, new in zip(state["running"], statistics, strict=True)
        ]
        return state, value

    @partial(jax.jit, donate_argnums=0)
    def train(state, x, y, orders):
        return lax.scan(lambda state, rows: step(state, rows, x, y), state, orders)

    def steps(orders):
        nonlocal state
        state, losses = train(state, x, y, orders.astype(np.int32))
        return np.asarray(jax.block_until_ready((state, losses))[1])

    return steps


def _rows(values, rows):
    return values.at[rows].get(mode="promise_in_bounds")


def _running(work):
    """The running mean and variance (2, units) of each batch norm."""
    norms = [own for own in work.stepper(backend="reference").layers.values() if "variance" in own]
    return [jnp.stack([own["mean"], own["variance"]]) for own in norms]


def _loss(work, parameters, looked_up, x, y, statistics, keys):
    block, layers, (x, *sparse) = work.block, work.layers, x
    if sparse:
        sums = (looked_up * sparse[1][:, :, None]).sum(axis=1)
        x = ACTIVATIONS[layers[0].activation](x @ next(parameters) + sums + next(parameters))
        layers = layers[1:]
    elif isinstance(block, Categories):
        x = looked_up.reshape(len(x), -1)
    elif block.embedding is not None:
        frequencies, phases, weights, biases = (next(parameters) for _ in range(4))
        z = jnp.cos(2 * math.pi * x[:, :, None] * frequencies + phases)
        x = jnp.concatenate(
            [x, (jnp.einsum("rct,ctu->rcu", z, weights) + biases).reshape(len(x), -1)], axis=1
        )
    x = _apply(layers, x, parameters, statistics, keys)
    outputs = [x @ next(parameters) + next(parameters) for _ in work.heads] or [x]
    return sum(
        weight * (_cross_entropy if loss == "cross_entropy" else _mse)(output, target)
        for output, target, (loss, _, weight) in zip(outputs, y, work.losses, strict=True)
    )


def _apply(layers, x, parameters, statistics, keys):
    """Return the outputs; add to statistics the mean and the unbiased variance of each batch norm."""
    for layer in layers:
        match layer:
            case Dense():
                x = ACTIVATIONS[layer.activation](x @ next(parameters) + next(parameters))
            case LayerNorm():
                x = _normalised(x, 1, layer.epsilon)[0] * next(parameters) + next(parameters)
            case BatchNorm():
                x, mean, variance = _normalised(x, 0, layer.epsilon)
                statistics.append(jnp.concatenate([mean, variance * (len(x) / (len(x) - 1))]))
                x = x * next(parameters) + next(parameters)
            case PReLU():
                x = jnp.where(x > 0, x, next(parameters) * x)
            case Dropout():
                x = jnp.where(
                    jax.random.bernoulli(next(keys), 1 - layer.rate, x.shape), x / (1 - layer.rate), 0
                )
            case Residual():
                x = x + _apply(layer.layers, x, parameters, statistics, keys)
    return x


def _normalised(x, axis, epsilon):
    mean, variance = x.mean(axis, keepdims=True), x.var(axis, keepdims=True)
    return (x - mean) * lax.rsqrt(variance + epsilon), mean, variance


def _mse(output, y):
    return ((output - y) ** 2).mean()


def _cross_entropy(output, y):
    return -jnp.take_along_axis(jax.nn.log_softmax(output), y[:, None], axis=1).mean()


def _adam(o, step, p, g, mean, square):
    mean, square = o.beta1 * mean + (1 - o.beta1) * g, o.beta2 * square + (1 - o.beta2) * g * g
    # 1 - beta**step in float32 would be off by 6e-5 at first.
    c1, c2 = (-jnp.expm1(step * math.log(beta)) for beta in (o.beta1, o.beta2))
    kept = 1 - o.learning_rate * getattr(o, "weight_decay", 0.0)
    return (
        kept * p - o.learning_rate / c1 * mean / (jnp.sqrt(square) * lax.rsqrt(c2) + o.epsilon),
        mean,
        square,
    )


def _touched(adam, tables, slots, codes, gradients):
    """The state of tables whose rows of these codes have taken a step."""
    codes, gradients = codes.reshape(-1), gradients.reshape(codes.size, -1)
    slots = slots.at[codes].set(jnp.arange(len(codes), dtype=jnp.int32), mode="promise_in_bounds")
    slot = _rows(slots, codes)
    summed = jnp.zeros_like(gradients).at[slot].add(gradients, mode="promise_in_bounds")
    moved = adam(_rows(tables[0], codes), _rows(summed, slot), *(_rows(one, codes) for one in tables[1:]))
    # Where a code comes twice, both write the same.
    pairs = zip(tables, moved, strict=True)
    return {
        "tables": tuple(one.at[codes].set(new, mode="promise_in_bounds") for one, new in pairs),
        "slots": slots,
    }
