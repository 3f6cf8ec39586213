"""The arithmetic of a bucket, and the check of the promise itself."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.budget.bucket import MAX_UNITS, UNITS, Bucket, Window
from windows import worst_window


def bucket(rate: int = 600, capacity: int = 20, level: int | None = None) -> Bucket:
    return Bucket(rate, capacity * UNITS, (capacity if level is None else level) * UNITS, 0)


def test_exact():
    """A microsecond's inflow is kept: a bucket looked at a million times a second fills as one looked at once."""
    often, once = bucket(rate=1, level=0), bucket(rate=1, level=0)
    for now_us in range(0, 60_000, 7):
        often.flow(now_us)
    often.flow(60_000)
    once.flow(60_000)
    assert often.level == once.level == UNITS // 1000


def test_full():
    """A bucket fills to its capacity and no further."""
    full = bucket(level=0)
    full.flow(10**12)
    assert full.level == full.capacity
    assert full.is_full


@given(st.integers(1, 10**7), st.integers(0, MAX_UNITS), st.integers(-MAX_UNITS, MAX_UNITS))
def test_wait(rate, units, level):
    """The wait is exactly long enough: a microsecond less is too short."""
    waiting = Bucket(rate, MAX_UNITS, level, 0)
    wait_us = waiting.wait_us(units, 0)
    waiting.flow(wait_us)
    assert waiting.level >= units
    if wait_us:
        early = Bucket(rate, MAX_UNITS, level, 0)
        early.flow(wait_us - 1)
        assert early.level < units


def test_clock_back():
    """A clock that goes back refunds nothing, and neither does its catching up."""
    late = bucket(level=0)
    late.flow(1_000_000)
    level = late.level
    late.flow(0)
    assert late.level == level
    late.flow(1_000_000)
    assert late.level == level
    assert late.wait_us(level + 1, 0) == 1_000_001


def test_debt():
    """Debt is remembered and paid by what flows in."""
    owing = bucket(level=0)
    owing.give_back(-5 * UNITS)
    assert owing.level == -5 * UNITS
    assert owing.wait_us(UNITS, 0) == 600_000


STEPS = st.lists(
    st.tuples(st.integers(0, 3_000_000), st.integers(1, 30), st.one_of(st.none(), st.integers(0, 40))), min_size=1, max_size=60
)


@given(STEPS, st.integers(1, 1000), st.integers(1, 25))
def test_promise(steps, rate, capacity):
    """Whatever is reserved and settled when, no window reserves more, less what came back, than capacity + rate x length."""
    tank, now_us, moves = bucket(rate, capacity), 0, []
    for pause_us, cost, actual in steps:
        now_us += pause_us
        tank.flow(now_us)
        if tank.wait_us(cost * UNITS, now_us) == 0:
            tank.take(cost * UNITS)
            moves.append((now_us, cost))
            if actual is not None and actual < cost:
                before = tank.level
                tank.give_back((cost - actual) * UNITS)
                assert before <= tank.level <= tank.capacity
                moves.append((now_us, actual - cost))
            elif actual is not None:
                tank.give_back((cost - actual) * UNITS)
    if moves:
        assert worst_window(moves, rate_per_minute=rate, capacity=capacity).is_kept


@given(st.lists(st.tuples(st.integers(0, 30), st.one_of(st.none(), st.integers(0, 40))), max_size=60), st.integers(1, 99))
def test_window(steps, capacity):
    """A window grants no more than its capacity, less what came back; what was used too much is debt until it ends."""
    window, granted, debt = Window(capacity, 1000), 0, 0
    for cost, actual in steps:
        wait_us = window.wait_us(cost, 400)
        assert wait_us == (0 if cost <= capacity - granted - debt else 600)
        if not wait_us:
            window.take(cost)
            granted += cost
            assert granted <= capacity
            if actual is not None:
                window.give_back(cost - actual)
                granted, debt = granted - max(0, cost - actual), debt + max(0, actual - cost)
        assert window.level == capacity - granted - debt
    assert window.is_full == (granted + debt == 0)
    window.flow(999)
    assert window.level == capacity - granted - debt
    assert window.wait_us(capacity + 1, 5000) == 1


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(1, 9)), min_size=1, max_size=30), st.integers(1, 10**6))
def test_worst_window(grants, rate):
    """The one pass finds what looking at every pair finds."""
    grants = sorted(grants, key=lambda grant: grant[0])
    every_pair = max(
        sum(tokens for _, tokens in grants[i : j + 1]) - rate * (grants[j][0] - grants[i][0]) / UNITS
        for i in range(len(grants))
        for j in range(i, len(grants))
    )
    assert worst_window(grants, rate_per_minute=rate, capacity=7).excess_tokens == pytest.approx(every_pair - 7)
