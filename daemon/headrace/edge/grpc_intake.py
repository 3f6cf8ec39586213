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
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from urllib.parse import unquote

import grpc
import grpc.aio

from headrace.allowance import Allowance
from headrace.edge import status
from headrace.edge.grpc_turns import TURN_BYTES, in_turn
from headrace.edge.tcp_lines import Line, Peer
from headrace.errors import DeadlinePassed, HeadraceError, InvalidCall, QueueFull

Run = Callable[[Any, Any], Any]  # bytes that are known at once, or an awaitable
Task = asyncio.Task[Any] | None

_MOST_BYTES = 68_000_000  # that may be coming at once, over all connections: one of the largest, or two that upstream takes
_LITTLE_BYTES = 1024  # that is no progress: answers to pings come and go
_SLOW = 10  # times as long as a message may be silent, it may take
_CALL_BYTES = 20_000  # that a call may cost beside its message: its metadata
_AGAIN_S = 1.0


@functools.lru_cache(4096)
def peer_of(said: str) -> Peer | None:
    """Return the peer that grpcio calls "ipv4:127.0.0.1:5" or "ipv6:%5B::1%5D:5"; None for one on a unix socket."""
    kind, _, rest = said.partition(":")
    address, _, port = unquote(rest).rpartition(":")
    if kind not in ("ipv4", "ipv6") or not port.isdecimal():
        return None
    return address.strip("[]").partition("%")[0].removeprefix("::ffff:"), int(port)


class Passage:
    """
    A message on its way: since when, for all that is known; how far its connection was then, and when it last went on.

    How far: bytes that came over it, for one that comes; that were taken, for one that goes.
    """

    __slots__ = ("before", "error", "last", "moved", "peer", "since", "task")

    def __init__(self, peer: Peer | None, task: Task, now: float, so_far: int) -> None:
        self.peer, self.task = peer, task
        self.error: HeadraceError | None = None
        self.since = self.moved = now
        self.before = self.last = so_far

    def see(self, now: float, so_far: int) -> None:
        """Take note of how far its connection is."""
        if so_far - self.last > _LITTLE_BYTES:
            self.last, self.moved = so_far, now

    def is_late(self, now: float, patience_s: float) -> bool:
        """Whether it has not gone on for so long, or has taken far too long altogether."""
        return now - self.moved > patience_s or now - self.since > _SLOW * patience_s

    def end(self, error: HeadraceError) -> None:
        """Give it up: its call ends with the error."""
        if self.error is None and self.task is not None:
            self.error = error
            self.task.cancel()


Under = dict[Any, Task | Passage]  # what is under way, by its call's context: its task, or its passage once somebody has looked


