"""
The connections of gRPC, watched from outside: grpcio has no word for "this one is a flood", and no handle to close it by.

A hit pays nothing for it. What the handlers know (who was refused, which messages are under way) and what the kernel knows of
each connection (bytes that came, bytes that were taken; tcp_lines.py) are put together some times a second. Whoever floods
loses its own connection, and nobody else anything:

- calls that are to be refused, or were left before they were heard, are held: they go on counting as streams of their
  connection, and grpcio refuses more of them by itself; in the end the connection is cut;
- bytes without end that no call asked for (frames of control, headers that never end) cost the connection;
- so does an answer that nobody takes;
- those that come while there is trouble come in where the trouble is (grpc_booths.py), and speak by turns (grpc_porch.py);
- of connections beyond those that there may be, those go first over which nothing was ever asked.

The alternative, a front before grpcio that counts frames, costs every call two more hops through the loop, a third of a hit.

A unix socket has no such counts. Who gets in there was let in by its mode and group.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from headrace import observe
from headrace.edge.grpc_booths import COUNT, Booths, Entrances
from headrace.edge.grpc_intake import Intake, peer_of
from headrace.edge.grpc_porch import Porch
from headrace.edge.strikes import Strikes
from headrace.edge.tcp_lines import Line, Lines, Peer

_PERIOD_S = 0.05  # between two looks
_SHARE = 0.01  # of the loop's time, at most, for looking for connections, and for looks at all of them
_SHARE_IN_TROUBLE = 0.1  # for looking for connections: those that come have to wait for it
_AT_ONCE = 50  # connections that are looked at before the loop may go on
_REMEMBERED_S = 30.0
_STRIKES, _MOST_STRIKES, _FORGIVEN = 20, 300, 20.0  # calls in vain: until they are held, and cut; and a second
_MOMENT_S = 0.01  # after which it is known of nearly all that were left at once
_MOST_HELD = 2000  # each of which takes 25 KB
_FLOOD_BYTES = 1_000_000  # a second; what sends as much is looked at more closely
_PROOF, _DOUBT = 10, 0.25  # looks that have to find the same: until then it is known whether its calls are held
_ASKED_BYTES = 400  # who has sent fewer has asked nothing: a preface, settings, answers to pings
_FLOODS = ("vain_calls", "flood")
_ROOM = 16  # one part in so many is kept free


@dataclass(frozen=True, slots=True)
class Bounds:
    """
    What connections may do.

    Args:
        most, most_per_peer: how many there may be, in all and from one address.
        max_streams: how many calls at once may go over one.
        body_s: how long a message may be silent.
        write_s: how long an answer may wait to be taken.
        held_s: how long a connection may flood whose calls are held: it does little harm, and would come back with new calls.
    """

    most: int = 10_000
    most_per_peer: int = 5_000
    max_streams: int = 1024
    body_s: float = 30.0
    write_s: float = 60.0
    held_s: float = 20.0


@dataclass(slots=True)
class _Seen:
    # What the last look saw of a connection; since when nothing that waits was taken; how often it looked like a flood.
    at: float
    received: int
    taken: int
    stuck: float | None = None
    proof: float = 0.0


@dataclass(frozen=True, slots=True)
class WatchStats:
    """How many connections there are, how many messages are awaited, and how many connections were cut so far."""

    connections: int
    awaited: int
    cut: int


class Watch:
    """
    Run `keep` as a task.

    Args:
        now: the loop's clock.
    """

    def __init__(self, bounds: Bounds, *, now: Callable[[], float]) -> None:
        self.intake = Intake(self.note_vain, body_s=bounds.body_s, write_s=bounds.write_s, now=now)
        self._bounds = bounds
        self._now = now
        self._lines = Lines(set())
        self._booths = Booths(COUNT, lambda _: None, now=now)
        self._porch = Porch(lambda _: None, now=now)
        self._seen: dict[Line, _Seen] = {}
        self._suspects: set[Line] = set()
        self._strikes = Strikes(_FORGIVEN, now=now)
        self._gone: dict[Peer, float] = {}  # who was cut, and when: what it asked before may still be waiting to be heard
        self._held: dict[asyncio.Task[Any] | None, tuple[Peer, Line | None]] = {}
        self._lets_go = False
        self._cut = 0

    def __repr__(self) -> str:
        said = self.stats()
        return f"<Watch [{said.connections} connections, {said.awaited} messages awaited, {said.cut} cut]>"

    def stats(self) -> WatchStats:
        """Return how it stands."""
        return WatchStats(len(self._lines), len(self.intake), self._cut)

    async def note_vain(self, said: str) -> None:
        """
        Take note of a call that is to be refused, or was left unheard, before it ends.

        Where there are too many, it goes on being one of the streams that its connection may have until it is forgiven: grpcio
        itself refuses more then, at no cost to the loop. All calls at a booth stand in one line before the loop, and each of
        them costs it 0.3 ms: of a connection that is cut at once the next one brings as many again. So it is cut late.

        Raises `CancelledError` where nobody is there to be refused: of what is said to them grpcio keeps half a KB for good.
        """
        peer = peer_of(said)
        if peer is None:
            return
        is_gone = peer in self._gone
        self._porch.note_vain(is_first=not is_gone and not self._strikes.count(peer))
        if is_gone:
            raise asyncio.CancelledError
        count = self._strikes.add(peer)
        if count <= _STRIKES:
            await asyncio.sleep(_MOMENT_S)
            return
        line = self._lines.of(peer)
        if line is not None and not line.look():
            raise asyncio.CancelledError  # its calls are nobody's streams any more
        self._booths.blame(line)
        self._porch.trouble()
        if self._lets_go:
            return
        if count <= _MOST_STRIKES and len(self._held) <= _MOST_HELD:
            await self._hold(peer, line, (count - _STRIKES) / _FORGIVEN)
        elif line is not None:
            self._end(line, "vain_calls")
            raise asyncio.CancelledError

    async def _hold(self, peer: Peer, line: Line | None, seconds: float) -> None:
        until, task = self._now() + seconds, asyncio.current_task()
        self._held[task], is_left = (peer, line), False
        while (rest := until - self._now()) > 0 and task in self._held:
            try:
                await asyncio.sleep(rest)
            except asyncio.CancelledError:
                is_left |= task in self._held  # who has left is held all the same
        self._held.pop(task, None)
        if is_left or self._has_gone(peer, line):
            raise asyncio.CancelledError

    def let_go(self) -> None:
        """Hold nobody any more: the server leaves, and would wait for them."""
        self._lets_go = True
        self._let_go(list(self._held))

    def _let_go(self, tasks: Iterable[asyncio.Task[Any] | None]) -> None:
        for task in tasks:
            del self._held[task]
            if task is not None:
                task.cancel()

    def _let_go_of_gone(self) -> None:
        # They are nobody's streams any more; a few at a time, since each takes the loop a moment.
        gone = (task for task, (peer, line) in self._held.items() if self._has_gone(peer, line))
        self._let_go(list(itertools.islice(gone, _AT_ONCE)))

    def _has_gone(self, peer: Peer, line: Line | None) -> bool:
        return peer in self._gone or (line is not None and line not in self._lines)

    async def keep(self, ports: Iterable[int]) -> None:
        """Look after all connections at some ports, until cancelled."""
        self._lines, entrances = Lines(set(ports)), Entrances(set(ports))
        entrances.find()
        self._booths = Booths(COUNT, entrances.steer, now=self._now)
        self._porch = Porch(entrances.shut, now=self._now)
        found = looked = -_PERIOD_S
        while True:
            await asyncio.sleep(_PERIOD_S)
            if (began := self._now()) >= found:
                share = _SHARE_IN_TROUBLE if self._porch.is_shut else _SHARE
                found = began + max(_PERIOD_S, await self._find() / share)
            for turn in self._porch.step():
                turn.listen()
            if (began := self._now()) >= looked:
                looked = began + max(_PERIOD_S, await self._look_at_all() / _SHARE)
            elif self._suspects:
                self._look(self._suspects, self.intake.take_counts())
            self.intake.counts = bool(self._suspects)
            for peer in self.intake.settle(self._seen_anew):
                if line := self._lines.of(peer):
                    self._end(line, "unread")
            if self.intake.is_crowded:
                self._porch.note_crowd()
            self._let_go_of_gone()

    # Each returns what it cost, in seconds of this thread alone: the busier the loop is, the more it has to be done.

    async def _find(self) -> float:
        spent = await _sliced(self._lines.finding())
        self._booths.see(list(self._lines))
        return spent + await _sliced(self._porch.seeing(self._lines.take_new(), self._lines))

    async def _look_at_all(self) -> float:
        lines = list(self._lines)
        self._seen = {line: seen for line, seen in self._seen.items() if line in self._lines}
        self._suspects.intersection_update(lines)
        self._gone = {peer: at for peer, at in self._gone.items() if self._now() - at < _REMEMBERED_S}
        spent = await _sliced(self._looking(lines, self.intake.take_counts()))
        return spent + await _sliced(self._making_room(lines))

    def _looking(self, lines: list[Line], asked: Mapping[Peer, int]) -> Iterator[None]:
        for first in range(0, len(lines), _AT_ONCE):
            self._look(lines[first : first + _AT_ONCE], asked)
            yield

    def _look(self, lines: Iterable[Line], asked: Mapping[Peer, int]) -> None:
        for line in list(lines):
            if line.look():
                self._seen[line] = self._judge(line, self._seen.get(line), asked.get(line.peer, 0))

    def _judge(self, line: Line, before: _Seen | None, asked: int) -> _Seen:
        now = _Seen(self._now(), line.received, line.taken)
        before = before or _Seen(now.at - _PERIOD_S, 0, 0)
        if line.waits and line.taken == before.taken:
            now.stuck = before.at if before.stuck is None else before.stuck
            if now.at - now.stuck > self._bounds.write_s:
                self._end(line, "not_taken")
        came = line.received - before.received
        if came <= _FLOOD_BYTES * (now.at - before.at):
            now.proof = max(0.0, before.proof - _DOUBT)  # a flood comes in waves, if the loop is busy
            if not now.proof:
                self._suspects.discard(line)
        elif line not in self._suspects:
            self._suspects.add(line)
            now.proof = 2 * _DOUBT  # of nothing yet, but it is looked at a few times more
        elif came > 2 * asked and not self.intake.awaits(line.peer):
            now.proof = before.proof + 1
            if now.proof >= (self._bounds.held_s / _PERIOD_S if self._strikes.count(line.peer) else _PROOF):
                self._end(line, "flood")
        else:
            now.proof = before.proof
        return now

    def _making_room(self, lines: list[Line]) -> Iterator[None]:
        # Over which nothing was asked: to end those fails no call. Their clients, if they are any, connect again.
        # The eldest go: who has just come may not have had its turn to ask. Who knocks has asked, and waits for that turn.
        beyond = {who: _beyond(count, self._bounds.most_per_peer) for who, count in _by_address(lines).items()}
        in_all = _beyond(len(lines), self._bounds.most)
        silent = (line for line in lines if line.received < _ASKED_BYTES and not line.knocks)
        idle = [line for line in silent if in_all or beyond[line.peer[0]]]
        going = idle[: max(in_all, sum(beyond.values()))] if idle else lines[self._bounds.most :]
        for number, line in enumerate(going, 1):
            self._end(line, "connections")
            if not number % _AT_ONCE:
                yield

    def _seen_anew(self, peer: Peer) -> Line | None:
        line = self._lines.of(peer)
        return line if line is not None and line.look() else None

    def _end(self, line: Line, reason: str) -> None:
        line.cut()
        self._booths.blame(line)
        if reason in _FLOODS:
            self._porch.trouble()
        self._cut += 1
        self._gone[line.peer] = self._now()
        self._suspects.discard(line)
        observe.REFUSED.inc("grpc", reason)


async def _sliced(steps: Iterator[None]) -> float:
    # Lets the loop go on after each step; returns how long they took in all, in seconds of this thread.
    spent, began = 0.0, time.thread_time()
    for _ in steps:
        spent += time.thread_time() - began
        await asyncio.sleep(0)
        began = time.thread_time()
    return spent + time.thread_time() - began


def _beyond(count: int, most: int) -> int:
    # How many have to go, so that there is room for others: none before it is nearly full.
    room = most // _ROOM
    return count - (most - 2 * room) if count > most - room else 0


def _by_address(lines: Iterable[Line]) -> Counter[str]:
    return Counter(line.peer[0] for line in lines)
