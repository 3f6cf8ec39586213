"""Answers over HTTP that nobody takes: they lie here whole, so those of which hardly anything goes are ended past a bound."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from headrace.edge import http_listener
from headrace.edge.http_listener import Listener
from headrace.edge.http_times import Taking


@dataclass(eq=False)
class Connection:
    taking: Taking = field(default_factory=Taking)
    ended: int = 0

    def end_unread(self) -> None:
        self.ended += 1


def of(stuck_bytes: int) -> Connection:
    one = Connection()
    one.taking.see(0, stuck_bytes)
    return one


@pytest.mark.parametrize(("gone", "stuck"), [((0, 0), 1200), ((0, 9), 1200), ((0, 10), 0), ((500, 510), 0)])
def test_stuck(gone: tuple[int, int], stuck: int) -> None:
    """A hundred-and-twentieth of what waits in a second is enough to be left in peace."""
    taking = Taking()
    for gone_by in gone:
        taking.see(gone_by, 1200)
    assert taking.stuck_bytes == stuck


def test_largest_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_listener, "_MOST_STUCK_BYTES", 100)
    small, large, middle, moving = of(30), of(60), of(40), Connection()
    Listener._relieve(SimpleNamespace(_connections=(small, moving, large, middle)))  # type: ignore[arg-type]  # all that it asks
    assert [one.ended for one in (small, large, middle, moving)] == [0, 1, 0, 0]
    Listener._relieve(SimpleNamespace(_connections=(small, moving, middle)))  # type: ignore[arg-type]  # all that it asks
    assert not small.ended + middle.ended
