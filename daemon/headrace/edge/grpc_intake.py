"""
What is under way over gRPC at this moment: every message that a call waits for, and every one that waits to be taken.

grpcio takes a message in whole before it shows any of it, and says nothing of its size; and it waits for ever for a client that
reads nothing. So each of these is known here from its beginning, and whoever watches the connections (grpc_watch.py) has
them settled now and then: what does not come is ended, and the largest while too much is coming. A hit's message is there at
once, and costs an entry in a dict: only what is still there when somebody looks becomes a `Passage`.
"""

from __future__ import annotations

import asyncio
import functools
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio

from headrace.allowance import Allowance
from headrace.edge import status
from headrace.edge.grpc_passages import Passage, Passages
from headrace.edge.grpc_turns import TURN_BYTES, in_turn
from headrace.edge.tcp_lines import Line, Peer
from headrace.errors import DeadlinePassed, HeadraceError, InvalidCall, QueueFull

Run = Callable[[Any, Any], Any]  # bytes that are known at once, or an awaitable

_MOST_BYTES = 68_000_000  # that may be coming at once, over all connections: one of the largest, or two that upstream takes
_MOST_BESIDE = 34_000_000  # over all but the one that brings most: messages that never end cost more than their bytes
_MUCH_BESIDE = 16_000_000  # so that those who have just come wait
_CALL_BYTES = 20_000  # that a call may cost beside its message: its metadata
_STALE_S, _MOST_STALE = 2.0, 800  # seconds that a message is on its way, and how many may be for so long before others wait
_STALE_BYTES = 64 * 1024 + _CALL_BYTES  # as many of it may be here before anybody waits for it
_AGAIN_S = 1.0


@functools.lru_cache(4096)
def peer_of(said: str) -> Peer | None:
    """Return the peer that grpcio calls "ipv4:127.0.0.1:5" or "ipv6:%5B::1%5D:5"; None for one on a unix socket."""
    kind, _, rest = said.partition(":")
    address, _, port = unquote(rest).rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    return address.strip("[]").partition("%")[0].removeprefix("::ffff:"), int(port)


class Intake:
    """
    All that is under way; and what each connection has asked, while somebody wants it counted.

    `is_crowded` says whether many messages had been on their way for long, or much was coming, when all was last settled.

    Args:
        left: is told the peer of a call whose caller left before its message was here.
        body_s, write_s: how long a message that comes, or goes, may stand still.
        now: the loop's clock.
    """

    def __init__(
        self, left: Callable[[str], Awaitable[None]], *, body_s: float, write_s: float, now: Callable[[], float]
    ) -> None:
        self.counts = self.is_crowded = False
        self._asked: Counter[Peer] = Counter()
        self._coming, self._going = Passages(_peer), Passages(_peer)
        self._awaited: set[Peer] = set()
        self._allowance = Allowance(TURN_BYTES)
        self._left = left
        self._body_s, self._write_s = body_s, write_s
        self._now = now

    def __repr__(self) -> str:
        return f"<Intake [{len(self._coming)} messages come, {len(self._going)} go]>"

    def __len__(self) -> int:
        return len(self._coming)

    def take_counts(self) -> Counter[Peer]:
        """Return how many bytes calls have asked by since the last time, at most; nothing is counted unless `counts` is set."""
        asked, self._asked = self._asked, Counter()
        return asked

    def awaits(self, peer: Peer) -> bool:
        """Whether a message was awaited from a peer when all was last settled."""
        return peer in self._awaited

    def settle(self, look: Callable[[Peer], Line | None]) -> list[Peer]:
        """
        End what has not come for too long, and the largest while too much is coming; return who does not take what goes.

        Args:
            look: finds the connection with a peer, counted anew; None where there is none that can be seen.
        """
        now, lines = self._now(), _Lines(look)
        self._coming.look(now, lines.received)
        self._awaited = {peer for peer in self._coming.courses if peer}
        for course in self._coming.courses.values():
            for one in course.late(now, self._body_s):
                one.end(DeadlinePassed(f"The request stopped coming: nothing of it for {self._body_s:g} s."))
        self._relieve(lines)
        self._going.look(now, lines.taken)
        return [peer for peer, course in self._going.courses.items() if peer and any(course.late(now, self._write_s))]

    def _relieve(self, lines: _Lines) -> None:
        courses = self._coming.courses
        stale = Counter({peer: course.stale(self._now() - _STALE_S) for peer, course in courses.items() if peer})
        came = Counter({peer: course.size(lines.received(peer)) for peer, course in courses.items() if peer})
        self.is_crowded = stale.total() > _MOST_STALE or came.total() - max(came.values(), default=0) > _MUCH_BESIDE
        for peer in too_many(came | Counter({peer: count * _STALE_BYTES for peer, count in stale.items()})):
            for one in courses[peer].passages.values():
                one.end(QueueFull("Too many bytes are coming at once.", retry_after_s=_AGAIN_S))

    def leave(self, error: HeadraceError) -> None:
        """End all that is still to come, for there is no time left for it."""
        self._coming.look(self._now(), lambda peer: 0)
        for course in self._coming.courses.values():
            for one in course.passages.values():
                one.end(error.again())

    def unary(self, run: Run) -> grpc.RpcMethodHandler:
        """Return the handler of a method that is asked once and answers once."""
        return grpc.stream_unary_rpc_method_handler(self._asked_once(run))

    def streaming(self, run: Run) -> grpc.RpcMethodHandler:
        """Return the handler of a method that is asked once and answers many times."""
        return grpc.stream_stream_rpc_method_handler(self._asked_once(run, _Answering))

    def both_ways(self, run: Run) -> grpc.RpcMethodHandler:
        """Return the handler of a method that gets its requests as they come."""

        async def take(_: Any, context: Any) -> None:
            await run(_Messages(self, context), _Answering(context, self._going))

        return grpc.stream_stream_rpc_method_handler(take)

    async def read(self, context: Any) -> bytes | None:
        """Return the next message, None after the last; raises what the reading was ended with."""
        coming = self._coming
        coming.new[context] = asyncio.current_task()
        try:
            raw = await in_turn(context.read(), self._allowance)
        except asyncio.CancelledError:
            if (error := _ended_with(coming.of(context))) is None:
                await self.left_unheard(context)
                raise
            raise error from None
        finally:
            coming.over(context)
        if raw is grpc.aio.EOF:
            return None
        if self.counts and (peer := peer_of(context.peer())):
            self._asked[peer] += len(raw) + _CALL_BYTES
        return raw  # type: ignore[no-any-return]  # gRPC has no types

    async def left_unheard(self, context: Any) -> None:
        """
        Tell that a caller left before its message was here.

        Who ends a call without a word has left it, too: grpcio tells the one or the other, by chance.
        """
        await self._left(context.peer())

    def _asked_once(self, run: Run, answering: type[_Answering] | None = None) -> Run:
        async def take(_: Any, context: Any) -> Any:
            try:
                if (raw := await self.read(context)) is None:
                    await self.left_unheard(context)
                    raise InvalidCall("the request is missing")
            except HeadraceError as error:
                return await status.abort(context, error)
            said = run(raw, answering(context, self._going) if answering else context)
            del raw  # it may be large, and what it asks may last
            return said if isinstance(said, bytes) else await said

        return take