class Intake:
    """
    All that is under way; and what each connection has asked, while somebody wants it counted.

    Args:
        left: is told the peer of a call whose caller left before its message was here.
        body_s, write_s: how long a message that comes, or goes, may stand still.
        now: the loop's clock.
    """

    def __init__(
        self, left: Callable[[str], Awaitable[None]], *, body_s: float, write_s: float, now: Callable[[], float]
    ) -> None:
        self.counts = False
        self.bytes = 0  # that were coming when all was last settled
        self._asked: Counter[Peer] = Counter()
        self._coming: Under = {}
        self._going: Under = {}
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
        now = self._now()
        lines = _Lines(look)
        coming = [_seen(self._coming, context, now, lines.received) for context in list(self._coming)]
        self._awaited = set(lines)
        size: Counter[Peer] = Counter()
        for one in coming:
            if one.is_late(now, self._body_s):
                one.end(DeadlinePassed(f"The request stopped coming: nothing of it for {self._body_s:g} s."))
            elif one.peer is not None:
                size[one.peer] = max(size[one.peer], lines.received(one.peer) - one.before)
        self._relieve(size, coming)
        going = [_seen(self._going, context, now, lines.taken) for context in list(self._going)]
        return [one.peer for one in going if one.peer and one.is_late(now, self._write_s)]

    def _relieve(self, size: Counter[Peer], coming: list[Passage]) -> None:
        total = self.bytes = sum(size.values())
        for peer, came in size.most_common():
            if total <= _MOST_BYTES:
                return
            total -= came
            for one in coming:
                if one.peer == peer:
                    one.end(QueueFull("Too many bytes are coming at once.", retry_after_s=_AGAIN_S))

    def unary(self, run: Run) -> grpc.RpcMethodHandler:
        """Return the handler of a method that is asked once and answers once."""
        return grpc.stream_unary_rpc_method_handler(self._asked_once(run))

    def streaming(self, run: Run) -> grpc.RpcMethodHandler:
        """Return the handler of a method that is asked once and answers many times."""
        return grpc.stream_stream_rpc_method_handler(self._asked_once(run, _Answering))

    def both_ways(self, run: Run) -> grpc.RpcMethodHandler:
        """Return the handler of a method that gets its requests as they come."""

        async def take(_: Any, context: Any) -> None:
            await run(self.messages(context), _Answering(context, self._going))

        return grpc.stream_stream_rpc_method_handler(take)

    async def messages(self, context: Any) -> AsyncIterator[bytes]:
        """Yield a call's messages as they come; raises what a reading was ended with."""
        if (raw := await self.read(context)) is None:
            await self._left_unheard(context)
        while raw is not None:
            passed = [raw]
            del raw  # it may be large, and its reader alone says how long it is kept
            yield passed.pop()
            raw = await self.read(context)

    async def read(self, context: Any) -> bytes | None:
        """Return the next message, None after the last; raises what the reading was ended with."""
        coming = self._coming
        coming[context] = asyncio.current_task()
        try:
            raw = await in_turn(context.read(), self._allowance)
        except asyncio.CancelledError:
            if (error := _ended_with(coming[context])) is None:
                await self._left(context.peer())
                raise
            raise error from None
        finally:
            del coming[context]
        if raw is grpc.aio.EOF:
            return None
        if self.counts and (peer := peer_of(context.peer())):
            self._asked[peer] += len(raw) + _CALL_BYTES
        return raw  # type: ignore[no-any-return]

    async def _left_unheard(self, context: Any) -> None:
        # Who ends a call without a word has left it, too: grpcio tells the one or the other, by chance.
        await self._left(context.peer())

    def _asked_once(self, run: Run, answering: type[_Answering] | None = None) -> Run:
        async def take(_: Any, context: Any) -> Any:
            try:
                if (raw := await self.read(context)) is None:
                    await self._left_unheard(context)
                    raise InvalidCall("the request is missing")
            except HeadraceError as error:
                return await status.abort(context, error)
            said = run(raw, answering(context, self._going) if answering else context)
            del raw  # it may be large, and what it asks may last
            return said if isinstance(said, bytes) else await said

        return take


class _Answering:
    # The context of a call that answers message by message, each of which is under way until it is taken.

    def __init__(self, context: Any, going: Under) -> None:
        self._context = context
        self._write = context.write
        self._task = asyncio.current_task()
        self._going = going

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: bytes) -> None:
        self._going[self] = self._task
        try:
            await self._write(message)
        except grpc.aio.InternalError:  # nobody is there to take it: as if they had said so
            raise asyncio.CancelledError from None
        finally:
            del self._going[self]


def _ended_with(under: Task | Passage) -> HeadraceError | None:
    # Why its task was cancelled, where that was done here; then it is not to be, any more.
    if not isinstance(under, Passage) or under.error is None:
        return None
    if under.task is not None:
        under.task.uncancel()
    return under.error


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


def _seen(under: Under, context: Any, now: float, so_far: Callable[[Peer | None], int]) -> Passage:
    # What is under way for this call, as it is now; a passage from the first look on.
    one = under[context]
    if isinstance(one, Passage):
        one.see(now, so_far(one.peer))
        return one
    peer = peer_of(context.peer())
    passage = under[context] = Passage(peer, one, now, so_far(peer))
    return passage
