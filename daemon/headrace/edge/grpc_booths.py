"""
Several servers of grpcio's at each port, the booths, and at which of them new connections come in.

A server has one line for the calls of all its connections: each costs the loop 0.3 ms before anybody can look at it, and a
connection may bring a thousand at one go. Booths are taken from in turn, a call each, so a flood at one of them costs those at
the others a call for each of theirs, and not all that stand before them.

Nobody knows a flood before it comes. But its connections come together, or one after the other as they are cut. So for a while
all that come share a booth, and the next come in at the one that has fewest; and while there is trouble at one, all that come
go there. Who has been connected for longer than the flood has nothing of it.

The kernel chooses among sockets that share a port, by a hash; here a program of one instruction tells it which (SO_REUSEPORT,
SO_ATTACH_REUSEPORT_CBPF). Where it cannot be told, the hash stays, and spreads all over all booths.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from array import array
from collections.abc import Callable, Collection
from dataclasses import dataclass

from headrace.edge.tcp_lines import Line, copy_of, deafen, is_tcp, sockets, undeafen

COUNT = 16
_EPOCH_S = 0.5  # for so long all that come share a booth
_TROUBLE_S = 0.5  # after the last word of trouble at a booth: whoever was cut is back by then
_ATTACH = 51  # SO_ATTACH_REUSEPORT_CBPF
_RETURN = struct.Struct("=HBBI")  # struct sock_filter: return a constant
_RETURN_CODE = 0x06
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog: how many instructions, and where they are


@dataclass(frozen=True, slots=True)
class BoothsStats:
    """At which booth connections come in, and how many are at each."""

    opened: int
    connections: tuple[int, ...]


class Booths:
    """
    Decides where connections come in.

    Args:
        steer: has all that come from now on come in at this booth.
        now: the loop's clock.
    """

    def __init__(self, count: int, steer: Callable[[int], None], *, now: Callable[[], float]) -> None:
        self._count = count
        self._steer, self._now = steer, now
        self._at: dict[Line, int] = {}
        self._troubled: dict[int, float] = {}  # since when there was no more of it
        self._opened, self._since = 0, now()
        steer(0)

    def __repr__(self) -> str:
        return f"<Booths [{len(self._at)} connections, number {self._opened} is open]>"

    def stats(self) -> BoothsStats:
        """Return how it stands."""
        return BoothsStats(self._opened, tuple(self._crowds()))

    def see(self, lines: Collection[Line]) -> None:
        """Take note of all connections that there are; those that are new came in at the booth that is open."""
        self._at = {line: self._at.get(line, self._opened) for line in lines}
        if self._now() - self._since >= _EPOCH_S:
            self._open(self._next())

    def blame(self, line: Line | None) -> None:
        """Take note that a connection makes trouble; of one that has gone, or that nobody has seen yet, there is none."""
        if line is not None and (booth := self._at.get(line)) is not None:
            self._troubled[booth] = self._now()
            self._open(self._next())

    def _next(self) -> int:
        since = self._now() - _TROUBLE_S
        if troubled := [(at, booth) for booth, at in self._troubled.items() if at > since]:
            return max(troubled)[1]
        crowds = self._crowds()
        return min(range(self._count), key=crowds.__getitem__)

    def _crowds(self) -> list[int]:
        crowds = [0] * self._count
        for booth in self._at.values():
            crowds[booth] += 1
        return crowds

    def _open(self, booth: int) -> None:
        if booth != self._opened:
            self._opened, self._since = booth, self._now()
            self._steer(booth)


class Entrances:
    """The sockets of this process that listen at some ports; of each group that shares an address, one speaks for all."""

    def __init__(self, ports: Collection[int]) -> None:
        self._ports = frozenset(ports)
        self._found: dict[object, tuple[int, int]] = {}
        self._all: list[tuple[int, int]] = []

    def __repr__(self) -> str:
        return f"<Entrances [{', '.join(map(str, self._found))}]>"

    def find(self) -> None:
        """Look for them."""
        for descriptor, inode in sockets():
            with contextlib.suppress(OSError), copy_of(descriptor, inode) as one:
                if is_tcp(one) and one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    name = one.getsockname()
                    if name[1] in self._ports:
                        self._found.setdefault(name, (descriptor, inode))
                        self._all.append((descriptor, inode))

    def steer(self, booth: int) -> None:
        """Have all that connect from now on come in at the socket that was the so-manieth to listen."""
        code = array("B", _RETURN.pack(_RETURN_CODE, 0, 0, booth))
        program = _PROGRAM.pack(1, code.buffer_info()[0])
        for descriptor, inode in self._found.values():
            with contextlib.suppress(OSError), copy_of(descriptor, inode) as one:  # it is closed, or cannot be told
                one.setsockopt(socket.SOL_SOCKET, _ATTACH, program)

    def shut(self, is_shut: bool) -> None:
        """Have all that connect from now on be deaf at first, or not (any more)."""
        for descriptor, inode in self._all:
            with contextlib.suppress(OSError), copy_of(descriptor, inode) as one:  # it is closed, or was not deaf
                (deafen if is_shut else undeafen)(one)
