"""`fastmlp.torch.Module`: its derivatives are right, and PyTorch's tools work on it."""

import copy
import pickle

import numpy as np
import pytest
from support.drawn_networks import drawn_network, pick
from support.selection import seeds

import fastmlp
from fastmlp import Adam, Network
from fastmlp.model.activations import HIDDEN

torch = pytest.importorskip("torch")  # an extra, and 200 MB

Module = fastmlp.torch.Module
DOUBLE = torch.float64


def tensor(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE, **options)


NETWORKS = [
    *(Network((3, 5, 4, 2), hidden) for hidden in HIDDEN if hidden not in ("relu", "leaky_relu")),
    Network((3, 5, 2), "tanh", "sigmoid", "mse", input_scale=0.5),
    Network((3, 5, 4), "tanh", "softmax", "cross_entropy"),
    Network((3, 5, 1), "tanh", "exp", "poisson"),
    Network((3, 1)),
]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_gradcheck_passes(network, backend):
    module = Module(network, seed=0, dtype="f8", backend=backend)
    X = tensor(4, 3, requires_grad=True)
    assert torch.autograd.gradcheck(lambda X, *parameters: module(X), (X, *module.parameters()))


def twin(module):
    """The same network of PyTorch's own layers."""
    layers = []
    for weights, biases in zip(module.weights, module.biases, strict=True):
        layer = torch.nn.Linear(*weights.shape, dtype=DOUBLE)
        layer.weight.data.copy_(weights.data.T)
        layer.bias.data.copy_(biases.data)
        layers += [layer, torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


@pytest.mark.parametrize(
    "optimizer", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop, torch.optim.LBFGS]
)
def test_optimisers_of_pytorch_train_it_as_they_train_its_twin(optimizer):
    module = Module(Network((3, 8, 2), "tanh"), seed=0, dtype="f8")
    X, y, ends = tensor(20, 3), tensor(20, 2, seed=1), []
    for one in (twin(module), module):
        taken = optimizer(one.parameters(), lr=0.05)
        for _ in range(5):

            def closure(one=one, taken=taken):
                taken.zero_grad()
                loss = torch.nn.functional.smooth_l1_loss(one(X), y)
                loss.backward()
                return loss

            taken.step(closure)
        ends.append(torch.nn.functional.mse_loss(one(X), y).item())
    np.testing.assert_allclose(ends[0], ends[1], rtol=1e-9)
    np.testing.assert_array_equal(module.stepper.weights[0], module.weights[0].detach().numpy())
    np.testing.assert_array_equal(module.model().predict(X.numpy()), module(X).detach().numpy())


def test_several_forwards_may_come_before_their_backwards():
    module = Module(Network((3, 8, 2), "tanh"), seed=0, dtype="f8")
    losses = {}
    for name, one in (("own", module), ("twin", twin(module))):
        first, second = (tensor(5, 3, seed=i, requires_grad=True) for i in range(2))
        a, b = one(first), one(second)
        ((a * b).sum() + one(first.detach() + 1).sum()).backward()
        losses[name] = [first.grad, second.grad, *(p.grad for p in one.parameters())]
    losses["twin"][2:] = [
        *(g.T for g in losses["twin"][2:] if g.ndim == 2), *(g for g in losses["twin"][2:] if g.ndim == 1),
    ]  # fmt: skip
    for got, expected in zip(losses["own"], losses["twin"], strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)


def test_dropout_is_the_same_in_a_forward_that_is_taken_again():
    module = Module(Network((3, 64, 2), "tanh", dropout=0.5), seed=0, dtype="f8")
    X = tensor(6, 3)
    first = module(X)
    assert not torch.equal(first, module(X))
    gradients = []
    for between in (False, True):
        module.stepper.steps = 7
        loss = module(X).sum()
        if between:
            module(X)
        gradients.append(torch.autograd.grad(loss, list(module.parameters())))
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)
    module.eval()
    assert torch.equal(module(X), module(X))


