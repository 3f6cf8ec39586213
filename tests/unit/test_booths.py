"""At which booth connections come in: together with those that come at the same time, and where there is trouble."""

from __future__ import annotations

import itertools

from headrace.edge.grpc_booths import Booths
from headrace.edge.tcp_lines import Line

_numbers = itertools.count(1)


class House:
    """Booths, connections that come in at them, and a clock."""

    def __init__(self, count: int = 4) -> None:
        self.now = 100.0
        self.steered = list[int]()
        self.lines = list[Line]()
        self.booths = Booths(count, self.steered.append, now=lambda: self.now)

    @property
    def opened(self) -> int:
        return self.steered[-1]

    def come(self, count: int = 1, *, after_s: float = 1.0) -> list[Line]:
        """So many come at once, and are seen; then it is later."""
        new = [Line(next(_numbers), next(_numbers), ("127.0.0.1", next(_numbers))) for _ in range(count)]
        self.lines += new
        self.booths.see(self.lines)
        self.now += after_s
        self.booths.see(self.lines)
        return new

    def connections(self) -> tuple[int, ...]:
        return self.booths.stats().connections


def test_those_that_come_together_share_a_booth_and_the_next_have_another() -> None:
    house = House()
    house.come(40, after_s=0.1)
    house.come(2)
    house.come(1)
    assert sorted(house.connections()) == [0, 0, 1, 42]


def test_the_booth_with_fewest_is_the_next() -> None:
    house = House(2)
    house.come(5)
    for _ in range(5):
        house.come(1)
    assert house.connections() == (5, 5)


def test_who_comes_while_there_is_trouble_comes_in_where_it_is() -> None:
    house = House()
    house.come(1)
    (bad,) = house.come(1)
    where = house.opened
    house.booths.blame(bad)
    assert house.opened != where
    trouble = house.opened
    for _ in range(5):
        (bad,) = house.come(1, after_s=0.4)
        house.booths.blame(bad)
        assert house.opened == trouble
    assert house.connections()[trouble] == 6
    assert sorted(house.connections()) == [0, 0, 1, 6]


def test_trouble_is_over_when_nothing_more_is_heard_of_it() -> None:
    house = House()
    (bad,) = house.come(1)
    house.booths.blame(bad)
    trouble = house.opened
    house.come(1, after_s=1.0)
    assert house.opened != trouble


def test_what_has_gone_is_not_blamed() -> None:
    house = House()
    (bad,) = house.come(1)
    house.lines.clear()
    house.come(1)
    opened = house.opened
    house.booths.blame(bad)
    house.booths.blame(None)
    assert house.opened == opened
    assert sum(house.connections()) == 1
