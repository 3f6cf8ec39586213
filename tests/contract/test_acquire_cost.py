"""What a call costs Redis at a steady pace, as `python -m tests.figures borrowing` has it: next to nothing, or one question."""

from __future__ import annotations

import pytest
from tests.figures.borrowing import steady


@pytest.mark.parametrize(("borrows", "least", "most"), [(True, 0.0, 0.05), (False, 2.0, 2.01)], ids=["borrowing", "asking"])
async def test_commands_a_call(borrows, least, most):
    """Borrowing, a call costs a fraction of a command; without, one to reserve and one to settle, whoever else is there."""
    spared = await steady(1000, 1.0, borrows=borrows)
    assert least <= spared.commands <= most, spared
