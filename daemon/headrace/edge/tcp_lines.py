"""
TCP connections that a library of this process has accepted and keeps to itself, seen through the kernel.

A descriptor of our own process says whose it is, and the kernel counts what goes over it. That costs the connection nothing,
and its owner does not notice. A descriptor may be closed, and its number be another's, at any moment: so whatever is done is
done to a copy, once the copy has been found to be the very same socket. Where there is no `/proc`, nothing is seen.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass

Peer = tuple[str, int]  # the address at the other end, and its port

_OURS = "/proc/self/fd"
_AT_ONCE = 50  # that are looked at without a pause
_MAPPED = "::ffff:"  # begins an address of IPv4 where a socket takes both
_INFO_BYTES = 152
_ESTABLISHED = 1
# Of Linux's struct tcp_info: its state, and behind other things bytes_acked, bytes_received and notsent.
_INFO = struct.Struct("=B23xI92xQQ8xI4x")

_ATTACH, _DETACH = 26, 27  # SO_ATTACH_FILTER, SO_DETACH_FILTER
_STEP = struct.Struct("=HBBI")  # struct sock_filter
_PROGRAM = struct.Struct("@HP")  # struct sock_fprog: how many instructions, and where they are
_MEMORY, _FELL = 55, 8  # SO_MEMINFO, and which of its counts is of what fell (SK_MEMINFO_DROPS)
_COUNTS = struct.Struct("=9I")
_DEAF = (  # what of a segment is left beside its header: nothing, and it passes; or it does not
    (0x30, 0, 0, 12),  # A = the byte whose upper half is the header's size, in fours
    (0x74, 0, 0, 2),  # A >>= 2
    (0x54, 0, 0, 0x3C),  # A &= 0x3c
    (0x07, 0, 0, 0),  # X = A
    (0x80, 0, 0, 0),  # A = the segment's size
    (0x1C, 0, 0, 0),  # A -= X
    (0x15, 0, 1, 0),  # if A == 0
    (0x06, 0, 0, 0xFFFFFFFF),  # it passes, in full
    (0x06, 0, 0, 0),
)


@dataclass(slots=True, eq=False)
class Line:
    """
    One connection.

    Args:
        peer: who is at the other end.
        received: bytes that came over it so far.
        taken: bytes that the other end has acknowledged.
        waits: whether there is something that it has not.
        is_deaf: whether what comes over it falls.
        knocks: how often something fell: what the other end says, and says again.
    """

    descriptor: int
    inode: int
    peer: Peer
    received: int = 0
    taken: int = 0
    waits: bool = False
    is_deaf: bool = False
    knocks: int = 0

    def look(self) -> bool:
        """Count anew; False once the connection is over."""
        with contextlib.suppress(OSError, struct.error), copy_of(self.descriptor, self.inode) as copy:
            said = _INFO.unpack(copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES))
            state, unacknowledged, self.taken, self.received, unsent = said
            self.waits = bool(unacknowledged or unsent)
            if self.is_deaf:
                self.knocks = _fallen(copy)
            return bool(state == _ESTABLISHED)
        return False

    def deafen(self) -> None:
        """Let what comes over the connection from now on fall (`deafen`), until it is listened to."""
        self.is_deaf = True
        with contextlib.suppress(OSError), copy_of(self.descriptor, self.inode) as copy:
            deafen(copy)

    def listen(self) -> None:
        """Let what comes over the connection get in, if it was deaf, or is where it came in."""
        self.is_deaf, self.knocks = False, 0
        with contextlib.suppress(OSError), copy_of(self.descriptor, self.inode) as copy:
            undeafen(copy)

    def cut(self) -> None:
        """End the connection, for both ends."""
        with contextlib.suppress(OSError), copy_of(self.descriptor, self.inode) as copy:
            copy.shutdown(socket.SHUT_RDWR)


class Lines:
    """
    All connections that came in at some ports.

    Args:
        ports: where they were accepted.
    """

    def __init__(self, ports: set[int]) -> None:
        self._ports = ports
        self._others: set[int] = set()  # inodes of sockets that are none of them
        self._known: dict[int, Line] = {}  # by inode
        self._by_peer: dict[Peer, Line] = {}
        self._new: list[Line] = []

    def __repr__(self) -> str:
        return f"<Lines [{len(self._known)} at {sorted(self._ports)}]>"

    def __iter__(self) -> Iterator[Line]:
        return iter(list(self._known.values()))

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, line: object) -> bool:
        return isinstance(line, Line) and self._known.get(line.inode) is line

    def of(self, peer: Peer) -> Line | None:
        """Return the connection with a peer."""
        return self._by_peer.get(peer)

    def take_new(self) -> list[Line]:
        """Return those that were found since the last time."""
        new, self._new = self._new, []
        return new

    def find(self) -> None:
        """See which there are now, all at one go."""
        for _ in self.finding():
            pass

    def finding(self) -> Iterator[None]:
        """See which there are now, and yield wherever something else may be done first: there may be thousands."""
        there: dict[int, int] = {}
        if self._ports:
            for descriptor in _in_pieces(_descriptors()):
                if descriptor is None:
                    yield
                elif inode := _inode_of(descriptor):
                    there[inode] = descriptor
        self._others &= there.keys()
        for inode in self._known.keys() - there.keys():
            self._forget(self._known[inode])
        for inode in _in_pieces(there.keys() - self._known.keys() - self._others):
            if inode is None:
                yield
            elif line := self._identify(there[inode], inode):
                self._known[inode] = self._by_peer[line.peer] = line
                self._new.append(line)
            else:
                self._others.add(inode)

    def _forget(self, line: Line) -> None:
        del self._known[line.inode]
        if self._by_peer.get(line.peer) is line:
            del self._by_peer[line.peer]

    def _identify(self, descriptor: int, inode: int) -> Line | None:
        with contextlib.suppress(OSError), copy_of(descriptor, inode) as copy:
            if is_tcp(copy) and copy.getsockname()[1] in self._ports:
                address, port = copy.getpeername()[:2]
                return Line(descriptor, inode, (address.removeprefix(_MAPPED), port))
        return None


def sockets() -> Iterator[tuple[int, int]]:
    """Yield all sockets of this process: descriptor and inode."""
    for descriptor in _descriptors():
        if inode := _inode_of(descriptor):
            yield descriptor, inode


def is_tcp(one: socket.socket) -> bool:
    """Whether a socket is one of TCP's, as far as its family tells."""
    return one.family in (socket.AF_INET, socket.AF_INET6)


