"""Outcomes and tries as spans, and when there are any."""

from __future__ import annotations

import pytest
import structlog

from headrace.model import Caller, Errand, Usage
from headrace.outcome import Outcome, Tried
from headrace.trace import Trace, begun
from headrace.traces import Kind, Span, Traces, otlp
from headrace.traces.spans import spans_of
from headrace.trail import Try

ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        (ENDPOINT | {"OTEL_SDK_DISABLED": "TRUE"}, None),
        (ENDPOINT | {"OTEL_TRACES_EXPORTER": "none"}, None),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL"),
        (ENDPOINT | {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/json"}, "http/json"),
    ],
)
def test_off(environ: dict[str, str], why: str | None) -> None:
    """There are none unless a receiver is named; where they cannot be sent, it is said why."""
    with structlog.testing.capture_logs() as logs:
        assert otlp.start(environ, "http://127.0.0.1:7490") is None
    assert [why in line["why"] for line in logs if why] == [True] * bool(why)
    assert why or not logs


def traces() -> tuple[Traces, list[Span]]:
    told: list[Span] = []
    return Traces(lambda given: begun(given, is_sampled=True), told.append, "https://api.anthropic.com"), told


def outcome(trace: Trace | None, **more: object) -> Outcome:
    return Outcome("http", "messages", "ann", "standard", "claude-x", began=100.0, took_s=10.0, trace=trace, **more)


def test_refused_while_it_waits() -> None:
    """A wait that led to no attempt ends with its call, and is told with it."""
    trace = begun(None, is_sampled=True)
    said = outcome(trace, reason="BUDGET_EXHAUSTED", limit="narrow", waits=(("narrow", 4.0), ("slots", 0.0)))
    wait, call = spans_of(said, trace)
    assert (wait.name, wait.began, wait.ended, wait.attributes["headrace.limit"]) == ("wait", 106.0, 110.0, "narrow")
    assert (call.kind, call.error, call.attributes["error.type"]) == (Kind.SERVER, "BUDGET_EXHAUSTED", "BUDGET_EXHAUSTED")


def test_parked_in_vain() -> None:
    """A call that was parked when its time was over shows that, and where it left no error it has none."""
    trace = begun(None, is_sampled=True)
    tries = (Try(1, 529, "overloaded", 101.0, 1.0), Try(2, 529, "overloaded", 105.0, 1.0, waited_s=0.5, held_by="narrow"))
    spans = list(spans_of(outcome(trace, reason="UPSTREAM_ERROR", status=529, tries=tries), trace))
    assert [(span.name, span.began, span.ended) for span in spans[:-1]] == [("parked", 102.0, 104.5), ("parked", 106.0, 110.0)]
    final = outcome(trace, reason="UPSTREAM_ERROR", status=400, tries=(Try(1, 400, "final", 101.0, 1.0),))
    assert [span.name for span in spans_of(final, trace)] == ["headrace call"]
    left = outcome(trace, reason="CALLER_LEFT")
    assert [span.error for span in spans_of(left, trace)] == [""]


def test_not_recorded() -> None:
    """Of a trace that nobody records, and of calls and tries that are in none, nothing is told."""
    spans, told = traces()
    unrecorded = begun(None, is_sampled=False)
    for trace in (None, unrecorded):
        spans.heed(outcome(trace))
        call = Errand(caller=Caller("ann"), lane="standard", arrival=1.0, deadline=2.0, trace=trace)
        spans.tried(Tried(call, Try(1, 200, "answered", 1.0, 1.0, span="1" * 16), Usage()))
    assert told == []


def test_no_stranger() -> None:
    """A try of a host that makes no spans is not told, though its call is in a trace that is recorded."""
    spans, told = traces()
    call = Errand(caller=Caller("ann"), lane="standard", arrival=1.0, deadline=2.0, trace=begun(None, is_sampled=True))
    spans.tried(Tried(call, Try(1, 200, "answered", 1.0, 1.0), Usage()))
    assert told == []
