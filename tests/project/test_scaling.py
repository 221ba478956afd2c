"""The models of threads and machines in docs/measured/: what they say where it can be counted by hand."""

import numpy as np
import pytest

from benchmarks import cores, scaling

MACHINE = cores.Machine(transfer=1e-7, bandwidth=1e10)
WORK = cores.WORKS["784-128-10 b128 sgd"]
COSTS = scaling.Costs(scaling.Line(0, 3e-6), scaling.Line(3e-5, 2.5e-6), update=2.5e-5, adding=2.5e-11)


def test_a_barrier_in_groups_takes_the_transfers_of_a_group_and_of_the_groups():
    assert cores.grouped(1, MACHINE) == 0
    assert cores.grouped(8, MACHINE) == cores.flat(8, MACHINE) == pytest.approx(8e-7)
    assert cores.grouped(32, MACHINE) == pytest.approx((8 + 4) * 1e-7)
    assert cores.flat(96, MACHINE) > 5 * cores.grouped(96, MACHINE)


def test_a_step_is_shared_in_whole_parts():
    step = cores.Step((784, 128, 10), 128, 0, 1e-3)
    assert step.by_rows(1) + step.by_weights(1) == pytest.approx(1e-3)
    assert step.by_rows(8) == pytest.approx(step.by_rows(1) / 8)
    assert step.by_rows(7) == pytest.approx(step.by_rows(1) / 4)  # two parts of eight rows for one of seven


@pytest.mark.parametrize("workers", [2, 8, 16, 64])
def test_simulated_workers_without_spread_take_the_formulas_time_or_less(workers):
    """Who leaves a barrier first arrives at the next first, so that half of the lines travel meanwhile."""
    step = cores.Step((784, 128, 10), 1024, 0, 1e-3)
    most = step.seconds(workers, MACHINE, cores.grouped)
    least = most - cores.grouped(workers, MACHINE)  # a half of two barriers
    assert 0.999 * least < cores.simulated(step, workers, MACHINE, spread=0.0) < 1.001 * most
    assert cores.simulated(step, workers, MACHINE) > least


@pytest.mark.parametrize("workers", [2, 8, 12, 64])
def test_nobody_leaves_a_simulated_barrier_before_the_last_has_come(workers):
    arrivals = np.random.default_rng(0).random(workers)
    left = cores.meeting(arrivals, MACHINE)
    assert left.shape == (workers,)
    assert arrivals.max() < left.min()
    assert left.max() < arrivals.max() + 1.01 * cores.grouped(workers, MACHINE) + MACHINE.transfer


def test_how_many_threads_pay():
    many, few = (cores.Step((784, 128, 10), rows, 0, 5e-6 * rows) for rows in (1024, 32))
    assert cores.paying(many, MACHINE) == 64
    assert cores.paying(few, MACHINE) <= 4  # two parts of rows
    assert cores.paying(many, cores.Machine(1e-2, 1e10)) == 1


@pytest.mark.parametrize("nodes", [2, 8, 64])
@pytest.mark.parametrize("way", ["doubling", "halving", "ring"])
def test_after_its_rounds_every_rank_has_the_sum(way, nodes):
    """By what each rank has heard of: in rounds that add, from its partner."""
    rounds = scaling.rounds_of(nodes, 1.0)
    assert list(rounds) == ["doubling", "halving", "ring"]
    reached = np.eye(nodes, dtype=bool)
    for _, adds, partner in rounds[way]:
        if adds or way == "ring":
            reached |= reached[np.arange(nodes) ^ partner] if partner else np.roll(reached, 1, axis=0)
    assert reached.all()
    sent = sum(size for size, *_ in rounds[way])
    assert sent == pytest.approx(np.log2(nodes) if way == "doubling" else 2 * (nodes - 1) / nodes)


@pytest.mark.parametrize("stride", [None, 16])
@pytest.mark.parametrize("fabric", scaling.FABRICS)
def test_without_spread_the_simulation_is_the_formula(fabric, stride):
    for nodes in (1, 2, 64, 1024):
        formula = scaling.step_seconds(WORK, COSTS, nodes, 128, fabric, stride)
        assert scaling.simulated(WORK, COSTS, nodes, 128, fabric, stride, spread=0.0) == pytest.approx(
            formula
        )
        assert scaling.simulated(WORK, COSTS, nodes, 128, fabric, stride) >= 0.99 * formula


@pytest.mark.parametrize("fabric", scaling.FABRICS)
def test_sums_of_pieces_hide_behind_the_gradients_of_weights(fabric, monkeypatch):
    work = cores.WORKS["1024-2048-2048-10 b1024 sgd"]
    costs = scaling.Costs(scaling.Line(0, 4e-4), scaling.Line(0, 4e-4), update=2e-3, adding=7e-11)
    found = {}
    for buckets in (1, 8):
        monkeypatch.setattr(scaling, "MOST_BUCKETS", buckets)
        found[buckets] = scaling.step_seconds(work, costs, 8, 1024, fabric)
    compute, weights, after = scaling.phases_of(work, costs, 1024, scaling.NODE_CORES, True)
    size = scaling.exchanged_bytes(work, None)
    sums = {buckets: scaling.cheapest(8, size / buckets, fabric, costs.adding)[1] for buckets in found}
    assert found[1] == pytest.approx(compute + sums[1] + after)
    # either the network has work from the first bucket on, or the last bucket alone comes after the rest
    first = compute * (1 - weights * 7 / 8) + 8 * sums[8] + after
    assert found[8] == pytest.approx(max(first, compute + sums[8] + after))
    assert found[8] < 0.95 * found[1]
    assert scaling.buckets_of(4e5, None) == scaling.buckets_of(4e7, 16) == 1


def test_nodes_pay_while_half_of_them_work():
    gains = [node**0.9 for node in scaling.NODES]
    assert scaling.pays_up_to(gains) == 1024
    assert scaling.pays_up_to([min(node, 8) for node in scaling.NODES]) == 16
