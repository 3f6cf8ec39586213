"""
What came of one call, as one value: for whom, from where, at what cost, after which waits, or why not.

Every door makes one `Outcome` for each call, where it is answered or refused, and tells it to whoever listens. Metrics are made
of it; whatever else wants to know of calls (a ledger of usage, traces, a live page) listens in the same place.

Of each try at upstream whoever makes it tells as a `Tried`: for a ticket's that may be another process than the one whose door
tells the outcome.

What upstream counted is another matter: a call may take several attempts, an attempt may serve several calls, or none any
more, and may be made by a process that has no door. So each attempt is told, too, once and where it ends, as a `Spent`. Who
adds up what was spent takes those, and of outcomes only what was answered without spending.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TypeVar

import msgspec

from headrace import observe
from headrace.clock import Clock
from headrace.errors import HeadraceError, UpstreamError
from headrace.instruments import Sizes
from headrace.model import UNTOLD, Call, Errand, Labels, Reply, Source, Usage
from headrace.owner import text_of
from headrace.trace import Trace, of_headers
from headrace.trail import Try

E = TypeVar("E", bound=Errand)

NOTHING_USED = Usage()
_COST_CLASSES = {Source.UPSTREAM: "paid", Source.SHARED: "shared", Source.CACHE: "kept", Source.STALE: "kept"}
LEFT = "CALLER_LEFT"


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """
    What came of one call; a struct, since a frozen dataclass takes longer to make than the rest of a hit's bookkeeping.

    Args:
        edge: the door: "http", "grpc", or "queue" for a call that went on without its caller.
        caller: whose call it was, as `Owner.text` has it.
        source: where the answer came from; "" if there was none.
        cost_class: what the answer cost: "paid" (upstream was asked for this call), "shared" (for another one), "kept" (nobody
            was), "none" (there was no answer).
        reason: "" if the answer is whole; else the reason of the error, or CALLER_LEFT.
        status: upstream's status, if the error is its own; else 0.
        usage: the answer's, as upstream counted it for whoever paid.
        team, labels: what the call counts for; labels as "env=prod,feature=search", by name.
        deadline_s: how long after it came the call had to be answered; 0 where nobody knows.
        max_tokens, body_bytes: what it asked for at most, and how long its body is; 0 where nobody has read it.
        waited_s: for turns at the schedule, in all attempts.
        id: how the call is called in headers and logs.
        limit: which refused it, or else held it longest: its name, or one of those in trail.py; "" for none.
        tries: at upstream, each with what it waited for; waits: how long (s) what held it, in all.
        began: when the call came, in Unix seconds; first_s until there was something to say, took_s until the end.
        trace: where the call is in its trace; led_by: where that one is for which upstream was asked.
        steps: what was done before, as a trail has them.
        fingerprint: by which an answer is kept and shared; "" where it is neither.
    """

    edge: str
    endpoint: str
    caller: str
    lane: str
    model: str
    source: str = ""
    cost_class: str = "none"
    reason: str = ""
    status: int = 0
    usage: Usage = NOTHING_USED
    team: str = ""
    labels: str = ""
    deadline_s: float = 0.0
    attempts: int = 0
    waited_s: float = 0.0
    began: float = 0.0
    first_s: float | None = None
    took_s: float = 0.0
    ticket: str = ""
    request_id: str = ""
    max_tokens: int = 0
    body_bytes: int = 0
    id: str = ""
    limit: str = ""
    tries: tuple[Try, ...] = ()
    waits: tuple[tuple[str, float], ...] = ()
    trace: Trace | None = None
    led_by: Trace | None = None
    steps: tuple[tuple[str, float, float], ...] = ()
    fingerprint: str = ""


class Spent(msgspec.Struct, frozen=True, gc=False):
    """
    What one attempt at upstream came to.

    Args:
        caller, team, labels, lane, model: of the call that it was made for; of those that shared it, the one that led.
        usage: as far as upstream said by the end; not `known` if it did not come to say all.
        is_whole: whether the answer was.
        is_untold: whether upstream may have counted more than it said: the answer broke off, or could not be read.
        at: when it ended, in Unix seconds.
        requests: how many it stands for: those of a message batch that are priced alike, else 1.
    """

    caller: str
    lane: str
    model: str
    usage: Usage = NOTHING_USED
    is_whole: bool = False
    is_untold: bool = False
    at: float = 0.0
    team: str = ""
    labels: str = ""
    requests: int = 1


class Tried(msgspec.Struct, frozen=True, gc=False):
    """
    One try at upstream, as whoever made it tells of it when it is over.

    Args:
        call: that it was made for.
        usage: as far as upstream said by its end.
        retry_after_s: how long upstream asked to wait; None if it did not.
        first_s: how long it took until a stream's first event; None where there was none.
        gaps: how long it took from each event of a stream to the next, in seconds.
    """

    call: Errand
    made: Try
    usage: Usage = UNTOLD
    retry_after_s: float | None = None
    first_s: float | None = None
    gaps: Sizes | None = None


class Record:
    """A call under way: its door sets `reply` once there is one, and the end of the block tells what came of it."""

    __slots__ = ("_edge", "_errand", "_outcomes", "reply")

    def __init__(self, outcomes: Outcomes, edge: str, errand: Errand) -> None:
        self.reply: Reply | None = None
        self._outcomes, self._edge, self._errand = outcomes, edge, errand

    def __enter__(self) -> Record:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if isinstance(error, HeadraceError):
            error.is_told, error.trail = True, self._errand.trail
        self._outcomes.ended(self._edge, self._errand, self.reply, error)


class Outcomes:
    """Makes outcomes and tells them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._listeners: list[Callable[[Outcome], None]] = [count]
        self._listeners_to_kept: list[Callable[[Outcome], None]] = [count]
        self._payers: list[Callable[[Spent], None]] = []
        self._triers: list[Callable[[Tried], None]] = []
        self.enters: Callable[[Trace | None], Trace] | None = None
        """Gives a call a span of its own, where spans are made, under what its caller said; None where none are."""
        self.told = 0

    def __repr__(self) -> str:
        return f"<Outcomes [{self.told} told]>"

    def listen(self, listener: Callable[[Outcome], None], *, kept: bool = True) -> None:
        """Have every outcome from now on, or all but those of kept answers; the listener must be quick, and raise nothing."""
        self._listeners.append(listener)
        if kept:
            self._listeners_to_kept.append(listener)

    def listen_to_kept(self, listener: Callable[[Outcome], None], *, is_on: bool) -> None:
        """Have the outcomes of kept answers, too, or no longer."""
        others = [each for each in self._listeners_to_kept if each != listener]
        self._listeners_to_kept = [*others, listener] if is_on else others

    def listen_spent(self, listener: Callable[[Spent], None]) -> None:
        """Have what every attempt came to from now on; the listener must be quick, and raise nothing."""
        self._payers.append(listener)

    def listen_tried(self, listener: Callable[[Tried], None]) -> None:
        """Have every try from now on that is made in this process; the listener must be quick, and raise nothing."""
        self._triers.append(listener)

    def entered(self, headers: Mapping[str, str], given: Trace | None = None) -> Trace | None:
        """Return where a call is in its trace, by its headers, or else by what its caller said beside them."""
        given = of_headers(headers) or given
        return given if self.enters is None else self.enters(given)

    def trying(self, call: E) -> E:
        """Return a call as it goes upstream: with a span of this try's own, where spans are made."""
        if self.enters is None or call.trace is None:
            return call
        return replace(call, trace=call.trace.child())

    def span_of(self, asking: Errand) -> str:
        """Return the id of the span that `trying` gave a call; "" for none."""
        return asking.trace.span_id if asking.trace is not None and self.enters is not None else ""

    def tried(self, tried: Tried) -> None:
        """Tell of a try that is over."""
        for listener in self._triers:
            listener(tried)

    def spent(self, call: Errand, usage: Usage, *, is_whole: bool, is_untold: bool) -> None:
        """Tell what an attempt for this call came to."""
        now = self._clock.now()
        spent = Spent(
            text_of(call.caller.name, call.credential), call.lane, call.model, usage, is_whole, is_untold, at=now,
            team=call.caller.team, labels=labels_text(call.labels),
        )  # fmt: skip
        for listener in self._payers:
            listener(spent)

    def tell(self, outcome: Outcome) -> None:
        """Tell one that was made elsewhere: a hit's."""
        self.told += 1
        for listener in self._listeners_to_kept if outcome.cost_class == "kept" else self._listeners:
            listener(outcome)

    def refused(self, edge: str, error: BaseException, *, id: str = "") -> None:
        """Tell of a request that was refused before it was a call, or that is none; an error is told once."""
        if getattr(error, "is_told", False):
            return
        reason = _reason(error)
        self.tell(Outcome(edge, "", "", "", "", reason=reason, status=_status(error), began=self._clock.now(), id=id))

    def of(self, edge: str, errand: Errand) -> Record:
        """Tell what comes of a call in this block, whichever way the block ends."""
        return Record(self, edge, errand)

    def ended(self, edge: str, errand: Errand, reply: Reply | None, error: BaseException | None) -> None:
        """Tell of a call that has ended, by its reply or by its error; for `Record`."""
        self.tell(self._outcome(edge, errand, reply, error))

    def _outcome(self, edge: str, errand: Errand, reply: Reply | None, error: BaseException | None) -> Outcome:
        now, began = self._clock.now(), errand.arrival
        source = reply.source if reply is not None else None
        waits = errand.trail.waits if errand.trail is not None else {}
        has_come = reply is not None and reply.came_at > 0
        return Outcome(
            edge=edge,
            endpoint=errand.endpoint,
            caller=text_of(errand.caller.name, errand.credential),
            lane=str(errand.lane),
            model=errand.model,
            team=errand.caller.team,
            labels=labels_text(errand.labels),
            source=str(source) if source and has_come else "",
            cost_class=_COST_CLASSES[source] if source and has_come else "none",
            reason=_reason(error) if error is not None else "",
            status=_status(error),
            usage=(reply.usage() if reply is not None else None) or NOTHING_USED,
            deadline_s=errand.deadline - began,
            attempts=reply.attempts if reply is not None else 0,
            waited_s=reply.waited_s if reply is not None else 0.0,
            began=began,
            first_s=reply.came_at - began if reply is not None and has_come else None,
            took_s=max(0.0, now - began),
            ticket=(reply.ticket if reply is not None else "") or (errand.trail.ticket if errand.trail is not None else ""),
            request_id=reply.request_id if reply is not None else "",
            max_tokens=errand.max_tokens if isinstance(errand, Call) else 0,
            body_bytes=len(errand.body) if isinstance(errand, Call) else 0,
            id=errand.id,
            limit=_limit(error) or max(waits, key=lambda what: waits[what], default=""),
            tries=errand.trail.tries if errand.trail is not None else (),
            waits=tuple(waits.items()),
            trace=errand.trace,
            led_by=errand.trail.led_by if errand.trail is not None else None,
            steps=tuple(errand.trail.steps) if errand.trail is not None else (),
            fingerprint=errand.fingerprint if isinstance(errand, Call) else "",
        )


@functools.lru_cache(1024)
def labels_text(labels: Labels) -> str:
    """Return labels as outcomes have them; the same few come with every call."""
    return ",".join(f"{name}={value}" for name, value in labels)


_calls = functools.lru_cache(64)(observe.CALLS.at)  # every hit counts there, and edges and sources are few


def count(outcome: Outcome) -> None:
    """Keep the metrics of calls."""
    if outcome.source:
        _calls(outcome.edge, outcome.source).count += 1
    if outcome.reason and outcome.reason != LEFT:
        observe.ERRORS.inc(outcome.edge, outcome.reason)


def _reason(error: BaseException) -> str:
    if isinstance(error, HeadraceError):
        return error.reason
    return LEFT if isinstance(error, asyncio.CancelledError | ConnectionError | GeneratorExit) else HeadraceError.reason


def _limit(error: BaseException | None) -> str:
    return error.metadata.get("limit", "") if isinstance(error, HeadraceError) else ""


def _status(error: BaseException | None) -> int:
    return error.status if isinstance(error, UpstreamError) else 0
