"""PyTorch modules of activations and layers missing in torch.nn; the import needs PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from fastmlp.exchange.formulas import OTHER, Z
from fastmlp.exchange.text import spelt
from fastmlp.formulas.expressions import CONSTANT, VARIABLE, Expression
from fastmlp.formulas.operations import OPERATIONS

FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{name: getattr(torch, name) for name in OPERATIONS if hasattr(torch, name)},
    "equal": torch.eq,
    "power": torch.pow,
    "expit": torch.sigmoid,
    "softplus": lambda x: torch.logaddexp(x, torch.zeros_like(x)),
    "sum": lambda x: x.sum(dim=-1, keepdim=True),
    "max": lambda x: x.amax(dim=-1, keepdim=True),
}
"""Functions of tensors, by operations of expressions."""


def evaluate(expression: Expression, variables: Mapping[str, Any]) -> Any:
    """Return an expression's differentiable value; variables : tensors (rows, units) or (units,) by name."""
    z = variables[Z]

    def step(node: Expression, parts: list[Any]) -> Any:
        if node.operation == VARIABLE:
            return variables[node.operands[0]]
        if node.operation == CONSTANT:
            kind = torch.bool if node.truth else z.dtype
            return torch.tensor(node.operands[0], dtype=kind, device=z.device)
        return spelt("PyTorch", FUNCTIONS, node.operation)(*parts)

    return expression.fold(step)


class Formula(torch.nn.Module):  # type: ignore[misc]  # its base may not be installed
    """An expression of a row: an activation, or an operation with parameters.

    Parameters
    ----------
    expression : of the variables of `fastmlp.exchange.formulas`
    arrays : (units,) tensors by the names of variables
    fixed : True makes the arrays buffers, not trained
    """

    def __init__(
        self, expression: Expression, arrays: Mapping[str, Any] | None = None, fixed: bool = False
    ) -> None:
        super().__init__()
        self.expression = expression
        for name, tensor in (arrays or {}).items():
            if fixed:
                self.register_buffer(name, tensor)
            else:
                self.register_parameter(name, torch.nn.Parameter(tensor))

    def forward(self, z: Any, other: Any = None) -> Any:
        """Return the value for a tensor (rows, units), and for a second source, if any."""
        arrays = dict([*self.named_parameters(), *self.named_buffers()])
        return evaluate(self.expression, {Z: z, OTHER: other, **arrays})


class Concatenated(torch.nn.Module):  # type: ignore[misc]  # its base may not be installed
    """The concatenated units of tensors (rows, units)."""

    def forward(self, *parts: Any) -> Any:
        """Return the tensor (rows, units of all)."""
        return torch.cat(parts, dim=1)


class Gathered(torch.nn.Module):  # type: ignore[misc]  # its base may not be installed
    """Units of a tensor (rows, units) at some places (n_out,)."""

    def __init__(self, places: Any) -> None:
        super().__init__()
        self.register_buffer("places", places)

    def forward(self, x: Any) -> Any:
        """Return the tensor (rows, n_out)."""
        return x[:, self.places]


class GroupedLinear(torch.nn.Module):  # type: ignore[misc]  # its base may not be installed
    """A separate linear layer for each group of units.

    Parameters
    ----------
    weights, biases : (groups, n_in, n_out) and (groups, n_out) tensors
    """

    def __init__(self, weights: Any, biases: Any) -> None:
        super().__init__()
        self.weights, self.biases = torch.nn.Parameter(weights), torch.nn.Parameter(biases)

    def forward(self, x: Any) -> Any:
        """Return the tensor (rows, groups * n_out) for a tensor (rows, groups * n_in)."""
        groups = x.unflatten(1, self.weights.shape[:2]).transpose(0, 1)
        return torch.baddbmm(self.biases[:, None], groups, self.weights).transpose(0, 1).flatten(1)


class CodeEmbeddings(torch.nn.Module):  # type: ignore[misc]  # its base may not be installed
    """A `torch.nn.Embedding` for each column of codes, with the first row for -1, a missing code.

    Unknown codes get the mean of the rows of all levels.

    Parameters
    ----------
    tables : of each column, as of `fastmlp.exchange.steps.with_unknown`
    """

    def __init__(self, *tables: Any) -> None:
        super().__init__()
        made = [torch.nn.Embedding.from_pretrained(table[1:-1].clone(), freeze=False) for table in tables]
        self.columns = torch.nn.ModuleList(made)

    def forward(self, codes: Any) -> Any:
        """Return the tensor (rows, units) for whole numbers (rows, columns)."""
        found = []
        for code, column in zip(codes.T, self.columns, strict=True):
            row = code + 1
            known = (row >= 0) & (row < column.num_embeddings)
            units = column(torch.where(known, row, 0))
            if not known.all():
                units = torch.where(known[:, None], units, column.weight[1:].mean(dim=0))
            found.append(units)
        return torch.cat(found, dim=1)


STRUCTURES: dict[str, Callable[..., Any]] = {
    "concatenate": Concatenated,
    "gather": Gathered,
    "grouped": GroupedLinear,
    "categories": CodeEmbeddings,
}
"""Modules of the kinds of operations without a row formula, called with arrays."""


class Graph(torch.nn.Module):  # type: ignore[misc]  # its base may not be installed
    """A graph of modules reading the outputs of earlier modules.

    Parameters
    ----------
    modules : in the order of calls
    sources : the places of each module's sources; -1 for the input, -2 for a second input
    heads : the places of the modules of outputs, by name; None for the last module alone
    """

    def __init__(
        self,
        modules: Iterable[Any],
        sources: Iterable[tuple[int, ...]],
        heads: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__()
        self.steps, self.sources, self.heads = torch.nn.ModuleList(modules), list(sources), heads

    def forward(self, *inputs: Any) -> Any:
        """Return the last output, or a dict of head outputs, for a tensor (rows, columns) of each block."""
        outputs = {-1 - i: x for i, x in enumerate(inputs)}
        for place, (module, sources) in enumerate(zip(self.steps, self.sources, strict=True)):
            outputs[place] = module(*(outputs[source] for source in sources))
        if self.heads is None:
            return outputs[len(self.steps) - 1]
        return {name: outputs[place] for name, place in self.heads.items()}
