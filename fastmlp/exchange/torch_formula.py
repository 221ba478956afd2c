"""A formula as a module of PyTorch's. Separate because it can only be imported where PyTorch is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from fastmlp.exchange.text import spelt
from fastmlp.formulas.expressions import CONSTANT, VARIABLE, Expression

FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        name: getattr(torch, name)
        for name in (
            "add",
            "subtract",
            "multiply",
            "divide",
            "negative",
            "absolute",
            "sign",
            "sqrt",
            "exp",
            "expm1",
        )
    },
    **{
        name: getattr(torch, name)
        for name in ("log", "log1p", "sin", "cos", "tanh", "erf", "maximum", "minimum")
    },
    **{name: getattr(torch, name) for name in ("where", "greater", "greater_equal", "less", "less_equal")},
    **{name: getattr(torch, name) for name in ("logical_and", "logical_or", "logical_not")},
    "equal": torch.eq,
    "power": torch.pow,
    "expit": torch.sigmoid,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "sum": lambda x: x.sum(dim=-1, keepdim=True),
    "max": lambda x: x.amax(dim=-1, keepdim=True),
}
"""How each operation of an expression is computed, of tensors."""


def evaluate(expression: Expression, z: Any) -> Any:
    """Return an expression's value at a tensor z (rows, units), differentiable."""

    def step(node: Expression, parts: list[Any]) -> Any:
        if node.operation == VARIABLE:
            return z
        if node.operation == CONSTANT:
            kind = torch.bool if node.truth else z.dtype
            return torch.tensor(node.operands[0], dtype=kind, device=z.device)
        return spelt("PyTorch", FUNCTIONS, node.operation)(*parts)

    return expression.fold(step)


class Formula(torch.nn.Module):  # type: ignore[misc]  # its base may not be installed
    """An elementwise activation that an expression describes."""

    def __init__(self, expression: Expression) -> None:
        super().__init__()
        self.expression = expression

    def forward(self, z: Any) -> Any:
        """Return the activation of a tensor (rows, units)."""
        return evaluate(self.expression, z)
