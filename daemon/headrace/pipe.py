"""
One connection to Redis: commands leave in order without waiting for each other, and replies come back in that order.

redis-py opens it, since it knows all about addresses, TLS and passwords, and then its socket is taken over. A command on the
library's own connection costs a task, a time-out and two coroutines; here it costs a write and a future.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from headrace.clock import Timer, Timers

_NOTHING = object()
_AGE = 4  # times the patience: nothing waits longer, however busily Redis answers others
_LARGE_BYTES = 1 << 20
_FRAME_BYTES = len(b"*1\r\n")
_POLL_S = 0.001  # by then the loop has read what lay in the socket


class Command:
    """
    What is asked of Redis, and the future that will hold the reply.

    Args:
        words: the command and its arguments: text, bytes, numbers; raises `TypeError` or `ValueError` for others.
        script: the text of the script, if it is a script that is named by its hash.
    """

    __slots__ = ("packed", "pieces", "reply", "script", "sent", "tries", "words")

    def __init__(self, words: tuple[Any, ...], reply: asyncio.Future[Any], script: str = "") -> None:
        self.words = words
        self.pieces = _pieces(words) if [1 for word in words if type(word) is bytes and len(word) > _LARGE_BYTES] else ()
        self.packed: bytes = b"" if self.pieces else hiredis.pack_command(words)
        self.reply = reply
        self.script = script
        self.sent = 0.0
        self.tries = 0

    def __repr__(self) -> str:
        return f"<Command {self.words[0]} [{self.tries} tries]>"

    @property
    def name(self) -> str:
        """Its first word, without the arguments."""
        return str(self.words[0])

    def with_script(self) -> Command:
        """Return the same with the script itself, for a Redis that does not know it by its hash."""
        command = Command(("EVAL", self.script, *self.words[2:]), self.reply)
        command.tries = self.tries
        return command


def _pieces(words: tuple[Any, ...]) -> tuple[bytes, ...]:
    # Large words as they are, in a frame: to pack thirty megabytes is to copy them, which holds up the loop.
    pieces = [b"*%d\r\n" % len(words)]
    for word in words:
        if type(word) is bytes and len(word) > _LARGE_BYTES:
            pieces += (b"$%d\r\n" % len(word), word, b"\r\n")
        else:
            pieces.append(hiredis.pack_command((word,))[_FRAME_BYTES:])
    return tuple(pieces)


class Pipe(asyncio.Protocol):
    """
    An open connection; `open_pipe` makes one.

    Args:
        patience_s: Redis that owes a reply, and for so long neither says nor takes in anything, is gone; so is one that has not
            answered a command after four times as long.
        answered: is given each command with its reply, which may be an error of Redis.
        lost: is told that the connection has ended, with the commands that were not answered, `close` included; and of those
            that are sent after that, since whoever sends them may not have heard of it yet.
        timers: by which patience is measured; the loop's own unless a test turns them.
    """

    def __init__(
        self,
        writer: asyncio.StreamWriter,
        patience_s: float,
        answered: Callable[[Command, Any], None],
        lost: Callable[[Pipe, Sequence[Command]], None],
        timers: Timers | None = None,
    ) -> None:
        self._writer = writer  # kept: who drops it closes the connection
        self._transport = cast("asyncio.Transport", writer.transport)
        self._timers: Timers = timers or asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._patience_s = patience_s
        self._answered = answered
        self._lost = lost
        self._reader = hiredis.Reader(replyError=ResponseError, notEnoughData=_NOTHING)
        self._owed: deque[Command] = deque()
        self._heard = 0.0
        self._unsent = 0
        self._watch: Timer | None = None
        self._is_open = True
        self._transport.set_protocol(self)

    def __repr__(self) -> str:
        return f"<Pipe [{len(self._owed)} in the air]>"

    @property
    def owed(self) -> int:
        """How many replies are awaited."""
        return len(self._owed)

    @property
    def owed_s(self) -> float:
        """For how long the oldest of them has been awaited, in seconds."""
        return self._timers.time() - self._owed[0].sent if self._owed else 0.0

    def send(self, commands: Sequence[Command]) -> None:
        """Send commands; what becomes of each is told to `answered` or to `lost`."""
        if not self._is_open:  # it may end in the very turn of the loop in which it was opened
            self._lost(self, commands)
            return
        now = self._timers.time()
        if not self._owed:
            self._heard = now
        for command in commands:
            command.sent = now
        self._owed.extend(commands)
        if self._watch is None:
            self._watch = self._timers.call_later(self._patience_s, self._look)
        try:
            if [1 for command in commands if command.pieces]:
                self._transport.writelines([piece for command in commands for piece in command.pieces or (command.packed,)])
            else:
                self._transport.write(b"".join([command.packed for command in commands]))
        except (OSError, RuntimeError, MemoryError):  # half of it may be gone, and replies could no longer be counted
            self.close()
        else:
            self._unsent = self._transport.get_write_buffer_size()

    def close(self) -> None:
        """End it now."""
        if not self._is_open:
            return
        self._is_open = False
        if self._watch is not None:
            self._watch.cancel()
        self._transport.abort()
        owed, self._owed = self._owed, deque()
        self._lost(self, owed)

    async def ended(self) -> None:
        """Wait until the socket is closed: `close` only begins that, and the loop does it in its next turn."""
        await self._ended.wait()

    def _look(self, is_second: bool = False) -> None:
        # One timer for all commands: it is the silence that counts, not how long a busy Redis takes for one of many.
        self._watch = None
        if not self._owed:
            return
        now = self._timers.time()
        unsent, self._unsent = self._unsent, self._transport.get_write_buffer_size()
        if self._unsent < unsent:  # taking in a large value is not silence
            self._heard = now
        left_s = min(self._heard + self._patience_s, self._owed[0].sent + _AGE * self._patience_s) - now
        if left_s > 0:
            self._watch = self._timers.call_later(left_s, self._look)
        elif not is_second:  # perhaps we were the ones who slept: what came meanwhile is read before the second look
            self._watch = self._timers.call_later(_POLL_S, self._look, True)
        else:
            self.close()

    # What the transport calls.

    def data_received(self, data: bytes) -> None:
        self._heard = self._timers.time()
        reader = self._reader
        reader.feed(data)
        try:
            while self._is_open and (reply := reader.gets()) is not _NOTHING:
                if type(reply) is hiredis.PushNotification:
                    continue
                if not self._owed:  # nobody asked it
                    self.close()
                    return
                self._answered(self._owed.popleft(), reply)
        except hiredis.ProtocolError:  # what speaks there is no Redis
            self.close()

    def eof_received(self) -> None:
        self.close()

    def connection_lost(self, error: Exception | None) -> None:
        self.close()
        self._ended.set()


async def open_pipe(
    connection: AbstractConnection,
    patience_s: float,
    answered: Callable[[Command, Any], None],
    lost: Callable[[Pipe, Sequence[Command]], None],
    timers: Timers | None = None,
) -> Pipe:
    """Connect, introduce ourselves, and take the socket over; raises what redis-py raises, and `TimeoutError`."""
    try:
        async with asyncio.timeout(patience_s):  # by the loop: it is a socket's
            await connection.connect()  # type: ignore[no-untyped-call]  # the library's own gap
    except BaseException:
        await asyncio.shield(connection.disconnect(nowait=True))
        raise
    # Not public, but the only way to the socket. The connection forgets it, or it would close it with itself.
    writer, connection._writer, connection._reader = connection._writer, None, None
    return Pipe(cast("asyncio.StreamWriter", writer), patience_s, answered, lost, timers)
