"""What a call costs Redis at a steady pace, as `python -m tests.figures borrowing` has it: next to nothing, or one question."""

from __future__ import annotations

import pytest
from tests.figures.borrowing import steady

LATE_S = 0.05  # so late, the pace is none any more
AGAIN = 8  # times at most


@pytest.mark.parametrize(("borrows", "least", "most"), [(True, 0.0, 0.05), (False, 2.0, 2.01)], ids=["borrowing", "asking"])
async def test_commands_a_call(borrows, least, most):
    """Borrowing, a call costs a fraction of a command; without, one to reserve and one to settle, whoever else is there."""
    for _ in range(AGAIN):
        spared = await steady(1000, 1.0, borrows=borrows)
        if least <= spared.commands <= most or spared.late_s < LATE_S:
            break
    assert least <= spared.commands <= most, spared
