"""Models that come from other programs, and fastmlp's estimators made of models and given to skl2onnx."""

import re

import numpy as np
import pytest
from support.exchanged_models import X, agrees, inputs, model, of_reference

import fastmlp
from fastmlp import (
    Activate,
    BatchNorm,
    Concatenate,
    Dense,
    Layer,
    LayerNorm,
    Model,
    Network,
    PReLU,
)
from fastmlp.backend import reference
from fastmlp.model.layout import flatten

W = [np.array([[1.0, -2.0], [0.5, 1.5], [-1.0, 0.25]]), np.array([[2.0], [-3.0]])]
B = [np.array([0.5, -0.5]), np.array([0.25])]


def test_a_model_that_came_trains_on():
    came = model("tanh", np.float64)
    targets = np.stack([X[:, 0] * X[:, 1], X[:, 2]], axis=1)
    options = {"initial": (came.weights, came.biases), "epochs": 30, "seed": 0, "backend": "reference"}
    went_on = fastmlp.fit(came.network, X, targets, **options)
    assert went_on.history["loss"][-1] < went_on.history["loss"][0]


def test_a_torch_module_of_ones_own():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn = torch.nn
    first = nn.Sequential(nn.Flatten(), nn.Linear(3, 4, bias=False), nn.ELU())
    module = nn.Sequential(first, nn.Dropout(0.25), nn.Linear(4, 2), nn.Softmax(dim=1)).eval()
    got = of_reference(Model.from_torch, module)
    assert got.network == Network([3, 4, 2], "elu", "softmax", "cross_entropy", dropout=0.25)
    agrees(got, module(torch.from_numpy(inputs(np.float32))).detach().numpy(), inputs(np.float32))


def test_a_torch_module_that_stands_twice_is_two_layers():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn = torch.nn
    relu, square = nn.ReLU(), nn.Linear(3, 3)
    module = nn.Sequential(square, relu, square, relu, nn.Linear(3, 1))
    got = of_reference(Model.from_torch, module)
    assert got.network.widths == (3, 3, 3, 1)
    agrees(got, module(torch.from_numpy(inputs(np.float32))).detach().numpy(), inputs(np.float32))


