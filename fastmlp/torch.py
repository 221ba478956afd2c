"""Networks as modules of PyTorch: `fastmlp.torch.Module`."""

from __future__ import annotations

from typing import Any

from numpy.typing import DTypeLike

from fastmlp import checks
from fastmlp.checks import needed
from fastmlp.model.layout import dense_views, named_views
from fastmlp.model.network import Network
from fastmlp.model.optimizers import SGD
from fastmlp.stepper.stepper import Stepper
from fastmlp.trained.model import Model

torch = needed("torch", "torch", "fastmlp.torch")


class Module(torch.nn.Module):  # type: ignore[misc, name-defined]  # torch has no types here
    """A network as a `torch.nn.Module` on the CPU, for losses and optimisers of PyTorch.

    `module(X)` returns the network's outputs (rows, n_out) for a tensor X (rows, n_in), after the output's
    activation; the network's loss and penalties are left out. Hidden units are dropped in training mode.
    `Stepper.backward` computes the derivatives by parameters and by X; a second derivative is refused.
    A backward after another forward repeats the backward's forward first.

    Parameters
    ----------
    network : Network or Model
        A model's parameters are copied.
    seed, most_rows, threads, backend : as for `Stepper`
    dtype : float32 or float64, optional
        Of inputs, outputs and parameters. None: the model's, or float32 for a network.

    Attributes
    ----------
    stepper : Stepper
        The parameters share its memory, also after an optimiser's step.
    weights : torch.nn.ParameterList
        Per layer (n_in, n_out), the transpose of the weights of `torch.nn.Linear`.
    biases : torch.nn.ParameterList
        Per layer (n_out,).
    layers : torch.nn.ModuleDict
        Arrays by name as in `Model.layers`, in place of weights and biases, unless the network is a chain.

    Raises
    ------
    ValueError, TypeError
        For a mistake in the arguments, in one line.
    """

    def __init__(
        self,
        network: Network | Model,
        *,
        seed: int | None = None,
        dtype: DTypeLike | None = None,
        most_rows: int = 1024,
        threads: int = 1,
        backend: str = "auto",
    ) -> None:
        super().__init__()
        checks.instance("network", network, (Network, Model), "a Network or a Model")
        model = network if isinstance(network, Model) else None
        described = network.network if isinstance(network, Model) else network
        dtype = dtype or ("float32" if model is None else model.parameters.dtype)
        options: dict[str, Any] = {"seed": seed, "initial": model, "dtype": dtype, "backend": backend}
        self._hold(Stepper(described, SGD(), most_rows=most_rows, threads=threads, **options))

    def _hold(self, stepper: Stepper) -> None:
        self.stepper, network = stepper, stepper.network
        shared: Any = lambda view: torch.nn.Parameter(torch.from_numpy(view))  # noqa: E731
        if network.is_chain:
            for name in ("weights", "biases"):
                setattr(self, name, torch.nn.ParameterList(map(shared, getattr(stepper, name))))
            by_layer = dense_views(stepper.gradients, network)
            self._gradients = [*(weights for weights, _ in by_layer), *(biases for _, biases in by_layer)]
        else:
            first, each = stepper.parameters.ctypes.data, stepper.parameters.itemsize
            state = {first + each * i for one in network.operations for i in range(one.trained, one.end)}
            made = {layer: _Arrays(arrays, shared, state) for layer, arrays in stepper.layers.items()}
            if clashing := [layer for layer in made if layer in {*dir(torch.nn.ModuleDict()), *dir(self)}]:
                raise ValueError(
                    f"a module of PyTorch's can have no layer {clashing[0]!r}; give it another name"
                )
            self.layers, gradients = torch.nn.ModuleDict(made), named_views(stepper.gradients, network)
            self._gradients = [
                gradients[layer][name] for layer in made for name, _ in made[layer].named_parameters()
            ]
        self._addresses = [parameter.data_ptr() for parameter in self.parameters()]
        self._dtype = torch.from_numpy(stepper.parameters).dtype

    def forward(self, X: Any) -> Any:
        """Return the outputs (rows, n_out) for a tensor X (rows, n_in); errors as of `Stepper.forward`."""
        if not isinstance(X, torch.Tensor):
            raise TypeError(f"X must be a tensor, got {checks.shown(X)}")
        fits = X.dtype == self._dtype or (self.stepper.network.blocks and X.dtype == torch.int64)
        if not fits or X.layout != torch.strided or X.device.type != "cpu":
            raise ValueError(
                f"X must be a dense tensor of {self._dtype} on the CPU, "
                f"got one of {X.dtype}, {X.layout}, on {X.device}"
            )
        return _Passing.apply(self, X, *self.parameters())

    def model(self) -> Model:
        """Return the network with a copy of the parameters as a fastmlp model."""
        return self.stepper.model()

    def extra_repr(self) -> str:
        """Return the text of the network for `repr`."""
        return f"{self.stepper.network.summary}, backend {self.stepper.backend!r}"

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        for parameter in self.parameters():
            moved = fn(parameter.data)
            if moved.data_ptr() != parameter.data_ptr():
                raise TypeError(
                    f"the parameters of fastmlp.torch.Module stay {parameter.dtype} on the CPU, in memory "
                    f"that fastmlp shares; got {moved.dtype} on {moved.device}"
                )
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        trained = [parameter.requires_grad for parameter in self.parameters()]
        return _restored, (type(self), self.stepper, self.training, trained)


