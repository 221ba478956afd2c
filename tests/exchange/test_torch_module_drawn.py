"""Modules of PyTorch's in sequences of calls drawn at random: every backward is that of its own forward."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
from support.drawn_networks import drawn_network, pick
from support.selection import seeds

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from fastmlp.torch import Module  # noqa: E402  # it needs PyTorch


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
