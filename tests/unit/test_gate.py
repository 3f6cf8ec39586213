"""How a model class comes back after an overload, and what a bucket makes of upstream's word."""

from __future__ import annotations

import dataclasses
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from headrace.budget.bucket import FIRST_US, UNITS, Bucket
from headrace.budget.gate import (
    ASK_EVERY_US,
    FIRST_PAUSE_US,
    LONGEST_PAUSE_US,
    ONE,
    OPEN_US,
    Change,
    Gate,
    Told,
    Verdict,
    made,
)
from headrace.budget.want import Form, Want

SECOND = 1_000_000
TOLD = Told(in_the_air=100)


def shut(at_us: int = 0, told: Told = TOLD) -> Gate:
    gate = made(told)
    gate.settle(Verdict.OVERLOADED, told, at_us)
    return gate


def test_charge():
    """Callers that wait share by what their calls cost, and not by how many gates they pass."""
    tokens = Want("org:output_tokens", "org", "output_tokens", Form.RATE, 264_000, 22_000, 200)
    gate = Want("gate:m", "upstream", "overload", Form.GATE, 0, 1, 1)
    assert 100 < gate.span_us < tokens.span_us


def test_pause_probe_window():
    """After an overload nobody passes; then one; and with its answer more and more."""
    gate = shut()
    assert gate.level(0) == gate.level(FIRST_PAUSE_US - 1) == 0
    now = FIRST_PAUSE_US
    assert gate.level(now) == 1
    gate.take("probe", now)
    assert gate.level(now) == 0
    gate.holds.clear()
    assert gate.settle(Verdict.WELL, TOLD, now) is Change.OPENED
    assert gate.level(now) == 2
    assert gate.settle(Verdict.WELL, TOLD, now) is Change.NONE


def test_grows_to_half_then_by_one_a_round():
    """Up to half of what was in the air each answer widens the window by one, from there on each round of answers."""
    gate, now = shut(), SECOND
    for _ in range(49):
        gate.settle(Verdict.WELL, TOLD, now)
    assert gate.window == 50 * ONE
    for _ in range(50):
        gate.settle(Verdict.WELL, TOLD, now)
    assert 50.9 * ONE < gate.window < 51.1 * ONE


def test_few_say_nothing():
    """An overload that meets one call alone says nothing of how many are too many: a few come back as fast as any."""
    gate = shut(told=Told(in_the_air=1))
    for _ in range(7):
        gate.settle(Verdict.WELL, TOLD, SECOND)
    assert gate.window == gate.aim == 8 * ONE


def test_one_overload_for_all_in_the_air():
    """Those that were on their way when the gate was shut say nothing more, good or bad."""
    gate = shut(at_us=SECOND)
    before = dataclasses.replace(gate)
    late = replace(TOLD, age_us=2 * SECOND)
    assert gate.settle(Verdict.OVERLOADED, late, 2 * SECOND) is Change.NONE
    assert gate.settle(Verdict.WELL, late, 2 * SECOND) is Change.NONE
    assert gate == before


def test_pauses_double():
    """A probe that fails doubles the pause up to half a minute, and leaves the goal where it was."""
    gate, now = shut(), FIRST_PAUSE_US
    for _ in range(9):
        assert gate.settle(Verdict.OVERLOADED, TOLD, now) is Change.STILL_SHUT
        now = gate.until_us
    assert gate.pause_us(gate.cut_us) == LONGEST_PAUSE_US
    assert (gate.window, gate.aim) == (ONE, 50 * ONE)


def opened(answers: int) -> Gate:
    gate = shut()
    for _ in range(answers):
        gate.settle(Verdict.WELL, TOLD, SECOND)
    return gate


