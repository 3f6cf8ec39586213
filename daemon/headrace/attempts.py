"""
One attempt: schedule, upstream, settle, cache.

The same for the first attempt of a call, made while its caller waits, and for the later ones, made by some worker for a
ticket. An attempt either brings the whole answer or says by its error what that means: `AttemptFailed`, and another one may
follow; `BrokenStream`, and none may, for somebody has had some of this one; a refusal, which is the caller's own.
"""

from __future__ import annotations

import itertools
import os

from headrace import forms, observe
from headrace.answers import Answers
from headrace.aside import joined
from headrace.cache.entry import Entry
from headrace.cache.keeping import Keeping
from headrace.cache.policy import Told
from headrace.cache.tiered import Cache
from headrace.clock import Clock
from headrace.errors import AttemptFailed, BrokenStream, DeadlinePassed, HeadraceError
from headrace.flight.flight import Flight, Landing
from headrace.flight.lease import Leases
from headrace.flight.role import Lease
from headrace.instruments import Sizes
from headrace.model import UNTOLD, Answer, Call, Event, Form, Usage
from headrace.outcome import Outcomes, Tried
from headrace.retry.budget import RetryBudget
from headrace.schedule.turn import Turn
from headrace.schedule.turns import Schedule
from headrace.trail import HERE, Try
from headrace.trails import Trails
from headrace.upstream.client import Upstream

_INPUT, _OUTPUT = observe.UPSTREAM_TOKENS.at("input"), observe.UPSTREAM_TOKENS.at("output")
_EARLY_S = 0.005  # a timer of the loop may ring so much before the clock shows its time: it counts whole milliseconds


