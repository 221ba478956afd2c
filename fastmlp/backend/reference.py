"""The whole mathematics in NumPy: the shortest text that is right, and the oracle for the rest.

Rows of X are samples, z is a layer's affine output, a its activation, delta the derivative of the
loss by z. Every formula is written once and plainly; speed is the compiled backends' matter.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp.formulas.derivatives import gradient as gradient_of
from fastmlp.formulas.elementary import LEAKY_SLOPE
from fastmlp.formulas.expressions import Expression, variable
from fastmlp.model.activations import Activation
from fastmlp.model.backend import Backend, Chunk, Data, Shared
from fastmlp.model.byte_rows import ByteRows, unpacked
from fastmlp.model.layout import layer_slices, layer_views
from fastmlp.model.losses import Loss
from fastmlp.model.network import Network
from fastmlp.model.optimizers import (
    SGD,
    Adam,
    AdamW,
    Optimizer,
    RMSprop,
    RuleOptimizer,
    SparseAdam,
    check_optimizer,
)
from fastmlp.model.precision import takes_bfloat16
from fastmlp.model.sparse import Inputs, SparseRows, touched_by
from fastmlp.model.state import TrainState

Array = NDArray[Any]
Product = Callable[[Any, Any, tuple[int, ...]], Any]

DIVERGING = np.errstate(over="ignore", invalid="ignore")
"""A training that diverges shows in its losses; NumPy need not warn of it, as no kernel does."""

# --- activations ---------------------------------------------------------------------------------


def logistic(z: Array) -> Array:
    """Return 1 / (1 + exp(-z)), with no overflow at either end."""
    e = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, e) / (1 + e)


def normal_cdf(z: Array) -> Array:
    """Return the standard normal distribution function, by erf."""
    from scipy.special import erf

    return (1 + erf(z / z.dtype.type(np.sqrt(2)))) / 2


def activate(name: str | Activation, z: Array) -> Array:
    """Return the activation of z (rows, units)."""
    match name:
        case Activation():
            return name.on_array(z)
        case "identity":
            return z
        case "relu":
            return np.maximum(z, 0)
        case "leaky_relu":
            return np.where(z > 0, z, LEAKY_SLOPE * z)
        case "elu":
            return np.where(z > 0, z, np.expm1(np.minimum(z, 0)))
        case "gelu":
            return z * normal_cdf(z)
        case "silu":
            return z * logistic(z)
        case "softplus":
            return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))
        case "sigmoid":
            return logistic(z)
        case "tanh":
            return np.tanh(z)
        case "softmax":
            e = np.exp(z - z.max(axis=1, keepdims=True))
            return e / e.sum(axis=1, keepdims=True)
        case "exp":
            return np.exp(z)
    raise AssertionError(name)


def activate_gradient(name: str | Activation, z: Array, a: Array, delta: Array) -> Array:
    """Return the derivative of the loss by z, given delta, its derivative by a."""
    match name:
        case Activation():
            return name.backward_on_array(delta, z, a)
        case "identity":
            return delta
        case "relu":
            return np.where(z > 0, delta, 0)  # 0 * inf must not arise
        case "leaky_relu":
            return delta * np.where(z > 0, 1, z.dtype.type(LEAKY_SLOPE))
        case "elu":
            return delta * np.where(z > 0, 1, np.exp(np.minimum(z, 0)))
        case "gelu":
            density = np.exp(-z * z / 2) / z.dtype.type(np.sqrt(2 * np.pi))
            return delta * (normal_cdf(z) + z * density)
        case "silu":
            return delta * (logistic(z) * (1 + z * logistic(-z)))
        case "softplus":
            return delta * logistic(z)
        case "sigmoid":
            return delta * (a * (1 - a))
        case "tanh":
            return delta * (1 - a * a)
        case "softmax":
            return a * (delta - (delta * a).sum(axis=1, keepdims=True))
        case "exp":
            return delta * a
        case _:
            return delta * slope_of(name).on_arrays(z.dtype, {"z": z})


@functools.cache
def slope_of(name: str) -> Expression:
    """Return the derivative of an activation whose slope is not written above."""
    return gradient_of(activate(name, variable("z")), "z")  # type: ignore[arg-type]


# --- the objective --------------------------------------------------------------------------------------


def element_loss(network: Network, a: Array, targets: Array) -> tuple[Array, Array]:
    """Return an element-wise loss of outputs a (rows, n_out), and its derivative by a."""
    r = a - targets
    match network.loss:
        case "mse":
            return r * r, 2 * r
        case "mae":
            return np.abs(r), np.sign(r)
        case "huber":
            d = network.huber_delta
            small = np.abs(r) <= d
            return np.where(small, r * r / 2, d * (np.abs(r) - d / 2)), np.clip(r, -d, d)
        case "pinball":
            q = network.quantile
            slope = np.where(r > 0, 1 - q, -q * (r < 0)).astype(r.dtype)
            return r * slope, slope
    raise AssertionError(network.loss)


def total_of(weights: Array) -> float:
    """Return the sum of rows' weights."""
    return float(weights.sum(dtype=np.float64))


