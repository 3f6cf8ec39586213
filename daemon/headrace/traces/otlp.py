"""
The way out for spans: OpenTelemetry's SDK, which sends them in OTLP from a thread of its own.

`OTEL_EXPORTER_OTLP_ENDPOINT` alone turns it on; whatever else the SDK reads in its environment holds as it says (sampler,
resource, headers, batches, timeouts). Only here is it imported, and only then. Of the SDK we use what decides and what sends: a
span of ours is whole when it is made, so that no context has to travel with the call.

A receiver that is slow or away costs spans and nothing else: the queue is bounded, and what is too much is dropped.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from headrace import observe
from headrace.built import version
from headrace.trace import Trace, begun
from headrace.traces.spans import Span, Traces, Value

if TYPE_CHECKING:  # none of it is there unless the extra is installed
    from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_SPOKEN = "http/protobuf"
_LEAVE_S = 5.0  # for what has not been sent yet

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Sending:
    """Traces that are sent; `close` sends the rest, for some seconds at most."""

    traces: Traces
    _processor: SpanProcessor

    async def close(self) -> None:
        """Send what is left. It waits for a socket, so in a thread: one that does not keep the process if it hangs."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def leave() -> None:
            self._processor.shutdown()
            with contextlib.suppress(RuntimeError):  # nobody has waited so long
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=leave, name="traces", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEAVE_S):  # by the loop: it is a socket's
                await done.wait()


def start(environ: Mapping[str, str], upstream_url: str) -> Sending | None:
    """Return traces that go where the environment says; None where it says nothing, or where that cannot be: it is logged."""
    if not any(environ.get(name) for name in _ENDPOINTS) or _is_off(environ):
        return None
    protocol = next((said for name in _PROTOCOLS if (said := environ.get(name))), _SPOKEN)
    why = f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol[:32]!r}; {_SPOKEN} is what is spoken here"
    if protocol == _SPOKEN:
        try:
            return _start(upstream_url)
        except ImportError:
            why = "the extra is not installed: pip install 'headrace[otel]'"
        except Exception as error:
            why = f"the SDK refuses its environment ({type(error).__name__})"
    log.warning(observe.TRACES_OFF, why=why)
    return None


def _is_off(environ: Mapping[str, str]) -> bool:
    off = environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return off or environ.get("OTEL_TRACES_EXPORTER", "").strip().lower() == "none"


def _start(upstream_url: str) -> Sending:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # Whatever the environment names goes before what we say of ourselves.
    named = Resource.create().attributes
    is_named = not str(named.get("service.name", "")).startswith("unknown_service")
    host = socket.gethostname()
    ours = {"service.name": "headrace", "service.version": version(), "host.name": host}
    said = {name: value for name, value in ours.items() if name not in named or (name == "service.name" and not is_named)}
    provider = TracerProvider(resource=Resource.create(said), shutdown_on_exit=False)
    processor = BatchSpanProcessor(OTLPSpanExporter())
    readable = _readable(provider)

    def export(span: Span) -> None:
        try:
            processor.on_end(readable(span))
        except Exception as error:  # a span may be lost; the call that it is of goes on
            log.warning(observe.SPAN_LOST, kind=type(error).__name__)

    log.info(observe.TRACES_ON)
    return Sending(Traces(_enter(provider), export, upstream_url), processor)


def _enter(provider: TracerProvider) -> Callable[[Trace | None], Trace]:
    """Return what gives a call its place; the SDK's sampler decides whether it is recorded: by default as its caller's is."""
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace.sampling import Decision
    from opentelemetry.trace import NonRecordingSpan, SpanKind, set_span_in_context

    sampler, nowhere = provider.sampler, Context()

    def enter(given: Trace | None) -> Trace:
        place = begun(given, is_sampled=True)
        try:
            parent = (
                nowhere if given is None else set_span_in_context(NonRecordingSpan(_context(given, is_remote=True)), nowhere)
            )
            said = sampler.should_sample(parent, int(place.trace_id, 16), "headrace call", SpanKind.SERVER)
        except Exception as error:  # a sampler may be anybody's
            log.warning(observe.SPAN_LOST, kind=type(error).__name__)
            return place.unrecorded()
        return place if said.decision is Decision.RECORD_AND_SAMPLE else place.unrecorded()

    return enter


def _context(trace: Trace, *, is_remote: bool = False) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags

    return SpanContext(int(trace.trace_id, 16), int(trace.span_id, 16), is_remote, TraceFlags(trace.flags), _state(trace))


def _state(trace: Trace) -> Any:
    from opentelemetry.trace import TraceState

    return TraceState.from_header([trace.state]) if trace.state else None


def _readable(provider: TracerProvider) -> Callable[[Span], ReadableSpan]:
    """Return what makes the SDK's spans of ours."""
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import Link, SpanKind, Status, StatusCode

    scope = InstrumentationScope("headrace", version())

    def readable(span: Span) -> ReadableSpan:
        trace = span.trace
        return ReadableSpan(
            span.name,
            context=_context(trace),
            parent=_context(Trace(trace.trace_id, trace.parent, trace.flags)) if trace.parent else None,
            resource=provider.resource,
            attributes={name: _clean(value) for name, value in span.attributes.items()},
            links=() if span.link is None else (Link(_context(span.link)),),
            kind=SpanKind[span.kind.name],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.UNSET),
            start_time=_nanos(span.began),
            end_time=_nanos(span.ended),
            instrumentation_scope=scope,
        )

    return readable


def _clean(value: Value) -> Value:
    # A name that a caller sent may hold bytes that are no text, which would cost all spans of a batch.
    return value if not isinstance(value, str) or value.isascii() else value.encode(errors="replace").decode()


def _nanos(seconds: float) -> int:
    return int(seconds * 1e9)
