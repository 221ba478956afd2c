"""Readable oracles, transcribed from PyTorch's documentation; they share nothing with fastmlp.

Scalars and plain loops where that is clearest, float64 throughout. Sources: the formulas of
torch.nn (activations, losses), torch.optim (optimisers) and torch.nn.utils.clip_grad_norm_, and
the notebook that the library grew from.
"""

import math

import numpy as np

# --- activations: scalars, of the accuracy of libm over the whole range -----------------------------


def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x)) if x > -700 else math.exp(x)


ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": lambda x: max(0.0, x),
    "leaky_relu": lambda x: x if x >= 0 else 0.01 * x,
    "elu": lambda x: x if x > 0 else math.expm1(x),
    "gelu": lambda x: x * 0.5 * math.erfc(-x / math.sqrt(2.0)),
    "silu": lambda x: x * sigmoid(x),
    "softplus": lambda x: x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x)),
    "sigmoid": sigmoid,
    "tanh": math.tanh,
    "selu": lambda x: 1.0507009873554805 * (x if x > 0 else 1.6732632423543772 * math.expm1(x)),
    "mish": lambda x: x * math.tanh(x + math.log1p(math.exp(-x)) if x > 0 else math.log1p(math.exp(x))),
    "hardswish": lambda x: x * min(max(x + 3, 0), 6) / 6,
}


def hidden(name, z):
    """The activation of an array, element by element."""
    return np.vectorize(ACTIVATIONS[name], otypes=[float])(z)


def softmax(z):
    shifted = np.exp(z - z.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


OUTPUTS = {
    "identity": lambda z: z, "sigmoid": lambda z: hidden("sigmoid", z), "softmax": softmax, "exp": np.exp,
}  # fmt: skip

# --- losses: of the outputs, or of the logits where PyTorch takes those ------------------------------


def element_losses(name, output, z, y, delta=1.0, quantile=0.5):
    """The loss of every element (rows, n_out), before any mean; cross_entropy's sums to a row's."""
    if name == "cross_entropy":  # CrossEntropyLoss with class probabilities
        top = z.max(axis=1, keepdims=True)
        return -y * (z - top - np.log(np.exp(z - top).sum(axis=1, keepdims=True)))
    if name == "binary_cross_entropy":  # BCEWithLogitsLoss
        return np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))
    if name == "poisson":  # PoissonNLLLoss(log_input=True, full=False)
        return np.exp(z) - y * z
    if name == "poisson_deviance":  # half of sklearn.metrics.mean_poisson_deviance
        return np.exp(z) - y - y * (z - np.log(np.where(y > 0, y, 1)))
    if name == "gamma_deviance":  # half of sklearn.metrics.mean_gamma_deviance
        return y / np.exp(z) - np.log(y) + z - 1
    a = OUTPUTS[output](z)
    if name == "focal":  # Lin and others (2017), of each class; gamma = 2
        return -y * (1 - a) ** 2 * np.log(a)
    if name == "binary_focal":  # torchvision.ops.sigmoid_focal_loss(alpha=-1, gamma=2)
        return -y * (1 - a) ** 2 * np.log(a) - (1 - y) * a**2 * np.log(1 - a)
    if name == "gaussian":  # GaussianNLLLoss(mean, y, exp(log variance))
        (mean, log_variance), y = np.hsplit(z, 2), np.hsplit(y, 2)[0]
        variance = np.maximum(np.exp(log_variance), 1e-6)
        return 0.5 * (np.log(variance) + (mean - y) ** 2 / variance)
    if name == "negative_binomial":  # -distributions.NegativeBinomial.log_prob - log y!
        (log_mean, log_dispersion), y = np.hsplit(z, 2), np.hsplit(y, 2)[0]
        r, odds = np.exp(-log_dispersion), np.exp(log_mean + log_dispersion)
        log_gamma = np.vectorize(math.lgamma)
        return log_gamma(r) - log_gamma(y + r) + (y + r) * np.log1p(odds) - y * np.log(odds)
    error = a - y
    if name == "mse":  # MSELoss
        return error**2
    if name == "mae":  # L1Loss
        return np.abs(error)
    if name == "huber":  # HuberLoss(delta)
        return np.where(np.abs(error) <= delta, 0.5 * error**2, delta * (np.abs(error) - 0.5 * delta))
    if name == "pinball":  # Koenker and Bassett (1978): q * (y - a) or (1 - q) * (a - y)
        return np.maximum(quantile * -error, (1 - quantile) * error)
    raise AssertionError(name)


