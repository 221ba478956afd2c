"""What outputs are trained to: an output activation and a loss that go together, of a network or a head."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

from fastmlp import checks
from fastmlp.model.activations import OUTPUTS
from fastmlp.model.losses import LOSSES, loss_of, named
from fastmlp.model.own_losses import Loss

USUAL_LOSSES = {"sigmoid": "binary_cross_entropy", "softmax": "cross_entropy"}
"""The losses of outputs, where none is given; mse for other outputs."""


class Objective(NamedTuple):
    """An output activation and a loss of `n_out` outputs; convention : as of `Network`."""

    n_out: int
    output: str
    loss: str | Loss
    convention: str = "torch"

    @classmethod
    def checked(cls, n_out: int, output: str | None, loss: Any, convention: str = "torch") -> Self:
        """Return the objective of these arguments of `Network`; ValueError or TypeError otherwise."""
        if loss is None:
            output = "identity" if output is None else checks.choice("output", output, OUTPUTS)
            loss = USUAL_LOSSES.get(output, "mse")
        if not isinstance(loss, Loss):
            loss = checks.choice("loss", loss, tuple(LOSSES), ", or a Loss of your own")
        loss = named(loss)
        entry = loss_of(loss)
        output = checks.choice("output", entry.outputs[0] if output is None else output, OUTPUTS)
        if output not in entry.outputs:
            raise ValueError(
                f"output {output!r} does not go with loss {entry.name!r}; "
                f"choose from: {', '.join(entry.outputs)}"
            )
        if entry.parameter is not None and len(entry.parameter) not in (1, n_out):
            raise ValueError(
                f"the parameter of loss {entry.name!r} must be a number or {n_out} of them, one for each "
                f"output, got {len(entry.parameter)}"
            )
        if n_out % entry.outputs_per_target:
            needed = f"{entry.outputs_per_target} outputs for each target"
            raise ValueError(f"loss {entry.name!r} needs {needed}, got {n_out} outputs")
        if output == "softmax" and n_out == 1:
            raise ValueError("output 'softmax' needs at least 2 output units, got 1")
        return cls(n_out, output, loss, convention)

    @property
    def divisor(self) -> float:
        """The divisor of a batch's summed loss for its derivative, besides the sum of its weights."""
        entry = loss_of(self.loss)
        if entry.by_row:
            return 1.0
        if self.convention == "sklearn" and entry.sklearn_divisor is not None:
            return entry.sklearn_divisor
        return float(self.n_out // entry.outputs_per_target)

    @property
    def value_divisor(self) -> float:
        """The second divisor of the loss that is reported; 1 if it is what is minimised."""
        return float(self.n_out) if (self.convention, self.loss) == ("sklearn", "mse") else 1.0

    @property
    def clips(self) -> bool:
        """Whether the loss that is reported is that of probabilities held within eps and 1 - eps."""
        loss = loss_of(self.loss)
        return self.convention == "sklearn" and loss.clips and not loss.parameter

    @property
    def loss_parameters(self) -> tuple[float, ...]:
        """What the loss takes for each output: huber's delta, pinball's quantile, -1 where it clips."""
        return (-1.0,) * self.n_out if self.clips else loss_of(self.loss).numbers(self.n_out)
