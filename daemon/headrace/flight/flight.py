"""
One flight: many callers join one key, one task flies.

A flight belongs to all its members and to nobody in particular: whoever leaves does not disturb the others. What upstream says
is appended to the flight's events, so that a late follower first replays what there is and then follows live.

One member leads: the call goes upstream in its form, on its budget and by its deadline. What upstream says is everybody's. A
refusal is the leader's alone (its budget is spent, its time is up): then the lead passes to one other member, and nobody else
is woken. A flight lands once, with an answer, with upstream's error, or with the last member's refusal.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from headrace.allowance import SLICE, Allowance
from headrace.errors import BrokenStream, HeadraceError, Refusal
from headrace.flight.said import Said
from headrace.flight.untaken import Untaken
from headrace.model import Answer, Call, Event, Form, Headers, Source
from headrace.trail import Trail
from headrace.values import quick

_AT_ONCE = 64  # events that are told without others' turns between
_ENOUGH_S = 0.5  # that an answer waits for Redis, as for its settlement


@quick(frozen=True, slots=True)
class Landing:
    """
    How a flight ended: an answer or an error.

    Args:
        source: where the leader had the answer from; followers of an upstream answer say SHARED.
        attempts: upstream tries that it took.
        ticket: the ticket that it waited on, if it was parked.
        waited_s: how long its attempts waited for their turns, in all.
        renditions: the answer as doors say it, made once for all who share it.
    """

    answer: Answer | None = None
    error: HeadraceError | None = None
    source: Source = Source.UPSTREAM
    attempts: int = 1
    ticket: str = ""
    waited_s: float = 0.0
    renditions: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)


@dataclass(slots=True, eq=False)
class Member:
    """
    One caller's place in a flight.

    Args:
        is_live: it wants the events as they come; else it is woken at the end only.
        refusal: the no that was its own, once it led. It has to leave then.
        taken: how many of the events it has taken.
    """

    flight: Flight
    call: Call
    is_live: bool
    refusal: HeadraceError | None = None
    taken: int = 0
    _task: asyncio.Task[Any] | None = field(default=None, repr=False)  # that takes them
    _has_news: bool = field(default=False, repr=False)
    _waiting: asyncio.Future[None] | None = field(default=None, repr=False)  # of the one who waits, its caller

    @property
    def is_served(self) -> bool:
        """Whether there is something for this caller: content, the landing, or its own refusal."""
        flight = self.flight
        return self.refusal is not None or flight.landing is not None or (self.is_live and flight.is_open)

    @property
    def leads(self) -> bool:
        """Whether the flight goes by this caller's call."""
        return self.flight.leader is self

    @property
    def ticket(self) -> str:
        """
        The ticket on which the flight waited, or waits, if this caller may know of it; "" of none.

        Where callers share answers it may be another's; not even its name is told.
        """
        flight = self.flight
        ticket = flight.landing.ticket if flight.landing else flight.ticket
        is_own = self.leads and ticket == flight.ticket and not flight.is_ticket_anothers
        return ticket if self.call.scope or self.call.idempotency_key or is_own else ""

    @property
    def is_told(self) -> bool:
        """Whether it is being told the events."""
        return self._task is not None

    def wake(self) -> None:
        self._has_news = True
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    async def changed(self) -> None:
        """Wait until there is news for this caller; news that came since the last wait is not missed."""
        if not self._has_news:
            self._waiting = asyncio.get_running_loop().create_future()
            await self._waiting
        self._has_news = False

    def error(self) -> HeadraceError | None:
        """Return an error of this caller's own, if it was refused or the flight landed with one."""
        error = self.refusal or (self.flight.landing.error if self.flight.landing else None)
        return error.again() if error is not None else None

    async def replay(self) -> AsyncIterator[Event]:
        """Yield the events so far, then the rest as they come; raise the error that the flight ends in, if it does."""
        flight, self.taken, self._task = self.flight, 0, asyncio.current_task()
        while True:
            while self.taken < len(flight.events):
                for event in flight.events.piece(self.taken):
                    yield event
                    self.taken += 1
                    if not self.taken % _AT_ONCE:  # who writes them need not wait for anything: nobody else would have a turn
                        await flight.allowance.take(SLICE)
            if flight.landing is not None:
                if flight.landing.error is not None:
                    raise flight.landing.error.again()
                return
            await self.changed()

    def end(self) -> None:
        """Give up a caller who takes nothing: whoever tells it the events is cancelled."""
        if self._task is not None:
            self._task.cancel()

    def rest(self) -> None:
        """Forget who tells it the events: the two know each other."""
        self._task = None


