"""PyTorch as its expert writes it: eager, or steps compiled as a whole; the faster is timed.

Data are tensors, without a DataLoader; a batch is an index_select of the epoch's row order.

eager    modules, autograd, the fused optimiser, gradients set to None
step     gather, forward, backward and update as one function through torch.compile, which drops the
         optimiser's Python
step x8  of chains: eight such steps in a row behind a C++ wrapper, to pay guards and call once for eight

Tried at 784-128-10 b128 and no better on one core of a Xeon with AVX-512: foreach in place of fused
optimisers, only the module compiled, max-autotune-no-cudagraphs for the step.

Members are layers of the package tabm, by TabM's authors. Tables of categories have sparse gradients and
SparseAdam, as have the weights of sparse columns, an `EmbeddingBag`. torch.compile takes no sparse gradient,
so that there the layers above are compiled.
"""

import importlib.util
import math
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from fastmlp import (
    BatchNorm,
    Categories,
    Dense,
    Dropout,
    LayerNorm,
    Members,
    PReLU,
    Residual,
    SparseAdam,
)

from ..works import by_epochs
from . import takes_adam

VERSION = torch.__version__

torch._dynamo.config.cache_size_limit = 64

ACTIVATIONS = {
    "relu": nn.ReLU, "silu": nn.SiLU, "identity": nn.Identity, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU, "elu": nn.ELU,
}  # fmt: skip


class PeriodicNumbers(nn.Module):
    """RealMLP's embedding: each number, and a linear layer of cosines of it."""

    def __init__(self, columns, terms, units):
        super().__init__()
        self.frequencies = nn.Parameter(torch.empty(columns, terms))
        self.phases = nn.Parameter(torch.empty(columns, terms))
        self.weights = nn.Parameter(torch.empty(columns, terms, units))
        self.biases = nn.Parameter(torch.empty(columns, units))

    def forward(self, x):
        z = torch.cos(2 * math.pi * x[:, :, None] * self.frequencies + self.phases)
        # A product of matrices for each column: einsum comes to the same.
        linear = torch.baddbmm(self.biases[:, None], z.transpose(0, 1), self.weights)
        return torch.cat([x, linear.transpose(0, 1).flatten(1)], dim=1)


class Tables(nn.Module):
    """A table of rows for each column of codes, row 0 for the missing."""

    def __init__(self, levels, widths):
        super().__init__()
        self.tables = nn.ModuleList(
            nn.Embedding(count + 1, width, sparse=True) for count, width in zip(levels, widths, strict=True)
        )

    def forward(self, codes):
        return torch.cat([table(codes[:, i] + 1) for i, table in enumerate(self.tables)], dim=1)


class Beside(nn.Module):
    """The sums of a first layer over sparse columns, whose dense columns pass."""

    def __init__(self, columns, units):
        super().__init__()
        self.bag = nn.EmbeddingBag(columns, units, mode="sum", sparse=True)

    def forward(self, x, places, numbers):
        return x, self.bag(places, per_sample_weights=numbers)


class Skip(nn.Module):
    """x + inner(x)."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return x + self.inner(x)


def sequential(layers, width):
    """Return the layers on inputs of a width, and the width of their outputs."""
    modules, linear = [], nn.Linear
    for layer in layers:
        match layer:
            case Members():
                import tabm

                modules.append(tabm.EnsembleView(k=layer.count))
                linear = partial(tabm.LinearBatchEnsemble, k=layer.count, scaling_init="ones")
            case Dense():
                modules += [linear(width, layer.units), ACTIVATIONS[layer.activation]()]
                width = layer.units
            case LayerNorm():
                modules.append(nn.LayerNorm(width))
            case BatchNorm():
                modules.append(nn.BatchNorm1d(width))
            case PReLU():
                modules.append(nn.PReLU(width))
            case Dropout():
                modules.append(nn.Dropout(layer.rate))
            case Residual():
                modules.append(Skip(sequential(layer.layers, width)[0]))
    return nn.Sequential(*(one for one in modules if not isinstance(one, nn.Identity))), width


def ordered(module):
    """The parameters in the order of fastmlp's layers: a member's first factors come before the weights."""
    for one in module.modules():
        own = dict(one.named_parameters(recurse=False))
        yield from [own.pop("r"), *own.values()] if "r" in own else own.values()


def loss_of(work, output, y, loss):
    """The loss of outputs (rows, units), or of members' (rows, members, units)."""
    if loss == "cross_entropy":
        return F.cross_entropy(output, y)  # this and the next take logits
    if loss == "binary_cross_entropy":
        return F.binary_cross_entropy_with_logits(output, y)
    if work.output == "sigmoid":
        output = torch.sigmoid(output)
    return F.mse_loss(output, y if output.ndim == 2 else y[:, None].expand_as(output))