def test_torch_formulas_are_differentiable_and_can_be_pickled(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    module = model("sine", np.float64).to_torch()
    torch.save(module, tmp_path / "net.pt")
    back = torch.load(tmp_path / "net.pt", weights_only=False)
    rows = torch.from_numpy(X).requires_grad_()
    back(rows).sum().backward()
    assert torch.isfinite(rows.grad).all()
    assert rows.grad.abs().max() > 0


def test_other_torch_modules_are_refused_in_one_line():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn = torch.nn
    infinite = nn.Linear(3, 2)
    nn.init.constant_(infinite.weight, torch.inf)
    hooked = nn.Linear(3, 2)
    hooked.register_forward_hook(lambda module, given, z: 2 * z)
    for modules, said in (
        ([nn.Linear(3, 2), nn.Hardtanh(), nn.Linear(2, 1)],
         "cannot read module '1', Hardtanh; a Sequential may hold:"),
        ([nn.Linear(3, 2), nn.LeakyReLU(0.2), nn.Linear(2, 1)],
         r"LeakyReLU\(negative_slope=0.2\) has no counterpart"),
        ([nn.Linear(3, 2), nn.LayerNorm(2)],
         "the module ends in LayerNorm; a Network ends in a Dense and its output"),
        ([nn.Linear(3, 2), nn.BatchNorm1d(2, track_running_stats=False), nn.Linear(2, 1)],
         r"module '1': BatchNorm1d\(.*\) has no counterpart; it keeps no running mean and variance$"),
        ([nn.Linear(3, 2), nn.RMSNorm(4), nn.Linear(2, 1)], "layer 1 of the module takes 4 units, got 2"),
        ([nn.Linear(3, 2), nn.Linear(4, 1)], "layer 1 of the module takes 4 units, got 2"),
        ([nn.Linear(3, 2), nn.Flatten(0)],
         r"module '1': Flatten\(start_dim=0, end_dim=-1\) has no counterpart"),
        ([nn.Linear(3, 2), nn.Softplus(threshold=1), nn.Linear(2, 1)],
         r"Softplus\(threshold=1\) has no counterpart; softplus has 40.0"),
        ([infinite], "weights and biases of layer 0 of the module must be finite numbers"),
        ([hooked], "module '0' has forward hooks, which have no counterpart"),
        ([nn.LazyLinear(2)], "module '0' has parameters without numbers"),
        ([nn.Linear(3, 2, device="meta")], "module '0' has parameters without numbers"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            Model.from_torch(nn.Sequential(*modules))
    with pytest.raises(TypeError, match=r"module must be a torch.nn.Module, got 3"):
        Model.from_torch(3)


def refused(module, said):
    """Assert that a module is refused in a line, in a Sequential and in one within it."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    chain = torch.nn.Sequential(module, torch.nn.Linear(3, 1)).eval()
    for given, place in ((chain, said), (torch.nn.Sequential(chain), said.replace("'0'", "'0.0'"))):
        with pytest.raises(ValueError, match=re.escape(place)) as raised:
            Model.from_torch(given)
        assert "\n" not in str(raised.value)


def own_class(base, forward, name="Own", method="forward"):
    """A subclass of a class of torch.nn, by name, with another forward."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    kind = getattr(torch.nn, base)
    return type(name, (kind,), {method: lambda self, x: forward(getattr(kind, method), self, x)})


def twice(inherited, self, x):
    return 2 * inherited(self, x)


def masked(inherited, self, x):
    return inherited(self, x.tril())


def residual(inherited, self, x):
    return x + inherited(self, x)


def negative(inherited, self, x):
    return -x


OWN_LAYERS = {
    "Linear": (3, 3), "LayerNorm": (3,), "RMSNorm": (3,), "BatchNorm1d": (3,), "Dropout": (), "PReLU": (3,),
    "Tanh": (),
}  # fmt: skip
"""Arguments of layers of 3 units."""


@pytest.mark.parametrize("base", OWN_LAYERS)
@pytest.mark.parametrize("method", ["forward", "__call__"])
@pytest.mark.parametrize("forward", [twice, masked])
def test_a_subclass_with_its_own_forward_is_refused(base, method, forward):
    module = own_class(base, forward, method=method)(*OWN_LAYERS[base])
    refused(module, f"'0': Own computes with a {method} of its own")


@pytest.mark.parametrize(
    "name", ["Identity", "SiLU", "Tanh", "GELU", "Softplus", "LeakyReLU", "Flatten", "Linear", "Dropout"]
)
def test_a_class_with_the_name_of_one_of_torch_is_refused(name):
    refused(own_class("Module", negative, name)(), f"'0': {name} computes with a forward of its own")


def test_containers_with_their_own_forward_are_refused():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    chain = own_class("Sequential", residual, "Res")(torch.nn.Linear(3, 3))
    refused(chain, "'0': Res computes with a forward of its own")
    with pytest.raises(ValueError, match="'': Res computes with a forward of its own"):
        Model.from_torch(chain)


@pytest.mark.parametrize("case", ["relu", "Add"])
def test_what_to_torch_gives_is_refused_with_another_forward(case):
    """The module, and one of its steps."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    module = model(case, np.float32).to_torch()
    inherited = module.forward
    module.forward = lambda *given: 2 * inherited(*given)
    with pytest.raises(ValueError, match=f"{type(module).__name__} computes with a forward of its own"):
        Model.from_torch(module)
    del module.forward
    of_reference(Model.from_torch, module)
    step = next(module.children())
    step = step[0] if case == "Add" else step
    step.forward = lambda x: x
    with pytest.raises(ValueError, match=f"{type(step).__name__} computes with a forward of its own"):
        Model.from_torch(module)


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
@pytest.mark.parametrize("case", ["relu", "Add"])
def test_containers_with_hooks_are_refused(register, case):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    module = model(case, np.float32).to_torch()
    getattr(module, register)(lambda *given: None)
    for given, name in ((module, ""), (torch.nn.Sequential(module), "0")):
        with pytest.raises(ValueError, match=rf"^{type(module).__name__} module '{name}' has forward hooks"):
            Model.from_torch(given)


@pytest.mark.parametrize("name", ["LayerNorm", "RMSNorm"])
@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_over_several_axes_is_refused(name, affine):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    norm = getattr(torch.nn, name)((2, 3), elementwise_affine=affine)
    refused(norm, f"module '0': {name} of shape (2, 3) has no counterpart; a norm's shape is (units,)")


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated:FutureWarning")
@pytest.mark.parametrize("by", ["weight_norm", "spectral_norm"])
def test_a_weight_that_a_hook_computes_is_that_of_the_next_forward(by):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    module = torch.nn.Sequential(getattr(torch.nn.utils, by)(torch.nn.Linear(3, 2))).eval()
    getattr(module[0], {"weight_norm": "weight_g", "spectral_norm": "weight_orig"}[by]).data.mul_(3)
    got = Model.from_torch(module)
    agrees(got, module(torch.from_numpy(inputs(np.float32))).detach().numpy(), inputs(np.float32))


def test_subclasses_with_the_forward_of_torch_are_read():
    """They may add methods, or compute their arguments; a parametrized module is such a subclass too."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn, weight_norm = torch.nn, torch.nn.utils.parametrizations.weight_norm

    class Own(nn.Linear):
        def __init__(self, width):
            super().__init__(width, width)

        def size(self):
            return self.weight.numel()

    chain = type("Chain", (nn.Sequential,), {})
    squash = type("Squash", (nn.Tanh,), {})
    module = chain(Own(3), squash(), chain(weight_norm(Own(3)), nn.Identity()), weight_norm(nn.Linear(3, 2)))
    got = of_reference(Model.from_torch, module.eval())
    assert got.network.widths == (3, 3, 3, 2)
    agrees(got, module(torch.from_numpy(inputs(np.float32))).detach().numpy(), inputs(np.float32))


def test_a_sequential_of_other_layers():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    nn = torch.nn
    torch.manual_seed(0)
    layers = [nn.Tanh(), nn.LayerNorm(3, elementwise_affine=False), nn.Linear(3, 4), nn.ReLU(), nn.Tanh()]
    layers += [nn.LayerNorm(4, bias=False), nn.PReLU(), nn.Dropout(0.25), nn.Linear(4, 5), nn.RMSNorm(5)]
    layers += [nn.PReLU(5), nn.BatchNorm1d(5, momentum=0.3), nn.LayerNorm(5, eps=0.5), nn.SiLU()]
    layers += [nn.BatchNorm1d(5, eps=0.1, affine=False), nn.Linear(5, 2)]
    module = nn.Sequential(*layers).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
        for buffer in module.buffers():
            buffer.copy_(torch.rand(buffer.shape) + 0.5)
    got = of_reference(Model.from_torch, module)
    expected = [Activate("tanh"), LayerNorm(), Dense(4, "relu"), Activate("tanh"), LayerNorm(), PReLU()]
    expected += [fastmlp.Dropout(0.25), Dense(5), fastmlp.RMSNorm(), PReLU(), BatchNorm(0.3), LayerNorm(0.5)]
    expected += [Activate("silu"), BatchNorm(epsilon=0.1), Dense(2)]
    assert got.network == Network(inputs=3, layers=expected)
    agrees(got, module(torch.from_numpy(inputs(np.float32))).detach().numpy(), inputs(np.float32))


ONE_SLOPE = Layer("one_slope", lambda z, a: np.where(z > 0, z, a * z), parameters={"a": ("layer", 0.3)})


@pytest.mark.parametrize(
    "before", [[], [Concatenate("start")], [Activate(ONE_SLOPE), Concatenate("start"), Concatenate("start")]]
)
def test_a_first_layer_may_have_one_number_for_all_units(before):
    """Such a layer does not say how many inputs there are."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    layers = [Activate(ONE_SLOPE, name="start"), *before]
    layers += [Dense(1, "relu", name="d_4"), Concatenate("d_4"), ONE_SLOPE, Concatenate("d_4"), Dense(2)]
    network = Network(inputs=3, layers=layers)
    model = fastmlp.fit(network, X, X[:, :2], epochs=1, backend="reference", seed=0)
    back = of_reference(Model.from_torch, model.to_torch())
    assert back.network.n_in == 3
    assert np.allclose(back.predict(X), model.predict(X), rtol=0, atol=1e-12)


def test_a_module_of_ours_that_was_changed_is_refused_in_one_line():
    pytest.importorskip("torch", reason="PyTorch is not installed")
    module = model("Add", np.float32).to_torch()
    module.sources[3] = (0,)
    with pytest.raises(ValueError, match=r"'steps\.3' reads another module's output than that before it$"):
        Model.from_torch(module)


def test_an_imported_model_takes_the_backend_that_is_requested():
    theirs = model("relu", np.float32).to_sklearn()
    assert Model.from_sklearn(theirs, backend="reference").backend == "reference"
    assert Model.from_sklearn(theirs).backend in set(fastmlp.backends()) - {"specialized"}
    with pytest.raises(ValueError, match="unknown backend 'fussed'"):
        Model.from_sklearn(theirs, backend="fussed")


def test_half_precision_becomes_single():
    network = Network([3, 2, 1], "relu")
    given = Model(
        network, flatten(W, B, network, np.dtype(np.float64)), {"loss": []}, reference.BACKEND, None
    )
    theirs = given.to_sklearn()
    theirs.coefs_ = [w.astype(np.float16) for w in theirs.coefs_]
    theirs.intercepts_ = [b.astype(np.float16) for b in theirs.intercepts_]
    assert of_reference(Model.from_sklearn, theirs).parameters.dtype == np.float32
