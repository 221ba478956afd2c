"""`Network`: a frozen description of a network and the objective, without arrays."""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.activations import HIDDEN, OUTPUTS, Activation
from fastmlp.model.component import Layer, Part
from fastmlp.model.heads import Head, Objective, checked_heads, columns_of_heads
from fastmlp.model.initializers import Normal, Uniform, checked_inits
from fastmlp.model.inputs import NAMES, Blocks, InputBlock, checked_inputs, columns_of, sparse_columns
from fastmlp.model.layers import Dense, Dropout, checked_activation, checked_dropout, checked_layers
from fastmlp.model.loss import Loss
from fastmlp.model.losses import LIKELIHOODS, LOSSES, loss_of
from fastmlp.model.lowering import lowered
from fastmlp.model.monotone import Signs, checked_monotone, signs_of
from fastmlp.model.operations import Operation, Table, tables_of

CONVENTIONS = ("torch", "sklearn")


LEAST_SCALE = 2.0**-149
"""The least float32 number above 0."""

MAX_PARAMETERS = 2**31
"""The most parameters of a network: 8 GiB in float32, and the same again for gradients and each moment.
Larger networks are refused before any allocation."""

USUAL = "relu", 0.0, "glorot_uniform", "zeros"
"""The defaults of hidden, dropout, weight_init and bias_init."""