def deafen(one: socket.socket) -> None:
    """
    Let what comes over a socket fall, less what comes without a word: who connects or closes is noticed.

    Every connection that comes in at a socket begins as deaf as that is, and what it is told meanwhile is said again by TCP.
    """
    code = array("B", b"".join(_STEP.pack(*step) for step in _DEAF))
    one.setsockopt(socket.SOL_SOCKET, _ATTACH, _PROGRAM.pack(len(_DEAF), code.buffer_info()[0]))


def _fallen(one: socket.socket) -> int:
    """Return how often something fell; 1 where the kernel does not tell, so that nobody is taken for silent."""
    with contextlib.suppress(OSError, struct.error):
        return int(_COUNTS.unpack(one.getsockopt(socket.SOL_SOCKET, _MEMORY, _COUNTS.size))[_FELL])
    return 1


def undeafen(one: socket.socket) -> None:
    """Hear again; `OSError` where nothing was deaf."""
    one.setsockopt(socket.SOL_SOCKET, _DETACH, 0)


def _in_pieces(numbers: Collection[int]) -> Iterator[int | None]:
    # All of them, with a None after each few.
    for count, number in enumerate(numbers, 1):
        yield number
        if count % _AT_ONCE == 0:
            yield None


def _descriptors() -> list[int]:
    with contextlib.suppress(OSError):
        return [int(name) for name in os.listdir(_OURS)]
    return []


def _inode_of(descriptor: int) -> int | None:
    # None for what is no socket.
    with contextlib.suppress(OSError):
        said = os.fstat(descriptor)
        return said.st_ino if stat.S_ISSOCK(said.st_mode) else None
    return None


@contextlib.contextmanager
def copy_of(descriptor: int, inode: int) -> Iterator[socket.socket]:
    """Yield a copy of a socket; `OSError` where the descriptor is no longer that of this very socket."""
    with socket.socket(fileno=os.dup(descriptor)) as copy:
        if os.fstat(copy.fileno()).st_ino != inode:
            raise OSError("another socket has this descriptor now")
        yield copy
