"""Arguments common to the commands: names, layers of `--layers` (parsed, never run), and mistakes."""

from __future__ import annotations

import argparse
import ast
import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fastmlp import checks
from fastmlp.backend.registry import backends, mixed_backend
from fastmlp.model.component import LAYERS, Part
from fastmlp.model.initializers import Normal
from fastmlp.model.layers import checked_layers
from fastmlp.model.losses import loss_of
from fastmlp.model.network import Network
from fastmlp.model.state import BFLOAT16, DTYPES

TRAINED_IN = (*DTYPES, BFLOAT16)
"""The names for `fit(dtype=)`."""


class Mistake(Exception):
    """A mistake in a command's arguments, named by the message."""

    code = 2
    """The exit code."""


class BadFile(Mistake):
    """An unusable file named by the user: the table or the model inside, or the file itself."""

    code = 3


@contextlib.contextmanager
def mistakes() -> Iterator[None]:
    """Turn errors in a `with` block, of a user's arguments, into a Mistake in a line."""
    try:
        yield
    except (ValueError, TypeError, ImportError, OSError) as error:
        raise Mistake(" ".join(str(error).split())) from None


def network_of(
    text: str, activation: str = "relu", output: str | None = None, loss: str | None = None
) -> Network:
    """Return the network of sizes like 64-128-10, with an output and a loss for the last size."""
    try:
        sizes = [int(width) for width in text.split("-")]
    except ValueError:
        raise ValueError(f"network must be sizes like 64-128-10, got {text!r}") from None
    if loss is output is None:
        loss = "mse" if sizes[-1] == 1 else "cross_entropy"
    return Network(sizes, activation, output, loss)


def refuse_unwritable(option: str, path: str, *inputs: str) -> None:
    """Raise Mistake before any work if a path cannot be written, or is a file to be read."""
    target = Path(path).resolve()
    if target.is_dir():
        raise Mistake(f"{option} {path}: it is a directory")
    if not target.parent.is_dir():
        raise Mistake(f"{option} {path}: there is no such directory")
    if target.exists() and any(Path(one).exists() and target.samefile(one) for one in inputs):
        raise Mistake(f"{option} {path}: it is a file that is read; choose another name")
    if target.is_file() or not target.exists():
        try:
            with tempfile.TemporaryFile(dir=target.parent):
                pass
        except OSError as error:
            raise Mistake(f"{option} {path}: {error.strerror or error}") from None


def check_precision(dtype: str, backend: str) -> None:
    """Raise ValueError unless the dtype exists, and the backend has the dtype on this machine."""
    checks.choice("dtype", dtype, TRAINED_IN)
    if dtype == BFLOAT16:
        mixed_backend(backend)
    else:
        checks.choice("backend", backend, ("auto", *backends()))


def widths(text: str) -> list[int]:
    """Return the units of hidden layers, from text like 128,64 or none; ValueError for other text."""
    if text == "none":
        return []
    try:
        found = [int(width) for width in text.split(",")]
    except ValueError:
        raise ValueError(f"hidden must be widths like 128,64 or none, got {text!r}") from None
    for width in found:
        checks.whole("every width of hidden", width, 1)
    return found


# --- --layers

LAYER_TYPES: dict[str, type[Any]] = dict(sorted({**LAYERS, Normal.__name__: Normal}.items()))

MOST_CHARACTERS = 10_000
"""The most characters of --layers, far below the depth limit of Python's parser."""


def layers_of(text: str) -> tuple[Part, ...]:
    """Return the layers in a text; a name besides the kinds of layers is a string like "silu".

    Raises
    ------
    ValueError
        In a line, for a text without layers, or a layer's error.
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
            kind = LAYER_TYPES[checks.choice("layer", name, tuple(LAYER_TYPES))]
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
    """Raise ValueError for options about hidden layers beside --layers."""
    for name in ("hidden", "activation", "dropout"):
        if arguments.layers is not None and getattr(arguments, name) is not None:
            raise ValueError(f"--layers says what the hidden layers are; leave out --{name}")


def network_in_words(network: Network) -> str:
    """Return a line about a network: widths, activations and other operations, and the loss.

    Embeddings of blocks of inputs are left out.
    """
    if network.is_chain:
        parts = [*network.activations]
    else:
        first = next(at for at, one in enumerate(network.operations) if one.is_dense or not network.blocks)
        parts = [part for one in network.operations[first:] for part in (one.kind.name, one.activation)]
        parts = [part for part in parts if part not in ("dense", "copy", "activation", "identity")]
    listed = ", ".join(dict.fromkeys(map(str, parts)))
    return f"{'-'.join(map(str, network.widths))}, {listed}, {losses_in_words(network)}"


def losses_in_words(network: Network) -> str:
    """Return the names of a network's loss, or of those of its heads."""
    return ", ".join(loss_of(one).name for one in network.losses)