def loss(name, output, z, y, weights=None, delta=1.0, quantile=0.5, convention="torch"):
    """The mean over elements (over rows for cross_entropy), each row with its weight.

    scikit-learn's log_loss, binary_log_loss and poisson_loss are sums over the outputs, its
    squared_loss is half the mean.
    """
    weights = np.ones(len(z)) if weights is None else weights
    rows = element_losses(name, output, z, y, delta, quantile)
    sklearns = convention == "sklearn"
    summed = name in ("cross_entropy", "focal") or (sklearns and ("entropy" in name or "poisson" in name))
    rows = rows.sum(axis=1) if summed else rows.mean(axis=1)
    return np.average(rows, weights=weights) * (0.5 if sklearns and name == "mse" else 1.0)


# --- optimisers: torch.optim, one step at a time ---------------------------------------------------


def clip_grad_norm(gradient, max_norm):
    """torch.nn.utils.clip_grad_norm_."""
    return gradient * min(1.0, max_norm / (np.sqrt((gradient**2).sum()) + 1e-6))


class SGD:
    """torch.optim.SGD with dampening 0."""

    def __init__(self, momentum=0.0, nesterov=False):
        self.momentum, self.nesterov, self.buffer = momentum, nesterov, None

    def step(self, p, g, lr):
        if self.momentum != 0:
            self.buffer = g if self.buffer is None else self.momentum * self.buffer + g
            g = g + self.momentum * self.buffer if self.nesterov else self.buffer
        return p - lr * g


class RMSprop:
    """torch.optim.RMSprop, not centred."""

    def __init__(self, alpha=0.99, epsilon=1e-8, momentum=0.0):
        self.alpha, self.epsilon, self.momentum = alpha, epsilon, momentum
        self.square, self.buffer = 0.0, 0.0

    def step(self, p, g, lr):
        self.square = self.alpha * self.square + (1 - self.alpha) * g**2
        average = np.sqrt(self.square) + self.epsilon
        if self.momentum > 0:
            self.buffer = self.momentum * self.buffer + g / average
            return p - lr * self.buffer
        return p - lr * g / average


class Adam:
    """torch.optim.Adam; with `decay`, torch.optim.AdamW; with `hat`, as Keras has it."""

    def __init__(self, beta1=0.9, beta2=0.999, epsilon=1e-8, decay=0.0, hat=False, amsgrad=False):
        self.betas, self.epsilon, self.decay, self.hat = (beta1, beta2), epsilon, decay, hat
        self.m, self.v, self.t, self.greatest, self.amsgrad = 0.0, 0.0, 0, 0.0, amsgrad

    def step(self, p, g, lr):
        self.t += 1
        p = p - lr * self.decay * p
        self.m = self.betas[0] * self.m + (1 - self.betas[0]) * g
        self.v = self.betas[1] * self.v + (1 - self.betas[1]) * g**2
        if self.hat:
            lr = lr * np.sqrt(1 - self.betas[1] ** self.t) / (1 - self.betas[0] ** self.t)
            return p - lr * self.m / (np.sqrt(self.v) + self.epsilon)
        m_hat = self.m / (1 - self.betas[0] ** self.t)
        self.greatest = np.maximum(self.greatest, self.v)
        v_hat = (self.greatest if self.amsgrad else self.v) / (1 - self.betas[1] ** self.t)
        return p - lr * m_hat / (np.sqrt(v_hat) + self.epsilon)


