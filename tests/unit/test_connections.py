"""How many connections there may be, and which of them give way."""

from __future__ import annotations

import resource
from dataclasses import dataclass, field

import pytest

from headrace import room
from headrace.edge.connections import Connections, ConnectionsStats
from headrace.edge.http_times import Pace


@dataclass(eq=False)
class One:
    peer: str
    since: float | None = None
    gone: list[One] = field(default_factory=list)

    def idle_since(self) -> float | None:
        return self.since

    def give_way(self) -> None:
        self.gone.append(self)


class Hand:
    at = 0.0

    def __call__(self) -> float:
        return self.at


def test_bounds() -> None:
    """No more than there may be from one address, nor in all; who leaves makes room, and only once."""
    held = Connections(3, 2, now=Hand())
    first = One("a")
    assert [held.enter(one) for one in (first, One("a"), One("a"), One("b"), One("c"))] == [True, True, False, True, False]
    assert held.stats() == ConnectionsStats(open=3, peers=2, most=3, gave_way=0, intake_bytes=0)
    held.leave(first)
    held.leave(first)
    assert held.enter(One("c"))
    assert repr(held) == "<Connections [3 of 3 from 3 addresses]>"


def test_idle_give_way() -> None:
    """The one that has been idle longest gives its place to a newcomer: of the same address where that has too many."""
    held, now = Connections(4, 3, now=Hand()), Hand()
    held._now = now
    busy, older, newer, other = One("a"), One("a", 2.0), One("a", 3.0), One("b", 1.0)
    for one in (busy, older, newer, other):
        assert held.enter(one)
    now.at = 10.0
    assert held.enter(One("a"))
    assert (older.gone, newer.gone, other.gone) == ([older], [], [])
    assert not held.enter(One("c"))  # at once: all were looked at just now
    now.at = 11.0
    assert held.enter(One("c"))
    assert (newer.gone, other.gone) == ([], [other])
    assert held.stats().gave_way == 2


def test_many_at_once() -> None:
    """As many newcomers as come in one moment have the places of those that are idle; who was busy meanwhile keeps its own."""
    held = Connections(40, 40, now=Hand())
    idle = [One("a", float(number)) for number in range(30)]
    busy = [One("a") for _ in range(10)]
    assert all(held.enter(one) for one in (*idle, *busy))
    assert held.enter(One("b"))  # all are looked at now
    idle[1].since, idle[2].since = None, 99.0  # one is asked, one has been
    assert [held.enter(One("b")) for _ in range(30)] == 27 * [True] + 3 * [False]
    assert [one.gone == [] for one in idle] == [False, True, True, *(False for _ in range(27))]
    assert len([one for one in busy if one.gone]) == 0


def test_intake() -> None:
    """Heads that do not end may be so many bytes in all, and no more."""
    held = Connections(1, 1, now=Hand())
    assert held.take_in(12_000_000)
    assert not held.take_in(12_000_000)
    held.take_in(-12_000_000)
    assert held.take_in(1)


def test_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port has half of the descriptors that are left, at most, and the soft limit goes up to the hard one."""
    limits = {"soft": 600, "hard": 4096}
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limits["soft"], limits["hard"]))
    monkeypatch.setattr(resource, "setrlimit", lambda _, new: limits.update(soft=new[0]))
    assert room.connections_of(10_000) == 172
    assert room.connections_of(100) == 100
    room.raise_descriptors()
    assert room.connections_of(10_000) == 1920


def test_pace() -> None:
    """Sixteen kilobytes in each span are enough, a byte at a time is not, and what rests is not late."""
    pace = Pace()
    assert not any(pace.is_too_slow(second, second * 1000, 30.0) for second in range(300))
    pace.rest()
    assert not pace.is_too_slow(300.0, 0, 30.0)
    assert next(second for second in range(300, 340) if pace.is_too_slow(second, second, 30.0)) == 330
    assert "at rest" in repr(Pace())
