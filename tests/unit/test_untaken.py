"""Answers that lie here since nobody takes them: only those who take nothing are ended, and only when it is too much."""

from __future__ import annotations

from dataclasses import dataclass, field

from headrace.flight.untaken import Untaken


@dataclass(eq=False)
class One:
    taken: int = 0
    ended: int = 0

    def end(self) -> None:
        self.ended += 1


@dataclass(eq=False)
class Answer:
    cost_bytes: int
    readers: list[One] = field(default_factory=lambda: [One()])
    length: int = 120
    is_over: bool = True


class Timer:
    def __init__(self) -> None:
        self.waiting: list = []

    def __call__(self, _: float, look) -> None:
        self.waiting.append(look)

    def ring(self) -> None:
        waiting, self.waiting = self.waiting, []
        for look in waiting:
            look()


def held(most: int = 100) -> tuple[Untaken, Timer]:
    timer = Timer()
    return Untaken(most, call_later=timer), timer


def test_nothing_is_looked_at_below_the_bound() -> None:
    untaken, timer = held()
    untaken.count(Answer(100))
    assert not timer.waiting
    assert repr(untaken) == "<Untaken [1 answers, 100 of 100 bytes]>"


def test_largest_first_and_no_more_than_needed() -> None:
    """Two looks without a step between them; then the largest goes, and the others may stay."""
    untaken, timer = held()
    small, large, middle = Answer(30), Answer(60), Answer(40)
    for one in (small, large, middle):
        untaken.count(one)
    timer.ring()
    assert not any(one.readers[0].ended for one in (small, large, middle))
    timer.ring()
    assert [one.readers[0].ended for one in (small, large, middle)] == [0, 1, 0]
    untaken.discard(large)
    timer.ring()
    assert not timer.waiting
    assert not small.readers[0].ended


def test_whoever_takes_something_is_left_in_peace() -> None:
    untaken, timer = held()
    slow, shared = Answer(300), Answer(80, [One(), One()])
    untaken.count(slow)
    untaken.count(shared)
    for _ in range(5):
        timer.ring()
        slow.readers[0].taken += 1
        shared.readers[1].taken += 1
    assert not any(reader.ended for one in (slow, shared) for reader in one.readers)
    timer.ring()
    timer.ring()
    assert slow.readers[0].ended
    assert timer.waiting  # until it has gone, too
    untaken.discard(slow)
    timer.ring()
    assert not timer.waiting


def test_a_trickle_is_nothing() -> None:
    """Who would take longer than two minutes for all of it takes nothing that counts."""
    untaken, timer = held()
    trickle, fair = Answer(300, length=1200), Answer(200, length=1200)
    for one in (trickle, fair):
        untaken.count(one)
    for _ in range(2):
        timer.ring()
        trickle.readers[0].taken += 9
        fair.readers[0].taken += 10
    assert (trickle.readers[0].ended, fair.readers[0].ended) == (1, 0)


def test_left_meanwhile() -> None:
    """Who has gone by itself is nobody any more, however often that is said."""
    untaken, timer = held()
    answers = [Answer(60), Answer(60)]
    for one in answers:
        untaken.count(one)
    untaken.discard(answers[0])
    untaken.discard(answers[0])
    timer.ring()
    timer.ring()
    assert not any(one.readers[0].ended for one in answers)
    assert repr(untaken) == "<Untaken [1 answers, 60 of 100 bytes]>"


def test_who_is_not_told_the_events_is_not_ended() -> None:
    """An answer that was given whole, or that nobody has begun to take, is nobody's to end here."""
    untaken, timer = held()
    whole, deaf = Answer(200, []), Answer(90)
    for one in (whole, deaf):
        untaken.count(one)
    timer.ring()
    timer.ring()
    assert deaf.readers[0].ended == 1


def test_in_the_air() -> None:
    """While upstream speaks, an answer is counted as it grows; who follows it is left in peace, who takes nothing is not."""
    untaken, timer = held()
    close, deaf = Answer(40, length=1000, is_over=False), Answer(40, length=1000, is_over=False)
    for one in (close, deaf):
        untaken.count(one)
    close.readers[0].taken = 999
    assert not timer.waiting
    for one in (close, deaf):
        one.length, one.cost_bytes = 2000, 80
        untaken.count(one)
    assert repr(untaken) == "<Untaken [2 answers, 160 of 100 bytes]>"
    close.readers[0].taken = 1999  # and upstream is silent from here on
    timer.ring()
    timer.ring()
    assert (close.readers[0].ended, deaf.readers[0].ended) == (0, 1)


def test_slow_in_the_air() -> None:
    """Who would have all that was said so far within two minutes is left in peace, however much upstream says meanwhile."""
    untaken, timer = held()
    slow = Answer(200, length=1200, is_over=False)
    untaken.count(slow)
    for _ in range(5):
        timer.ring()
        slow.readers[0].taken += 15
        slow.length += 100
    assert not slow.readers[0].ended
    for _ in range(2):
        timer.ring()
    assert slow.readers[0].ended
