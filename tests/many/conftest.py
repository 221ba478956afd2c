"""Fixtures of what tests of many models share."""

import pytest

from fastmlp.backend import lanes
from fastmlp.many import blocks


@pytest.fixture
def together(lane_programs):
    """How many networks went together, by blocks; their program pays however few they are."""
    found, blocks_of = [], lanes.blocks_of

    def counted(*given):
        found.append(len(given[5]))  # the keys of the masks
        return blocks_of(*given)

    lane_programs(is_worth=lambda *_: True, blocks_of=counted)
    return found


@pytest.fixture
def cut_blocks(monkeypatch):
    """cut_blocks(steps=, seconds=) bounds the chunks of blocks from then on."""

    def cut(steps=None, seconds=None):
        if steps is not None:
            monkeypatch.setattr(blocks, "LEAST_SECONDS", 0.0)
            monkeypatch.setattr(blocks, "FEWEST_STEPS", steps)
        if seconds is not None:
            monkeypatch.setattr(blocks, "CHUNK_SECONDS", seconds)

    return cut


@pytest.fixture
def take_steps(monkeypatch):
    """take_steps(do) has do(training, take, steps) called for the steps that blocks take(training, steps)."""
    take = blocks.BlockTraining.take_steps

    def replace(do):
        monkeypatch.setattr(blocks.BlockTraining, "take_steps", lambda self, steps: do(self, take, steps))

    return replace