class Attempts:
    """Makes attempts."""

    def __init__(
        self,
        clock: Clock,
        cache: Cache,
        keeping: Keeping,
        leases: Leases,
        schedule: Schedule,
        upstream: Upstream,
        outcomes: Outcomes,
        answers: Answers,
        trails: Trails,
        retries: RetryBudget,
    ) -> None:
        self.answers = answers
        self._clock = clock
        self._cache = cache
        self._keeping = keeping
        self._leases = leases
        self._schedule = schedule
        self._upstream = upstream
        self._outcomes = outcomes
        self._trails = trails
        self._retries = retries
        # No two attempts have one id, wherever they are made.
        self._name, self._numbers = os.urandom(8).hex(), itertools.count(1)

    def __repr__(self) -> str:
        return f"<Attempts {self._upstream!r}>"

    async def make(self, call: Call, flight: Flight, lease: Lease | None, *, number: int) -> Landing:
        """
        Ask upstream once, within the budgets, and append to *flight* what it says.

        With a *lease* the landing is sent to the followers on other hosts, together with the settlement. Raises
        `AttemptFailed`, `BrokenStream` when upstream broke off after its first content, and refusals.
        """
        flight.is_asking = True
        try:
            return await self._make(call, flight, lease, number)
        finally:
            flight.is_asking = False

    async def _make(self, call: Call, flight: Flight, lease: Lease | None, number: int) -> Landing:
        hold_id = f"{self._name}-{next(self._numbers)}-{number}"
        await self._retries.permit(call, number)
        async with self._schedule.turn(call, hold_id, trail=flight.trail) as turn:
            self._retries.sent(number)
            flight.begin(hold_id)
            flight.attempts = number
            flight.trail.led_by, asking = call.trace, self._outcomes.trying(call)
            flight.waited_s += turn.waited_s
            flight.trail.going = asked = self._clock.now()
            if lease is not None:
                self._leases.sent(lease)
            heard = _Heard(call.endpoint, self._clock) if call.stream else None
            turn.sent(lambda: _told(heard))
            try:
                answer = await (self._upstream.ask(asking) if heard is None else self._stream(asking, flight, turn, heard))
            except AttemptFailed as failure:
                self._note(asking, flight, turn, asked, failure.error.status, heard, failure)
                self._tell_failed(call, _told(heard), is_untold=failure.sent and failure.failure.has_used)
                await turn.fail(failure)
                raise self._as_seen(failure, call, flight) from failure
            except BaseException:  # nobody waits for it any more
                self._note(asking, flight, turn, asked, 0, heard)
                self._tell_failed(call, _told(heard), is_untold=True)
                raise
            self._note(asking, flight, turn, asked, 200, heard, answer)
            self._outcomes.spent(call, answer.usage, is_whole=True, is_untold=not answer.usage.known)
            _INPUT.count += answer.usage.metered_input_tokens
            _OUTPUT.count += answer.usage.output_tokens
            answer, entry = await self._decided(call, heard, answer, asked)
            landing = Landing(answer, attempts=number, ticket=flight.ticket, waited_s=flight.waited_s)
            # One round trip: the three are sent in the same turn of the loop, and waited for afterwards. The entry is kept
            # before the flight lands, so no second call slips in between.
            settled = turn.settle(answer.usage)
            kept = self._cache.put(entry) if entry is not None else None
            if lease is not None:
                self._leases.begin_landing(flight, lease, landing)
            elif not call.ticket:  # of one that has a ticket that says which answer counts
                flight.land_soon(landing)
            if kept is not None:
                await kept
            await settled
            return landing

    async def _decided(self, call: Call, heard: _Heard | None, answer: Answer, asked: float) -> tuple[Answer, Entry | None]:
        """Return the answer, which says whether it is kept, and the entry to keep it by, if it is."""
        entry = self._keeping.entry_of(call, answer.decided(""), asked)  # most are kept
        no_keep = self._keeping.no_keep_call(call) or self._cache.no_keep(entry)
        if not no_keep:
            told = heard.told if heard is not None else None
            no_keep = await self.answers.no_keep(call.endpoint, answer, told) or self._cache.no_keep(entry)
        return (answer.decided(no_keep), None) if no_keep else (entry.answer, entry)

    def _note(
        self, asking: Call, flight: Flight, turn: Turn, asked: float, status: int, heard: _Heard | None,
        came: Answer | AttemptFailed | None = None,
    ) -> None:  # fmt: skip
        """Note on the flight's trail what came of this try; of one for a ticket, others elsewhere hear, too."""
        outcome, request_id = "abandoned", flight.request_id
        if isinstance(came, Answer):
            outcome, request_id = "answered", came.request_id
        elif came is not None:
            outcome, request_id = str(came.failure), came.metadata.get("request_id", "")
        usage = came.usage if isinstance(came, Answer) else _told(heard)
        took_s = max(0.0, self._clock.now() - asked)
        made = Try(
            flight.attempts, status, outcome, asked, took_s, turn.waited_s, turn.held_by, request_id,
            HERE, self._outcomes.span_of(asking),
        )  # fmt: skip
        flight.trail.add(made)
        if asking.ticket:
            self._trails.tell(asking.ticket, (made,))
        retry_after_s = came.retry_after_s if isinstance(came, AttemptFailed) else None
        first_s = max(0.0, heard.began - asked) if heard and heard.began is not None else None
        self._outcomes.tried(Tried(asking, made, usage, retry_after_s, first_s, heard.gaps if heard else None))

    def _tell_failed(self, call: Call, told: Usage, *, is_untold: bool) -> None:
        """Tell what upstream had said of an attempt's use before it ended too early."""
        self._outcomes.spent(call, told, is_whole=False, is_untold=is_untold)

    async def _stream(self, call: Call, flight: Flight, turn: Turn, heard: _Heard) -> Answer:
        async with self._upstream.stream(call) as stream:
            flight.request_id, flight.headers = stream.request_id, stream.headers
            dialect = forms.dialect(call.endpoint)
            async for event in stream:
                flight.append(event, is_content=dialect.is_content(event))
                heard.add(event)
                if dialect.tells_usage(event):
                    turn.told(heard.usage)
                if flight.is_open:
                    turn.begun()
        payload = await joined(flight.events.chunks())
        return Answer(Form.EVENTS, payload, self._clock.now(), heard.usage, stream.request_id, headers=stream.headers)

    def _as_seen(self, failure: AttemptFailed, call: Call, flight: Flight) -> HeadraceError:
        """Return what a failure means by now: it is final after the first content, the caller's own after the deadline."""
        if flight.is_open:
            error = failure.error
            return BrokenStream(error.message, status=error.status, type=error.type, body=error.body, headers=error.headers)
        if failure.failure.counts and self._clock.now() >= call.deadline - _EARLY_S:
            # Upstream was given no more time than the leader had. Followers may have longer, so this must not bind them.
            return DeadlinePassed("the call's deadline passed before upstream had answered")
        return failure


def _told(heard: _Heard | None) -> Usage:
    # A whole answer says nothing before it is there, and most are whole: nothing is made for them that listens.
    return UNTOLD if heard is None else heard.usage


class _Heard:
    """What a stream has said so far. At its end all is known that is to be known of it, however long it was."""

    def __init__(self, endpoint: str, clock: Clock) -> None:
        self._clock = clock
        self.began: float | None = None  # when its first event came
        self.gaps = Sizes(observe.GEN_AI_CHUNK.buckets)
        self._last = 0.0
        self._counting = forms.dialect(endpoint).counting()
        self.told = Told()

    def add(self, event: Event) -> None:
        """Take in an event."""
        now = self._clock.span()
        if self.began is None:
            self.began = self._clock.now()
        else:
            self.gaps.add(now - self._last)
        self._last = now
        self._counting.add(event)
        self.told.add(event)

    @property
    def usage(self) -> Usage:
        """What upstream has said of the attempt's use."""
        return self._counting.usage
