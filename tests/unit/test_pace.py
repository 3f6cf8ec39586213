"""Pace: a byte a second is no progress, and what is fast enough may pause."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from headrace.pace import Pace


def test_trickles():
    """A byte a second uses the patience up nearly as fast as silence does."""
    pace, seconds = Pace(1000, 30.0), 0
    while pace.left() > 1:
        pace.moved(1, 1.0)
        seconds += 1
    assert seconds == 30
    assert repr(pace) == "<Pace [0.0 s left]>"


def test_fast_enough():
    """At the least pace it goes on for ever; a piece that goes has its own time on top."""
    pace = Pace(1000, 30.0)
    for _ in range(1000):
        pace.moved(1000, 1.0)
    assert pace.left() == 30.0
    assert pace.left(64_000) == 94.0


def test_any():
    """No least pace: any."""
    pace = Pace(0, 30.0)
    pace.moved(1, 1e6)
    assert pace.left() == math.inf


@given(st.lists(st.tuples(st.integers(0, 10_000), st.floats(0, 40))))
def test_bound(pieces):
    """Whatever comes, what passes over any span is at least its pace less the patience, or the patience is over."""
    pace, total, seconds = Pace(1000, 30.0), 0, 0.0
    for size, waited_s in pieces:
        pace.moved(size, waited_s)
        total, seconds = total + size, seconds + waited_s
        if pace.left() < 0:
            return
        assert total >= (seconds - 30.0) * 1000 - 1e-3
