"""Whose leases may lapse: only where somebody was heard, without a gap, for a whole lease."""

from __future__ import annotations

from headrace.budget.pulse import BEAT_S, GAP_US, LEASE_US, Pulse

BEAT_US = round(BEAT_S * 1e6)


def beaten(pulse, since_us, until_us):
    for now_us in range(since_us, until_us + 1, BEAT_US):
        pulse.beat(now_us)


def test_lapse():
    """Nothing lapses before the pulse has gone on for a lease, nor after it has stopped."""
    pulse = Pulse()
    assert pulse.lapsed_us(10**9) == 0
    beaten(pulse, 10**9, 10**9 + LEASE_US - BEAT_US)
    assert pulse.lapsed_us(10**9 + LEASE_US - 1) == 0
    beaten(pulse, 10**9 + LEASE_US, 10**9 + LEASE_US)
    assert pulse.lapsed_us(10**9 + LEASE_US) == 10**9 + LEASE_US
    assert pulse.lapsed_us(10**9 + LEASE_US + GAP_US) == 10**9 + LEASE_US + GAP_US
    assert pulse.lapsed_us(10**9 + LEASE_US + GAP_US + 1) == 0


def test_gap():
    """After a gap, and after a clock that went back, a whole lease must pass again."""
    for later in (2_000_000, 3_600_000_000, -3_600_000_000):
        pulse = Pulse()
        beaten(pulse, 10**10, 10**10 + 5_000_000)
        back = 10**10 + 5_000_000 + later
        pulse.beat(back)
        assert pulse.lapsed_us(back) == 0
        beaten(pulse, back, back + LEASE_US)
        assert pulse.lapsed_us(back + LEASE_US) == back + LEASE_US


def test_no_gap_goes_unseen():
    """Who renewed a beat before a gap that is just too short to be seen has its lease still."""
    assert BEAT_US + GAP_US < LEASE_US
