"""Many equal calls at once: what they cost the daemon."""

from __future__ import annotations

import pytest
from tests.chaos.house import house
from tests.soak.crowd import ROOM, waited

from figures import measures

pytestmark = pytest.mark.slow

# What a crowd may cost, in what as many hits cost: one call by one, and none for each of the others.
TIMES = 3.0
CROWD = 8_000


@pytest.fixture
def callers(long):
    """How many: the cost of each must not grow with them."""
    return 2_000 if long else 800


async def test_refused(callers):
    """Equal calls that do not fit into a budget are refused one by one: the work does not grow with the square of them."""
    kept = await measures.hits(callers)
    refused = await measures.refused(callers)
    print(f"kept {kept}, refused {refused}")
    assert refused.statuses == {429: callers}
    assert refused.asked == 0
    assert refused.cpu_s < TIMES * kept.cpu_s + 0.3


async def test_followed(callers):
    """Who waits for the whole of a stream of a thousand events is woken at its end, not by each."""
    kept = await measures.hits(callers)
    alone = await measures.followed(0)
    followed = await measures.followed(callers)
    print(f"kept {kept}, alone {alone}, followed {followed}")
    assert followed.statuses == {200: callers}
    assert followed.asked == 1
    assert followed.cpu_s < alone.cpu_s + TIMES * kept.cpu_s + 0.3


@pytest.mark.long
async def test_memory_comes_back():
    """A crowd that waited and left: most of what it took is given back within a minute, and a second one takes no more."""
    async with house(1, 0, upstream=("--first-token", "0.1"), **ROOM) as at:
        await at.tell_upstream({"kind": "hang"})
        first, again = await waited(at.hosts[0], CROWD, after_s=60), await waited(at.hosts[0], CROWD, after_s=60)
    for left in (first, again):
        print(left.line())
        assert left.memory_mb[-1] - first.before_mb < 0.75 * (max(left.memory_mb) - first.before_mb)
    assert not first.wrong(again)
