"""JAX as its expert writes it: the steps of a turn are one jitted lax.scan, whose state is donated.

The state goes on from turn to turn. Rows are gathered within the scan, the optimisers are written out, and
dropout draws by XLA's own generator, which is faster here than threefry. XLA takes as many threads as the
process may use cores. XLA's own flags (fast math, 512-bit preference, oneDNN, YNNPACK) made no difference
beyond the noise on AVX-512 machines; float64 matmuls stay at a third of the peak.

Two choices win on tiny networks and lose on others (784-128-10 batch 32: 143 us against 117), so that tiny
chains have both: parameters as one flat vector (one optimiser loop) and the scan unrolled by four. On larger
works a scan unrolled by 2 or 8, an epoch's rows gathered before its scan, and one-hot targets in the place of
labels took as long or longer, on one core of a Xeon with AVX-512.

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
from jax.flatten_util import ravel_pytree

from fastmlp import BatchNorm, Categories, Dense, Dropout, LayerNorm, Members, PReLU, Residual

from ..works import by_epochs
from . import takes_adam

VERSION = jax.__version__

ACTIVATIONS = {
    "relu": jax.nn.relu, "silu": jax.nn.silu, "identity": lambda z: z, "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid, "gelu": partial(jax.nn.gelu, approximate=False), "elu": jax.nn.elu,
    "softmax": jax.nn.softmax,
}  # fmt: skip


def unsupported(work):
    if getattr(work.optimizer, "momentum", 0.0):
        return "has no momentum"
    return "has no members" if any(isinstance(layer, Members) for layer in work.layers) else None


def ways(work, threads, shuffle=True, way=""):
    jax.config.update("jax_enable_x64", work.dtype == "float64")
    small = work.network.is_chain and work.flops < 5e6
    return {
        f"{'flat' if flat else 'tree'}, unroll {unroll}": partial(_run, work, shuffle, flat, unroll)
        for flat in ([False, True] if small and _bias_rate(work.optimizer) is None else [False])
        for unroll in ([1, 4] if small else [1])
    }


def _run(work, shuffle, flat, unroll):
    return by_epochs(work, _steps(work, *work.data(), flat, unroll), shuffle)


def _bias_rate(optimizer):
    return getattr(optimizer, "bias_learning_rate", None)


def _steps(work, x, y, flat, unroll):
    """Return steps(orders, count), see `by_epochs`. flat : the parameters are one vector"""
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
    unravel = lambda parameters: parameters  # noqa: E731
    if flat:
        vector, unravel = ravel_pytree(start)
        start = [vector]
    zeros, adam = partial(jax.tree.map, jnp.zeros_like), takes_adam(work.optimizer)
    moments = [zeros(start), zeros(start)] if adam else []
    state = {
        "dense": (start, *moments), "tables": (tables, zeros(tables), zeros(tables)),
        "slots": slots, "running": _running(work), "step": jnp.int32(0),
    }  # fmt: skip
    key = jax.random.key(0, impl="unsafe_rbg")

    def step(state, rows, x, y):
        if rows is not None:
            x, y = ([_rows(one, rows) for one in part] for part in (x, y))
        (parameters, *moments), step = state["dense"], state["step"] + 1
        keys = (jax.random.fold_in(jax.random.fold_in(key, step), i) for i in itertools.count())
        looked_up = () if codes is None else _rows(state["tables"][0], x[codes])

        def loss(parameters, looked_up):
            statistics, parameters = [], unravel(parameters[0] if flat else parameters)
            return _loss(work, iter(parameters), looked_up, x, y, statistics, keys), statistics

        by = jax.value_and_grad(loss, (0, 1), has_aux=True)
        (value, statistics), (gradients, by_rows) = by(parameters, looked_up)
        if not adam:
            rate = work.optimizer.learning_rate
            rates = itertools.cycle([rate, _bias_rate(work.optimizer) or rate])
            moved = [(p - own * g,) for p, g, own in zip(parameters, gradients, rates, strict=False)]
        else:
            by_adam = partial(_adam, work.optimizer, step.astype(parameters[0].dtype))
            moved = [by_adam(*one) for one in zip(parameters, gradients, *moments, strict=True)]
        state = state | {"dense": tuple(map(list, zip(*moved, strict=True))), "step": step}
        if codes is not None:
            state |= _touched(by_adam, state["tables"], state["slots"], x[codes], by_rows)
        state["running"] = [
            0.9 * old + 0.1 * new for old, new in zip(state["running"], statistics, strict=True)
        ]
        return state, value

    @partial(jax.jit, donate_argnums=0, static_argnums=4)
    def train(state, x, y, orders, count):
        return lax.scan(lambda state, rows: step(state, rows, x, y), state, orders, count, unroll=unroll)

    def steps(orders, count):
        nonlocal state
        state, losses = train(state, x, y, orders, count)
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
        weight * _loss_of(work, output, target, loss)
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


def _loss_of(work, output, y, loss):
    if loss == "cross_entropy":
        return -jnp.take_along_axis(jax.nn.log_softmax(output), y[:, None], axis=1).mean()
    if loss == "binary_cross_entropy":
        return (jax.nn.softplus(output) - y * output).mean()
    return ((ACTIVATIONS[work.output](output) - y) ** 2).mean()


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


def _outputs(work, parameters, x):
    return ACTIVATIONS[work.output](_apply(work.layers, x, iter(parameters), [], None))


def prepare_predict(work, threads):
    parameters = [jnp.array(array) for array in work.arrays()]
    forward = jax.jit(partial(_outputs, work))
    return lambda x: np.asarray(forward(parameters, x))
