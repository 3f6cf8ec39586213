"""
Calls that go on without their caller: those with a ticket that stands for itself, or an attempt of one that is parked.

- A *submitted* call is queued; some worker goes with it along the whole line.
- The first call with an *idempotency key* is answered for all who come with the key (once.py), and goes on when its caller
  leaves.
- A *parked* call comes back into the line at `schedule`, for one attempt; then its ticket has ended or a due time for the next.

In each case a ticket is in our hands, and ends by its work: by the answer, or by whatever error comes of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import structlog

from headrace import forms, observe
from headrace.attempts import Attempts
from headrace.background import Background
from headrace.basin import Basin
from headrace.clock import Clock
from headrace.deadline import Bound, margin_s, until
from headrace.disconnect import OnDisconnect
from headrace.errors import (
    AttemptFailed,
    BrokenStream,
    Canceled,
    Failure,
    HeadraceError,
    IdempotencyConflict,
    InvalidCall,
    QueueFull,
    RedisAway,
)
from headrace.flight.flight import Flight, Landing
from headrace.flight.flights import Flights
from headrace.flight.handover import Handover
from headrace.flow import Flow
from headrace.insist import PATIENCE_S
from headrace.model import Answer, Call, Event, Reply
from headrace.outcome import Outcomes
from headrace.retry.holds import Hold
from headrace.retry.policy import RetryPolicy, Tries, jitter
from headrace.retry.ticket import Conflict, Ticket
from headrace.retry.tickets import Tickets
from headrace.schedule.hands import Hands

log = structlog.get_logger()

_COME_BACK_S = 2.0  # to a queue that was full
_TELL_AGAIN_S = 0.5  # Redis, when it was away
# So often has a process died with an attempt. It may be the fault of the call, or of one beside it: which, is seen when only
# one such call is made at a time, and the others do not die with it once more.
_SUSPECT = 2


@dataclass(frozen=True, slots=True)
class PursuitStats:
    """Attempts and submitted calls that this process works on, and those that wait for it to have a hand free."""

    running: int
    waiting: int


class Pursuits:
    """
    Answers calls whose callers may be gone.

    Args:
        hands: bound the tickets that are worked on at once in this process; more wait with their alarms.
        basin: counts what they hold among all that their callers' calls hold.
    """

    def __init__(
        self,
        clock: Clock,
        flow: Flow,
        flights: Flights,
        attempts: Attempts,
        handover: Handover,
        policy: RetryPolicy,
        tickets: Tickets,
        outcomes: Outcomes,
        hands: Hands,
        basin: Basin,
    ) -> None:
        self._clock = clock
        self._flow = flow
        self._flights = flights
        self._attempts = attempts
        self._handover = handover
        self._policy = policy
        self._tickets = tickets
        self._outcomes = outcomes
        self._hands = hands
        self._basin = basin
        self._running: set[asyncio.Task[None]] = set()
        self._suspects = asyncio.Lock()
        self._background = Background("pursuit", clock)

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Pursuits [{stats.running} running, {stats.waiting} waiting]>"

    def stats(self) -> PursuitStats:
        """Return its state now."""
        return PursuitStats(len(self._running), self._hands.waiting)

    # Submitted.

    async def submit(self, call: Call) -> Ticket:
        """Queue a call, durably, and return its ticket; a worker pursues it."""
        self._flow.refuse_if_draining()
        if call.on_disconnect is OnDisconnect.CANCEL:
            problem = "on_disconnect: a submitted call has no RPC to wait in, so it cannot be canceled by its end"
            raise InvalidCall(problem, metadata={"field": "on_disconnect"})
        if call.credential:
            raise InvalidCall("a call with its caller's own key cannot be submitted: no key goes into a queue")
        claim = await self._tickets.submit(call)
        if isinstance(claim, Conflict):
            raise conflict(call.idempotency_key)
        return await self._tickets.get(claim.ticket, call.owner)

    # A ticket in our hands.

    async def answer_for_ticket(self, call: Call, flight: Flight, *, spared: tuple[type[HeadraceError], ...] = ()) -> Landing:
        """
        Go along the whole line with a call whose ticket is in our hands; the ticket ends with what comes of it.

        Raises `Canceled` if it ended otherwise, or is in other hands, and `RedisAway` if a stream cannot be concluded since
        nobody can say so.
        """
        hold = self._tickets.hold(call.ticket)
        if (trail := call.trail) is not None:
            hold.stopped_by = lambda: trail.stopped_by
        async with self._sure_to_end(call.ticket, hold):
            async with self._ending(call, spared=spared) as bound, self._flow.walk(call, is_live=call.stream) as reply:
                bound.move(call.ends)
                answer, rest = (reply.answer, []) if reply.answer else await self._listen(flight, reply, call)
            await self._tickets.finish(
                call.ticket, by=hold, answer=answer, source=reply.source, attempts=reply.attempts, waited_s=reply.waited_s
            )
        if not await self._counts(hold, flight, call):
            raise Canceled("the ticket ended before its answer came")
        for event in rest:
            flight.append(event, is_content=True)
        return Landing(answer, source=reply.source, attempts=reply.attempts, ticket=call.ticket, waited_s=reply.waited_s)

    async def _counts(self, hold: Hold, flight: Flight, call: Call) -> bool:
        """
        Wait until it is known whether our answer is the ticket's, and return it; if it was parked, it is.

        Who has had nothing waits as long as it waits for answers; who only lacks the end of a stream is not kept so long.
        """
        if not (flight.is_open and flight.waiting):
            return await hold.counts()
        now, ends = self._clock.now(), call.ends
        wait_s = max(call.begin_by - now, PATIENCE_S)
        if ends is not None:
            wait_s = min(wait_s, ends - now - margin_s(ends - now))
        try:
            async with self._clock.timeout(wait_s):
                return await hold.counts()
        except TimeoutError:
            raise unrecorded() from None

    async def _listen(self, flight: Flight, reply: Reply, call: Call) -> tuple[Answer, list[Event]]:
        """
        Pass a live stream on to those who wait for the ticket's flight, but for its conclusion; return it as a whole, and that.

        An answer is whole for its callers only once it is the ticket's: before, they may yet be given another.
        """
        rest: list[Event] = []
        flight.request_id, flight.headers = reply.request_id, reply.headers
        flight.attempts, flight.source = reply.attempts, reply.source
        flight.begin(call.ticket)
        async for event in reply.events or _silence():
            if rest or forms.concludes(event):
                rest.append(event)
            else:
                flight.append(event, is_content=True)
        if reply.whole is not None and (answer := reply.whole()):
            return answer, rest
        now, request_id, events = self._clock.now(), reply.request_id, [*flight.events, *rest]
        answer = forms.answer_of_events(events, created=now, request_id=request_id, endpoint=call.endpoint)
        return replace(answer, headers=reply.headers), rest

    # A worker's: what is due.

    async def run(self, ticket_id: str, attempt: int) -> None:
        """
        Take a ticket in hand for the attempt that it awaits; nothing happens if it awaits another, or has ended.

        Returns when it is in hand: the job that rang has done its work, and its place in the queue's worker is free. From here
        on the order is that of the schedule, and not that of the queue. Of those whose attempts have died with their processes
        one is made after the other, in each process.
        """
        if attempt > _SUSPECT and await self._tickets.crashes(ticket_id) >= _SUSPECT:
            async with self._suspects:
                if task := await self._begin(ticket_id, attempt):
                    await asyncio.wait([task])
        else:
            await self._begin(ticket_id, attempt)

    async def _begin(self, ticket_id: str, attempt: int) -> asyncio.Task[None] | None:
        hand = await self._hands.take(lambda: self._tickets.asked(ticket_id))
        if hand is None:
            return None
        try:
            ticket = await self._tickets.start(ticket_id, attempt)
            if ticket is None or ticket.call is None:
                self._hands.give_back(hand)
                return None
        except BaseException:
            self._hands.give_back(hand)
            raise
        is_pursuit = ticket.is_submitted and attempt == 1
        work = self._pursue(ticket.call) if is_pursuit else self._attempt(ticket, ticket.call, attempt)
        task = self._background.start(work, "ticket")
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        place = self._basin.place(ticket.call.owner.text)
        place.hold(len(ticket.call.body))
        task.add_done_callback(lambda _: place.release())
        if is_pursuit:
            # It waits for its own retries, which need hands: holding one, a crowd of submitted calls would wait for ever.
            self._hands.give_back(hand)
        else:
            task.add_done_callback(lambda _: self._hands.give_back(hand))
        return task

    async def _pursue(self, call: Call) -> None:
        """Go with a submitted call along the whole line."""
        try:
            with self._outcomes.of("queue", call) as record:
                landing = await self.answer_for_ticket(call, Flight(call.ticket), spared=(QueueFull, RedisAway))
                record.reply = _reply_of(landing, self._clock.now())
        except (QueueFull, RedisAway):
            # Not the call's fault; the ticket is still ours, and its first attempt is not made.
            await self._park(call, None, Tries(self._policy, self._clock), self._come_back())
        except HeadraceError:
            pass  # the ticket says it to whoever asks

    async def _attempt(self, ticket: Ticket, call: Call, number: int) -> None:
        """Make one attempt of a ticket; it ends, or is parked for the next."""
        flight = Flight(ticket.id)  # a buffer: nobody joins it here, others may follow it by the ticket
        tries = Tries(self._policy, self._clock, made=number, broken=ticket.broken)
        hold = self._tickets.hold(ticket.id)
        async with self._sure_to_end(ticket.id, hold):
            await self._attempt_by(hold, ticket, call, flight, tries)

    async def _attempt_by(self, hold: Hold, ticket: Ticket, call: Call, flight: Flight, tries: Tries) -> None:
        number = tries.made
        try:
            async with self._ending(call, spared=(AttemptFailed, BrokenStream, QueueFull, RedisAway)) as bound:
                flight.on_open = lambda: bound.move(call.ends)
                async with self._handover.publishing(flight, ticket.id, number, hold.holder):
                    landing = await self._attempts.make(call, flight, None, number=number)
        except AttemptFailed as failure:
            await self._again(call, hold, tries, failure)
        except BrokenStream as broken:
            # Of a submitted call nobody has seen any of it.
            kind = Failure.BROKEN if ticket.is_submitted else Failure.FINAL
            await self._again(call, hold, tries, AttemptFailed(kind, broken))
        except (QueueFull, RedisAway):
            tries.made -= 1  # it was not made
            await self._park(call, hold, tries, self._come_back())
        except Canceled:
            log.debug(observe.TICKET_LOST, ticket=ticket.id)  # it has ended, or is in other hands
        except HeadraceError:
            pass  # the ticket says it to whoever waits
        else:
            await self._tickets.finish(ticket.id, by=hold, answer=landing.answer, attempts=number, waited_s=landing.waited_s)

    async def _again(self, call: Call, hold: Hold, tries: Tries, failure: AttemptFailed) -> None:
        tries.failed(failure)
        try:
            due = tries.due(call)
        except HeadraceError as final:
            await self._tickets.finish(call.ticket, by=hold, error=final)
        else:
            await self._park(call, hold, tries, due)

    async def _park(self, call: Call, hold: Hold | None, tries: Tries, due: float) -> None:
        # The ticket is in our hands: until Redis hears that it is not, nobody else looks at it.
        while True:
            try:
                await self._tickets.park(call, attempts=tries.made, broken=tries.broken, due=due, by=hold)
            except RedisAway:
                await self._clock.sleep(_TELL_AGAIN_S)
            else:
                return

    def _come_back(self) -> float:
        return self._clock.now() + _COME_BACK_S * jitter()

    # How a ticket in our hands ends.

    @contextlib.asynccontextmanager
    async def _ending(self, call: Call, *, spared: tuple[type[HeadraceError], ...] = ()) -> AsyncIterator[Bound]:
        """
        Do the work of a ticket in our hands, until the deadline; an error that comes of it ends the ticket, and is raised.

        *Spared* are errors after which it goes on; `Canceled` says that it has ended already, or is in other hands.
        """
        hold = self._tickets.hold(call.ticket)
        try:
            async with self._tickets.held(call.ticket), until(call.deadline, self._clock) as bound:
                yield bound
        except HeadraceError as error:
            if not isinstance(error, (Canceled, *spared)):
                await self._tickets.finish(call.ticket, by=hold, error=error)
                if hold.is_lost:
                    raise Canceled("the ticket ended before its attempt failed") from error
            raise

    @contextlib.asynccontextmanager
    async def _sure_to_end(self, ticket_id: str, hold: Hold) -> AsyncIterator[None]:
        """
        Do all that is done for a ticket in our hands: a fault of ours ends it, wherever it strikes.

        A hold that nobody works for is renewed with the others, and who holds a ticket is left alone with it: it would not end.
        """
        try:
            yield
        except HeadraceError:
            raise
        except Exception:
            await self._tickets.finish(ticket_id, by=hold, error=HeadraceError("internal error"))
            raise

    # Leaving.

    async def settled(self) -> None:
        """Wait until nothing is pursued any more."""
        while self._running:
            await asyncio.wait(self._running)

    async def close(self) -> None:
        """Give up what is being pursued; the tickets go back into the queue by `Tickets.leave`."""
        await self._background.close()


def _reply_of(landing: Landing, now: float) -> Reply:
    return Reply(
        landing.source,
        landing.attempts,
        ticket=landing.ticket,
        waited_s=landing.waited_s,
        came_at=now,
        answer=landing.answer,
        request_id=landing.answer.request_id if landing.answer else "",
    )


async def _silence() -> AsyncIterator[Event]:
    return
    yield


def unrecorded() -> RedisAway:
    """Return what callers are told who cannot be told an answer, since nobody can say whether it counts."""
    return RedisAway("Redis is away: nobody can say which answer counts; it is recorded when Redis is back", retry_after_s=1.0)


def conflict(key: str) -> IdempotencyConflict:
    """Return what is told to who comes with a key that stands for another call."""
    said = f"idempotency key {key!r} was used for another call in the last 24 hours"
    return IdempotencyConflict(said, metadata={"idempotency_key": key})
