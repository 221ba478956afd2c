"""Learning rates against their closed forms, written out as torch.optim.lr_scheduler documents them."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fastmlp import Constant, Cosine, Exponential, InverseScaling, StepDecay, Warmup

FORMS = [
    (Constant(0.3), lambda t: 0.3),
    (StepDecay(0.3, 3), lambda t: 0.3 * 0.1 ** (t // 3)),
    (StepDecay(0.3, 4, 0.5), lambda t: 0.3 * 0.5 ** (t // 4)),
    (Exponential(0.3, 0.9), lambda t: 0.3 * 0.9**t),
    (InverseScaling(0.3), lambda t: 0.3 / math.sqrt(t + 1)),
    (InverseScaling(0.3, 2.0), lambda t: 0.3 / (t + 1) ** 2),
    (Cosine(0.3, 10), lambda t: 0.15 * (1 + math.cos(math.pi * min(t, 10) / 10))),
    (Cosine(0.3, 7, 0.1), lambda t: 0.1 + 0.1 * (1 + math.cos(math.pi * min(t, 7) / 7))),
    (Warmup(0.3), lambda t: 0.3 * (1 / 3 + 2 / 3 * min(t, 5) / 5)),
    (Warmup(Exponential(0.3, 0.9), 4, 0.0), lambda t: 0.3 * 0.9**t * min(t, 4) / 4),
]


@pytest.mark.parametrize("per_epoch", [1, 3])
@pytest.mark.parametrize(("schedule", "form"), FORMS)
def test_rates_by_epoch_are_constant_within_one(schedule, form, per_epoch):
    got = schedule.rates(np.arange(20 * per_epoch), per_epoch)
    np.testing.assert_allclose(got, np.repeat([form(t) for t in range(20)], per_epoch), rtol=1e-14)


@pytest.mark.parametrize(
    ("schedule", "form"), [case for case in FORMS if not isinstance(case[0], Warmup) or case[0].after == 0.3]
)
def test_rates_by_step(schedule, form):
    by_step = type(schedule)(**{**vars(schedule), "unit": "step"})
    got = by_step.rates(np.arange(20), 7)
    np.testing.assert_allclose(got, [form(t) for t in range(20)], rtol=1e-14)


def test_a_warm_up_by_step_over_a_schedule_by_epoch_keeps_both_units():
    got = Warmup(StepDecay(1.0, 2, 0.1), 4, 0.5, unit="step").rates(np.arange(8), 2)
    np.testing.assert_allclose(got, [0.5, 0.625, 0.75, 0.875, 0.1, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(("schedule", "form"), FORMS)
def test_rates_do_not_depend_on_where_a_chunk_begins(schedule, form):
    whole = schedule.rates(np.arange(30), 4)
    parts = [schedule.rates(np.arange(a, b), 4) for a, b in ((0, 1), (1, 13), (13, 30))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)


@pytest.mark.parametrize(
    ("schedule", "theirs"),
    [
        (StepDecay(0.3, 3, 0.5), lambda o, s: s.StepLR(o, 3, 0.5)),
        (Exponential(0.3, 0.9), lambda o, s: s.ExponentialLR(o, 0.9)),
        (Cosine(0.3, 20, 0.01), lambda o, s: s.CosineAnnealingLR(o, 20, 0.01)),
        (Warmup(0.3), lambda o, s: s.LinearLR(o)),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected call of")
def test_rates_are_real_torchs(schedule, theirs):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    scheduler = theirs(optimizer, torch.optim.lr_scheduler)
    for rate in schedule.rates(np.arange(20), 1):
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        optimizer.step()
        scheduler.step()
