"""
What grpcio has to say to the loop is heard in one go.

grpcio's own thread puts down what has happened (a call came, a message was taken) and writes a byte for each to a socket, which
wakes the loop. The loop then takes up all that was put down, but one byte only, and so is woken once more for each of the
others, for nothing; a call has four of them. Here the loop reads what bytes there are before it takes up anything. What is put
down after that has a byte of its own yet, so nothing is missed.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import socket
import termios
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def heard_at_once(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Have grpcio heard so, if it begins within this block: it begins with the first server or channel of a process."""
    add_reader = loop.add_reader

    def add(line: Any, hear: Callable[..., object], *arguments: Any) -> Any:
        return add_reader(line, at_once(line, hear) if isinstance(line, socket.socket) and not arguments else hear, *arguments)

    loop.add_reader = add  # type: ignore[assignment, method-assign]  # grpcio has no other way to be told
    try:
        yield
    finally:
        del loop.add_reader


def at_once(line: socket.socket, hear: Callable[[], object]) -> Callable[[], None]:
    """Return what reads all bytes of a line but one, and has *hear* read that, which waits for it."""
    waiting = array.array("i", [0])

    def run() -> None:
        fcntl.ioctl(line, termios.FIONREAD, waiting)
        if waiting[0] > 1:
            line.recv(waiting[0] - 1)
        hear()

    return run
