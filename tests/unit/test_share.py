"""One bound for many: a flood takes what is idle, others find room all the same, and the sum never passes the bound."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace.share import Share, ShareStats

STEPS = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 30), st.booleans()), max_size=200)


def fill(share: Share, caller: str, most: int = 10**6) -> int:
    """Take for a caller as much as it gets, one by one, and return how much that was."""
    got = 0
    while got < most and share.has_room(caller):
        share.take(caller)
        got += 1
    return got


def test_alone():
    """A caller that is alone is lent all but the spare; where there is none, all."""
    assert fill(Share(1000), "a") == 900
    assert fill(Share(9), "a") == 9
    assert fill(Share(1000, spare=0), "a") == 1000
    assert repr(Share(5)) == "<Share [0 of 5, 0 callers]>"


def test_others_find_room():
    """Others that come find room at once, and one that has nothing yet where no other does."""
    share = Share(1000)
    fill(share, "a")
    assert fill(share, "b") == 75  # of the spare all but a quarter
    assert [fill(share, name) for name in "cdef"] == [1, 1, 1, 1]
    assert share.stats() == ShareStats(1000, 979, 6)


def test_what_comes_back():
    """What a flood gives back is not lent again before those have it who have less than their shares."""
    share = Share(1000)
    fill(share, "a")
    for _ in range(600):
        share.give_back("a")
        assert fill(share, "b", 1) + fill(share, "a", 1) <= 2
        fill(share, "b")
    assert share._owns["b"].taken >= 300


def test_by_weight():
    """The share of who has twice the weight is twice as much, and so is what it finds."""
    share = Share(1200, spare=0)
    share.take("a", 1, weight=2)
    share.take("b", 1, weight=1)
    assert (share.part(2), share.part(1)) == (480, 300)


@given(st.integers(1, 200), STEPS)
def test_any_order(most, steps):
    """
    In whatever order callers take and give back: the sum never passes the bound, and is that of what they have.

    Who has nothing is refused only where there is nothing; who has less than its share only within the last part, which is for
    those; and none is lent anything of the spare.
    """
    share, owns = Share(most), dict.fromkeys("abcdef", 0)
    spare = most // 10
    for caller, size, takes in steps:
        free = most - sum(owns.values())
        if not takes:
            size = min(size, owns[caller])
            if size:
                share.give_back(caller, size)
                owns[caller] -= size
        elif share.has_room(caller, size):
            is_lent = owns[caller] and owns[caller] + size > share.part()
            assert not is_lent or free - size >= spare
            share.take(caller, size)
            owns[caller] += size
        elif not owns[caller]:
            assert size > free
        elif owns[caller] + size <= share.part():
            assert free - size < spare // 4
        assert share.taken == sum(owns.values()) <= most
        assert share.stats().callers == sum(map(bool, owns.values()))


@given(st.integers(40, 400), st.integers(1, 8))
def test_flood(most, floods):
    """However many flood one after the other, one more finds room, and each that came found some."""
    share = Share(most)
    got = [fill(share, f"flood{number}") for number in range(floods)]
    if floods < most // 40:
        assert all(got)
        assert share.has_room("newcomer")