def test_next_overload_halves():
    """An overload among answers halves what the window was, and nobody pauses; upstream's own wait is kept."""
    gate = opened(29)
    assert gate.settle(Verdict.OVERLOADED, TOLD, SECOND) is Change.NARROWED
    assert (gate.window, gate.aim, gate.level(SECOND)) == (15 * ONE, 15 * ONE, 15)
    assert gate.settle(Verdict.WELL, TOLD, SECOND) is Change.NONE
    assert gate.settle(Verdict.OVERLOADED, replace(TOLD, least_us=7), 2 * SECOND) is Change.NARROWED
    assert gate.until_us == 2 * SECOND + 7


def test_two_in_a_row_shut():
    """Another overload before there is an answer shuts the gate again, for the first pause; and its goal stays."""
    gate = opened(29)
    gate.settle(Verdict.OVERLOADED, TOLD, SECOND)
    assert gate.settle(Verdict.OVERLOADED, TOLD, SECOND) is Change.SHUT
    assert (gate.window, gate.aim, gate.pause_us(SECOND)) == (ONE, 15 * ONE, FIRST_PAUSE_US)
    assert gate.settle(Verdict.OVERLOADED, TOLD, 2 * SECOND) is Change.STILL_SHUT
    assert gate.pause_us(2 * SECOND) == 2 * FIRST_PAUSE_US
    assert gate.settle(Verdict.WELL, TOLD, 3 * SECOND) is Change.OPENED


def test_a_share_is_ridden_out():
    """Where every fifth attempt meets an overload, whatever their number, the gate goes on letting several pass."""
    dice, gate, windows, pauses = random.Random(8), opened(1), [], 0
    for number in range(10_000):
        is_over = dice.random() < 0.2
        change = gate.settle(Verdict.OVERLOADED if is_over else Verdict.WELL, TOLD, (2 + number) * SECOND)
        gate.hold_up((2 + number) * SECOND)
        windows.append(gate.window)
        pauses += change in (Change.SHUT, Change.STILL_SHUT)
    assert statistics.mean(windows) > 4 * ONE
    assert pauses < 10_000 / 20


def test_gone():
    """A gate that has held nobody up for a while is gone with the next answer."""
    gate = shut()
    assert gate.settle(Verdict.WELL, TOLD, OPEN_US) is Change.OPENED
    gate.hold_up(OPEN_US)
    assert gate.settle(Verdict.WELL, TOLD, 2 * OPEN_US) is Change.NONE
    assert gate.settle(Verdict.WELL, TOLD, 2 * OPEN_US + 1) is Change.GONE


def test_upstreams_own_wait():
    """A wait that upstream asks for is not undercut, and the jitter is the pause's own."""
    gate = made(TOLD)
    gate.settle(Verdict.OVERLOADED, replace(TOLD, least_us=7 * SECOND, chance=1500), 0)
    assert gate.until_us == 7 * SECOND
    gate = made(TOLD)
    gate.settle(Verdict.OVERLOADED, replace(TOLD, chance=1500), 0)
    assert gate.until_us == FIRST_PAUSE_US * 3 // 2


def test_spend_limit():
    """A spend limit shuts the gate for good, but for one call a minute that asks; its answer opens it."""
    gate = made(TOLD)
    assert gate.settle(Verdict.SPENT, replace(TOLD, least_us=3600 * SECOND), 0) is Change.SPENT
    assert gate.is_spent(SECOND)
    assert not gate.is_spent(ASK_EVERY_US)
    gate.take("asks", ASK_EVERY_US)
    assert gate.is_spent(ASK_EVERY_US)
    assert gate.settle(Verdict.WELL, TOLD, ASK_EVERY_US) is Change.GONE
    gate.spent_us, gate.ask_us = 0, 0
    gate.settle(Verdict.SPENT, replace(TOLD, least_us=SECOND), 0)
    gate.flow(SECOND)
    assert not gate.is_spent(SECOND)