class ScheduleFree:
    """AdamWScheduleFree of facebookresearch/schedule_free, with its three sequences side by side."""

    def __init__(self, beta1=0.9, beta2=0.999, epsilon=1e-8, decay=0.0, warmup=0):
        self.betas, self.epsilon, self.decay, self.warmup = (beta1, beta2), epsilon, decay, warmup
        self.v, self.t, self.z, self.x, self.total = 0.0, 0, None, None, 0.0

    def step(self, p, g, lr):
        if self.z is None:
            self.z = self.x = p
        self.t += 1
        warm = min(1.0, self.t / self.warmup) if self.warmup else 1.0
        self.v = self.betas[1] * self.v + (1 - self.betas[1]) * g**2
        self.total += warm**2  # weight_lr_power = 2, of rates that only rise
        move = g / (np.sqrt(self.v / (1 - self.betas[1] ** self.t)) + self.epsilon) + self.decay * p
        self.z = self.z - lr * warm * move
        self.x = (1 - warm**2 / self.total) * self.x + warm**2 / self.total * self.z
        return (1 - self.betas[0]) * self.z + self.betas[0] * self.x


def orthogonalised(m):
    """Jordan (2024): five rounds of Newton and Schulz, on the matrix as PyTorch has it, outputs first."""
    x = m.T
    x = x.T if x.shape[0] > x.shape[1] else x
    x = x / max(np.sqrt((x**2).sum()), 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x if m.shape[0] < m.shape[1] else x.T


# --- dropout: Wellons' "lowbias32" in Python's whole numbers -----------------------------------------


def lowbias32(x):
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ (x >> 16)


def keeps(key, step, layer, row, unit, p):
    """Whether a unit is kept: a hash of where and when, against p of the 2^32 words."""
    word = lowbias32(lowbias32(key ^ step % 2**32) ^ layer)
    word = lowbias32((word + row * 0x9E3779B9) % 2**32)
    return lowbias32((word + unit * 0x85EBCA6B) % 2**32) >= int(p * 2**32)


def mask(key, step, layer, rows, units, p):
    return np.array([[keeps(key, step, layer, i, j, p) for j in range(units)] for i in range(rows)])


# --- a network forward, and its objective ---------------------------------------------------------


def pre_activations(weights, biases, names, x, dropout=None, key=0, step=0):
    """The affine outputs of every layer; `names` are the hidden activations."""
    dropout = dropout or [0.0] * len(names)
    found = []
    for layer, (w, b) in enumerate(zip(weights, biases, strict=True)):
        found.append(x @ w + b)
        if layer < len(names):
            x = hidden(names[layer], found[-1])
            if p := dropout[layer]:
                x = x * mask(key, step, layer, *x.shape, p) / (1 - p)
    return found


# --- the notebook ----------------------------------------------------------------------------------


def notebook(w1, b1, w2, b2, x, y, rate, epochs):
    """A 3-4-1 network, relu then sigmoid, by full-batch descent; returns its losses and parameters.

    As it was written: the derivative of the squared error is taken without 1/n, the weights'
    gradients are summed over the rows and the biases' averaged.
    """
    losses = []
    for _ in range(epochs):
        z1 = x @ w1 + b1
        a1 = np.maximum(z1, 0)
        a2 = 1 / (1 + np.exp(-(a1 @ w2 + b2)))
        losses.append(np.mean((a2 - y) ** 2))
        d2 = 2 * (a2 - y) * a2 * (1 - a2)
        d1 = (d2 @ w2.T) * (z1 > 0)
        w2, b2 = w2 - rate * a1.T @ d2, b2 - rate * d2.mean(axis=0)
        w1, b1 = w1 - rate * x.T @ d1, b1 - rate * d1.mean(axis=0)
    return losses, (w1, b1, w2, b2)
