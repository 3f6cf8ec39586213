"""Where there are too many connections, those go over which nobody said anything; who knocks has said something."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.edge.grpc_watch import Bounds, Watch
from headrace.edge.tcp_lines import Line


@dataclass(slots=True, eq=False)
class Connection(Line):
    is_cut: bool = False

    def cut(self) -> None:
        self.is_cut = True


def left(bounds: Bounds, lines: list[Connection]) -> list[bool]:
    watch = Watch(bounds, now=lambda: 100.0)
    for _ in watch._making_room(lines):
        pass
    return [not line.is_cut for line in lines]


def test_who_knocks_stays() -> None:
    """Also the eldest, and of whatever address: only silent ones are ended, the eldest of them first."""
    for bounds in (Bounds(most=160), Bounds(most_per_peer=160)):
        lines = [Connection(0, 0, ("192.0.2.1", number), knocks=number % 2) for number in range(200)]
        stay = left(bounds, lines)
        assert all(stay[1::2])
        assert stay[0::2] == sorted(stay[0::2])
        assert 0 < stay.count(False) < 100