@given(
    st.lists(st.tuples(st.sampled_from([-1, -1, 0, 1, 1, 1]), st.integers(0, 3 * SECOND), st.integers(1, 1500)), max_size=60)
)
def test_always_opens_again(steps):
    """Whatever happened, after the longest pause somebody may pass, and never more than the window is wide."""
    gate, now = shut(), 0
    for verdict, span_us, chance in steps:
        now += span_us
        if gate.level(now) > 0:
            gate.take(str(now), now)
        assert len(gate.holds) <= max(1, gate.window // ONE) or gate.until_us > now or verdict
        gate.holds.clear()
        if gate.settle(verdict, replace(TOLD, chance=chance), now) is Change.GONE:
            gate = shut(now)
        assert gate.window >= ONE
    gate.flow(now + 2 * LONGEST_PAUSE_US)
    assert gate.level(now + 2 * LONGEST_PAUSE_US) >= 1


# A bucket and others.


def bucket(level: int, capacity: int = 600) -> Bucket:
    return Bucket(600, capacity * UNITS, level * UNITS, 0)


def test_only_lowered():
    """A word never raises a level."""
    some = bucket(100)
    some.hear(200 * UNITS)
    assert some.level == 100 * UNITS
    some.hear(70 * UNITS)
    assert some.level == 70 * UNITS


def test_debt_of_others():
    """What others have taken beyond the limit is debt like ours."""
    some = bucket(100)
    some.hear(-5 * UNITS)
    assert some.level == -5 * UNITS


def follow(others: float, seconds: int, some: Bucket, upstream: float, word_every_us: int = 100_000) -> float:
    """Let others take a share of the rate, while we take all that our bucket gives; return what upstream has left."""
    start = some.at_us
    for now in range(start + word_every_us, start + seconds * SECOND, word_every_us):
        some.flow(now)
        upstream = min(some.capacity, upstream + some.rate * word_every_us * (1 - others))
        taken = max(0, some.level // UNITS)
        some.take(taken * UNITS)
        upstream -= taken * UNITS
        some.hear(int(upstream) - 12 * UNITS)
    return upstream / UNITS


@pytest.mark.parametrize("others", [0.1, 0.3, 0.6])
def test_others_are_learnt(others):
    """What others take again and again flows out by itself in the end; upstream is never empty meanwhile."""
    some = bucket(20)
    left = follow(others, 300, some, upstream=32 * UNITS)
    assert some.foreign == pytest.approx(others * some.rate, rel=0.15)
    assert left > 5


def test_others_stop():
    """When the others stop, what they took is ours again within a minute or two."""
    some = bucket(20)
    left = follow(0.3, 300, some, upstream=32 * UNITS)
    follow(0.0, 120, some, upstream=left * UNITS)
    assert some.foreign < 0.01 * some.rate


def test_the_distance_is_nobodys_use():
    """The first that is lowered is the distance that is kept from upstream's level, and counts as nobody's use."""
    some = bucket(600)
    some.take(100 * UNITS)
    some.hear(490 * UNITS)
    assert (some.foreign, some.kept) == (0.0, 0)
    some.flow(FIRST_US)
    some.hear(480 * UNITS)
    assert (some.foreign, some.kept) == (0.0, 40 * UNITS)
    some.flow(1_000 * SECOND)
    assert some.kept == 0


def test_sent_before():
    """What the first words lower is used by calls of ours that were sent before the bucket was there, and is nobody's use."""
    some = bucket(500)
    for most in range(500, 0, -50):
        some.flow(some.at_us + SECOND // 4)
        some.hear(most * UNITS)
    assert (some.foreign, some.kept, some.level) == (0.0, 0, 50 * UNITS)


@given(st.lists(st.tuples(st.integers(0, 5 * SECOND), st.integers(-100, 700), st.integers(0, 50)), max_size=40))
def test_bounds_hold(steps):
    """The level is never over the capacity, others never use more than all, and something always flows in for us."""
    some, now = bucket(600), 0
    for span_us, most, cost in steps:
        now += span_us
        some.flow(now)
        some.take(cost * UNITS)
        before = some.level
        some.hear(most * UNITS)
        assert some.level == min(before, most * UNITS)
        assert 0 <= some.foreign <= some.rate
        assert some.rate // 10 <= some.inflow <= some.rate
