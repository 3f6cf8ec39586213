"""Who is listened to while there is trouble: everybody in the end, by turns, and one at a time after calls in vain."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import pytest

from headrace.edge.grpc_porch import Porch
from headrace.edge.tcp_lines import Line

STEP_S = 0.05
NOISE = 101  # calls in vain in one step
LASTS = 5  # steps
_numbers = itertools.count(1)


@dataclass(slots=True, eq=False)
class Caller(Line):
    """A connection that says something so long after it is listened to, and brings so many calls in vain."""

    knocks: int = 1
    says_after_s: float = 0.0
    brings: int = 0
    listened_at: float | None = None
    has_left: bool = False

    def deafen(self) -> None:
        self.is_deaf = True

    def look(self) -> bool:
        return not self.has_left


@dataclass
class House:
    """A porch, and a clock."""

    now: float = 100.0
    shuts: list[bool] = field(default_factory=list)
    there: list[Line] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.porch = Porch(self.shuts.append, now=lambda: self.now)

    def come(self, count: int = 1, *, address: str = "192.0.2.1", says_after_s: float = 0.0, brings: int = 0) -> list[Caller]:
        new = [Caller(0, 0, (address, next(_numbers)), says_after_s=says_after_s, brings=brings) for _ in range(count)]
        self.there += new
        self.porch.see(new, self.there)
        return new

    def step(self, after_s: float = STEP_S) -> list[Caller]:
        """Whose turn it is now; those who had one speak when they do."""
        self.now += after_s
        listened = self.porch.step()
        for line in self.there:
            assert isinstance(line, Caller)
            if line in listened:
                line.listened_at = self.now
            if line.listened_at is not None and not line.received and self.now >= line.listened_at + line.says_after_s:
                line.received = 100
                for _ in range(line.brings):
                    self.porch.note_vain(is_first=False)
        return [line for line in self.there if line in listened]  # type: ignore[misc]

    def turns(self, seconds: float) -> list[int]:
        """How many had their turn together, as often as there were some, for so long."""
        began = self.now
        lots = []
        while self.now < began + seconds:
            if lot := self.step():
                lots.append(len(lot))
        return lots


def test_without_trouble_nobody_waits() -> None:
    house = House()
    new = house.come(200)
    assert house.step() == new
    assert house.shuts == [False]


def test_after_trouble_they_come_one_by_one_and_then_faster() -> None:
    house = House()
    house.porch.trouble()
    house.come(200)
    lots = house.turns(6.0)
    assert lots == [1, 2, 4, 8, 16, 32, 64, 64, 9]
    assert house.shuts == [False, True, False]


def test_those_who_bring_a_flood_stay_at_one_by_one() -> None:
    house = House()
    house.porch.trouble()
    house.come(100, brings=300)
    assert set(house.turns(6.0)) == {1}


def test_calls_in_vain_over_many_connections_are_trouble() -> None:
    """Though none of them brings much."""
    house = House()
    for _ in range(LASTS):
        assert not house.porch.is_shut
        house.come(50, brings=20)
        house.step()
    house.step()
    assert house.porch.is_shut


def test_connections_that_come_and_go_are_trouble() -> None:
    """Each of them is there for a call in vain and no more."""
    house = House()
    for _ in range(LASTS):
        assert not house.porch.is_shut
        for _ in range(50):
            house.porch.note_vain(is_first=True)
        house.step()
    assert house.porch.is_shut


def test_a_client_that_ends_is_none() -> None:
    """A thousand calls over a hundred connections were left in one moment: whoever comes next does not wait."""
    house = House()
    for number in range(1000):
        house.porch.note_vain(is_first=number < 100)
    house.step()
    new = house.come(100)
    assert house.step() == new
    assert not house.porch.is_shut


def test_a_wrong_key_now_and_then_is_none() -> None:
    house = House()
    for _ in range(100):
        house.porch.note_vain(is_first=True)
        house.step()
    assert not house.porch.is_shut


def test_those_who_came_last_wait_too() -> None:
    """A thousand connections are there before the first of them has said anything."""
    house = House()
    old = house.come(10)
    for _ in range(50):
        house.step()
    new = house.come(100)
    house.step()
    house.porch.trouble()
    assert [line.is_deaf for line in old + new] == [False] * 10 + [True] * 100
    assert house.porch.stats().waiting == 100
    assert len(house.step()) <= 1


def test_those_who_bring_much_as_soon_as_they_come_wait() -> None:
    """What is not taken yet is here all the same; one of them may be as large as it likes."""
    house = House()
    new = house.come(5)
    new[0].received = 60_000_000
    house.step()
    assert not house.porch.is_shut
    for line in new[1:]:
        line.received = 10_000_000
    house.step()
    assert house.porch.is_shut
    assert all(line.is_deaf for line in new)


def test_those_who_come_in_a_crowd_speak_by_turns_and_all_of_them_soon() -> None:
    house = House()
    house.come(150)
    assert len(house.step()) == 150
    house.come(201)
    assert house.porch.is_shut
    lots = house.turns(6.0)
    assert sum(lots) == 351  # those who came a moment before speak again, if they have anything to say
    assert max(lots) == 64
    assert not house.porch.is_shut


def test_who_brings_much_in_a_turn_is_the_only_one_in_the_next() -> None:
    house = House()
    house.porch.trouble()
    new = house.come(20)
    for _ in range(250):
        for line in house.step():
            line.received = 6_000_000
    assert all(line.received for line in new)
    lots = sorted(line.listened_at for line in new)
    assert all(late - early > 0.4 for early, late in itertools.pairwise(lots))


def test_a_crowd_of_unfinished_messages_is_noise() -> None:
    house = House()
    house.porch.note_crowd()
    house.come(100)
    for _ in range(40):
        house.porch.note_crowd()
        assert len(house.step()) <= 1


def test_who_says_nothing_keeps_nobody_waiting_for_long() -> None:
    house = House()
    house.porch.trouble()
    house.come(50, says_after_s=1000.0)
    last = house.come()
    house.turns(7.0)
    assert last[0].received


def test_who_says_something_late_is_waited_for() -> None:
    """TCP says again what was lost some tenths of a second later: until then it is not known whether it is a flood."""
    house = House()
    house.porch.trouble()
    house.come(20, says_after_s=0.5, brings=300)
    assert len(house.turns(3.0)) <= 6


def test_addresses_have_turns() -> None:
    house = House()
    house.porch.trouble()
    house.come(100, brings=300)
    other = house.come(address="192.0.2.2")
    house.turns(1.5)
    assert other[0].received


def test_who_comes_does_not_stand_behind_those_who_came_a_moment_before() -> None:
    house = House()
    for _ in range(5):
        for line in house.come(200):
            line.received = 10
    house.porch.trouble()
    (new,) = house.come()
    for _ in range(4):
        house.porch.note_crowd()
        house.turns(0.5)
    assert new.received


@pytest.mark.parametrize("brings", [0, 300])
def test_who_leaves_is_forgotten(brings: int) -> None:
    house = House()
    house.porch.trouble()
    house.come(50, brings=brings)
    house.there.clear()
    (last,) = house.come()
    assert house.porch.stats().waiting == 1
    house.turns(1.5)
    assert last.received


def test_a_busy_loop_alone_is_no_noise() -> None:
    """A machine that has no time for anybody must not keep those waiting, too, who come."""
    house = House()
    house.porch.trouble()
    house.come(100)
    assert max(len(house.step(0.3)) for _ in range(20)) >= 32


def test_the_porch_opens_when_nothing_more_is_heard_of_trouble() -> None:
    house = House()
    house.porch.trouble()
    house.turns(0.9)
    assert house.porch.is_shut
    house.turns(0.3)
    assert not house.porch.is_shut


def test_who_says_nothing_needs_no_turn() -> None:
    """Of thousands of silent connections, who has something to say does not stand behind them; it may begin to at any time."""
    house = House()
    silent = [Caller(0, 0, ("192.0.2.1", next(_numbers)), knocks=0) for _ in range(3000)]
    house.there += silent
    house.porch.see(silent, house.there)
    assert house.porch.is_shut
    assert house.porch.stats().waiting == 0
    (late,) = house.come()
    assert house.step() == [late]
    silent[1234].knocks = 1
    house.porch.see([], house.there)
    while silent[1234].listened_at is None:
        assert set(house.step()) <= {silent[1234]}
        assert house.now < 102


def test_silent_ones_are_heard_when_it_is_over() -> None:
    """When it is over nobody stays deaf: they are listened to again, so many at a time."""
    house = House()
    silent = [Caller(0, 0, ("192.0.2.1", next(_numbers)), knocks=0) for _ in range(500)]
    house.there += silent
    house.porch.see(silent, house.there)
    lots = house.turns(3.0)
    assert sum(lots) == 500
    assert max(lots) <= 200
    assert all(line.listened_at is not None for line in silent)
