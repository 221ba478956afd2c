"""The activation functions by name and by code; a code is what a kernel sees.

Definitions and constants are PyTorch's (``torch.nn``): the exact (erf) gelu, elu with alpha 1,
leaky_relu with slope 0.01. Their formulas stand in `fastmlp.reference`.
"""

from __future__ import annotations

IDENTITY, RELU, LEAKY_RELU, ELU, GELU, SILU, SOFTPLUS, SIGMOID, TANH, SOFTMAX, EXP = range(11)

ACTIVATIONS = (
    "identity",
    "relu",
    "leaky_relu",
    "elu",
    "gelu",
    "silu",
    "softplus",
    "sigmoid",
    "tanh",
    "softmax",
    "exp",
)
"""Every activation; the position of a name is its code."""

HIDDEN = ACTIVATIONS[:SOFTMAX]
"""What a hidden layer may use."""

OUTPUTS = ("identity", "sigmoid", "softmax", "exp")
"""What the last layer may use."""

LEAKY_SLOPE = 0.01
