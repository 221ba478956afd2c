"""PyTorch as its expert writes it: fused AdamW, eager or with one step compiled as a whole.

Members are layers of the package tabm, by TabM's authors.

Tables of categories have sparse gradients and SparseAdam, as have the weights of sparse columns, an
`EmbeddingBag`. torch.compile takes no sparse gradient, so that there it has the layers above.
"""

import importlib.util
import math
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from fastmlp import BatchNorm, Categories, Dense, Dropout, LayerNorm, Members, PReLU, Residual, SparseAdam

from .steps import by_epochs

VERSION = torch.__version__

ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "identity": nn.Identity}


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


def mean_square(output, y):
    """The loss of outputs (rows, units) or of members' (rows, members, units)."""
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
        self.losses = work.losses
        self.heads = nn.ModuleList(nn.Linear(width, head.units) for head in work.heads.values())
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
        return sum(
            weight * (F.cross_entropy(output, y) if loss == "cross_entropy" else mean_square(output, y))
            for output, y, (loss, _, weight) in zip(outputs, targets, self.losses, strict=True)
        )


def unsupported(work):
    """Why a work is left out, or None."""
    members = any(isinstance(layer, Members) for layer in work.layers)
    return "needs pip install tabm" if members and importlib.util.find_spec("tabm") is None else None


def ways(work, threads, shuffle=True):
    """Name to prepare() -> run(epochs), which trains and returns mean losses, the last epoch's last."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    return {
        name: lambda compiled=compiled: by_epochs(work, _steps(work, *work.data(), compiled), shuffle)
        for name, compiled in (("eager", False), ("step", True))
    }


def _steps(work, x, y, compiled):
    """Return steps(orders), the losses of steps on the rows that each line of orders names."""
    module, inputs, targets = Module(work), *(list(map(torch.from_numpy, part)) for part in (x, y))
    tables = [one for one in module.embedding.parameters() if isinstance(work.optimizer, SparseAdam)]
    others = [one for one in module.parameters() if not any(one is table for table in tables)]
    rate, decay = work.optimizer.learning_rate, getattr(work.optimizer, "weight_decay", 0.0)
    optimizers = [torch.optim.AdamW(others, rate, eps=work.optimizer.epsilon, weight_decay=decay, fused=True)]
    optimizers += [torch.optim.SparseAdam(tables, rate, eps=work.optimizer.epsilon)] if tables else []
    loss_of = torch.compile(module.loss) if compiled and tables else module.loss

    def step(x, targets):
        loss = loss_of(module.embedding(*x), targets)
        loss.backward()
        for one in optimizers:
            one.step()
            one.zero_grad(set_to_none=True)
        return loss.detach()

    taken = torch.compile(step) if compiled and not tables else step

    def steps(orders):
        losses = [
            taken(*([one.index_select(0, rows) for one in part] for part in (inputs, targets)))
            for rows in torch.from_numpy(orders)
        ]
        return torch.stack(losses).numpy()

    return steps