class _Messages:
    # A call's messages as they come. No generator: one that is left before its end has the loop close it, in a task of its own.

    def __init__(self, intake: Intake, context: Any) -> None:
        self._intake, self._context = intake, context
        self._has_begun = self._is_over = False

    def __aiter__(self) -> _Messages:
        return self

    async def __anext__(self) -> bytes:
        # Raises what the reading was ended with.
        raw = None if self._is_over else await self._intake.read(self._context)
        if raw is None:
            if not self._has_begun:
                self._has_begun = True
                await self._intake.left_unheard(self._context)
            self._is_over = True
            raise StopAsyncIteration
        self._has_begun = True
        return raw


def too_many(size: Counter[Peer]) -> Iterator[Peer]:
    """
    Yield whose messages are to be ended, by how many bytes are coming over each connection: the largest of them.

    One of the largest is let through beside others, that bring less than it together.
    """
    largest, others = size.most_common(1), size.total()
    for peer, came in size.most_common()[1:]:
        if others - largest[0][1] <= _MOST_BESIDE:
            break
        others -= came
        yield peer
    if others > _MOST_BYTES:
        yield largest[0][0]


class _Answering:
    # The context of a call that answers message by message, each of which is under way until it is taken.

    def __init__(self, context: Any, going: Passages) -> None:
        self._context = context
        self._write = context.write
        self._task = asyncio.current_task()
        self._going = going

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, *messages: bytes) -> None:
        for message in messages:
            self._going.new[self] = self._task
            try:
                await self._write(message)
            except grpc.aio.InternalError:  # nobody is there to take it: as if they had said so
                raise asyncio.CancelledError from None
            finally:
                self._going.over(self)


def _peer(context: Any) -> Peer | None:
    return peer_of(context.peer())


def _ended_with(passage: Passage | None) -> HeadraceError | None:
    # Why its task was cancelled, where that was done here; then it is not to be, any more.
    if passage is None or passage.error is None:
        return None
    if passage.task is not None:
        passage.task.uncancel()
    return passage.error


class _Lines(dict[Peer, Line | None]):
    # The connections that were asked for in one look.

    def __init__(self, look: Callable[[Peer], Line | None]) -> None:
        super().__init__()
        self._look = look

    def __missing__(self, peer: Peer) -> Line | None:
        line = self[peer] = self._look(peer)
        return line

    def received(self, peer: Peer | None) -> int:
        line = self[peer] if peer else None
        return line.received if line else 0

    def taken(self, peer: Peer | None) -> int:
        line = self[peer] if peer else None
        return line.taken if line else 0