class _Arrays(torch.nn.Module):  # type: ignore[misc, name-defined]  # torch has no types here
    """The arrays of a layer: parameters, and buffers for the constant arrays at the addresses `state`."""

    def __init__(self, arrays: dict[str, Any], shared: Any, state: set[int]) -> None:
        super().__init__()
        for name, view in arrays.items():
            if hasattr(self, name):
                raise ValueError(f"a layer of PyTorch's can have no parameter {name!r}; give it another name")
            if view.ctypes.data in state:
                self.register_buffer(name, torch.from_numpy(view))
            else:
                setattr(self, name, shared(view))


def _restored(kind: type[Module], stepper: Stepper, training: bool, trained: list[bool]) -> Module:
    module = kind.__new__(kind)
    torch.nn.Module.__init__(module)
    module._hold(stepper)
    for parameter, trains in zip(module.parameters(), trained, strict=True):
        parameter.requires_grad_(trains)
    return module.train(training)


class _Passing(torch.autograd.Function):  # type: ignore[misc, name-defined]  # torch has no types here
    """A forward of a module, with the backward."""

    @staticmethod
    def forward(ctx: Any, module: Module, X: Any, *parameters: Any) -> Any:
        if [parameter.data_ptr() for parameter in parameters] != module._addresses:
            raise TypeError(
                "the parameters of fastmlp.torch.Module stay in memory that fastmlp shares, and one has "
                "other memory now; write into them, as by parameter.data.copy_(values)"
            )
        ctx.module, ctx.training, ctx.at = module, module.training, module.stepper.steps
        ctx.save_for_backward(X, *parameters)  # they must be the same when the backward comes
        ctx.state, ctx.changes = _state_of(module), module.stepper.changes
        out = _taken(ctx, X)
        module.stepper.steps += module.training  # other units are dropped next time
        return out

    @staticmethod
    def backward(ctx: Any, by_outputs: Any) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "fastmlp.torch.Module has no second derivative; leave out create_graph=True, "
                "model().hessian and hvp have those by X; or use Model.to_torch()"
            )
        X, *_ = ctx.saved_tensors  # which raises where one has changed since
        stepper = ctx.module.stepper
        if stepper.changes != ctx.changes:
            raise RuntimeError("the stepper of this module has changed its parameters since the forward")
        now = _state_of(ctx.module)
        _write_state(ctx.module, ctx.state)  # which forwards in training mode may have moved since
        if stepper.forwards != ctx.number:
            _taken(ctx, X)
        by_inputs = stepper.backward(by_outputs.contiguous().numpy(), inputs=ctx.needs_input_grad[1])
        _write_state(ctx.module, now)
        pairs = zip(ctx.module._gradients, ctx.needs_input_grad[2:], strict=True)
        of_X = None if by_inputs is None else torch.from_numpy(by_inputs)
        return None, of_X, *(torch.tensor(gradient) if needs else None for gradient, needs in pairs)


def _taken(ctx: Any, X: Any) -> Any:
    """Return the outputs of a forward; ctx.number becomes the module's number of forwards."""
    stepper = ctx.module.stepper
    now, stepper.steps = stepper.steps, ctx.at
    try:
        out = stepper.forward(X.detach().contiguous().numpy(), training=ctx.training)
    finally:
        stepper.steps = now
    ctx.number = stepper.forwards
    return torch.from_numpy(out)


def _state_of(module: Module) -> list[Any]:
    """Return the running statistics of batch norms, changed by forwards in training mode."""
    return [buffer.clone() for buffer in module.buffers()]


def _write_state(module: Module, state: list[Any]) -> None:
    for buffer, value in zip(module.buffers(), state, strict=True):
        buffer.copy_(value)