def test_it_starts_from_a_model_and_shares_no_memory_with_it():
    X = np.random.default_rng(0).normal(size=(30, 3)).astype("f")
    model = fastmlp.fit(Network((3, 4, 1)), X, X[:, :1], epochs=2, optimizer=Adam(), seed=0)
    module = Module(model)
    with torch.no_grad():
        np.testing.assert_array_equal(module(torch.from_numpy(X)).numpy(), model.predict(X))
        module.weights[0].zero_()
    assert model.weights[0].any()
    assert not module.stepper.weights[0].any()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_shares_memory_with_its_own_stepper(copied):
    module = Module(Network((3, 4, 2)), seed=0)
    module.biases[0].requires_grad_(False)
    other = copied(module.eval())
    assert not other.training
    assert [p.requires_grad for p in other.parameters()] == [True, True, False, True]
    other.weights[0].data.zero_()
    assert not other.stepper.weights[0].any()
    assert module.stepper.weights[0].any()
    other.load_state_dict(module.state_dict())
    np.testing.assert_array_equal(other.stepper.parameters, module.stepper.parameters)
    module(torch.ones(1, 3)).sum().backward()
    assert module.biases[0].grad is None


def test_a_mistake_is_one_clear_line():
    module = Module(Network((3, 4, 1), "tanh"), seed=0)
    X = torch.ones(5, 3, requires_grad=True)
    (first,) = torch.autograd.grad(module(X).sum(), X)
    assert first.shape == (5, 3)
    for call, error, message in (
        (lambda: torch.autograd.grad(module(X).sum(), X, create_graph=True), RuntimeError,
         "has no second derivative"),
        (lambda: module(torch.ones(5, 3, dtype=DOUBLE)), ValueError,
         "dense tensor of torch.float32 .*float64"),
        (lambda: module(torch.ones(5, 3).bfloat16()), ValueError, "torch.bfloat16, torch.strided, on cpu$"),
        (lambda: module(torch.ones(5, 3).to_sparse()), ValueError,
         "torch.float32, torch.sparse_coo, on cpu$"),
        (lambda: module(torch.ones(5, 3, device="meta")), ValueError, "on meta$"),
        (lambda: module(np.ones((5, 3), "f")), TypeError, "X must be a tensor, got array"),
        (lambda: module(torch.ones(2000, 3)), ValueError, r"1 to 1024 rows \(most_rows\) of 3"),
        (module.double, TypeError, r"stay torch.float32 on the CPU.*; got torch.float64 on cpu"),
        (lambda: Module([3, 1]), TypeError, "network must be a Network or a Model"),
    ):  # fmt: skip
        with pytest.raises(error, match=message) as raised:
            call()
        assert "\n" not in str(raised.value)
    assert module.cpu() is module
    assert module.float() is module
    loss = module(X).sum()
    with torch.no_grad():
        module.weights[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


NORMED = [fastmlp.Dense(6, "silu"), fastmlp.BatchNorm(name="norm"), fastmlp.Dense(2)]


def test_a_batch_norm_at_rest_goes_by_its_running_state():
    X, Y = np.random.default_rng(0).normal(size=(2, 40, 4))
    network = Network(inputs=4, layers=NORMED)
    model = fastmlp.fit(network, X, Y[:, :2], optimizer=Adam(0.01), epochs=5, batch_size=8, seed=0)
    ours, theirs = Module(model, dtype="float64").eval(), model.to_torch().double().eval()
    given = [torch.tensor(X, requires_grad=True) for _ in range(2)]
    for module, inputs in zip((ours, theirs), given, strict=True):
        (module(inputs) ** 2).sum().backward()
    torch.testing.assert_close(given[0].grad, given[1].grad)
    torch.testing.assert_close(ours.layers["norm"].gain.grad, theirs[2].weight.grad)


def test_a_forward_that_is_taken_again_leaves_running_statistics():
    module = Module(Network(inputs=4, layers=NORMED), seed=0, dtype="float64")
    first, _ = module(tensor(8, 4)), module(tensor(8, 4, seed=1))
    before = module.layers["norm"].mean.clone()
    first.sum().backward()
    torch.testing.assert_close(module.layers["norm"].mean, before, rtol=0, atol=0)


def test_a_batch_norm_may_go_backward_twice_and_rest_between():
    """Its statistics are those of the forward, whatever has passed since."""
    module = Module(Network(inputs=4, layers=NORMED), seed=0, dtype="float64", backend="fused")
    parameters = [*module.parameters()]
    out = module(tensor(8, 4))
    first = torch.autograd.grad(out.sum(), parameters, retain_graph=True)
    module.stepper.gradients[...] = 0
    for one, other in zip(first, torch.autograd.grad(out.sum(), parameters), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)

    resting = module.eval().model()
    alone = Module(resting, dtype="float64").eval()
    out, expected = module(tensor(8, 4)), alone(tensor(8, 4))
    module.train()(tensor(8, 4, seed=1))
    for _ in range(2):
        got = torch.autograd.grad(out.sum(), parameters, retain_graph=True)
        kept = module.layers["norm"].mean.clone()
        theirs = torch.autograd.grad(expected.sum(), [*alone.parameters()], retain_graph=True)
        for one, other in zip(got, theirs, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
        torch.testing.assert_close(module.layers["norm"].mean, kept, rtol=0, atol=0)


def test_the_stepper_may_go_forward_between_and_not_change():
    module = Module(Network((3, 8, 2), "tanh"), seed=0, dtype="f8")
    parameters, X = [*module.parameters()], tensor(6, 3)
    expected = torch.autograd.grad(module(X).sum(), parameters)
    loss = module(X).sum()
    module.stepper.forward(tensor(4, 3, seed=1).numpy())
    for one, other in zip(torch.autograd.grad(loss, parameters), expected, strict=True):
        assert torch.equal(one, other)
    loss = module(X).sum()
    module.stepper.step(X.numpy(), tensor(6, 2).numpy())
    module(X)
    with pytest.raises(RuntimeError, match=r"^the stepper of this module has changed its parameters since"):
        loss.backward()


@pytest.mark.parametrize(
    "move",
    [
        lambda module, values: torch.nn.utils.vector_to_parameters(torch.zeros(26), module.parameters()),
        lambda module, values: module.load_state_dict(values, assign=True),
        lambda module, values: setattr(module.weights[1], "data", torch.zeros(4, 2)),
    ],
)
def test_parameters_that_have_left_the_shared_memory_are_refused(move):
    """A forward would go by those that are still there."""
    module = Module(Network((3, 4, 2)), seed=0)
    values = {name: torch.zeros_like(value) for name, value in module.state_dict().items()}
    with pytest.raises(TypeError, match="stay in memory that fastmlp shares, and one has other memory now"):
        torch.func.functional_call(module, values, torch.ones(2, 3))
    module(torch.ones(2, 3))
    move(module, values)
    with pytest.raises(TypeError, match="stay in memory that fastmlp shares, and one has other memory now"):
        module(torch.ones(2, 3))


def test_what_no_step_moves_is_a_buffer():
    """An optimiser with a decay would move it; a parameter of a user's may have the name of a statistic."""
    X = tensor(40, 3).numpy()
    bins = fastmlp.PiecewiseLinear(4)
    network = Network(inputs=[fastmlp.Numbers(3, bins)], layers=[fastmlp.Dense(2)])
    module = Module(fastmlp.fit(network, [X], X[:, :2], epochs=1, seed=0))
    assert [name for name, _ in module.named_buffers()] == [
        f"layers.piecewise_linear1.{name}" for name in ("edges", "slopes")
    ]
    mean = fastmlp.Layer("shifted", lambda x, mean: x - mean, {"mean": ("units", 0.5)})
    module = Module(
        Network(inputs=3, layers=[mean, fastmlp.BatchNorm(name="norm"), fastmlp.Dense(2)]), seed=0
    )
    assert {name for name, _ in module.named_buffers()} == {"layers.norm.mean", "layers.norm.variance"}
    module(torch.from_numpy(X.astype("f"))).square().sum().backward()
    assert module.layers["shifted1"].mean.grad.shape == (3,)


def test_gradients_of_members_have_their_places():
    """Of a layer with two parameters those of the members lie in turns."""
    both = fastmlp.Layer(
        "both", lambda x, a, b: np.tanh(a * x) + b, {"a": ("units", 0.7), "b": ("units", 0.2)}
    )
    layers = [fastmlp.Dense(4, "tanh"), fastmlp.Members(3), fastmlp.Dense(5), both, fastmlp.Dense(2)]
    module, X = (
        Module(Network(inputs=3, layers=layers), seed=0, dtype="f8", backend="reference"),
        tensor(6, 3),
    )
    assert torch.autograd.gradcheck(lambda *parameters: module(X), (*module.parameters(),))


def test_a_name_that_a_module_has_is_refused():
    network = Network(
        inputs=4, layers=[fastmlp.Dense(4, name="train"), fastmlp.LayerNorm(), fastmlp.Dense(2)]
    )
    with pytest.raises(ValueError, match="can have no layer 'train'; give it another name"):
        Module(network)
    own = fastmlp.Layer("own", lambda x, training: x * training, {"training": ("units", 1.0)})
    with pytest.raises(ValueError, match="can have no parameter 'training'; give it another name"):
        Module(Network(inputs=4, layers=[own, fastmlp.Dense(2)]))


# --- sequences of calls drawn at random: every backward is that of its own forward ----------------------


class Pending:
    """A forward whose backward is still to come, and a stepper that takes the same one undisturbed."""

    def __init__(self, rng, module):
        self.alone = module.stepper.copy()
        self.X = torch.tensor(rng.normal(size=(int(rng.integers(2, 9)), self.alone.network.n_in)))
        self.X = self.X.to(module.dtype).requires_grad_(bool(rng.integers(2)))
        if rng.random() < 0.2:
            self.X = self.X.detach().T.contiguous().T  # other strides
        self.training = module.training
        self.out = module(self.X)

    def wanted(self, module):
        return [one for one in (self.X, *module.parameters()) if one.requires_grad]

    def backward(self, rng, module):
        delta = torch.tensor(rng.normal(size=self.out.shape)).to(module.dtype)
        if rng.random() < 0.3:
            delta = delta[:1].expand_as(self.out)
        if not (wanted := self.wanted(module)):
            return
        again = bool(rng.integers(2))
        got = torch.autograd.grad(self.out, wanted, delta, retain_graph=again)
        if again:
            for one, other in zip(torch.autograd.grad(self.out, wanted, delta), got, strict=True):
                np.testing.assert_array_equal(one.numpy(), other.numpy())
        out = self.alone.forward(self.X.detach().numpy(), training=self.training)
        np.testing.assert_array_equal(self.out.detach().numpy(), out)
        by_inputs = self.alone.backward(delta.contiguous().numpy())
        expected = [by_inputs] if self.X.requires_grad else []
        flat, first = self.alone.gradients, module.stepper.parameters.ctypes.data
        for p in module.parameters():
            if p.requires_grad:
                place = (p.data_ptr() - first) // p.element_size()
                strides = [one * p.element_size() for one in p.stride()]  # members have rows apart
                expected.append(np.lib.stride_tricks.as_strided(flat[place:], p.shape, strides))
        for one, other in zip(got, expected, strict=True):
            np.testing.assert_array_equal(one.numpy(), other)


def otherwise(rng, module, seed):
    """The module in another guise."""
    match int(rng.integers(4)):
        case 0:
            return copy.deepcopy(module)
        case 1:
            return pickle.loads(pickle.dumps(module))
        case 2:
            old = module.stepper
            other = Module(old.network, seed=seed, dtype=module.dtype_name, backend=old.backend)
            other.load_state_dict(module.state_dict())
            other.stepper.steps = old.steps
            return other.train(module.training)
    return module.to("cpu").requires_grad_()


def tried(seed):
    """A module through forwards, backwards, steps and copies."""
    rng = np.random.default_rng(seed)
    backend = pick(rng, ["reference", "fused"])
    network = drawn_network(rng, members=True, **({"own": ()} if backend == "fused" else {}))
    name = pick(rng, ["float32", "float64"])
    module = Module(network, seed=seed, dtype=name, backend=backend, most_rows=8)
    pending = []
    for _ in range(15):
        module.dtype, module.dtype_name = getattr(torch, name), name
        match int(rng.integers(9)):
            case 0 | 1 | 2:
                pending.append(Pending(rng, module))
            case 3 | 4 if pending:
                pending.pop(int(rng.integers(len(pending)))).backward(rng, module)
            case 5:  # a step of PyTorch's, after which no earlier backward is possible
                with torch.no_grad():
                    for p in module.parameters():
                        p.add_(torch.full_like(p, 0.01))
                for one in filter(lambda one: one.wanted(module), pending):
                    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                        torch.autograd.grad(one.out.sum(), one.wanted(module))
                pending.clear()
            case 6:
                module = otherwise(rng, module, seed)
                pending.clear()
                for p in module.parameters():
                    p.requires_grad_(bool(rng.random() < 0.8))
            case 7:
                module.train(bool(rng.integers(2)))
            case 8:  # of the stepper itself
                X = Pending(rng, module).X.detach().numpy()
                module.stepper.forward(np.ascontiguousarray(X), training=bool(rng.integers(2)))
    for one in pending:
        one.backward(rng, module)


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid value", "ignore:divide by zero")
@pytest.mark.parametrize("seed", seeds(3, 20, 600))
def test_every_backward_is_that_of_its_own_forward(seed):
    tried(seed)
