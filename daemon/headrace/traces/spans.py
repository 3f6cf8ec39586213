"""
Outcomes and tries, as spans.

    call (SERVER)                         at its outcome, by whoever had its door
      admission, cache                    before anybody was asked
      flight                              until there was something to say; links to the call for which upstream was asked
      wait                                for a turn: the limit
      attempt 1 (CLIENT)                  at its end, by whoever made it: for a ticket's perhaps another host
      parked                              between two attempts
      attempt 2 (CLIENT)

All hang under the call itself, in the order in which they began. Who is answered with others has a flight that links to the
call that led it; what that one waited for and asked is told there, once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from urllib.parse import urlsplit

import msgspec

from headrace import endpoints
from headrace.errors import Failure
from headrace.model import Call, Errand, Usage
from headrace.outcome import LEFT, Outcome, Tried
from headrace.owner import name_in
from headrace.trace import Trace

Value = str | int | float | bool
Attributes = dict[str, Value]

PROVIDER = "anthropic"
OPERATIONS = {endpoints.MESSAGES.name: "chat", endpoints.CHAT.name: "chat"}
"""What the convention calls that which endpoints do; the others ask no model."""

_WAITS_AFTER = frozenset({Failure.RATE_LIMITED, Failure.OVERLOADED, Failure.BROKEN})
_LEAST_S = 0.001  # shorter waits are none
_MOST_NAME = 100  # characters of a model's name: whoever asks may write anything there


class Kind(Enum):
    """Which side of a call a span is, as OpenTelemetry has it."""

    INTERNAL = "internal"
    SERVER = "server"
    CLIENT = "client"


class Span(msgspec.Struct, frozen=True):
    """
    What was done, from when until when (Unix seconds).

    Args:
        trace: its place: `span_id` is its own, `parent` the one that it hangs under.
        error: why it failed, as a constant that machines compare; "" if it did not.
        link: a span of another call that it has to do with.
    """

    name: str
    trace: Trace
    began: float
    ended: float
    kind: Kind = Kind.INTERNAL
    attributes: Mapping[str, Value] = {}
    error: str = ""
    link: Trace | None = None


class Traces:
    """
    Listens to outcomes and tries, and hands on their spans: those of calls whose traces are recorded.

    Args:
        enter: makes a call's place under what its caller said, and decides whether it is recorded.
        export: takes a span; must be quick, and raise nothing.
        upstream_url: where upstream is.
    """

    def __init__(self, enter: Callable[[Trace | None], Trace], export: Callable[[Span], None], upstream_url: str) -> None:
        self.enter = enter
        self._export = export
        url = urlsplit(upstream_url)
        self._server: Attributes = {
            "server.address": url.hostname or "",
            "server.port": url.port or (443 if url.scheme == "https" else 80),
        }
        self.made = 0

    def __repr__(self) -> str:
        return f"<Traces [{self.made} spans]>"

    def heed(self, outcome: Outcome) -> None:
        """Tell of a call that has ended."""
        if outcome.trace is not None and outcome.trace.is_sampled:
            for span in spans_of(outcome, outcome.trace):
                self._tell(span)

    def tried(self, tried: Tried) -> None:
        """Tell of a try that is over."""
        trace = tried.call.trace
        if trace is not None and trace.is_sampled and tried.made.span:
            for span in spans_of_try(tried, trace, self._server):
                self._tell(span)

    def _tell(self, span: Span) -> None:
        self.made += 1
        self._export(span)


# A call.


def spans_of(outcome: Outcome, trace: Trace) -> Iterator[Span]:
    """Yield the spans that are known where a call ends: its own last, so that all else is there before it."""
    ended = outcome.began + outcome.took_s
    for name, since, until in outcome.steps:
        yield Span(name, trace.child(), since, until)
    if outcome.steps and outcome.steps[-1][0] == "cache" and outcome.source not in ("cache", "stale"):
        yield _flight(outcome, trace, outcome.steps[-1][2], ended)
    if not _follows(outcome, trace):
        yield from _waits(outcome, trace, ended)
        yield from _parked(outcome, trace, ended)
    error = "" if outcome.reason in ("", LEFT) else outcome.reason
    yield Span("headrace call", trace, outcome.began, ended, Kind.SERVER, _of_call(outcome), error)


def _follows(outcome: Outcome, trace: Trace) -> bool:
    if outcome.led_by is None:
        return outcome.source == "shared"
    return outcome.led_by.span_id != trace.span_id


def _flight(outcome: Outcome, trace: Trace, since: float, ended: float) -> Span:
    until = ended if outcome.first_s is None else outcome.began + outcome.first_s
    follows = _follows(outcome, trace)
    part = {"headrace.flight.part": "followed" if follows else "led"}
    return Span("flight", trace.child(), since, max(since, until), attributes=part, link=outcome.led_by if follows else None)


def _waits(outcome: Outcome, trace: Trace, ended: float) -> Iterator[Span]:
    """Yield what held it in the end, and led to no try: a try's own waits are told with it."""
    for what, seconds in outcome.waits:
        left_s = seconds - sum(made.waited_s for made in outcome.tries if made.held_by == what)
        if left_s >= _LEAST_S and not outcome.source:
            yield Span("wait", trace.child(), ended - left_s, ended, attributes={"headrace.limit": what})


