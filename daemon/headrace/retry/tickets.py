"""
The store of tickets: the truth about every call that may outlive its RPC.

A ticket is one hash in Redis, and each of its moves is one script, so that it reaches exactly one terminal state whatever is
killed when. Queue jobs are only alarm clocks; an alarm that is lost, late or doubled does no harm, since a ticket starts only
the one attempt that it awaits, and the sweeper finds one whose alarm never rang.

A ticket runs in the hands of one process, its holder, under a lease that `keep` renews. A parked call whose RPC still waits is
wanted as long as somebody looks at it (`wait` does); a submitted one, or one with an idempotency key, stands for itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

import structlog

from headrace import keys, observe
from headrace.clock import Clock
from headrace.errors import Canceled, DeadlinePassed, Draining, RedisAway, TicketNotFound
from headrace.insist import insist
from headrace.link import Link, Script
from headrace.model import Call
from headrace.owner import Owner
from headrace.retry.ends import Ends
from headrace.retry.holds import Hold, Holds
from headrace.retry.listing import Listing
from headrace.retry.looks import Looks
from headrace.retry.making import Making, new_id, us
from headrace.retry.moves import Moves
from headrace.retry.renewals import Renewals
from headrace.retry.ticket import ASKED, RUN, SUMMARY, Alarms, Claimed, Conflict, Keep, Same, State, Ticket, Timing, lost
from headrace.retry.unwanted import Unwanted
from headrace.retry.waits import Heed, Waits, heedless, not_found
from headrace.retry.watching import Watching
from headrace.seal import UNSEALED, Seal

log = structlog.get_logger()

_START = Script(__package__, "start.lua", after=("held.lua", "moved.lua"))
_PARK = Script(__package__, "park.lua", after=("held.lua", "moved.lua"))

_TAKEN_BACK_S = 0.25
_BOUNDS = 10_000, 1_000_000_000, 4_000_000_000


@dataclass(frozen=True, slots=True)
class TicketsStats:
    """How many tickets are in this process's hands, and for how many it waits."""

    held: int
    waited_for: int