class Module(nn.Module):
    """A work's network, from its start."""

    def __init__(self, work):
        super().__init__()
        block = work.block
        self.embedding, width = nn.Identity(), None
        if work.beside:
            self.embedding = Beside(work.beside.columns, work.layers[0].units)
        elif isinstance(block, Categories):
            self.embedding, width = Tables(block.levels, block.width), sum(block.width)
        elif block.embedding is not None:
            self.embedding = PeriodicNumbers(block.columns, block.embedding.units, block.embedding.width - 1)
            width = block.columns * block.embedding.width
        self.trunk, width = sequential(work.layers, width or block.columns)
        self.work, self.losses = work, work.losses
        self.heads = nn.ModuleList(nn.Linear(width, head.units) for head in work.heads.values())
        self.to(getattr(torch, work.dtype))
        linear = {id(one.weight) for one in self.modules() if hasattr(one, "in_features")}
        with torch.no_grad():
            for parameter, array in zip(ordered(self), work.arrays(), strict=True):
                parameter.copy_(torch.from_numpy(array.T if id(parameter) in linear else array))

    def loss(self, x, targets):
        """Return the loss above the embedding."""
        if isinstance(x, tuple):
            x, sums = x
            x = self.trunk[1:](self.trunk[0](x) + sums)
        else:
            x = self.trunk(x)
        outputs = [head(x) for head in self.heads] or [x]
        parts = [
            loss_of(self.work, output, y, loss)
            for output, y, (loss, _, _) in zip(outputs, targets, self.losses, strict=True)
        ]
        if len(parts) == 1:
            return parts[0]
        return sum(weight * part for part, (_, _, weight) in zip(parts, self.losses, strict=True))


def unsupported(work):
    members = any(isinstance(layer, Members) for layer in work.layers)
    return "needs pip install tabm" if members and importlib.util.find_spec("tabm") is None else None


def ways(work, threads, shuffle=True, way=""):
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # dead units' moments decay into denormals; XLA flushes them too
    steps = {"eager": partial(_module_steps, work, compiled=False)}
    if work.network.is_chain and not getattr(work.optimizer, "momentum", 0.0):
        steps |= {f"step{' x8' * (k > 1)}": partial(_functional_steps, work, together=k) for k in (1, 8)}
    else:
        steps["step"] = partial(_module_steps, work, compiled=True)
    return {name: lambda make=make: by_epochs(work, make(), shuffle) for name, make in steps.items()}


def optimizers_of(work, module):
    """Return the fused optimiser, and SparseAdam's of the tables if there are any."""
    o = work.optimizer
    rate = o.learning_rate
    if not takes_adam(o):
        bias_rate, groups = o.bias_learning_rate or rate, {"weight": [], "bias": []}
        for name, parameter in module.named_parameters():
            groups[name.rpartition(".")[2]].append(parameter)
        given = zip(groups.values(), (rate, bias_rate), strict=True)
        groups = [{"params": parameters, "lr": own} for parameters, own in given]
        return [torch.optim.SGD(groups, momentum=o.momentum, nesterov=o.nesterov, fused=True)]
    tables = [*module.embedding.parameters()] if isinstance(o, SparseAdam) else []
    others = [one for one in module.parameters() if not any(one is table for table in tables)]
    decay = getattr(o, "weight_decay", 0.0)
    made = [torch.optim.AdamW(others, rate, eps=o.epsilon, weight_decay=decay, fused=True)]
    return made + ([torch.optim.SparseAdam(tables, rate, eps=o.epsilon)] if tables else [])