def _parked(outcome: Outcome, trace: Trace, ended: float) -> Iterator[Span]:
    ticket: Attributes = {"headrace.ticket": outcome.ticket} if outcome.ticket else {}
    for before, after in zip(outcome.tries, outcome.tries[1:], strict=False):
        since, until = before.began + before.took_s, after.began - after.waited_s
        if until - since >= _LEAST_S:
            yield Span("parked", trace.child(), since, until, attributes=ticket)
    if outcome.tries and outcome.reason and (last := outcome.tries[-1]).outcome in _WAITS_AFTER:
        since = last.began + last.took_s
        if ended - since >= _LEAST_S:
            yield Span("parked", trace.child(), since, ended, attributes=ticket)


def _of_call(outcome: Outcome) -> Attributes:
    said: Attributes = {
        "headrace.request_id": outcome.id,
        "headrace.edge": outcome.edge,
        "headrace.endpoint": outcome.endpoint,
        "headrace.caller": name_in(outcome.caller),
        "headrace.team": outcome.team,
        "headrace.lane": outcome.lane,
        "headrace.source": outcome.source,
        "headrace.cache.key": outcome.fingerprint,
        "headrace.limit": outcome.limit,
        "headrace.ticket": outcome.ticket,
        "headrace.attempts": outcome.attempts or len(outcome.tries),
        "headrace.upstream.request_id": outcome.request_id,
        "http.response.status_code": outcome.status,
        "error.type": outcome.reason,
    }
    return {name: value for name, value in said.items() if value} | _of_model(outcome.endpoint, outcome.model)


# A try.


def spans_of_try(tried: Tried, trace: Trace, server: Attributes) -> Iterator[Span]:
    """Yield what a try waited for, and the try itself; *trace* is its place, under the call for which it was made."""
    made = tried.made
    if made.held_by and made.waited_s >= _LEAST_S:
        call = Trace(trace.trace_id, trace.parent, trace.flags, trace.state)
        held = {"headrace.limit": made.held_by}
        yield Span("wait", call.child(), made.began - made.waited_s, made.began, attributes=held)
    ended = made.began + made.took_s
    yield Span(f"attempt {made.number}", trace, made.began, ended, Kind.CLIENT, _of_try(tried) | server, error_of(tried))


def error_of(tried: Tried) -> str:
    """Return what a try failed by, as the convention has it: upstream's status, or else our word; "" if it was answered."""
    made = tried.made
    return "" if made.outcome == "answered" else str(made.status) if made.status >= 400 else made.outcome


def _of_try(tried: Tried) -> Attributes:
    call, made = tried.call, tried.made
    said: Attributes = {
        "http.request.method": call.method,
        "http.response.status_code": made.status,
        "http.request.resend_count": made.number - 1,
        "error.type": error_of(tried),
        "headrace.outcome": made.outcome,
        "headrace.ticket": call.ticket if isinstance(call, Call) else "",
        "headrace.retry_after_s": tried.retry_after_s or 0,
        "headrace.upstream.request_id": made.request_id,
    }
    return (
        {name: value for name, value in said.items() if value}
        | _of_model(call.endpoint, call.model)
        | _of_use(call, tried.usage)
    )


def _of_model(endpoint: str, model: str) -> Attributes:
    if endpoint not in OPERATIONS:
        return {}
    return {
        "gen_ai.operation.name": OPERATIONS[endpoint],
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.request.model": model[:_MOST_NAME],
    }


def _of_use(call: Errand, usage: Usage) -> Attributes:
    if not isinstance(call, Call) or call.endpoint not in OPERATIONS:
        return {}
    said: Attributes = {"gen_ai.request.max_tokens": call.max_tokens, "gen_ai.request.stream": call.stream}
    if usage.known:
        said |= {
            "gen_ai.usage.input_tokens": input_tokens(usage),
            "gen_ai.usage.output_tokens": usage.output_tokens,
            "gen_ai.usage.cache_read.input_tokens": usage.cache_read_input_tokens,
            "gen_ai.usage.cache_creation.input_tokens": usage.cache_creation_input_tokens,
        }
    return said


def input_tokens(usage: Usage) -> int:
    """Return the input as the convention counts it: what upstream's prompt cache had, or took, included."""
    return usage.input_tokens + usage.cache_read_input_tokens + usage.cache_creation_input_tokens
