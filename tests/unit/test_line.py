"""The line of one process: whatever comes and goes, its totals and its outlook are those of a plain sum over all."""

from __future__ import annotations

import itertools
import math
import time
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.schedule import standing
from headrace.schedule.outlook import Delay, Outlook
from headrace.schedule.standing import Ranks, plus

RATES = (60, 0, 6000)
WITH_WINDOW = (*RATES, 0)
ENDS = (math.inf, math.inf, math.inf, 1100.0)


@dataclass(frozen=True, eq=False)
class Place:
    rank: tuple[float, int]
    costs: tuple[int, ...]
    latest: float


def summed(places) -> list[int]:
    return [sum(place.costs[bucket] for place in places) for bucket in range(len(WITH_WINDOW))]


def late_plainly(places, needs, outlook, now):
    found = []
    for place in places:
        delay = outlook.delay(plus(needs, place.costs), now)
        if now + delay.seconds > place.latest:
            found.append((place, delay))
        else:
            needs = plus(needs, place.costs)
    return found


places = st.builds(
    Place,
    rank=st.tuples(st.integers(0, 20).map(float), st.integers()),
    costs=st.tuples(st.integers(0, 5), st.just(1), st.integers(0, 500), st.integers(0, 50)),
    latest=st.integers(1000, 1200).map(float),
)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(standing, "_BLOCK", 4)


@given(
    st.lists(places, max_size=60, unique_by=lambda place: place.rank),
    st.lists(st.integers(0, 59), max_size=40),
    st.one_of(st.just(()), st.tuples(st.integers(-50, 60), st.integers(0, 1), st.integers(-5000, 6000), st.integers(-9, 900))),
    st.integers(900, 1300),
    st.integers(1000, 1100),
)
def test_as_a_plain_sum(crowd, leaving, levels, front_due, now):
    """Order, sums and who is late are what walking over everybody would find, before and after some have left."""
    ranks: Ranks[Place] = Ranks(len(WITH_WINDOW))
    outlook = Outlook(WITH_WINDOW, ENDS)
    outlook.learn(levels, 1000.0)
    outlook.expect_front(float(front_due), 2)
    here: list[Place] = []

    def check() -> None:
        here.sort(key=lambda place: place.rank)
        assert list(ranks) == here
        assert len(ranks) == len(here)
        assert ranks.first is (here[0] if here else None)
        for place in here:
            assert ranks.before(place.rank) == summed([other for other in here if other.rank < place.rank])
        found = itertools.chain.from_iterable(ranks.late([1, 0, 10, 20], outlook, float(now)))
        assert list(found) == late_plainly(here, [1, 0, 10, 20], outlook, float(now))

    for place in crowd:
        ranks.add(place)
        here.append(place)
    check()
    for index in leaving:
        if index < len(crowd):
            assert ranks.remove(crowd[index]) == (crowd[index] in here)
            here = [place for place in here if place is not crowd[index]]
    check()


def test_outlook():
    """The slowest bucket decides, from its level on; permits and unknown levels do not count, nor a moment that is past."""
    outlook = Outlook(RATES)
    assert outlook.delay([9, 9, 9], 1000.0) == Delay(0.0, 0)
    outlook.learn((1, 0, 99), 1000.0)
    assert outlook.delay([5, 9, 100], 1000.0) == Delay(3.0, 0)
    assert outlook.delay([5, 9, 900], 1001.0) == Delay(7.0, 2)
    outlook.expect_front(1020.0, 1)
    assert outlook.delay([5, 9, 900], 1001.0) == Delay(19.0, 1)
    assert outlook.delay([5, 9, 900], 1021.0) == Delay(0.0, 1)
    outlook.forget_front()
    assert outlook.delay([5, 9, 900], 1001.0) == Delay(7.0, 2)


def test_outlook_of_a_window():
    """What a window no longer has comes when it ends, and what it has is there now."""
    outlook = Outlook(WITH_WINDOW, ENDS)
    outlook.learn((60, 0, 6000, 30), 1000.0)
    assert outlook.delay([0, 0, 0, 30], 1000.0) == Delay(0.0, 0)
    assert outlook.delay([0, 0, 0, 32], 1000.0) == Delay(100.0, 3)
    assert [outlook.is_sure(bucket) for bucket in range(4)] == [True, False, True, True]


@pytest.mark.parametrize(("level", "seconds"), [(1.5, 3.5), (1.0, 4.0), (0.9, 3.0), (2.5, 3.0)])
def test_parts_of_a_token(level, seconds):
    """What a call was told gives the level to a part of a token; a figure that cannot be true counts for nothing."""
    outlook = Outlook(RATES)
    outlook.learn((1, 0, 99), 1000.0)
    outlook.refine(0, level)
    assert outlook.delay([5, 9, 0], 1000.0).seconds == pytest.approx(seconds)


def test_ten_thousand(monkeypatch):
    """Of ten thousand who stand nobody is looked at, while it is plain from their blocks that none of them is late."""
    monkeypatch.setattr(standing, "_BLOCK", 256)
    ranks: Ranks[Place] = Ranks(len(RATES))
    for number in range(10_000):
        ranks.add(Place((float(number), number), (1, 1, 100), 1e12))
    outlook = Outlook(RATES)
    outlook.learn((0, 0, 0), 0.0)
    assert not any(ranks.late([0, 0, 0], outlook, 0.0))
    walked = 0
    delay = Outlook.delay

    def counted(self, needs, now):
        nonlocal walked
        walked += 1
        return delay(self, needs, now)

    monkeypatch.setattr(Outlook, "delay", counted)
    started = time.process_time()
    for _ in range(100):
        ranks.before((5000.5, 0))
    before_us = (time.process_time() - started) * 1e4
    started = time.process_time()
    for _ in range(100):
        assert not any(ranks.late([0, 0, 0], outlook, 0.0))
    late_us = (time.process_time() - started) * 1e4
    print(f"before {before_us:.0f} us, late {late_us:.0f} us")
    assert walked == 0
