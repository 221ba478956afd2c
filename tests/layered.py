"""What tests of networks of layers share."""

from __future__ import annotations

from dataclasses import MISSING

import fastmlp
from fastmlp import (
    Activate,
    Adam,
    Add,
    BatchNorm,
    Concatenate,
    Dense,
    LayerNorm,
    Network,
    PReLU,
    Residual,
    RMSNorm,
    Scale,
    Swish,
)
from fastmlp.model.part import LAYERS

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
    "Concatenate": [Dense(11, "tanh", name="low"), Dense(5, "relu"), Concatenate("low"), Dense(OUTPUTS)],
    "Activate": [Dense(11), LayerNorm(), Activate("elu"), Dense(OUTPUTS)],
    "BatchNorm": [Dense(11, "relu"), BatchNorm(), Dense(OUTPUTS)],
    "BatchNorm in blocks": [
        BatchNorm(),
        Dense(11, "relu"),
        Residual(BatchNorm(0.3), Dense(11, "silu")),
        Dense(OUTPUTS),
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
}

REQUIRED = {"groups": 3, "layer": "low"}
"""Fields that a layer has no default for."""


def sample(kind):
    """A layer of a class of the table, as a user makes it with the fewest arguments."""
    fields = kind.__dataclass_fields__.values()
    return kind(**{one.name: REQUIRED[one.name] for one in fields if one.default is MISSING})


def formulas():
    """The layers of the table that are a formula of a row, by the names of their classes."""
    return {name: sample(kind) for name, kind in LAYERS.items() if kind.formula and name != "Residual"}


LISTS |= {
    f"{name} of the table": [Dense(12, "tanh", name="low"), Dense(12), layer, Dense(OUTPUTS)]
    for name, layer in formulas().items()
}


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
