"""Where each caller's own key goes upstream, anybody may give another's name: what waits and is lent goes by name and key."""

from __future__ import annotations

import pytest

from conftest import until
from headrace.budget.estimate import Estimator
from headrace.crowd import Crowd
from headrace.errors import QueueFull
from headrace.model import Usage
from schedule_parts import ONE_A_SECOND, House

pytestmark = pytest.mark.usefixtures("tasks")

MINE, THEIRS = "x-api-key:mine", "x-api-key:theirs"


async def test_order():
    """Whoever gives our name, and floods, does not stand before us."""
    house = House(ONE_A_SECOND)
    await house.go("first", of="ann", credential=THEIRS)
    for number in range(5):
        house.go(f"flood {number}", of="ann", credential=THEIRS)
    await house.settle_down()
    house.go("ours", of="ann", credential=MINE)
    await house.advance(2.1)
    assert "ours" in house.went


async def test_places():
    """Nor does it take our place among all that may wait."""
    house = House(ONE_A_SECOND, crowd=Crowd(20))
    waiting = [house.go("flood", of="ann", credential=THEIRS, within=1000.0) for _ in range(25)]
    await until(lambda: any(task.done() and task.exception() for task in waiting))
    assert any(isinstance(task.exception(), QueueFull) for task in waiting if task.done())
    ours = house.go("ours", of="ann", credential=MINE, within=1000.0)
    await house.settle_down()
    assert not ours.done()


async def test_slots():
    """Nor the slots of upstream's that are not lent."""
    house = House(max_in_flight=64)
    for _ in range(70):
        house.go("flood", of="ann", credential=THEIRS, hold_s=1000.0, within=2000.0)
    await house.settle_down()
    assert house.schedule.slots.stats().waiting
    await house.go("ours", of="ann", credential=MINE)


async def test_estimates():
    """Nor do its calls say how much ours will come to."""
    house, estimator = House(), Estimator()
    before = estimator.estimate(house.call(of="ann", credential=MINE)).output_tokens
    for _ in range(50):
        estimator.learn(house.call(of="ann", credential=THEIRS), Usage(10, 1))
    assert estimator.estimate(house.call(of="ann", credential=MINE)).output_tokens == before
    assert estimator.estimate(house.call(of="ann", credential=THEIRS)).output_tokens < before
