"""What tests of networks of layers share."""

import inspect

import numpy as np

import fastmlp
from fastmlp import (
    Activate,
    Adam,
    Add,
    BatchNorm,
    Concatenate,
    Dense,
    Dropout,
    GroupNorm,
    LayerNorm,
    Members,
    Network,
    Numbers,
    PReLU,
    Residual,
    RMSNorm,
    Scale,
    SwiGLU,
    Swish,
)
from fastmlp.model.component import LAYERS
from fastmlp.model.inputs import BLOCKS, InputBlock

INPUTS, OUTPUTS, ROWS = 7, 3, 50
BLOCK = Residual(LayerNorm(), Dense(9, "silu"), Dense(11))

LISTS = {
    "LayerNorm": [Dense(11, "relu"), LayerNorm(epsilon=1e-3), Dense(OUTPUTS)],
    "RMSNorm": [Dense(11, "tanh"), RMSNorm(), Dense(OUTPUTS)],
    "RMSNorm with an epsilon": [Dense(11, "tanh"), RMSNorm(epsilon=0.1), Dense(OUTPUTS)],
    "PReLU": [Dense(11), PReLU(), Dense(OUTPUTS)],
    "Swish": [Dense(11), Swish(1.3), Dense(OUTPUTS)],
    "Scale": [Dense(11, "tanh"), Scale(), Dense(OUTPUTS)],
    "Residual": [Dense(11, "relu"), BLOCK, BLOCK, Dense(OUTPUTS)],
    "Add": [Dense(11, "relu", name="low"), Dense(11, "tanh"), Add("low"), "gelu", Dense(OUTPUTS)],
    "Add twice": [Dense(11, "silu", name="low"), Add("low"), Add("low"), Dense(OUTPUTS)],
    "a sum in place, whose other source has a later reader": [
        Dense(9, "tanh", name="low"), Dense(9), Add("low"), Concatenate("low"), Dense(OUTPUTS),
    ],
    "Concatenate": [Dense(11, "tanh", name="low"), Dense(5, "relu"), Concatenate("low"), Dense(OUTPUTS)],
    "Activate": [Dense(11), LayerNorm(), Activate("elu"), Dense(OUTPUTS)],
    "BatchNorm": [Dense(11, "relu"), BatchNorm(), Dense(OUTPUTS)],
    "BatchNorm in blocks": [
        BatchNorm(), Dense(11, "relu"), Residual(BatchNorm(0.3), Dense(11, "silu")), Dense(OUTPUTS),
    ],
    "no bias": [Dense(11, "tanh", bias=False), Dense(OUTPUTS, bias=False)],
    "a norm of the inputs": [LayerNorm(), Dense(11, "relu"), Dense(OUTPUTS)],
    "a residual of the inputs": [Residual(Dense(5, "tanh"), Dense(INPUTS)), Dense(OUTPUTS)],
    "residuals that end with a norm and one another": [
        Residual(Dense(INPUTS, "tanh"), LayerNorm()),
        Residual(Dense(5, "relu"), Dense(INPUTS), Residual(Dense(INPUTS))),
        Dense(OUTPUTS),
    ],
    "one layer": [RMSNorm(), Dense(OUTPUTS)],
}  # fmt: skip

EVERYTHING = [
    Dense(16, "silu"), LayerNorm(), Dropout(0.1), Residual(BatchNorm(), Dense(16, "tanh"), Dense(16)),
    Dense(8, "tanh", name="low"), PReLU(), Concatenate("low"), Swish(), RMSNorm(), Scale(), Dense(OUTPUTS),
]  # fmt: skip

MEMBERS = [
    Members(5), Dense(9, "tanh", name="low"), BatchNorm(), Dropout(0.3), Dense(9, bias=False), Add("low"),
    "gelu", Swish(), Dense(OUTPUTS),
]  # fmt: skip

SHARING = [
    Dense(11, "relu"), Members(5), Dense(9, "tanh", name="low"), Residual(Dense(9, "silu")), PReLU(),
    Dense(OUTPUTS),
]  # fmt: skip

REQUIRED = {"units": 4, "count": 2, "rate": 0.5, "activation": "tanh", "groups": 2, "layer": "low"}
REQUIRED |= {"layers": Dense(4), "levels": (3, 1)}
"""By their names, what is given for arguments that have no default."""


