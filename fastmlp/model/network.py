"""`Network`: a frozen description of a network and the objective, without arrays."""

from __future__ import annotations

import functools
import operator
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastmlp import checks
from fastmlp.model.activations import HIDDEN, OUTPUTS, Activation
from fastmlp.model.custom import Layer
from fastmlp.model.heads import Head, Objective, checked_heads, columns_of_heads
from fastmlp.model.initializers import Normal, Uniform
from fastmlp.model.inputs import NAMES, InputBlock, columns_of, sparse_columns
from fastmlp.model.layers import Dense, checked_layers, without_penalties
from fastmlp.model.loss import Loss
from fastmlp.model.losses import LIKELIHOODS, LOSSES, Huber, Quantiles, loss_of
from fastmlp.model.lowering import USUAL, Chain, chain_layers, checked_chain, checked_list, lowered
from fastmlp.model.monotone import Signs, checked_monotone, signs_of
from fastmlp.model.operations import Operation, Table, custom_kind, tables_of
from fastmlp.model.part import Part

CONVENTIONS = ("torch", "sklearn")


LEAST_SCALE = 2.0**-149
"""The least float32 number above 0."""


@checks.listing(hidden=HIDDEN, outputs=OUTPUTS, losses=LOSSES, likelihoods=LIKELIHOODS, blocks=NAMES)
@dataclass(frozen=True, init=False, eq=False, repr=False)
class Network:
    """A multi-layer perceptron and the objective for training.

    Parameters
    ----------
    sizes : sequence of int
        Units of every layer of a chain, inputs first: (n_in, hidden..., n_out), two or more of at least 1.
    hidden : str or Activation, or a sequence of them
        Activation of the hidden layers, for all layers or for each:
        {hidden},
        or a custom `Activation`. An activation with parameters makes a network of `layers` instead of a
        chain.
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
    huber_delta, quantile : float
        With loss="huber" and "pinball": as in `Huber(huber_delta)` and `Quantiles(quantile)`.
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
        activations, and a custom `Layer` or `Activation`; the last layer is a `Dense` of n_out units. A list
        of equal `Dense` layers is the chain of `sizes`.
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
        True for a chain of equal dense layers, as of `sizes` and `hidden`.
    widths : tuple of int
        Columns of X, and the units of every dense layer: the sizes of a chain.
    drops : bool
        True if training drops units.
    penalises : bool
        True if weights have a penalty.
    members : int
        The number of networks in `Members`; predictions are the mean. 1 without `Members`.
    needs_batches : bool
        True if an operation uses all rows of a batch, so that a batch needs two rows.
    sizes : tuple of int
        Of a chain, as are `hidden`, `dropout`, `weight_init` and `bias_init`. Another network has `inputs`
        and `layers`.

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

    sizes: tuple[int, ...]
    hidden: tuple[str | Activation, ...]
    output: str
    loss: str | Loss
    dropout: tuple[float, ...]
    l1: float
    l2: float
    weight_init: str | Normal | Uniform
    bias_init: str | Normal | Uniform
    input_scale: float
    convention: str
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
        huber_delta: float = 1.0,
        quantile: float = 0.5,
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
        if heads is not None or head is not None:
            given_here = (output or "identity", loss or "mse", convention)
            if layers is None or given_here != ("identity", "mse", "torch"):
                raise TypeError("heads go with inputs and layers, and have an output and a loss each")
            heads = checked_heads(heads, head)
        if head is not None and not head.masked:  # a network like others
            layers = (*checked_layers(layers), *head.layers, Dense(head.units))
            heads, output, loss = None, head.output, head.loss
        given_apart = {
            "huber": Huber(checks.real("huber_delta", huber_delta, 0, open_low=True)),
            "pinball": Quantiles(checks.real("quantile", quantile, 0, 1, open_low=True, open_high=True)),
        }
        loss = given_apart.get(loss, loss) if isinstance(loss, str) else loss
        penalties = {"l1": checks.real("l1", l1, 0), "l2": checks.real("l2", l2, 0)}
        derived: dict[str, Any]
        given: tuple[Any, ...] = hidden, dropout, weight_init, bias_init
        chain: Any
        operations: tuple[Operation, ...] = ()
        if layers is None:
            chain = checked_chain(sizes, *given)
            if any(map(custom_kind, chain.hidden)):  # parameters of an activation: an operation of their own
                inits = {"weight_init": chain.weight_init, "bias_init": chain.bias_init}
                inputs, layers, given = chain.sizes[0], chain_layers(*chain[:3], **inits), USUAL
        if layers is not None:
            chain, operations = checked_list(inputs, layers, given, **penalties, heads=heads)
        if isinstance(chain, Chain):
            derived = {
                "is_chain": True, "widths": chain.sizes, "drops": any(chain.dropout),
                "penalises": l1 > 0 or l2 > 0, "needs_batches": False,
            }  # fmt: skip
        else:
            derived = {
                "is_chain": False,
                "widths": (columns_of(chain["inputs"]), *(one.n_out for one in operations if one.is_dense)),
                "drops": any(one.dropout for one in operations),
                "penalises": any(one.l1 > 0 or one.l2 > 0 for one in operations),
                "needs_batches": any(one.kind.state for one in operations),
            }
        derived["members"] = max((one.networks for one in operations), default=1)
        n_in, n_out = derived["widths"][0], derived["widths"][-1]
        convention = checks.choice("convention", convention, CONVENTIONS)
        if heads:
            n_out = sum(one.units for one in heads.values())
            objective = head.objective if head is not None else Objective(n_out, "identity", "mse")
        else:
            objective = Objective.checked(n_out, output, loss, convention)
        facts = {
            **(chain._asdict() if isinstance(chain, Chain) else chain),
            "output": "identity" if heads else objective.output,
            "loss": "mse" if heads else objective.loss,
            **penalties,
            "input_scale": checks.real("input_scale", input_scale, 0, open_low=True),
            "convention": convention,
        }
        if input_scale != 1 and isinstance(facts.get("inputs"), tuple):
            raise ValueError("input_scale goes with inputs that are a number of columns, not with blocks")
        if input_scale < LEAST_SCALE:
            raise ValueError(f"input_scale must be above 0 in float32, too, got {checks.shown(input_scale)}")
        if heads:
            facts |= _as_given(heads)
        if monotone is not None and (signs := checked_monotone(monotone, n_in)) is not None:
            facts["monotone"] = signs
        parts = facts.get("inputs")
        # Of what differs between networks most often: a short training asks many caches.
        names = ("sizes", "hidden", "l2") if "sizes" in facts else ("inputs", "layers", "l2")
        derived["hashed"] = hash(tuple(map(facts.__getitem__, names)))
        derived["blocks"] = parts if isinstance(parts, tuple) else ()
        derived["heads"] = heads or {}
        derived |= {"objective": objective, "output": objective.output, "loss": objective.loss}
        self.__dict__.update(facts, facts=facts, n_in=n_in, n_out=n_out)
        self.__dict__.update(derived)
        if self.monotone is not None:
            _ = self.signs  # refuses layers

    def __getattr__(self, name: str) -> Any:
        if name in Chain._fields and "facts" in self.__dict__:
            raise AttributeError(
                f"a network with {self.unlike_a_chain} has no {name}: it is no chain of like dense layers; "
                "it has inputs and layers"
            )
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __eq__(self, other: object) -> bool:
        return self.facts == other.facts if isinstance(other, Network) else NotImplemented

    def __hash__(self) -> int:
        hashed: int = self.__dict__["hashed"]
        return hashed

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
        parts: dict[str, Any] = {}
        if not self.is_chain:
            parts["layers"] = tuple(map(without_penalties, self.layers))
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

    @property
    def summary(self) -> str:
        """The sizes, or the counts of inputs, operations and outputs, in a few words."""
        if self.is_chain:
            return str(list(self.sizes))
        return f"{self.n_in} inputs, {len(self.operations)} operations, {self.n_out} outputs"

    @property
    def unlike_a_chain(self) -> str:
        """The first feature beyond a chain, for messages: heads, blocks of inputs, or a layer."""
        if self.heads or self.blocks:
            return "heads" if self.heads else "blocks of inputs"
        # A copy is no layer, but what keeps units apart from those that are dropped.
        named = [one for one in self.operations if one.layer is not None or one.dropout]
        unlike = [one.kind.label for one in named if not one.is_dense]
        found = unlike[0] if unlike else "dense layers that differ"
        return "dropout" if found == "copy" else found

    @functools.cached_property
    def operations(self) -> tuple[Operation, ...]:
        """The network as a list of operations; see `fastmlp.model.operations`."""
        return _operations_of(self)

    @property
    def activations(self) -> tuple[str | Activation, ...]:
        """The activation of every layer of a chain, the output's last."""
        return (*self.hidden, self.output)


def _as_given(heads: dict[str, Head]) -> dict[str, Any]:
    """Return heads as an argument of `Network`."""
    return {"head": heads[""]} if "" in heads else {"heads": heads}


@functools.lru_cache(maxsize=64)
def _operations_of(network: Network) -> tuple[Operation, ...]:
    if network.is_chain:
        inits = {"weight_init": network.weight_init, "bias_init": network.bias_init}
        layers = chain_layers(network.sizes, network.hidden, network.dropout, **inits)
    else:
        layers = network.layers
    inputs = network.blocks or network.n_in
    return lowered(inputs, layers, network.output, network.l1, network.l2, network.heads)
