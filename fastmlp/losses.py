"""The losses by name and by code, and the outputs that each goes with.

Element-wise losses are means over all elements, cross_entropy is a mean over rows, as in
PyTorch. Each row counts with its sample weight, and a mean divides by the batch's sum of them.
poisson_deviance is half the Poisson deviance: poisson plus what depends on the targets alone, so
that it is 0 where the outputs are the targets. The formulas stand in `fastmlp.reference`.
"""

from __future__ import annotations

MSE, MAE, HUBER, BINARY_CROSS_ENTROPY, CROSS_ENTROPY, POISSON, PINBALL, POISSON_DEVIANCE = range(8)

LOSSES = (
    "mse",
    "mae",
    "huber",
    "binary_cross_entropy",
    "cross_entropy",
    "poisson",
    "pinball",
    "poisson_deviance",
)
"""Every loss; the position of a name is its code."""

OUTPUTS_OF: dict[str, tuple[str, ...]] = {
    "mse": ("identity", "sigmoid", "softmax", "exp"),
    "mae": ("identity", "sigmoid", "softmax", "exp"),
    "huber": ("identity", "sigmoid", "softmax", "exp"),
    "binary_cross_entropy": ("sigmoid",),
    "cross_entropy": ("softmax",),
    "poisson": ("exp",),
    "pinball": ("identity", "sigmoid", "exp"),
    "poisson_deviance": ("exp",),
}
"""The outputs on whose range a loss is defined; the likelihoods take their canonical output only,
whose fused form is stable for logits of any size."""