def output_loss(
    network: Network, z: Array, targets: Array, weights: Array, batch_total: float | None = None
) -> tuple[float, Array]:
    """Return the loss of logits z (rows, n_out), and its derivative by z.

    Rows count with `weights` (rows,) over the sum of their batch's, which has no others if None; a batch
    whose weights are all zero has loss and derivative 0.
    """
    a = activate(network.output, z)
    match network.loss:
        case Loss():
            loss, delta = network.loss.on_arrays(z, a, targets, np.array(network.loss_parameters, z.dtype))
        case "cross_entropy":
            shifted = z - z.max(axis=1, keepdims=True)
            log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
            # The labels' weights sum to 1, so a * sum(targets) = a; 0 * -inf never arises.
            loss, delta = (targets * (log_sum - shifted)).sum(axis=1, keepdims=True), a - targets
        case "binary_cross_entropy":
            loss = np.maximum(z, 0) - z * targets + np.log1p(np.exp(-np.abs(z)))
            delta = a - targets
        case "poisson":
            loss, delta = a - targets * z, a - targets
        case "poisson_deviance":
            from scipy.special import xlogy

            loss, delta = a - targets * z + xlogy(targets, targets) - targets, a - targets
        case _:
            loss, by_a = element_loss(network, a, targets)
            delta = activate_gradient(network.output, z, a, by_a)
    if network.clips:
        eps = np.finfo(z.dtype).eps
        loss = np.clip(loss, -np.log1p(-eps), -np.log(eps))
    total = (total_of(weights) if batch_total is None else batch_total) * network.divisor
    if total == 0:
        return 0.0, np.zeros_like(z)
    share = weights[:, None] / z.dtype.type(total)
    counts = share > 0  # 0 * inf must not arise
    value = float(np.where(counts, loss * share, 0).sum(dtype=np.float64)) / network.value_divisor
    return value, np.where(counts, delta * share, 0)


def penalty_share(network: Network, total: float) -> float:
    """Return what a penalty counts in the objective of a batch whose rows' weights have this sum."""
    if network.convention == "torch":
        return 1.0
    return 1 / total if total > 0 else 0.0


def penalty(network: Network, w: Array) -> float:
    """Return the penalties on one layer's weights."""
    # In this order no penalty of 0 meets the infinite square of a weight that is finite.
    return float((network.l1 * np.abs(w) + network.l2 / 2 * w * w).sum())


def penalty_gradient(network: Network, w: Array) -> Array:
    """Return the derivative of `penalty` by w."""
    return network.l1 * np.sign(w) + network.l2 * w


# --- dropout -------------------------------------------------------------------------------------


def scramble(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return a hash of 32-bit words: Wellons' "lowbias32" (2018)."""
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B)
    return bits ^ (bits >> np.uint32(16))


def dropout_mask(
    key: int, step: int, layer: int, shape: tuple[int, int], p: float, places: Array | None = None
) -> Array:
    """Return which units (rows, units) of a batch are kept: the definition for every backend.

    A pure function of its arguments: places (rows,) are the rows' in the batch, 0 to rows - 1 if None, step
    counts updates from 0, hidden layers count from 0, arithmetic is modulo 2^32.
    """
    word = np.array([key], np.uint32)
    for number in (step, layer):
        word = scramble(word ^ np.uint32(number % 2**32))
    places = np.arange(shape[0]) if places is None else places
    rows = scramble(word + places.astype(np.uint32) * np.uint32(0x9E3779B9))
    units = np.arange(shape[1], dtype=np.uint32) * np.uint32(0x85EBCA6B)
    return scramble(rows[:, None] + units) >= np.uint32(p * 2**32)


# --- forward and back --------------------------------------------------------------------------------


def factor(inputs: Inputs | ByteRows) -> Any:
    """Return inputs (rows, n_in) as a factor of products: sparse ones are SciPy's to multiply."""
    return inputs.matrix() if isinstance(inputs, SparseRows) else unpacked(inputs)


