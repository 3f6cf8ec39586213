"""The crowd: all that waits is counted once, bounded, and no longer counted when it leaves, whichever way."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import observe
from headrace.crowd import Crowd, Part
from headrace.errors import QueueFull


def test_counts():
    """A place counts while its block lasts, by what it waits for and in all."""
    crowd = Crowd()
    with crowd.waiting("turn", size=10), crowd.waiting("following", calls=3, size=5):
        stats = crowd.stats()
        assert (stats.calls, stats.bytes) == (4, 15)
        assert (stats.by_kind["turn"], stats.by_kind["following"]) == (Part(1, 10), Part(3, 5))
        assert repr(crowd) == "<Crowd [4 calls of 15 bytes]>"
    assert set(crowd.stats().by_kind.values()) == {Part()}


def test_too_many_calls():
    """Whoever comes when so many wait is refused, and told how many; those who wait stay."""
    crowd = Crowd(max_calls=1)
    with crowd.waiting("turn", size=7):
        with pytest.raises(QueueFull) as refused, crowd.waiting("slot"):
            pass
        assert refused.value.metadata == {"waiting": "1", "waiting_bytes": "7"}
        assert refused.value.retry_after_s == 1.0
        assert crowd.stats().calls == 1
    with crowd.waiting("slot"):
        assert crowd.stats().calls == 1


def test_too_many_bytes():
    """So is one whose bytes would be too many."""
    crowd = Crowd(max_bytes=100)
    with crowd.waiting("turn", size=60):
        with pytest.raises(QueueFull), crowd.waiting("turn", size=31):
            pass
        with crowd.waiting("turn", size=30):
            assert crowd.stats().bytes == 90


def test_of_each_caller():
    """One caller that fills the crowd keeps out itself, and others find the last tenth; all of it never passes the bound."""
    crowd = Crowd(max_calls=100, max_bytes=1000)
    flood = [crowd.waiting("turn", caller="flood") for _ in range(91)]
    for place in flood[:90]:
        place.take()
    with pytest.raises(QueueFull):
        flood[90].take()
    others = [crowd.waiting("turn", size=10, caller=f"c{number}") for number in range(11)]
    for place in others[:10]:
        place.take()
    with pytest.raises(QueueFull):
        others[10].take()
    assert (crowd.stats().callers, crowd.stats().calls) == (11, 100)
    for place in [*flood, *others]:
        place.release()
    assert crowd.stats() == Crowd().stats()


def test_forty_wait():
    """One caller's forty calls that wait refuse no other's."""
    crowd = Crowd(max_calls=40)
    flood = [crowd.waiting("turn", caller="flood") for _ in range(40)]
    taken = 0
    for place in flood:
        with contextlib.suppress(QueueFull):
            taken += place.take()
    assert taken == 36
    for caller in ("one", "two", "two", "three"):  # the last is for who has nothing
        crowd.waiting("turn", caller=caller).take()
    assert crowd.stats().calls == 40


def test_bytes_of_each_caller():
    """The same goes for bytes."""
    crowd = Crowd(max_bytes=1000)
    with crowd.waiting("turn", size=900, caller="flood"):
        for size, caller in ((10, "flood"), (101, "small")):
            with pytest.raises(QueueFull):
                crowd.waiting("turn", size=size, caller=caller).take()
        crowd.waiting("turn", size=100, caller="small").take()


def test_body_in_pieces():
    """A body counts as it comes; the piece that is too much is refused, and all of it is given back."""
    crowd = Crowd(max_bytes=100)
    with crowd.waiting("reading") as place:
        place.add(60)
        with pytest.raises(QueueFull):
            place.add(31)
        assert crowd.stats().bytes == 60
    assert crowd.stats() == Crowd().stats()


def test_released_twice():
    """Released before the end of its block, a place is not given back a second time."""
    crowd = Crowd()
    with crowd.waiting("reading", size=5) as place:
        place.release()
        assert crowd.stats().calls == 0
        place.release()
    assert crowd.stats().calls == 0


def test_becomes():
    """Who waits may wait for something else, however full it is meanwhile."""
    crowd = Crowd(max_calls=1)
    with crowd.waiting("turn", size=5) as place:
        place.become("slot")
        assert (crowd.stats().by_kind["turn"], crowd.stats().by_kind["slot"]) == (Part(), Part(1, 5))
    place.become("parked")
    assert crowd.stats() == Crowd().stats()


def test_gauges():
    """The gauges read what the crowd counts."""
    crowd = Crowd()
    crowd.measure()
    with crowd.waiting("parked", size=9):
        assert (observe.WAITING.read(), observe.WAITING_BYTES.read()) == (1, 9)
    assert (observe.WAITING.read(), observe.WAITING_BYTES.read()) == (0, 0)


@given(st.lists(st.tuples(st.sampled_from(["enter", "add", "release", "exit"]), st.integers(0, 3), st.integers(0, 60))))
def test_any_order(steps):
    """In whatever order places are taken, grow and are given back, the count is that of those who are there."""
    crowd = Crowd(max_calls=3, max_bytes=100)
    places = [crowd.waiting("turn") for _ in range(4)]
    sizes: dict[int, int] = {}
    grown = dict.fromkeys(range(4), 0)
    for step, which, size in steps:
        try:
            if step == "enter":
                places[which].take()
                sizes[which] = grown[which]
            elif step == "add" and which in sizes:
                places[which].add(size)
                grown[which] += size
                sizes[which] = grown[which]
            elif step in ("release", "exit"):
                places[which].release()
                sizes.pop(which, None)
        except QueueFull:
            pass
        assert (crowd.stats().calls, crowd.stats().bytes) == (len(sizes), sum(sizes.values()))
        assert crowd.stats().calls <= 3
        assert crowd.stats().bytes <= 100
