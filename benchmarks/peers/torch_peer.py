"""PyTorch as its expert writes it, eager and compiled; the faster is timed.

Data sit in tensors (no DataLoader), a batch is an index_select of the epoch's row order.
eager:    nn.Sequential, autograd, the fused optimiser, gradients set to None.
step:     gather, forward, backward and update as one function through torch.compile,
          which drops the optimiser's Python.
step x8:  eight such steps in a row behind a C++ wrapper, to pay guards and call once for eight.
Microseconds a step, one core of a Xeon with AVX-512:
             notebook   784-128-10 b32   the same b128
  eager         213           442             797
  step           65           229             537
  step x8        15           130             403
What was tried and is no better at 784-128-10 b128: foreach in place of fused optimisers (797 against 814),
only the module compiled (900), max-autotune-no-cudagraphs for the step (549 against 556).
"""

from functools import partial

import torch
from torch.nn import functional as F

from fastmlp import Adam
from fastmlp.lab import peers

from .works import row_orders

VERSION = torch.__version__

torch._dynamo.config.cache_size_limit = 64
LOSS = {
    "mse": F.mse_loss,
    "cross_entropy": F.cross_entropy,  # these two take logits
    "binary_cross_entropy": F.binary_cross_entropy_with_logits,
}


def ways(work, threads, shuffle=True):
    """Name to prepare() -> run(epochs), which trains afresh, and returns losses, the last epoch's last."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # dead units' moments decay into denormals; XLA flushes them too
    X, y = map(torch.from_numpy, work.data())
    orders = partial(row_orders, work, shuffle=shuffle)
    return {
        **peers.torch_ways(work.training(threads, shuffle)),
        "step": partial(_prepare_step, work, X, y, orders, together=1),
        "step x8": partial(_prepare_step, work, X, y, orders, together=8),
    }


def prepare_predict(work, threads):
    torch.set_num_threads(threads)
    network = work.start().to_torch()

    def predict(x):
        with torch.inference_mode():
            return network(torch.from_numpy(x)).numpy()

    return predict


def prepare_jacobian(work, threads):
    torch.set_num_threads(threads)
    network = work.start().to_torch().requires_grad_(False)
    jacobian = torch.func.vmap(torch.func.jacrev(network))
    return lambda x: jacobian(torch.from_numpy(x)).numpy()


def _loss(work, z, y):
    return LOSS[work.loss](torch.sigmoid(z) if work.output == "sigmoid" and work.loss == "mse" else z, y)


def _prepare_step(work, X, y, orders, together):
    o, sizes, model = work.optimizer, len(work.sizes) - 1, work.start()
    start = [torch.from_numpy(p.copy()) for p in (*model.weights, *model.biases)]
    adam = isinstance(o, Adam)
    beta1, beta2, epsilon = (o.beta1, o.beta2, o.epsilon) if adam else (0.0, 0.0, 0.0)
    bias_rate = None if adam else o.bias_learning_rate
    rates = [o.learning_rate] * sizes + [bias_rate or o.learning_rate] * sizes
    hidden = {"relu": torch.relu, "tanh": torch.tanh}[work.hidden]

    def loss_of(params, X, y):
        for W, b in zip(params[: sizes - 1], params[sizes:-1], strict=True):
            X = hidden(torch.addmm(b, X, W))
        return _loss(work, torch.addmm(params[-1], X, params[sizes - 1]), y)

    def steps(params, means, squares, count, total, X, y, rows):
        """rows: (together, batch) tensor, or the number of full-batch steps."""
        for i in range(rows if isinstance(rows, int) else len(rows)):
            batch = (
                (X, y) if isinstance(rows, int) else (X.index_select(0, rows[i]), y.index_select(0, rows[i]))
            )
            grads, loss = torch.func.grad_and_value(loss_of)(params, *batch)
            total.copy_(loss) if isinstance(rows, int) else total.add_(loss)
            count += 1
            c1, c2 = 1 / (1 - beta1**count), 1 / (1 - beta2**count)
            for k, (p, g) in enumerate(zip(params, grads, strict=True)):
                if not adam:
                    p -= rates[k] * g
                else:
                    means[k].lerp_(g, 1 - beta1)
                    squares[k].lerp_(g * g, 1 - beta2)
                    p -= rates[k] * c1 * means[k] / ((c2 * squares[k]).sqrt() + epsilon)

    options = {"cpp_wrapper": True} if together > 1 else None
    compiled = torch.compile(steps, dynamic=False, fullgraph=True, options=options)

    @torch.no_grad()
    def run(epochs):
        params = tuple(p.clone() for p in start)
        moments = [[torch.zeros_like(p) for p in params] if adam else [] for _ in range(2)]
        # One element, not 0-d: torch.compile loses writes to 0-d float64 CPU tensors (2.13).
        total, count = torch.zeros(1, dtype=X.dtype), torch.zeros(1, dtype=X.dtype)
        if work.full_batch:
            for _ in range(epochs // together):
                compiled(params, *moments, count, total, X, y, together)
            for _ in range(epochs % together):
                compiled(params, *moments, count, total, X, y, 1)
            return [total.item()]
        for _ in range(epochs):
            total.zero_()
            for rows in torch.from_numpy(orders(1)[0]).split(together):
                compiled(params, *moments, count, total, X, y, rows)
        return [total.item() / work.steps]

    return run
