"""Each command that a call says to Redis is lost, doubled, or done for nobody: one answer, one end, and all is whole again."""

from __future__ import annotations

import random

import pytest
from tests.chaos.paths import WALKS, measure


@pytest.mark.slow
async def test_each_command(long: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """All paths, one trouble for each command; in the long form every trouble."""
    is_well = await measure(list(WALKS) if long else ["submit", "park", "claim"], None if long else random.Random(1))
    assert is_well, capsys.readouterr().out