def sample(kind):
    """A layer, an embedding or a block of a class of a table, with the fewest arguments."""
    given = [one for one in inspect.signature(kind).parameters.values() if one.default is one.empty]
    several = [REQUIRED[one.name] for one in given if one.kind is one.VAR_POSITIONAL]
    return kind(*several, **{one.name: REQUIRED[one.name] for one in given[len(several) :]})


def formulas():
    """The layers of the table that are a formula of a row, by the names of their classes."""
    return {name: sample(kind) for name, kind in LAYERS.items() if kind.kind.formula}


def blocks():
    """A block of inputs for each entry of the table, in which an embedding is one of numbers; dense ones."""
    for name, kind in BLOCKS.items():
        part = sample(kind)
        block = part if isinstance(part, InputBlock) else Numbers(3, part)
        if not block.is_sparse:  # which are `Numbers` before: tests/model/test_sparse_numbers.py
            yield name, block


def rows_of(block, count, rng):
    """Rows of a block: numbers; or codes, among which some are missing."""
    columns = [rng.integers(-1, levels, count) for levels in block.codes]
    return np.stack(columns, axis=1) if columns else rng.normal(size=(count, block.columns))


LISTS |= {
    f"{name} of the table": [Dense(12, "tanh", name="low"), Dense(12), layer, Dense(OUTPUTS)]
    for name, layer in formulas().items()
}


def of_the_table():
    """A network for each layer that is a formula, and for each block of inputs; and some of their places."""
    for name, one in formulas().items():
        yield name, Network(inputs=INPUTS, layers=[Dense(12, "tanh", name="low"), Dense(12), one, Dense(3)])
    for name, block in blocks():
        yield name, Network(inputs=[Numbers(1), block], layers=[Dense(5, "tanh"), Dense(3)])
    inner = [Dense(4), GroupNorm(2), SwiGLU(3), GroupNorm(3), Dense(4, "tanh"), Residual(SwiGLU(2), Dense(4))]
    yield "groups and gates of members", Network(inputs=INPUTS, layers=[Members(3), *inner, Dense(3)])
    yield "a gate after dropout", Network(inputs=INPUTS, layers=[Dense(8), Dropout(0.3), SwiGLU(), Dense(3)])


TABLED = dict(of_the_table())


def drawn_at_random(seed):
    """A list of layers of random kinds and widths."""
    rng = np.random.default_rng(seed)
    layers, width, names = [], INPUTS, {}
    for number in range(rng.integers(1, 7)):
        kind = rng.choice(["dense", "norm", "unit", "residual", "read"])
        if kind == "dense":
            width, name = int(rng.integers(1, 20)), f"layer{number}"
            activation = str(rng.choice(["relu", "tanh", "silu", "identity", "gelu"]))
            layers.append(Dense(width, activation, bias=bool(rng.integers(2)), name=name))
            names[name] = width
        elif kind == "norm":
            # Two units would be normalised to 1 and -1, whose derivative is 0 but for rounding.
            norms = [RMSNorm(epsilon=0.01), BatchNorm(), LayerNorm()]
            layers.append(norms[rng.integers(3 if width > 2 else 2)])
        elif kind == "unit":
            layers.append([PReLU(), Swish(), Scale(), "elu", "softplus"][rng.integers(5)])
        elif kind == "residual":
            layers.append(Residual(Scale(), Dense(int(rng.integers(1, 9)), "relu"), "tanh", Dense(width)))
        elif names:
            name = str(rng.choice(list(names)))
            layers.append(Concatenate(name))
            width += names[name]
    return [*layers, Dense(OUTPUTS)]


def network(layers, **options):
    return Network(inputs=INPUTS, layers=layers, **options)


def train(layers, rows, epochs=4, **options):
    given = {"optimizer": Adam(0.01), "batch_size": 16, "seed": 1, "progress": False, "dtype": "float64"}
    made = layers if isinstance(layers, Network) else network(layers)
    return fastmlp.fit(made, *rows, epochs=epochs, **given | options)


def tensors(torch, model, fixed):
    """A model's arrays as tensors of PyTorch's by layer and name; all train but those of the names fixed."""
    return {
        layer: {name: torch.tensor(array, requires_grad=name not in fixed) for name, array in arrays.items()}
        for layer, arrays in model.layers.items()
    }
