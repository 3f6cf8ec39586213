"""The arithmetic of a quantum, against a lender that is as exact as it is simple."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.budget.quanta import LOAN_S, MARGIN_S, NOTHING, QUIET_S, TICK_S, Quantum, Terms, Word
from headrace.budget.want import Form, Want

WANT = Want("org:input_tokens", "org", "input_tokens", Form.RATE, 60_000, 10_000, 10)
EAGER = Terms(0.1, 0.0)


class Lender:
    """What Redis does with a word: it never lends more than it may, and believes what it is told."""

    def __init__(self) -> None:
        self.lent = 0

    def exchange(self, word: Word) -> int:
        self.lent -= word.spent + word.home
        assert self.lent == word.kept, "more was spent than lent"
        self.lent += max(0, min(word.asked, word.most - self.lent))
        return self.lent


def busy(seconds: float, calls_a_second: float, terms: Terms, cost: int = 10) -> tuple[Quantum, Lender, int, float]:
    """Return a quantum after so much of steady demand, its lender, how many calls it could not grant, and the time."""
    quantum, lender, refused, now, due = Quantum(WANT, 0.0), Lender(), 0, 0.0, 0.0
    while now < seconds:
        now += TICK_S
        due += calls_a_second * TICK_S
        while due >= 1:
            due -= 1
            quantum.note(cost)
            if quantum.fits(cost, now):
                quantum.take(cost)
            else:
                refused += 1
        talk(quantum, lender, now, terms)
    return quantum, lender, refused, now


def talk(quantum: Quantum, lender: Lender, now: float, terms: Terms) -> Word | None:
    word = quantum.word(now, terms)
    if word is not None:
        quantum.hear(lender.exchange(word), LOAN_S, 0, now)
    return word


def test_steady():
    """At a steady pace nobody asks Redis but those who came first, and six ticks' demand is held, not more."""
    quantum, lender, refused, _ = busy(5.0, 400, Terms())
    assert refused <= 40
    assert 0 < quantum.held == lender.lent <= 400 * 0.3 * 10 + 1


def test_seldom():
    """Where calls are few nothing is borrowed: each costs its one round trip, and there is no exchange."""
    quantum, lender, refused, _ = busy(5.0, 8, Terms())
    assert (lender.lent, refused) == (0, 39 + 1)
    assert quantum.word(5.1, Terms()) is None


def test_at_most():
    """No more is borrowed than the part of the bucket that may be; and nothing, if that is less than a call wants."""
    _, lender, _, _ = busy(2.0, 2000, Terms(0.02))
    assert lender.lent <= 200
    _, lender, _, _ = busy(2.0, 400, Terms(0.1), cost=1001)
    assert lender.lent == 0


def test_idle():
    """Who needs nothing any more has sent all home after two seconds, and can be forgotten."""
    quantum, lender, _, now = busy(2.0, 1000, Terms())
    until = now + 2.0
    while now < until:
        now += TICK_S
        talk(quantum, lender, now, Terms())
    assert quantum.held == lender.lent == 0
    assert quantum.is_idle(Terms().least_calls)


def test_recalled():
    """What is recalled goes home with the next word, and nothing is asked for until it has been quiet for a while."""
    quantum, lender, _, now = busy(2.0, 1000, Terms())
    assert quantum.recall(now)
    word = talk(quantum, lender, now + 0.001, Terms())
    assert word is not None
    assert word.home > 0
    assert word.asked == 0
    assert quantum.held == lender.lent == 0
    assert not quantum.recall(now)
    quantum.note(10)
    assert quantum.word(now + QUIET_S / 2, Terms()) is None


def test_ends():
    """A loan ends here before it ends there, counted from when it was asked for; what is left of it goes home then."""
    quantum = Quantum(WANT, 0.0)
    quantum.hear(100, LOAN_S, 0, 10.0)
    assert quantum.fits(100, 10.0 + LOAN_S - MARGIN_S - 0.001)
    assert not quantum.fits(1, 10.0 + LOAN_S - MARGIN_S)
    assert quantum.word(20.0, NOTHING) == Word(0, 0, 100, 0, 0, 0)


def test_renewed():
    """A loan that nobody spends for a while is said anew before it ends, as long as it is wanted."""
    quantum = Quantum(WANT, 0.0)
    quantum.pace = quantum.calls_pace = 1e9
    quantum.hear(1000, LOAN_S, 0, 0.0)
    quantum._since = 0.6
    assert quantum.word(LOAN_S - MARGIN_S - LOAN_S / 2 - 0.01, EAGER) is None
    assert quantum.word(0.6, EAGER) == Word(0, 0, 0, 1000, 0, 1000)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("call"), st.integers(1, 900)),
        st.tuples(st.just("back"), st.integers(-900, 900)),
        st.tuples(st.just("sleep"), st.floats(0, 2)),
        st.tuples(st.just("talk"), st.booleans()),
        st.tuples(st.just("recall")),
    ),
    max_size=60,
)


@given(STEPS)
def test_held_and_spent_is_lent(steps):
    """Whatever happens, answers that come late included, what is held and what was spent is what the lender believes."""
    quantum, lender, now, answer, back, said = Quantum(WANT, 0.0), Lender(), 0.0, None, 0, 0
    for step, *rest in steps:
        now += 0.01
        if step == "call" and quantum.fits(rest[0], now):
            quantum.take(rest[0])
        elif step == "call":
            quantum.note(rest[0])
        elif step == "back":
            quantum.put_back(rest[0])
            back += rest[0]
        elif step == "sleep":
            now += rest[0]
        elif step == "recall":
            quantum.recall(now)
        elif answer is not None:  # the answer to the last word arrives now
            quantum.hear(*answer)
            answer = None
        elif (word := quantum.word(now, EAGER)) is not None:
            said += word.back
            answer = lender.exchange(word), LOAN_S, 0, now
            if rest[0]:
                quantum.hear(*answer)
                answer = None
        assert min(quantum.held, quantum.spent) >= 0
        if answer is None:
            assert quantum.held + quantum.spent == lender.lent
        else:
            assert quantum.held + quantum.spent <= lender.lent
    assert said + quantum.back == back


@pytest.mark.parametrize("capacity", [1, 5])
def test_small(capacity):
    """Of a bucket too small to be shared nothing is lent."""
    quantum = Quantum(Want("b", "b", "requests", Form.RATE, 60, capacity, 1), 0.0)
    for _ in range(100):
        quantum.note(1)
    word = quantum.word(1.0, Terms())
    assert word is None
