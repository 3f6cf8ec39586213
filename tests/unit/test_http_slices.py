"""Bodies in tiny chunks are parsed by turns, and what is too much for one turn leaves others their time."""

from __future__ import annotations

import pytest

from headrace.edge import http_slices
from headrace.edge.http_slices import Slices


class Loop:
    """One whose time goes by as slices are parsed."""

    def __init__(self) -> None:
        self.now, self.soon, self.later = 0.0, [], []

    def time(self) -> float:
        return self.now

    def call_soon(self, call) -> None:
        self.soon.append(call)

    def call_later(self, in_s, call) -> None:
        self.later.append((in_s, call))


class Connection:
    def __init__(self, loop: Loop, count: int) -> None:
        self.loop, self.left, self.parsed = loop, count, 0

    def parse_slice(self) -> bool:
        self.loop.now += 0.001
        self.left, self.parsed = self.left - 1, self.parsed + 1
        return self.left > 0


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_little(loop: Loop) -> None:
    """What fits into a turn is done in it, and nothing is left to do."""
    slices, one = Slices(loop), Connection(loop, 3)
    slices.add(one)
    slices.add(one)
    loop.soon.pop()()
    assert (one.left, loop.soon, loop.later) == (0, [], [])
    assert repr(slices) == "<Slices [0 connections]>"


def test_much(loop: Loop) -> None:
    """What does not is gone on with after as long a rest, by turns; who comes meanwhile is no reason to go on earlier."""
    slices, some = Slices(loop), [Connection(loop, 3) for _ in range(4)]
    for one in some:
        slices.add(one)
    assert len(loop.soon) == 1
    loop.soon.pop()()
    assert [one.parsed for one in some] == [1] * 4
    slices.add(late := Connection(loop, 1))
    assert not loop.soon
    busy_s, rest_s = loop.now, 0.0
    while loop.later:
        [(in_s, run)], loop.later = loop.later, []
        rest_s += in_s
        before = loop.now
        run()
        assert loop.now - before <= http_slices._TURN_S + 0.001
    assert [one.left for one in (*some, late)] == [0] * 5
    assert rest_s >= 0.6 * busy_s
    slices.add(Connection(loop, 1))
    assert len(loop.soon) == 1