def product(a: Any, b: Any, layer: tuple[int, ...]) -> Any:
    """Return a @ b, one of the three products of a layer (n_in, n_out)."""
    return a @ b


def product_of_rounded(a: Any, b: Any, layer: tuple[int, ...]) -> Any:
    """Return a @ b, of numbers in bfloat16 where they are dense and the layer takes it."""
    dense = isinstance(a, np.ndarray) and isinstance(b, np.ndarray)
    return bfloat16(a) @ bfloat16(b) if dense and takes_bfloat16(*layer) else a @ b


def bfloat16(x: Array) -> Array:
    """Return float32 numbers rounded to bfloat16, to nearest and ties to even."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    return ((bits + half) & np.uint32(0xFFFF0000)).view(np.float32)


def forward(
    network: Network, parameters: Array, inputs: Inputs | ByteRows, product: Product = product
) -> Array:
    """Return the last layer's logits (rows, n_out), nothing dropped."""
    *hidden, (w_last, b_last) = layer_views(parameters, network.sizes)
    a = factor(inputs)
    for name, (w, b) in zip(network.hidden, hidden, strict=True):
        a = activate(name, product(a, w, w.shape) + b)
    logits: Array = product(a, w_last, w_last.shape) + b_last
    return logits


@DIVERGING
def predict(
    network: Network, parameters: Array, inputs: Inputs, out: Array, product: Product = product
) -> None:
    """Write the network's output for inputs (rows, n_in) to out (rows, n_out)."""
    out[...] = activate(network.output, forward(network, parameters, inputs, product))


@DIVERGING
def evaluate(network: Network, parameters: Array, data: Data, product: Product = product) -> float:
    """Return the loss over all rows of data, without dropout and penalties."""
    logits = forward(network, parameters, data.inputs, product)
    return output_loss(network, logits, data.targets, data.weights)[0]


@DIVERGING
def gradient(
    network: Network,
    parameters: Array,
    data: Data,
    key: int,
    step: int,
    gradients: Array,
    places: NDArray[np.int64] | None = None,
    total: float | None = None,
    product: Product = product,
) -> float:
    """Write the objective's gradient over all rows of data to gradients (P,); return the objective.

    places, total : of rows that are a part of a batch, see `dropout_mask` and `output_loss`
    """
    total = total_of(data.weights) if total is None else total
    layers = layer_views(parameters, network.sizes)
    sources, logits, activations, scales = [factor(data.inputs)], [], [], []
    for layer, name in enumerate(network.hidden):
        w, b = layers[layer]
        logits.append(product(sources[-1], w, w.shape) + b)
        activations.append(activate(name, logits[-1]))
        scale = np.ones((), parameters.dtype)
        if p := network.dropout[layer]:
            mask = dropout_mask(key, step, layer, activations[-1].shape, p, places)
            scale = mask * parameters.dtype.type(1 / (1 - p))
        scales.append(scale)
        sources.append(activations[-1] * scale)

    w, b = layers[-1]
    share = penalty_share(network, total)
    last = product(sources[-1], w, w.shape) + b
    objective, delta = output_loss(network, last, data.targets, data.weights, total)

    for layer in reversed(range(len(layers))):
        w, _ = layers[layer]
        w_gradient, b_gradient = layer_views(gradients, network.sizes)[layer]
        w_gradient[...] = product(sources[layer].T, delta, w.shape) + share * penalty_gradient(network, w)
        b_gradient[...] = delta.sum(axis=0)
        objective += share * penalty(network, w)
        if layer > 0:
            by_a = product(delta, w.T, w.shape) * scales[layer - 1]
            name = network.hidden[layer - 1]
            delta = activate_gradient(name, logits[layer - 1], activations[layer - 1], by_a)
    return objective


# --- the step ------------------------------------------------------------------------------------