class Flight:
    """One call in the air: who its members are, what was said so far, and how it ended."""

    def __init__(self, key: str, allowance: Allowance | None = None, untaken: Untaken | None = None) -> None:
        self.key = key
        self.allowance = allowance or Allowance()
        self._untaken = untaken
        self.events = Said()
        self.is_open = False  # the first content is here: from now on a retry would be seen
        self.setback: HeadraceError | None = None  # the last failed attempt, while the next one is awaited
        self.source = Source.UPSTREAM  # SHARED while another process leads it
        self.attempts = 0  # made so far
        self.ticket = ""
        self.is_ticket_anothers = False  # a leader's who is gone: none of its members' own
        self.request_id = ""
        self.headers: Headers = ()  # what else upstream said, of a stream that is still being said
        self.waited_s = 0.0  # for turns, in all its attempts
        self.trail = Trail()  # that its members' calls follow
        self.landing: Landing | None = None
        self.leader: Member | None = None
        self.outside: Callable[[], Awaitable[bool]] = _nobody  # does another process follow?
        self.goes_on = False  # it does not end with its last member, of those that have a ticket
        self.is_asking = False  # an attempt is being made here
        self.on_open: Callable[[], None] | None = None
        self._said_by = ""
        self._members: dict[Member, None] = {}  # in the order in which they came
        self._live: set[Member] = set()
        self._watchers: set[asyncio.Event] = set()
        self.task: asyncio.Task[None] | None = None
        self._soon: asyncio.TimerHandle | None = None  # until it lands here, whatever its task waits for

    def __repr__(self) -> str:
        state = "landed" if self.landing else "open" if self.is_open else "in the air"
        return f"<Flight {self.key[:12]} [{state}, {len(self.events)} events, {self.waiting} waiting]>"

    @property
    def waiting(self) -> int:
        """How many members there are."""
        return len(self._members)

    @property
    def members(self) -> list[Member]:
        """All members, in the order in which they came."""
        return list(self._members)

    @property
    def readers(self) -> Sequence[Member]:
        """Who is being told the events: not those who are still to begin, or were given the whole."""
        return [member for member in self._live if member.is_told]

    @property
    def length(self) -> int:
        """How many events there are."""
        return len(self.events)

    @property
    def cost_bytes(self) -> int:
        """What the events take in memory, more or less."""
        return self.events.cost_bytes

    @property
    def is_over(self) -> bool:
        """Whether there will be no more events."""
        return self.landing is not None

    # Members.

    def enter(self, member: Member) -> None:
        """Take in a member; the first one leads."""
        self._members[member] = None
        if member.call.trail is not None:
            member.call.trail.follow(self.trail)
        if member.is_live:
            self._live.add(member)
        self.leader = self.leader or member

    def leave(self, member: Member) -> None:
        """Let a member go. What is being asked for it goes on as long as there are others."""
        if member.call.trail is not None:
            member.call.trail.ticket = member.ticket or member.call.trail.ticket
        self._members.pop(member, None)
        self._live.discard(member)
        member.rest()
        if not self._live and self._untaken is not None:
            self._untaken.discard(self)
        self.rest()

    def rest(self) -> None:
        """Forget who led, once it has landed, its task is done and nobody is left: the two know each other."""
        if self.landing is not None and self._soon is None and not self._members:
            self.task = self.leader = None

    def over(self) -> None:
        """Its task is done."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        self.rest()

    def lead(self) -> Member:
        """
        Return the member by whose call the flight goes on from here: who led so far, while it is there, else the eldest.

        Without members (all are on other hosts) it is whoever led last.
        """
        if self.leader not in self._members and self._members:
            self.leader = next(iter(self._members))
        if self.leader is None:
            raise Refusal("nobody leads")
        return self.leader

    def refuse(self, member: Member, error: HeadraceError) -> None:
        """Tell one member a no that is its own, and wake nobody else. With nobody left to lead, the no is raised."""
        member.refusal = error
        self.leave(member)
        member.wake()
        if not self._members:
            raise error.again()

    # What is said.

    def begin(self, source: str) -> None:
        """
        Go on with what another source says; a source is one attempt, wherever it is made, by a name of its own.

        Raises `BrokenStream` if callers here have had some of another attempt: what they have cannot be continued by this one.
        """
        if source == self._said_by:
            return
        if self.is_open:
            raise broken_off()
        self._said_by = source
        self._unsay()

    def heard_of(self, source: str) -> int:
        """Return how many events of a source are here."""
        return len(self.events) if source == self._said_by else 0

    @property
    def told(self) -> int:
        """How many of its events others may be told of: none of an attempt that may yet be forgotten."""
        return len(self.events) if self.is_open else 0

    def append(self, event: Event, *, is_content: bool) -> None:
        """Add what the source named by `begin` said next."""
        if not self._said_by:
            raise RuntimeError("whoever appends events says first, by `begin`, whose they are")
        if self.events.append(event):
            self._count()
        self.setback = None
        if is_content and not self.is_open:
            self.is_open = True
            if self.on_open is not None:
                self.on_open()
        if self.is_open:
            self._wake(self._live)

    def rewind(self, setback: HeadraceError) -> None:
        """Forget an attempt that failed before its first content: nobody has seen any of it."""
        self._said_by = ""
        self._unsay()
        self.setback = setback
        self._wake(member for member in self._members if member.call.cache.stale_if_error_s is not None)

    def land(self, landing: Landing) -> None:
        """End the flight; the first landing counts."""
        if self.landing is None:
            self.landing = landing
            if landing.answer is not None and landing.answer.form is Form.EVENTS:
                self.events.rest_on(landing.answer.payload)
            self._count()
            self._wake(self._members)

    def land_soon(self, landing: Landing) -> None:
        """
        Let its members have this answer in half a second, if it has not landed by then.

        Its way to other hosts may take longer, where Redis is silent, than their deadlines are away.
        """
        if landing.answer is not None and self._soon is None:
            loop = asyncio.get_running_loop()  # by its clock: what is waited for is a socket
            self._soon = loop.call_later(_ENOUGH_S, self.land, landing)

    def _unsay(self) -> None:
        if len(self.events):
            self.events = Said()
            self._count()

    def _count(self) -> None:
        if self._live and self._untaken is not None:
            self._untaken.count(self)

    def _wake(self, members: Iterator[Member] | set[Member] | dict[Member, None]) -> None:
        for member in members:
            member.wake()
        for watcher in self._watchers:
            watcher.set()

    @contextlib.contextmanager
    def watched(self) -> Iterator[asyncio.Event]:
        """Have an event set at each change, for one who is no member: who hands the events on to other hosts."""
        changed = asyncio.Event()
        self._watchers.add(changed)
        try:
            yield changed
        finally:
            self._watchers.discard(changed)

    # Its task.

    def start(self, flying: Coroutine[Any, Any, None]) -> None:
        self.task = asyncio.create_task(flying)

    def cancel(self) -> asyncio.Task[None] | None:
        if self.task is not None:
            self.task.cancel()
        return self.task


def broken_off() -> BrokenStream:
    """Return what a caller is told whose stream cannot go on."""
    return BrokenStream("the stream broke off", status=502)


async def _nobody() -> bool:
    return False
