"""
Making tickets: the one script by which a ticket comes to be, its idempotency key claimed in the same step.
"""

from __future__ import annotations

import functools
import os
import time

from headrace import keys, observe
from headrace.aside import aloof
from headrace.clock import Clock
from headrace.errors import QueueFull
from headrace.link import Link, Script
from headrace.model import Call
from headrace.retry.ticket import Claimed, Conflict, Same, State, Ticket, Timing, encode_ticket
from headrace.retry.waits import not_found
from headrace.seal import UNSEALED, Seal

_CREATE = Script(__package__, "create.lua", after=("books.lua", "held.lua"), is_sure=True)
_REQUEUE = Script(__package__, "requeue.lua", after=("books.lua", "moved.lua"), is_sure=True)

_DAY_MS = 86_400_000
_LISTED_MS = 8 * _DAY_MS
_SURELY_ENDED_S = 60.0  # past its deadline a ticket has been ended, by its holder or by a sweeper


class Making:
    """
    Makes tickets.

    Args:
        max_tickets, max_bytes: submitted and idempotent calls of one caller that may live at once, and their bodies.
        max_all_bytes: the bodies of all callers together.
    """

    def __init__(
        self,
        link: Link,
        clock: Clock,
        timing: Timing,
        max_tickets: int,
        max_bytes: int,
        max_all_bytes: int,
        seal: Seal = UNSEALED,
    ) -> None:
        self._seal = seal
        self._link = link
        self._clock = clock
        self._timing = timing
        self._max_tickets, self._max_bytes, self._max_all_bytes = max_tickets, max_bytes, max_all_bytes

    async def create(
        self,
        ticket_id: str,
        call: Call,
        state: State,
        *,
        due: float,
        attempts: int = 0,
        broken: int = 0,
        holder: str = "",
        is_submitted: bool = False,
        is_wanted: bool = False,
    ) -> Claimed | Same | Conflict:
        """
        Make a ticket, unless its call's idempotency key stands for one already.

        Args:
            due: when its next attempt is due (Unix seconds); attempts, broken: made so far.
            holder: who holds it from the beginning; "" if it is queued.
            is_wanted: it goes with its RPC, and lives as long as somebody waits for it.

        Raises `QueueFull` if too many of its caller's tickets have not ended, or if they are too large together.
        """
        owner = call.owner.text
        idempotency = keys.idempotency(owner, call.idempotency_key) if call.idempotency_key else ""
        sealed = functools.partial(
            encode_ticket,
            call,
            ticket_id=ticket_id,
            seal=self._seal,
            state=state,
            created=self._clock.now(),
            due=due,
            attempts=attempts,
            broken=broken,
            submitted=is_submitted,
            idempotency=idempotency,
            holder=holder,
        )
        fields = await aloof(call.body, sealed)
        names = [keys.ticket(ticket_id), keys.TICKETS, keys.tickets_of(owner), idempotency or keys.ticket(ticket_id)]
        names += [keys.live_tickets_of(owner), keys.live_bytes_of(owner), keys.HELD, keys.OWNERS, keys.DUE, keys.LIVE_BYTES]
        args = [
            ticket_id,
            call.fingerprint if idempotency else "",
            us(self._timing.lease_s) if holder else 0,
            us(due + self._timing.grace_s),
            us(self._timing.want_s) if is_wanted else 0,
            _DAY_MS,
            _LISTED_MS,
            self._max_tickets,
            us(call.deadline + _SURELY_ENDED_S),
            len(call.body),
            self._max_bytes,
            owner,
            us(max(0.0, due - self._clock.now())),
            self._max_all_bytes,
            us(max(0.001, call.deadline - self._clock.now())) if is_submitted else 0,
        ]
        outcome, other = await self._link.run(_CREATE, names, [*args, *fields])
        if outcome in _FULL:
            raise _FULL[outcome](int(other))
        if outcome != b"created":
            return Same(other.decode()) if outcome == b"same" else Conflict()
        observe.TICKETS.inc(state)
        return Claimed(ticket_id)

    async def requeue(self, ticket: Ticket, call: Call) -> None:
        """Make a ticket of a dead letter again, for a call with a new deadline; raises `QueueFull` and `TicketNotFound`."""
        now = self._clock.now()
        sealed = functools.partial(
            encode_ticket,
            call,
            ticket_id=ticket.id,
            seal=self._seal,
            state=State.QUEUED,
            created=ticket.created,
            due=now,
            attempts=0,
            broken=0,
            submitted=ticket.is_submitted,
            idempotency=ticket.idempotency,
            holder="",
        )
        fields = await aloof(call.body, sealed)
        names = [
            keys.ticket(ticket.id), keys.TICKETS, keys.LETTERS, ticket.idempotency or keys.ticket(ticket.id),
            keys.live_tickets_of(ticket.owner), keys.live_bytes_of(ticket.owner), keys.watchers(ticket.id), keys.DUE,
            keys.LIVE_BYTES, keys.ticket_log(ticket.id),
        ]  # fmt: skip
        args = [
            ticket.id, ticket.owner, us(now + self._timing.grace_s), _DAY_MS, _LISTED_MS, self._max_tickets,
            us(call.deadline + _SURELY_ENDED_S), len(call.body), self._max_bytes,
            self._max_all_bytes,
        ]  # fmt: skip
        outcome, how = await self._link.run(_REQUEUE, names, [*args, *fields])
        if outcome in _FULL:
            raise _FULL[outcome](int(how))
        if outcome == b"gone":
            raise not_found(ticket.id)
        observe.TICKETS.inc(State.QUEUED)


def new_id() -> str:
    """Return the id of a ticket to be; they sort by the time at which they were made."""
    return f"tkt_{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def us(seconds: float) -> int:
    """Return a moment or a span in microseconds."""
    return round(seconds * 1_000_000)


def _too_many(live: int) -> QueueFull:
    problem = f"{live} submitted or idempotent calls of this caller have not ended"
    return QueueFull(problem, retry_after_s=1.0, metadata={"limit": "retry.max_tickets", "tickets": str(live)})


def _too_heavy(live: int) -> QueueFull:
    problem = f"{live} bytes of submitted or idempotent calls of this caller have not ended"
    return QueueFull(problem, retry_after_s=1.0, metadata={"limit": "retry.max_ticket_bytes", "bytes": str(live)})


def _crowded(live: int) -> QueueFull:
    problem = f"{live} bytes of submitted or idempotent calls of all callers have not ended"
    return QueueFull(problem, retry_after_s=1.0, metadata={"limit": "retry.max_all_ticket_bytes", "bytes": str(live)})


def _behind(late_ms: int) -> QueueFull:
    problem = f"this caller's submitted calls end too slowly for one more: it would be {late_ms / 1e3:.1f} s late"
    return QueueFull(problem, retry_after_s=max(1.0, late_ms / 1e3), metadata={"limit": "deadline", "late_ms": str(late_ms)})


_FULL = {b"full": _too_many, b"heavy": _too_heavy, b"crowded": _crowded, b"behind": _behind}