@checks.listing(hidden=HIDDEN, outputs=OUTPUTS, losses=LOSSES, likelihoods=LIKELIHOODS, blocks=NAMES)
@dataclass(frozen=True, init=False, eq=False, repr=False)
class Network:
    """A multi-layer perceptron and the objective for training.

    Parameters
    ----------
    sizes : sequence of int
        In place of inputs and layers: columns of X, and units of every `Dense` layer, (n_in, hidden...,
        n_out), two or more of at least 1.
    hidden : str or Activation, or a sequence of them
        Activation of the hidden layers, for all layers or for each:
        {hidden},
        or a custom `Activation`.
    output : str, optional
        Activation of the last layer. None: the activation of the loss, identity if the loss takes several. Of
        {outputs}.
    loss : str or Loss, optional
        None: binary_cross_entropy for sigmoid, cross_entropy for softmax, mse for other outputs. Or a name of
        {losses};
        a loss with parameters, as `Huber(0.5)`, `Quantiles`, `CrossEntropy(smoothing=0.1)` or `Focal`; or a
        custom `Loss` or `RowLoss`. Means over all elements; over rows for cross_entropy, focal and `RowLoss`;
        over targets with several outputs for
        {likelihoods}.
    dropout : float or sequence of float
        Probability in [0, 1) of dropping a hidden unit while training; remaining units are scaled by 1 / (1 -
        p). A number for all hidden layers or for each.
    l1, l2 : float
        Penalties on the weights, not the biases: l1 * sum|w| + l2 / 2 * sum w^2 is added to the loss of every
        batch.
    weight_init : str, Normal or Uniform
        glorot_uniform, glorot_normal, he_uniform, he_normal, `Normal(scale)` or `Uniform(low, high)`. Or
        nguyen_widrow, for few inputs, scaled to -1 .. 1: it sets the biases, too, so that the steep parts of
        the units of a layer cover its inputs evenly, as MATLAB's `initnw` does. Layers without an activation,
        and the outputs, start as with glorot_uniform then.
    bias_init : str, Normal or Uniform
        zeros, uniform (within 1/sqrt(fan_in), as torch.nn.Linear), `Normal(scale)` or `Uniform(low, high)`.
    input_scale : float
        Factor of every input, in training and in predictions; above 0. 1 / 255 makes numbers from 0 to 1 of
        pixels in bytes, converted a few rows at a time.
    convention : str
        The scaling of the objective. "torch": as described above. "sklearn": as scikit-learn's MLPClassifier
        and MLPRegressor, see the notes.
    inputs : int, or list or dict of blocks
        Columns of X, for a network of `layers`; or blocks of columns, and then X is a list or a dict, too:
        {blocks}.
    layers : sequence of layers, str or Activation
        In place of sizes, hidden, dropout and initialisers: layers (docs/layers.md lists all), names of
        activations, and a custom `Layer` or `Activation`; the last layer is a `Dense` of n_out units.
    heads : dict of `Head`
        In place of the last `Dense`, output and loss: several heads, by name. Targets and predictions are
        dicts of these names; the sum of the heads' losses is minimised.
    head : `Head`
        In place of the last `Dense`, output and loss: a single head. Targets and predictions are arrays.
    monotone : sequence or mapping of int, optional
        1, -1 or 0 for each column of X, or by the indices of some: every output rises, falls, or may do both
        as the column does, for any two rows that differ in such columns only. With a softmax of two classes
        the second class rises. Weights keep signs from the first step on. For networks of `Dense` layers,
        dropout and activations that never fall, as relu; blocks without a constraint may have embeddings.

    Attributes
    ----------
    n_in : int
        Columns of X.
    n_out : int
        Outputs.
    operations : tuple of `fastmlp.model.operations.Operation`
        The network as a list of operations.
    blocks : tuple of blocks of inputs
        The blocks of X; empty if `inputs` is a number.
    is_chain : bool
        True for `Dense` layers without names, with biases and common penalties, on columns of X.
    widths : tuple of int
        Columns of X, and the units of every dense layer.
    activations : tuple of str and Activation
        The activation of every dense layer, the output's last.
    drops : bool
        True if training drops units.
    penalises : bool
        True if weights have a penalty.
    members : int
        The number of networks in `Members`; predictions are the mean. 1 without `Members`.
    needs_batches : bool
        True if an operation uses all rows of a batch, so that a batch needs two rows.

    Notes
    -----
    With convention="sklearn" the penalties are divided by the sum of the batch's sample weights;
    binary_cross_entropy, poisson and poisson_deviance are sums over the outputs and means over the rows; mse
    counts half, with the derivative of a sum over the outputs, while the reported value is a mean over the
    outputs (as in scikit-learn 1.9: for more than one output the gradient is not the gradient of the loss).
    Probabilities are clipped: the value, not the derivative, of a row's cross_entropy, of an element's
    binary_cross_entropy, lies within -log of 1 - eps and of eps. The loss of an epoch weights every batch
    with its rows, not with sample weights.

    Raises
    ------
    ValueError, TypeError
        For a value out of range, an unknown name, or an output outside the loss's range.
    """

    inputs: int | Blocks
    layers: tuple[Part, ...]
    output: str
    loss: str | Loss
    l1: float
    l2: float
    input_scale: float
    convention: str
    facts: dict[str, Any]
    heads: Any
    objective: Objective
    n_in: int
    n_out: int
    monotone: tuple[int, ...] | None = None

    def __init__(
        self,
        sizes: Sequence[int] | None = None,
        hidden: str | Activation | Sequence[str | Activation] = "relu",
        output: str | None = None,
        loss: str | Loss | None = None,
        *,
        dropout: float | Sequence[float] = 0.0,
        l1: float = 0.0,
        l2: float = 0.0,
        weight_init: str | Normal | Uniform = "glorot_uniform",
        bias_init: str | Normal | Uniform = "zeros",
        input_scale: float = 1.0,
        convention: str = "torch",
        inputs: int | Sequence[InputBlock] | Mapping[str, InputBlock] | None = None,
        layers: Sequence[Part | str | Activation | Layer] | None = None,
        heads: Mapping[str, Head] | None = None,
        head: Head | None = None,
        monotone: Sequence[int] | Mapping[int, int] | None = None,
    ) -> None:
        if (layers is None) == (sizes is None) or (layers is None) != (inputs is None):
            raise TypeError("a Network takes sizes, or inputs and layers")
        of_sizes: tuple[Any, ...] = hidden, dropout, weight_init, bias_init
        if heads is not None or head is not None:
            given_here = (output or "identity", loss or "mse", convention)
            if layers is None or given_here != ("identity", "mse", "torch"):
                raise TypeError("heads go with inputs and layers, and have an output and a loss each")
            heads = checked_heads(heads, head)
        if sizes is not None:
            inputs, layers = _dense_layers(sizes, *of_sizes)
        elif not all(
            type(one) in (type(other), int) and one == other
            for one, other in zip(of_sizes, USUAL, strict=True)
        ):
            raise TypeError(
                "hidden, dropout, weight_init and bias_init go with sizes; with layers each layer has its own"
            )
        else:
            inputs, layers = checked_inputs(inputs, MAX_PARAMETERS), checked_layers(layers)
        if head is not None and not head.masked:  # a network like others
            layers = (*layers, *head.layers, Dense(head.units))
            heads, output, loss = None, head.output, head.loss
        facts: dict[str, Any] = {
            "inputs": inputs,
            "layers": layers,
            "output": "identity",
            "loss": "mse",
            "l1": checks.real("l1", l1, 0),
            "l2": checks.real("l2", l2, 0),
            "input_scale": checks.real("input_scale", input_scale, 0, open_low=True),
            "convention": checks.choice("convention", convention, CONVENTIONS),
        }
        if input_scale != 1 and not isinstance(inputs, int):
            raise ValueError("input_scale goes with inputs that are a number of columns, not with blocks")
        if input_scale < LEAST_SCALE:
            raise ValueError(f"input_scale must be above 0 in float32, too, got {checks.shown(input_scale)}")
        self.__dict__.update(facts, facts=facts, heads=heads or {}, n_in=columns_of(inputs))
        if sizes is None:
            self._check_layers()
        if heads:
            facts |= _as_given(heads)
            n_out = sum(one.units for one in heads.values())
            objective = heads[""].objective if "" in heads else Objective(n_out, "identity", "mse")
        else:
            last: Any = layers[-1]
            objective = Objective.checked(n_out := last.units, output, loss, convention)
            facts |= {"output": objective.output, "loss": objective.loss}
        if monotone is not None and (signs := checked_monotone(monotone, self.n_in)) is not None:
            facts["monotone"] = signs
        self.__dict__.update(facts, n_out=n_out, objective=objective)
        self.__dict__.update(output=objective.output, loss=objective.loss)
        if self.monotone is not None:
            _ = self.signs  # refuses layers

    def _check_layers(self) -> None:
        """Raise ValueError for layers that do not fit, or too many parameters."""
        try:
            operations = lowered(self.inputs, self.layers, "identity", self.l1, self.l2, self.heads)
        except RecursionError:
            raise ValueError("the layers are nested too deeply") from None
        if operations[-1].end > MAX_PARAMETERS:
            raise ValueError("the layers have more parameters than 2^31")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Network):
            return NotImplemented
        # Caches compare their keys at every call: the facts of two layers take 1 us.
        if self._token is not other._token and self.facts == other.facts:
            other.__dict__["_token"] = self._token
        return self._token is other._token

    @functools.cached_property
    def _token(self) -> object:
        """An object that networks share which were found equal."""
        return object()

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        # Of what differs between networks most often: a short training asks many caches.
        return hash((self.inputs, self.layers, self.output, self.loss, self.l2))

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(type(self), **self.facts), ()

    def __repr__(self) -> str:
        return f"Network({', '.join(f'{name}={value!r}' for name, value in self.facts.items())})"

    def __str__(self) -> str:
        from fastmlp.model.picture import written

        return written(self.operations, self.n_in, self._loss_names)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Write a picture of the layers, with shapes, parameter counts and arrows.

        Needs the extra `plot`.

        Parameters
        ----------
        path : the file's name; the ending (.png, .pdf, .svg, ..) gives the format

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            If matplotlib has no such format.
        """
        from fastmlp.model.picture import draw

        draw(self.operations, self.n_in, self._loss_names, path)

    def replaced(self, **changes: Any) -> Network:
        """Return the network with other values for some arguments."""
        return type(self)(**{**self.facts, **changes})

    def unpenalised(self) -> Network:
        """Return the network without penalties."""
        parts: dict[str, Any] = {"layers": tuple(one.unpenalised() for one in self.layers)}
        if self.heads:
            parts |= _as_given({name: head.unpenalised() for name, head in self.heads.items()})
        return self.replaced(l1=0.0, l2=0.0, **parts)

    def check_rows(self, rows: NDArray[np.int64]) -> None:
        """Raise ValueError if a step has a single row and the network needs batches; rows : (steps,)"""
        if self.needs_batches and (rows == 1).any():
            raise ValueError(
                "a BatchNorm needs at least 2 rows in every batch, and one has 1; choose another batch_size"
            )

    def head_weights(self, targets: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return each row's weight in the mean of each head's loss, (heads, rows); see `Head.row_weights`."""
        columns = columns_of_heads(self.heads)
        return np.array(
            [head.row_weights(targets[:, columns[name]], weights) for name, head in self.heads.items()]
        )

    def head_totals(self, targets: NDArray[Any], weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return the sums of `head_weights` (heads,)."""
        return self.head_weights(targets, weights).sum(axis=1)

    def sum_of_heads(self, losses: Any) -> Any:
        """Return the minimised sum, given the losses of the heads (heads, ..)."""
        terms = [head.weight * loss for head, loss in zip(self.heads.values(), losses, strict=True)]
        return functools.reduce(operator.add, terms)  # `sum` corrects the roundings of floats from 3.12 on

    @functools.cached_property
    def head_names(self) -> tuple[str, ...]:
        """The keys of targets and outputs as dicts; empty for arrays."""
        return tuple(name for name in self.heads if name)

    @functools.cached_property
    def loss_curves(self) -> tuple[str, ...]:
        """The names of losses in a history: "loss", and "NAME_loss" for named heads."""
        return "loss", *(f"{name}_loss" for name in self.head_names)

    @property
    def losses(self) -> tuple[str | Loss, ...]:
        """The loss, or the losses of the heads."""
        return tuple(head.loss for head in self.heads.values()) or (self.loss,)

    @property
    def _loss_names(self) -> str:
        return ", ".join(loss_of(loss).name for loss in self.losses)

    @functools.cached_property
    def sparse_in(self) -> int:
        """The number of last columns of X that may be sparse: the columns of a product."""
        return max(one.sparse_in for one in self.operations)

    @property
    def takes_sparse(self) -> bool:
        """True if a product reads X itself, or `SparseNumbers`; other operations need dense rows."""
        return self.sparse_in > 0

    def updates_sparsely(self, optimizer: Any) -> bool:
        """True if a step moves only the rows of category tables in the batch."""
        return any(one.updates_sparsely(optimizer.rule) for one in self.operations)

    @functools.cached_property
    def signs(self) -> Signs:
        """The sign that each parameter keeps (P,), of a network that is `monotone`; 0 of both."""
        assert self.monotone is not None
        objectives = [head.objective for head in self.heads.values()] or [self.objective]
        return signs_of(self.operations, self.monotone, objectives)

    @functools.cached_property
    def settles(self) -> bool:
        """True if a state is fitted to the training rows, as bins by quantiles."""
        return any(getattr(one.layer, "settles", False) for one in self.operations)

    @functools.cached_property
    def tables(self) -> tuple[Table, ...]:
        """The tables of categories, a table for each column."""
        return tables_of(self.operations)

    @property
    def table_rows(self) -> int:
        """Rows of all tables of categories."""
        return sum(table.levels + 1 for table in self.tables)

    def check_sparse(self, sparse: bool) -> None:
        """Raise ValueError unless the network takes sparse X, or dense X."""
        if sparse and not self.takes_sparse:
            raise ValueError("sparse X needs a network whose first layer is a Dense; give X as an array")
        if not sparse and sparse_columns(self.blocks):
            raise ValueError("a network with SparseNumbers takes X as a list or a dict of blocks")

    @functools.cached_property
    def operations(self) -> tuple[Operation, ...]:
        """The network as a list of operations; see `fastmlp.model.operations`."""
        return _operations_of(self)

    @property
    def blocks(self) -> Blocks:
        """The blocks of X; empty if `inputs` is a number."""
        return () if isinstance(self.inputs, int) else self.inputs

    @functools.cached_property
    def dense(self) -> tuple[Operation, ...]:
        """The products."""
        return tuple(one for one in self.operations if one.is_dense)

    @functools.cached_property
    def is_chain(self) -> bool:
        """True for `Dense` layers without names, with biases and common penalties, on columns of X."""
        plain = not self.blocks and not self.heads and len(self.dense) == len(self.operations)
        layers: list[Any] = [one.layer for one in self.dense]
        return plain and all(one.bias and (one.l1, one.l2, one.name) == (None,) * 3 for one in layers)

    def check_chain(self) -> None:
        """Raise ValueError unless the network is a chain, whose arrays stand in lists."""
        if not self.is_chain:
            raise ValueError(
                f"this network is no chain of like dense layers (it has {self.unlike_a_chain}); its "
                "arrays stand by name in `layers`"
            )

    @functools.cached_property
    def widths(self) -> tuple[int, ...]:
        """Columns of X, and the units of every dense layer."""
        return self.n_in, *(one.n_out for one in self.dense)

    @property
    def activations(self) -> tuple[str | Activation, ...]:
        """The activation of every dense layer, the output's last."""
        return tuple(one.activation for one in self.dense)

    @functools.cached_property
    def drops(self) -> bool:
        """True if training drops units."""
        return any(one.dropout for one in self.operations)

    @functools.cached_property
    def penalises(self) -> bool:
        """True if weights have a penalty."""
        return any(one.l1 > 0 or one.l2 > 0 for one in self.operations)

    @functools.cached_property
    def members(self) -> int:
        """The number of networks in `Members`; 1 without."""
        return self.operations[-1].networks

    @functools.cached_property
    def needs_batches(self) -> bool:
        """True if an operation uses all rows of a batch."""
        return any(one.kind.state for one in self.operations)

    @property
    def summary(self) -> str:
        """The widths of a chain, or the counts of inputs, operations and outputs, in a few words."""
        if self.is_chain:
            return str(list(self.widths))
        return f"{self.n_in} inputs, {len(self.operations)} operations, {self.n_out} outputs"

    @property
    def unlike_a_chain(self) -> str:
        """The first feature beyond a chain, for messages: heads, blocks of inputs, or a layer."""
        if self.heads or self.blocks:
            return "heads" if self.heads else "blocks of inputs"
        # A copy is no layer, but what keeps units apart from those that are dropped.
        named = [one for one in self.operations if one.layer is not None or one.dropout]
        unlike = [one.kind.name for one in named if not one.is_dense]
        found = unlike[0] if unlike else "dense layers that differ"
        return "dropout" if found == "copy" else found


def _dense_layers(
    sizes: Any, hidden: Any, dropout: Any, weight_init: Any, bias_init: Any
) -> tuple[int, tuple[Part, ...]]:
    """Return the inputs and the layers of these arguments of `Network`."""
    n_in, *units = _check_sizes(sizes)
    depth = len(units) - 1
    if checks.sequence(hidden) is None:  # even if there is no hidden layer that would take it
        checked_activation("hidden activation", hidden)
    if isinstance(dropout, Real):
        checked_dropout(dropout)
    hidden = _one_per_layer("hidden", hidden, (str, Activation), depth)
    activations = [checked_activation("hidden activation", one) for one in hidden]
    rates = map(checked_dropout, _one_per_layer("dropout", dropout, Real, depth))
    inits = dict(zip(("weight_init", "bias_init"), checked_inits(weight_init, bias_init), strict=True))
    layers: list[Part] = []
    for width, activation, rate in zip(units, activations, rates, strict=False):
        layers += [Dense(width, activation, **inits), *([Dropout(rate)] if rate else [])]
    return n_in, (*layers, Dense(units[-1], **inits))


def _check_sizes(sizes: Sequence[int]) -> tuple[int, ...]:
    if (listed := checks.sequence(sizes)) is None:
        raise TypeError(f"sizes must be a sequence like [n_in, hidden, n_out], got {checks.shown(sizes)}")
    checked = tuple(checks.whole("every one of sizes", size, 1, MAX_PARAMETERS) for size in listed)
    if len(checked) < 2:
        raise ValueError(f"sizes must hold at least n_in and n_out, got {checks.shown(list(checked))}")
    count = sum((n_in + 1) * n_out for n_in, n_out in pairwise(checked))
    if count > MAX_PARAMETERS:
        raise ValueError(f"sizes {checks.shown(list(checked))} make {count:.3g} parameters; at most 2^31 fit")
    return checked


def _one_per_layer(what: str, value: object, one: type | tuple[type, ...], depth: int) -> tuple[Any, ...]:
    if isinstance(value, one):
        return (value,) * depth
    if (listed := checks.sequence(value)) is None:
        raise TypeError(f"{what} must be one value or one for each hidden layer, got {checks.shown(value)}")
    if len(listed) != depth:
        raise ValueError(f"{what} must hold one value for each of {depth} hidden layers, got {len(listed)}")
    return tuple(listed)


def _as_given(heads: dict[str, Head]) -> dict[str, Any]:
    """Return heads as an argument of `Network`."""
    return {"head": heads[""]} if "" in heads else {"heads": heads}


@functools.lru_cache(maxsize=64)
def _operations_of(network: Network) -> tuple[Operation, ...]:
    return lowered(network.inputs, network.layers, network.output, network.l1, network.l2, network.heads)