@DIVERGING
def update(
    network: Network,
    optimizer: Optimizer,
    state: TrainState,
    rate: float,
    bias_rate: float,
    touched: NDArray[np.bool_] | None = None,
) -> TrainState:
    """Apply state.gradients in place; return the state with its step advanced."""
    check_optimizer("optimizer", optimizer)
    optimizer.check_layers(len(network.sizes) - 1)
    g = state.gradients
    parts = layer_slices(network.sizes)
    for layer, part in enumerate(parts):
        if optimizer.rate_factor(layer) == 0:
            g[part.weights : part.end] = 0
    if optimizer.clip_norm is not None:
        g *= min(1.0, optimizer.clip_norm / (float(np.linalg.norm(g.astype(np.float64))) + 1e-6))
    for layer, part in enumerate(parts):
        if factor := optimizer.rate_factor(layer):
            rates = np.empty(part.end - part.weights, g.dtype)
            rates[: part.biases - part.weights], rates[part.biases - part.weights :] = rate, bias_rate
            rates *= g.dtype.type(factor)
            own: Any = slice(part.weights, part.end)
            if layer == 0 and touched is not None and optimizer.rule.touched_only:
                own = np.flatnonzero(np.append(np.repeat(touched, part.n_out), np.ones(part.n_out)))
                rates = rates[own]  # the first layer begins the flat vector
            p, (first, second) = state.parameters[own], state.moments[:, own]
            take_step(optimizer.of_layer(layer), p, g[own], first, second, rates, state.step + 1)
            state.parameters[own], state.moments[:, own] = p, (first, second)
    return state._replace(step=state.step + 1)


def take_step(
    optimizer: Optimizer, p: Array, g: Array, first: Array, second: Array, rates: Array, t: int
) -> None:
    """Take step t, counted from 1, of parameters p (n,) and their moments along the gradient g."""
    match optimizer:
        case SGD(momentum=0):
            p -= rates * g
        case SGD():
            first[...] = optimizer.momentum * first + g
            p -= rates * (g + optimizer.momentum * first if optimizer.nesterov else first)
        case RMSprop():
            first[...] = optimizer.alpha * first + (1 - optimizer.alpha) * g * g
            second[...] = optimizer.momentum * second + g / (np.sqrt(first) + optimizer.epsilon)
            p -= rates * second
        case Adam():
            if isinstance(optimizer, AdamW):
                p *= 1 - rates * optimizer.weight_decay
            first[...] = optimizer.beta1 * first + (1 - optimizer.beta1) * g
            second[...] = optimizer.beta2 * second + (1 - optimizer.beta2) * g * g
            unbias = math.sqrt(1 - optimizer.beta2**t)
            epsilon = optimizer.epsilon / unbias if optimizer.epsilon_hat else optimizer.epsilon
            root = np.sqrt(second) / unbias + epsilon
            p -= rates / (1 - optimizer.beta1**t) * first / root
        case SparseAdam():
            first += (1 - optimizer.beta1) * (g - first)
            second += (1 - optimizer.beta2) * (g * g - second)
            unbias = math.sqrt(1 - optimizer.beta2**t) / (1 - optimizer.beta1**t)
            p -= rates * unbias * first / (np.sqrt(second) + optimizer.epsilon)
        case RuleOptimizer():
            new = optimizer.rule.on_arrays(p, g, (first, second), rates, optimizer.constants, t)
            for array, value in zip((p, first, second), new, strict=False):
                array[...] = value


def train_chunk(
    network: Network,
    optimizer: Optimizer,
    state: TrainState,
    data: Data,
    chunk: Chunk,
    key: int,
    threads: int | None,
    losses: NDArray[np.float64],
    shared: Shared | None = None,
    product: Product = product,
) -> TrainState:
    """Take the chunk's steps; write each one's objective to losses (steps,) float64."""
    for s, (start, stop) in enumerate(zip(chunk.starts, chunk.stops, strict=True)):
        rows = chunk.order[start:stop]
        batch = data.take(rows)
        places, total = None, None
        if shared is not None:
            places, total = shared.places[start:stop], float(chunk.totals[s])
        losses[s] = gradient(
            network, state.parameters, batch, key, state.step, state.gradients, places, total, product
        )
        touched = touched_by(unpacked(batch.inputs)) if optimizer.rule.touched_only else None
        if shared is not None:
            shared.add(s, 0, state.gradients.size)
            touched = shared.touched
        rate, bias_rate = chunk.rates[s].tolist()
        state = update(network, optimizer, state, rate, bias_rate, touched)
    return state


BACKEND = Backend("reference", predict, evaluate, gradient, update, train_chunk)

ROUNDED = Backend(
    "reference_bfloat16",
    functools.partial(predict, product=product_of_rounded),
    functools.partial(evaluate, product=product_of_rounded),
    functools.partial(gradient, product=product_of_rounded),
    update,
    functools.partial(train_chunk, product=product_of_rounded),
)
"""The same with operands of products in bfloat16, as `fit(dtype="bfloat16")` has them."""

BACKENDS = {backend.name: backend for backend in (BACKEND, ROUNDED)}
