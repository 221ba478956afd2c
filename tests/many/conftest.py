"""Fixtures of what tests of many models share."""

from __future__ import annotations

import pytest

from fastmlp.backend import lanes


@pytest.fixture
def together(monkeypatch):
    """How many networks went together, by calls and blocks; their program pays however few they are."""
    found = []
    train, blocks_of = lanes.train_in_lanes, lanes.blocks_of

    def counted(program, tasks):
        found.append(len(tasks))
        return train(program, tasks)

    def counted_block(*given):
        found.append(len(given[-1]))  # its parameters
        return blocks_of(*given)

    monkeypatch.setattr(lanes.LaneProgram, "is_worth", lambda *_: True)
    monkeypatch.setattr(lanes, "train_in_lanes", counted)
    monkeypatch.setattr(lanes, "blocks_of", counted_block)
    return found