class Tickets:
    """
    All tickets, as one process sees them. Run `keep` as a task.

    Args:
        bounds: submitted and idempotent calls of one caller that may live at once, their bodies' bytes, and all callers'.
        keep: how long those are kept that have ended.
        seal: of what tickets hold; one without it is not there.
    """

    def __init__(
        self,
        link: Link,
        clock: Clock,
        alarms: Alarms,
        *,
        timing: Timing | None = None,
        bounds: tuple[int, int, int] = _BOUNDS,
        keep: Keep | None = None,
        seal: Seal = UNSEALED,
    ) -> None:
        self._seal = seal
        self._link = link
        self._clock = clock
        self._alarms = alarms
        self.timing = timing or Timing()
        self._making = Making(link, clock, self.timing, *bounds, seal)
        self._held = Holds(link.inbox)
        self._ends = Ends(link, clock, self._held, keep or Keep(), seal)
        self.finish = self._ends.finish
        self._renewals = Renewals(link, clock, self._held, self.timing.lease_s, self._release)
        self.looks = Looks(link, clock, seal)
        self._waits = Waits(link, clock, self.timing)
        self.listing = Listing(link, clock, seal)
        self.watching = Watching(link, clock, self.looks, self._waits)
        self.unwanted = Unwanted(link, clock, self.finish, self._waits, want_s=self.timing.want_s)
        self._moves = Moves()
        link.on("ticket", self._on_ticket)
        link.on("lost", self._held.on_lost)
        link.on("sought", self._held.on_sought)
        link.on("held", lambda payload: self._waits.nudge(payload.decode(errors="replace")))

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Tickets [{stats.held} held, {stats.waited_for} waited for]>"

    def stats(self) -> TicketsStats:
        """Return its state now."""
        return TicketsStats(len(self._held), len(self._waits))

    @property
    def is_cut_off(self) -> bool:
        """Whether Redis is away, or slow to answer: then nothing of a ticket can be known, or made known."""
        return self._link.is_silent

    # Making one.

    async def submit(self, call: Call) -> Claimed | Same | Conflict:
        """
        Queue a call for a worker, durably; its idempotency key, if it has one, is claimed in the same step.

        Raises `QueueFull` if too many of its caller's tickets have not ended.
        """
        now = self._clock.now()
        ticket_id = new_id()
        outcome = await insist(
            self._clock, lambda: self._making.create(ticket_id, call, State.QUEUED, due=now, is_submitted=True)
        )
        if isinstance(outcome, Claimed):
            await self._set_alarm(outcome.ticket, 1, now)
        return outcome

    async def requeue(self, letter: Ticket, call: Call) -> None:
        """Make a ticket of a dead letter again, due at once; raises `QueueFull` as `submit` does, and `TicketNotFound`."""
        await self._making.requeue(letter, call)
        await self._set_alarm(letter.id, 1, self._clock.now())

    async def claim(self, call: Call) -> Claimed | Same | Conflict:
        """
        Claim the call's idempotency key, if it has one. `Claimed`: attempt 1 of the ticket is ours; `park` or `finish` it.

        Raises `QueueFull` as `submit` does.
        """
        ticket_id, hold = new_id(), self._held.new()
        if call.idempotency_key:
            hold.idempotency = keys.idempotency(call.owner.text, call.idempotency_key)
        hold.is_bound = bool(call.credential)
        claiming = self._moves.start(self._claim(ticket_id, call, hold))
        try:
            return await asyncio.shield(claiming)
        except (asyncio.CancelledError, RedisAway):
            self._moves.start(self._unclaim(ticket_id, hold, claiming))
            raise

    async def _claim(self, ticket_id: str, call: Call, hold: Hold) -> Claimed | Same | Conflict:
        now = self._clock.now()
        with self._held.asking(hold):
            outcome = await insist(
                self._clock,
                lambda: self._making.create(ticket_id, call, State.RUNNING, due=now, attempts=1, holder=hold.holder),
            )
            if isinstance(outcome, Claimed):
                self._held.put(ticket_id, hold)
        return outcome

    async def _unclaim(self, ticket_id: str, hold: Hold, claiming: asyncio.Task[Any]) -> None:
        """End what was claimed for one who is gone; whoever came with the key meanwhile has it made, if others can make it."""
        await asyncio.wait([claiming])
        if not await self.unwanted.abandon_alone(ticket_id, is_bound=hold.is_bound):
            await self._untake(ticket_id, hold, 0, claiming)

    def let_go(self, ticket_id: str) -> None:
        """Give a ticket in our hands up, for those who have gone; it is queued again for whoever waits for it all the same."""
        if (hold := self._held.get(ticket_id)) is not None:
            self._moves.start(self._let_go(ticket_id, hold))

    async def _let_go(self, ticket_id: str, hold: Hold) -> None:
        if not await self.unwanted.abandon_alone(ticket_id, is_bound=hold.is_bound):
            with contextlib.suppress(RedisAway):  # else `keep` and `leave` see to it
                await self._repark(ticket_id, hold, -1, -1, self._clock.now())

    async def park(self, call: Call, *, attempts: int, broken: int, due: float, by: Hold | None = None) -> str:
        """
        Queue a call for its next attempt, durably, and return its ticket.

        A ticket of the call's own (`call.ticket`, held here) goes back into the queue; for another call one is made, which
        lives as long as somebody waits for it. *attempts* may be one less than began, if that one was not made. *by* is the
        hold of who says so; in other hands, or ended, its ticket is left alone: whoever waits for it will see.
        """
        if call.ticket:
            hold = self._held.get(call.ticket)
            if hold is not None and hold.ending is None and by in (None, hold):
                await asyncio.shield(self._moves.start(self._repark(call.ticket, hold, attempts, broken, due)))
            return call.ticket
        ticket_id = new_id()
        creating = self._moves.start(
            self._making.create(ticket_id, call, State.QUEUED, due=due, attempts=attempts, broken=broken, is_wanted=True)
        )
        try:
            await asyncio.shield(creating)
            await self._set_alarm(ticket_id, attempts + 1, due)
        except (asyncio.CancelledError, RedisAway):
            self.unwanted.cancel_soon(ticket_id, after=creating)  # it may be there all the same
            raise
        return ticket_id

    async def _set_alarm(self, ticket_id: str, attempt: int, due: float) -> None:
        # The ticket itself is durable by now; if its alarm is not, the sweeper will find it overdue.
        try:
            await self._alarms.schedule(ticket_id, attempt, due)
        except RedisAway:
            log.warning(observe.ALARM_FAILED, ticket=ticket_id, attempt=attempt)

    # Running one.

    async def asked(self, ticket_id: str) -> Call | None:
        """Return the call of a ticket, without its body, while there is anything to do for it."""
        with contextlib.suppress(TicketNotFound):
            return (await self.looks.read(ticket_id, ASKED)).call
        return None

    async def crashes(self, ticket_id: str) -> int:
        """Return how many of a ticket's attempts died with their process."""
        said = await self._link.do("HGET", keys.ticket(ticket_id), "crashes") or b""
        return int(said) if said.isdigit() else 0

    async def start(self, ticket_id: str, attempt: int) -> Ticket | None:
        """
        Take a ticket into our hands for this attempt, and return it with its call; None if that is not to be made.

        Whoever gets it must `park` or `finish` it, and should do the work inside `held`.
        """
        hold = self._held.new()
        taking = self._moves.start(self._take(ticket_id, attempt, hold))
        try:
            return await asyncio.shield(taking)
        except (asyncio.CancelledError, RedisAway):
            self._moves.start(self._untake(ticket_id, hold, attempt - 1, taking))
            raise

    async def _take(self, ticket_id: str, attempt: int, hold: Hold) -> Ticket | None:
        with self._held.asking(hold):
            return await self._taken(ticket_id, attempt, hold)

    async def _taken(self, ticket_id: str, attempt: int, hold: Hold) -> Ticket | None:
        names = [keys.ticket(ticket_id), keys.TICKETS, keys.HELD, keys.watchers(ticket_id), keys.DUE]
        outcome = await self._link.run(_START, names, [ticket_id, attempt, hold.holder, us(self.timing.lease_s)])
        if outcome != b"started":
            await self.end(ticket_id, outcome.decode())
            return None
        ticket = None
        with contextlib.suppress(TicketNotFound):
            ticket = await self.looks.read(ticket_id, RUN)
        if ticket is None or ticket.call is None:
            await self.finish(ticket_id, error=lost())
            return None
        if (ticket.state, ticket.attempts) != (State.RUNNING, attempt):  # we stood still since, and others went on with it
            return None
        hold.idempotency = ticket.idempotency
        hold.waited_s = max(0.0, self._clock.now() - (ticket.created if attempt == 1 else ticket.due))
        self._held.put(ticket_id, hold)
        observe.TICKETS.inc(State.RUNNING)
        return ticket

    async def _untake(self, ticket_id: str, hold: Hold, attempts: int, taking: asyncio.Task[Any]) -> None:
        """Give back what was taken, if it was, for one who is gone: its attempt was not made, and is due at once."""
        await asyncio.wait([taking])
        try:
            await self._repark(ticket_id, hold, attempts, -1, self._clock.now())
        except RedisAway:
            self._held.drop(ticket_id, hold)  # a stray, should Redis have it in our hands

    async def _release(self, ticket_id: str, holder: str) -> None:
        """Give back what Redis has in our hands though nobody here has it: its attempt was not made."""
        attempts, known, is_bound = await self._link.do("HMGET", keys.ticket(ticket_id), "attempts", "holder", "bound")
        if known == holder.encode() and attempts.isdigit():
            log.warning(observe.TICKET_STRAY, ticket=ticket_id)
            await self._give_back(ticket_id, Hold(holder, is_bound=is_bound == b"1"), int(attempts) - 1)
        await self._link.do("ZREM", keys.HELD, f"{holder} {ticket_id}")

    def hold(self, ticket_id: str) -> Hold:
        """Return the hold on a ticket in our hands, by which its attempt says what came of it; `Canceled` if there is none."""
        return self._held.expect(ticket_id)

    def held(self, ticket_id: str) -> contextlib.AbstractAsyncContextManager[None]:
        """Do the work of a ticket in our hands; raises `Canceled` at once when it ends elsewhere or its lease is lost."""
        return self._held.doing(ticket_id)

    async def _repark(self, ticket_id: str, hold: Hold, attempts: int, broken: int, due: float) -> None:
        args = [ticket_id, hold.holder, attempts, broken, repr(due), self._look_us(due), us(max(0.0, due - self._clock.now()))]
        names = [keys.ticket(ticket_id), keys.TICKETS, keys.HELD, keys.watchers(ticket_id), keys.DUE]
        alarm = await self._link.run(_PARK, names, args)
        self._held.drop(ticket_id, hold)
        if alarm:
            observe.TICKETS.inc(State.QUEUED)
            await self._set_alarm(ticket_id, alarm[0], due)

    async def idle(self) -> None:
        """Wait until no ticket is in our hands."""
        await self._held.empty()

    async def leave(self) -> None:
        """
        Say how tickets in our hands ended, and give the others back to the queue: this process goes, and does no more for them.

        Raises `RedisAway` if that was in vain; their leases lapse then.
        """
        await self._moves.settled()
        try:
            await self._ends.settle()
        finally:
            mine = [(ticket_id, hold) for ticket_id, hold in self._held.items() if hold.ending is None]
            await asyncio.gather(*(self._give_back(ticket_id, hold) for ticket_id, hold in mine))

    async def _give_back(self, ticket_id: str, hold: Hold, attempts: int = -1) -> None:
        if hold.is_bound:
            await self.finish(ticket_id, error=Draining("the daemon left before there was an answer", retry_after_s=1.0))
        else:
            await self._repark(ticket_id, hold, attempts, -1, self._clock.now())

    async def keep(self) -> None:
        """Keep all tickets in our hands, and say how they ended until Redis has heard it, until cancelled. Run it as a task."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._ends.keep())
            group.create_task(self._renewals.keep())

    # Ending one.

    async def end(self, ticket_id: str, why: str) -> None:
        """End a ticket for which a script found a reason to; other words of the scripts need nothing done."""
        if why == "late":
            await self.finish(ticket_id, error=DeadlinePassed("the call's deadline passed before there was an answer"))
        elif why == "unwanted":
            await self.unwanted.abandon(ticket_id, why)

    async def cancel(self, ticket_id: str, owner: Owner | None) -> Ticket:
        """Cancel an owner's ticket (None: anybody's, by an operator), and return it; one that has ended stays as it is."""
        await self.get(ticket_id, owner)
        error = Canceled(f"the ticket was canceled by {'an operator' if owner is None else 'its caller'}")
        await insist(self._clock, lambda: self.finish(ticket_id, error=error))
        return await self.get(ticket_id, owner)

    # Looking.

    async def get(self, ticket_id: str, owner: Owner | None) -> Ticket:
        """Return an owner's ticket as it is now; None: anybody's. Another's is not found."""
        ticket = await insist(self._clock, lambda: self.looks.whole(ticket_id))
        if owner is not None and ticket.owner != owner.text:
            raise not_found(ticket_id)
        return ticket

    async def look(self, ticket_id: str) -> Ticket:
        """Return anybody's ticket as it is now, without its answer; raises `TicketNotFound`."""
        return await insist(self._clock, lambda: self.looks.read(ticket_id, SUMMARY))

    async def wait(self, ticket_id: str, timeout: float | None = None, *, heed: Heed = heedless) -> Ticket:
        """
        Wait until a ticket ends, and return it; after *timeout* seconds return it as it is. *heed* is as in `Waits.ended`.

        A nudge wakes us at its end; should that be lost, the next look finds it. Redis away is waited out. Raises `TicketLost`
        when it is not there: who waits for a ticket knows that it was.
        """
        try:
            with contextlib.suppress(TimeoutError):
                async with self._clock.timeout(timeout):
                    return await self._ended(ticket_id, heed)
            return await self.looks.whole(ticket_id)
        except TicketNotFound as error:
            raise self._waits.lost(error) from None

    async def _ended(self, ticket_id: str, heed: Heed) -> Ticket:
        while True:
            await self._waits.ended(ticket_id, heed)
            ticket = await self.looks.ended(ticket_id)
            if ticket.state.is_terminal:
                return ticket
            await self._clock.sleep(_TAKEN_BACK_S)  # a failover has taken back the end that we looked at

    def _on_ticket(self, payload: bytes) -> None:
        ticket_id = payload.decode(errors="replace")
        self._waits.nudge(ticket_id)
        if hold := self._held.get(ticket_id):
            self._held.lose(ticket_id, hold)

    def _look_us(self, due: float) -> int:
        return us(due + self.timing.grace_s)