def _tensors(work):
    return [[torch.from_numpy(one) for one in part] for part in work.data()]


def _module_steps(work, compiled):
    """Return steps(orders, count), see `by_epochs`."""
    module, (inputs, targets) = Module(work), _tensors(work)
    optimizers = optimizers_of(work, module)
    sparse = len(optimizers) > 1
    loss_of = torch.compile(module.loss) if compiled and sparse else module.loss

    def step(x, targets):
        loss = loss_of(module.embedding(*x), targets)
        loss.backward()
        for one in optimizers:
            one.step()
            one.zero_grad(set_to_none=True)
        return loss.detach()

    taken = torch.compile(step) if compiled and not sparse else step

    def steps(orders, count):
        if orders is None:
            return torch.stack([taken(inputs, targets) for _ in range(count)]).numpy()
        losses = [
            taken(*([one.index_select(0, rows) for one in part] for part in (inputs, targets)))
            for rows in torch.from_numpy(orders)
        ]
        return torch.stack(losses).numpy()

    return steps


def _functional_steps(work, together):
    """Return steps(orders, count) of a chain, `together` of which are one compiled call."""
    ((X,), (y,)), o = _tensors(work), work.optimizer
    params = [torch.from_numpy(array.copy()) for array in work.arrays()]
    adam, rate = takes_adam(o), o.learning_rate
    beta1, beta2, epsilon = (o.beta1, o.beta2, o.epsilon) if adam else (0.0, 0.0, 0.0)
    kept = 1 - rate * getattr(o, "weight_decay", 0.0)
    rates = [rate, rate if adam else o.bias_learning_rate or rate] * len(work.layers)
    ((loss, _, _),) = work.losses
    acts = [ACTIVATIONS[layer.activation]() for layer in work.layers]

    def loss_by(params, x, y):
        for act, W, b in zip(acts, params[::2], params[1::2], strict=True):
            x = act(torch.addmm(b, x, W))
        return loss_of(work, x, y, loss)

    def some_steps(params, means, squares, count, total, X, y, rows):
        """rows: (together, batch) tensor, or the number of full-batch steps."""
        for i in range(rows if isinstance(rows, int) else len(rows)):
            batch = (
                (X, y) if isinstance(rows, int) else (X.index_select(0, rows[i]), y.index_select(0, rows[i]))
            )
            grads, value = torch.func.grad_and_value(loss_by)(params, *batch)
            total.copy_(value) if isinstance(rows, int) else total.add_(value)
            count += 1
            c1, c2 = 1 / (1 - beta1**count), 1 / (1 - beta2**count)
            for k, (p, g) in enumerate(zip(params, grads, strict=True)):
                if not adam:
                    p -= rates[k] * g
                else:
                    means[k].lerp_(g, 1 - beta1)
                    squares[k].lerp_(g * g, 1 - beta2)
                    if kept != 1:
                        p *= kept
                    p -= rate * c1 * means[k] / ((c2 * squares[k]).sqrt() + epsilon)

    options = {"cpp_wrapper": True} if together > 1 else None
    compiled = torch.compile(some_steps, dynamic=False, fullgraph=True, options=options)
    moments = [[torch.zeros_like(p) for p in params] if adam else [] for _ in range(2)]
    # One element, not 0-d: torch.compile loses writes to 0-d float64 CPU tensors (2.13).
    total, taken = torch.zeros(1, dtype=X.dtype), torch.zeros(1, dtype=X.dtype)

    @torch.no_grad()
    def steps(orders, count):
        step = partial(compiled, params, *moments, taken, total, X, y)
        if orders is None:
            for _ in range(count // together):
                step(together)
            for _ in range(count % together):
                step(1)
            return np.full(count, total.item())  # of the last step, which is compared
        losses = []
        for epoch in torch.from_numpy(orders).split(work.steps):
            total.zero_()
            for rows in epoch.split(together):
                step(rows)
            losses += [total.item() / len(epoch)] * len(epoch)
        return np.array(losses)

    return steps


def prepare_predict(work, threads):
    torch.set_num_threads(threads)
    network = work.start().to_torch()

    def predict(x):
        with torch.inference_mode():
            return network(torch.from_numpy(x)).numpy()

    return predict
