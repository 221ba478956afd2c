"""`--layers`: hidden layers as text, like `Dense(256, silu), LayerNorm()`; it is parsed, and never run."""

from __future__ import annotations

import argparse
import ast
from typing import Any

from fastmlp import checks
from fastmlp.model.initializers import Normal
from fastmlp.model.layers import checked_layers
from fastmlp.model.network import Network
from fastmlp.model.part import LAYERS, Part

KINDS: dict[str, type[Any]] = dict(sorted({**LAYERS, Normal.__name__: Normal}.items()))

MOST_CHARACTERS = 10_000
"""Python's parser takes no deeper text than it has room for; this is far below."""


def layers_of(text: str) -> tuple[Part, ...]:
    """Return the layers that a text lists; a name that is no kind of layers is a text like "silu".

    Raises
    ------
    ValueError
        In one line, if it lists none, or a layer refuses what it is given.
    """
    try:
        if len(text) > MOST_CHARACTERS:
            raise ValueError(f"more than {MOST_CHARACTERS} characters")
        listed = ast.parse(f"[{text}\n]", mode="eval").body
        if not isinstance(listed, ast.List):
            raise SyntaxError
        return checked_layers([_value(node) for node in listed.elts])
    except (SyntaxError, RecursionError, MemoryError):
        expected = "layers must be a list like 'Dense(64, silu), Dropout(0.1)'"
        raise ValueError(f"{expected}, got {checks.shown(text)}") from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"layers: {str(error).removeprefix('layers: ')}") from None


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Name(name):
            return name
        case ast.Call(ast.Name(name)):
            kind = KINDS[checks.choice("layer", name, tuple(KINDS))]
            named = {str(given.arg): _value(given.value) for given in node.keywords}
            try:
                return kind(*map(_value, node.args), **named)
            except (ValueError, TypeError) as error:
                said = str(error).removeprefix(f"{name}.__init__() ")
                raise ValueError(f"{ast.unparse(node)}: {said}") from None
    try:
        return ast.literal_eval(node)
    except ValueError:
        raise ValueError(f"{checks.shown(ast.unparse(node))} is neither a layer nor a value") from None


def refuse_with_layers(arguments: argparse.Namespace) -> None:
    """Raise ValueError for options that say of the hidden layers what --layers does."""
    for name in ("hidden", "activation", "dropout"):
        if arguments.layers is not None and getattr(arguments, name) is not None:
            raise ValueError(f"--layers says what the hidden layers are; leave out --{name}")


def network_in_words(network: Network) -> str:
    """Return a line about a network: its widths, what ends or follows its products, and its loss.

    What makes units of blocks of inputs is left out.
    """
    if network.is_chain:
        parts = [*network.hidden, network.output]
    else:
        first = next(at for at, one in enumerate(network.operations) if one.is_dense or not network.blocks)
        parts = [part for one in network.operations[first:] for part in (one.kind.name, one.activation)]
        parts = [part for part in parts if part not in ("dense", "copy", "activation", "identity")]
    listed = ", ".join(dict.fromkeys(map(str, parts)))
    return f"{'-'.join(map(str, network.widths))}, {listed}, {network.loss}"
