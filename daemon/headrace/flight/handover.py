"""
Handing over what is said in a flight to those who follow it on other hosts: a log in Redis, and a nudge when it grows.

There are two kinds of flights that others follow: one that another process leads, and a ticket whose attempts some worker
makes. Each item of a log has a position "<attempt>-<number>": an item that is sent twice changes nothing, and what an attempt
says that has been overtaken by a later one is not taken in any more. Events are handed over from the first content on (before
it an attempt may still be forgotten), and only once somebody outside follows; most flights never write a log.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass

from headrace import forms, keys, observe, records
from headrace.clock import Clock, until_set
from headrace.errors import RedisAway, Refusal
from headrace.flight import items
from headrace.flight.flight import Flight, Landing, broken_off
from headrace.flight.said import Said
from headrace.link import Link, Script
from headrace.model import Event
from headrace.nudges import Nudged, Nudges
from headrace.seal import UNSEALED, Seal

LOG_MS = 60_000
# What is written and read in one piece: encoding, sealing and reading it takes the loop some milliseconds.
_PIECE = 200
_PIECE_BYTES = 1 << 20

News = Sequence[tuple[bytes, Sequence[bytes]]]  # a piece of a log: positions, and the fields there

_APPEND = Script(__package__, "append.lua")
_JOIN = Script(__package__, "join.lua")


@dataclass(slots=True)
class Publication:
    """
    What followers elsewhere have been handed of a flight.

    Args:
        name: of the flight or ticket, for nudges and the audience.
        log: the Redis key of the log.
        attempt: the first half of the positions.
        holder, ticket: who makes this attempt of which ticket; another's attempt publishes nothing any more.
        published: how many of the flight's events are in the log.
    """

    name: str
    log: str
    attempt: int = 1
    ticket: str = ""
    holder: str = ""
    published: int = 0
    task: asyncio.Task[None] | None = None

    def stop(self) -> None:
        """Hand over no more."""
        if self.task is not None:
            self.task.cancel()


@dataclass(frozen=True, slots=True)
class HandoverStats:
    """How many flights and tickets of others are followed here, each counted once."""

    followed: int


class Handover:
    """This process's part in the logs of all processes."""

    def __init__(self, link: Link, clock: Clock, *, follow_ms: int, seal: Seal = UNSEALED) -> None:
        self._seal = seal
        self._link = link
        self._clock = clock
        self.follow_ms = follow_ms
        self._nudges = Nudges()
        link.on("log", self._on_log)
        link.on_connect(self._nudges.nudge_all)

    def __repr__(self) -> str:
        return f"<Handover [{self.stats().followed} followed]>"

    def stats(self) -> HandoverStats:
        """Return its state now."""
        return HandoverStats(len(self._nudges))

    # Following.

    def nudged(self, name: str) -> Nudged:
        """Return a context with an event that is set whenever the log of this name grows; each who follows has its own."""
        return self._nudges.of(name)

    def is_followed(self, name: str) -> bool:
        """Whether anybody here follows this name; this process's place in the audience is for all of them."""
        return name in self._nudges

    async def read(self, flight: Flight, log: str, source: str) -> Landing | None:
        """
        Append to *flight* what a leader's log has more of, and return its landing, if it is there.

        Raises `RedisAway`, and `BrokenStream` when callers here have had some of another source.
        """
        try:
            news = await self._read_piece(log, f"1-{flight.heard_of(source)}")
            while (landing := self._landing(flight, log, source, news)) is None and len(news) == _PIECE:
                news = await self._read_piece(log, news[-1][0].decode())
            return landing
        except ValueError:
            records.unreadable("flight", log)
            if flight.is_open:
                raise broken_off() from None
            return Landing(error=Refusal("what was handed over cannot be read"))  # so we ask anew who leads

    def _read_piece(self, log: str, position: str) -> asyncio.Future[News]:
        return self._link.do("XRANGE", log, f"({position}", "+", "COUNT", _PIECE)

    def _landing(self, flight: Flight, log: str, source: str, news: News) -> Landing | None:
        """
        Append the news of a flight, and return its landing, if it is among them.

        What comes after a gap is told to nobody: it is a ValueError where some of it was had before, and silence elsewhere.
        """
        for where, fields in news:
            item = self._seal.open(log, items.item_of(fields))
            is_next = where == b"1-%d" % (flight.heard_of(source) + 1)
            if items.is_landing(item):
                landing = items.decode_landing(item, flight)
                if landing.answer is not None and not is_next:  # an error may come without all that was said before it
                    raise ValueError("an answer with a gap")
                observe.FLIGHTS.inc("followed")
                return landing
            if not is_next:
                if flight.is_open:
                    raise ValueError("a gap")
                continue
            event = items.decode_event(item, flight)
            flight.begin(source)
            # What is handed over starts with the first content, so all of it counts as such.
            flight.append(event, is_content=True)
        return None

    async def follow(self, flight: Flight, ticket: str) -> None:
        """
        Append to *flight* what a ticket's attempts say, as they say it, until cancelled.

        Raises `BrokenStream` when callers here have had some of an attempt that another one has taken the place of.
        """
        name, read, had = _name(ticket), "0-0", b"0-0"
        try:
            with self.nudged(name) as nudged:
                while True:
                    nudged.clear()
                    with contextlib.suppress(RedisAway):
                        self._link.run(_JOIN, [keys.audience(name)], [self._link.inbox, self.follow_ms])
                        while news := await self._read_piece(keys.ticket_log(ticket), read):
                            had = self._take_in(flight, ticket, news, await self._newest(ticket, news), had)
                            read = news[-1][0].decode()
                            if len(news) < _PIECE:
                                break
                    await until_set(nudged, self._clock, self.follow_ms / 3000)
        finally:
            if not self.is_followed(name):
                self._link.do("ZREM", keys.audience(name), self._link.inbox)

    async def _newest(self, ticket: str, news: News) -> bytes:
        """Return the newest attempt that a ticket's log has items of; *news* are a piece of it."""
        if len(news) == _PIECE:
            news = await self._link.do("XREVRANGE", keys.ticket_log(ticket), "+", "-", "COUNT", 1) or news
        return news[-1][0].partition(b"-")[0]

    def _take_in(self, flight: Flight, ticket: str, news: News, newest: bytes, had: bytes) -> bytes:
        """
        Append the news of a ticket; its newest attempt is known, and *had* is the last position before which nothing lacks.

        Returns that position anew. Raises as `follow` does.
        """
        try:
            for where, fields in news:
                if not _is_next(had, where):
                    if flight.is_open:
                        raise broken_off()
                    continue  # what came before it is lost, so nobody is given the rest
                self._take_in_one(flight, ticket, where, fields, newest)
                had = where
        except ValueError:
            records.unreadable("flight", keys.ticket_log(ticket))
            if flight.is_open:
                raise broken_off() from None
        return had

    def _take_in_one(self, flight: Flight, ticket: str, where: bytes, fields: Sequence[bytes], newest: bytes) -> None:
        item = self._seal.open(keys.ticket_log(ticket), items.item_of(fields))
        attempt = where.partition(b"-")[0]
        if attempt != newest and not flight.is_open:
            return  # an attempt that ended before anybody here had any of it
        event = items.decode_event(item, flight)
        if forms.concludes(event):
            return  # that the answer is whole is said by the ticket's end alone: until then another may count
        flight.begin(f"{ticket}-{attempt.decode()}")
        flight.append(event, is_content=True)

    # Publishing.

    @contextlib.asynccontextmanager
    async def publishing(self, flight: Flight, ticket: str, attempt: int, holder: str) -> AsyncIterator[None]:
        """Hand on what is said in *flight*, an attempt of a ticket, to whoever follows the ticket."""
        publication = Publication(_name(ticket), keys.ticket_log(ticket), attempt, keys.ticket(ticket), holder)
        self.publish(flight, publication)
        try:
            yield
        finally:
            publication.stop()

    def publish(self, flight: Flight, publication: Publication) -> None:
        """Hand over what is said in *flight* as it is said, from now on; once."""
        if publication.task is None:
            publication.task = asyncio.create_task(self._publish(flight, publication))

    async def _publish(self, flight: Flight, publication: Publication) -> None:
        with flight.watched() as changed:
            while True:
                changed.clear()
                if flight.is_open and publication.published < len(flight.events):
                    with contextlib.suppress(RedisAway):
                        await self._append(flight, publication)
                        continue
                await changed.wait()

    async def _append(self, flight: Flight, publication: Publication) -> None:
        fresh = _piece(flight.events, publication.published)
        names = [keys.audience(publication.name), publication.log, publication.ticket or publication.log]
        first = publication.published + 1
        args = [LOG_MS, publication.name, publication.attempt, first, publication.holder]
        said = self.sealed(publication.log, items.encode_events(fresh, flight, publication.published))
        await self._link.run(_APPEND, names, [*args, *said])
        publication.published += len(fresh)
        observe.HANDED_OVER.inc(by=len(fresh))

    async def catch_up(self, flight: Flight, publication: Publication) -> None:
        """Hand over what was said so far, piece by piece, until a landing can take the rest. Raises `RedisAway`."""
        publication.stop()
        while self.lags(flight, publication):
            await self._append(flight, publication)

    def lags(self, flight: Flight, publication: Publication) -> bool:
        """Whether the log lacks more than one piece."""
        return len(flight.events) - publication.published > len(_piece(flight.events, publication.published))

    def sealed(self, log: str, said: Iterable[bytes]) -> list[bytes]:
        """Return items as they are to lie in a log."""
        return [self._seal.seal(log, item) for item in said]

    def _on_log(self, name: bytes) -> None:
        self._nudges.nudge(name.decode(errors="replace"))


def _piece(events: Said, first: int) -> list[Event]:
    """Return the events from *first* on, or so many of them as are handed over at once."""
    piece, size = [], 0
    for event in itertools.islice(events.since(first), _PIECE):
        piece.append(event)
        size += len(event.data)
        if size > _PIECE_BYTES:
            break
    return piece


def _is_next(had: bytes, where: bytes) -> bool:
    """Whether nothing lacks between two positions: the next one of the same attempt, or the first of another."""
    (before, _, last), (attempt, _, number) = had.partition(b"-"), where.partition(b"-")
    return int(number) == (int(last) + 1 if attempt == before else 1)


def _name(ticket: str) -> str:
    return f"flight:ticket:{ticket}"
