"""
A receiver of traces on loopback: OTLP over HTTP in protobuf, as the collector takes it, read by OpenTelemetry's own messages.

And a trace as a tree, for tests and for docs/traces.md.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest, ExportTraceServiceResponse
from opentelemetry.proto.trace.v1 import trace_pb2

SHOWN = (
    "headrace.source", "headrace.flight.part", "headrace.limit", "http.response.status_code", "gen_ai.request.model",
    "gen_ai.usage.output_tokens", "headrace.outcome",
)  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """A span that has come."""

    name: str
    trace_id: str
    span_id: str
    parent: str
    kind: str
    began_ns: int
    ended_ns: int
    attributes: dict[str, object]
    resource: dict[str, object]
    links: tuple[str, ...]
    is_error: bool
    state: str = ""


@dataclass
class Receiver:
    """What has come so far, and where to send more."""

    url: str = ""
    spans: list[Seen] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a daemon is told so that its spans come here, soon."""
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}

    def of(self, trace_id: str) -> list[Seen]:
        """Return the spans of a trace, by when they began."""
        return sorted((span for span in self.spans if span.trace_id == trace_id), key=lambda span: (span.began_ns, span.name))

    def is_told(self, trace_id: str, *calls: str) -> bool:
        """Whether all of a trace has come that there is to a call: its own span is the last to be told."""
        names = Counter(span.name for span in self.of(trace_id))
        return not Counter(calls or ("headrace call",)) - names

    async def take(self, request: web.Request) -> web.Response:
        assert request.headers["content-type"] == "application/x-protobuf"
        said = ExportTraceServiceRequest.FromString(await request.read())
        for of_resource in said.resource_spans:
            resource = _attributes(of_resource.resource.attributes)
            self.spans += [_seen(span, resource) for scope in of_resource.scope_spans for span in scope.spans]
        body = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=body, content_type="application/x-protobuf")


@contextlib.asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Run a receiver."""
    receiver, app = Receiver(), web.Application()
    app.router.add_post("/v1/traces", receiver.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        receiver.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield receiver
    finally:
        await runner.cleanup()


def outline(spans: list[Seen]) -> str:
    """Return the names of a trace's spans, as the tree has them."""
    return "\n".join("  " * depth + span.name for span, depth in _walk(spans))


def tree(spans: list[Seen]) -> str:
    """Return a trace as a tree: a line a span, when it began and how long it took (ms), and what is most telling of it."""
    first = min(span.began_ns for span in spans)
    width = max(len(span.name) + 2 * depth for span, depth in _walk(spans))
    return "\n".join(_line(span, depth, first, width) for span, depth in _walk(spans))


def _walk(spans: list[Seen], parent: str | None = None, depth: int = 0) -> Iterator[tuple[Seen, int]]:
    known = {span.span_id for span in spans}
    for span in spans:
        if (span.parent == parent) if parent is not None else (span.parent not in known):
            yield span, depth
            yield from _walk(spans, span.span_id, depth + 1)


def _line(span: Seen, depth: int, first: int, width: int) -> str:
    said = span.resource | span.attributes
    about = " ".join(str(said[name]) for name in SHOWN if said.get(name) not in (None, ""))
    at = f"{(span.began_ns - first) / 1e6:7.0f} +{(span.ended_ns - span.began_ns) / 1e6:<6.0f} "
    kind = "" if span.kind == "INTERNAL" else f"{span.kind} "
    return f"{'  ' * depth + span.name:{width}}  {at}{said.get('host.name', '')}  {kind}{about}".rstrip()


def _seen(span: trace_pb2.Span, resource: dict[str, object]) -> Seen:
    return Seen(
        span.name,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        trace_pb2.Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        span.start_time_unix_nano,
        span.end_time_unix_nano,
        _attributes(span.attributes),
        resource,
        tuple(link.span_id.hex() for link in span.links),
        span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        span.trace_state,
    )


def _attributes(pairs) -> dict[str, object]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value") or "string_value") for pair in pairs}
