"""What a gRPC request asks: its options into an `Ask`, or into headers; and where an answer came from, into an `Origin`."""

from __future__ import annotations

import functools
import re
from typing import TypedDict

from google.protobuf.duration_pb2 import Duration

from headrace import disconnect
from headrace.admission import Ask
from headrace.deadline import Wait
from headrace.endpoints import MESSAGES, Endpoint
from headrace.errors import InvalidCall
from headrace.labels import HEADER, header_of, labels_of
from headrace.model import CacheControl, Caller, Headers, Labels, Reply, Source
from headrace.trace import Trace
from headrace.v1 import messages_service_pb2, options_pb2

_LANES = {
    options_pb2.LANE_UNSPECIFIED: "",
    options_pb2.LANE_INTERACTIVE: "interactive",
    options_pb2.LANE_STANDARD: "standard",
    options_pb2.LANE_BATCH: "batch",
}
_ON_DISCONNECT = {
    options_pb2.ON_DISCONNECT_UNSPECIFIED: "",
    options_pb2.ON_DISCONNECT_CANCEL: "cancel",
    options_pb2.ON_DISCONNECT_CONTINUE: "continue",
}
SOURCES = {
    Source.UPSTREAM: options_pb2.ANSWER_SOURCE_UPSTREAM,
    Source.SHARED: options_pb2.ANSWER_SOURCE_SHARED,
    Source.CACHE: options_pb2.ANSWER_SOURCE_CACHE,
    Source.STALE: options_pb2.ANSWER_SOURCE_STALE,
}
# Both go into HTTP headers, where a line end would start another one.
_HEADER_NAME = re.compile(r"anthropic-[a-z0-9-]{1,64}")
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,1022}[\x21-\x7e])?")
_MAX_ANSWER_TIMEOUT_S = 86_400
_TYPED_HEADERS = {"anthropic-version": "anthropic_version", "anthropic-beta": "anthropic_betas"}


def read_ask(
    options: options_pb2.CallOptions,
    caller: Caller,
    body: bytes,
    *,
    stream: bool | None,
    timeout_s: float | None,
    credential: str,
    method: str = "POST",
    path: str = "/v1/messages",
    endpoint: Endpoint = MESSAGES,
    id: str = "",
    trace: Trace | None = None,
) -> Ask:
    """Return what a request with these options asks; raises `InvalidCall` for what makes no sense."""
    return Ask(
        caller=caller,
        body=body,
        stream=stream,
        wait=Wait(stated_s=timeout_s),
        method=method,
        path=path,
        endpoint=endpoint,
        credential=credential,
        id=id,
        trace=trace,
        **_said(options.SerializeToString(), caller),
    )


class _Said(TypedDict):
    version: str
    betas: tuple[str, ...]
    headers: Headers
    lane: str
    labels: Labels
    cache: CacheControl
    idempotency_key: str
    on_disconnect: str


@functools.lru_cache(256)
def _said(serialised: bytes, caller: Caller) -> _Said:
    """Return what these options say of a call; the same few come with nearly every one."""
    options = options_pb2.CallOptions.FromString(serialised)
    return _Said(
        version=_value("anthropic_version", options.anthropic_version) if options.anthropic_version else "",
        betas=_betas(options),
        headers=tuple(sorted(_header(name, value) for name, value in options.anthropic_headers.items())),
        lane=_lane(options),
        labels=labels_of(options.labels.items(), caller),
        cache=_cache_control(options.cache_control),
        idempotency_key=options.idempotency_key,
        on_disconnect=_on_disconnect(options),
    )


def headers(options: options_pb2.CallOptions) -> Headers:
    """Return what options say as the headers that say it over HTTP; raises `InvalidCall` for what makes no sense."""
    said = {
        "anthropic-version": _value("anthropic_version", options.anthropic_version) if options.anthropic_version else "",
        "anthropic-beta": ",".join(_betas(options)),
        "cache-control": _directives(_cache_control(options.cache_control)),
        "x-headrace-lane": _lane(options),
        HEADER: header_of(tuple(sorted(_label(name, value) for name, value in options.labels.items()))),
        "idempotency-key": options.idempotency_key,
        disconnect.HEADER: _on_disconnect(options),
    }
    further = sorted(_header(name, value) for name, value in options.anthropic_headers.items())
    return (*((name, value) for name, value in said.items() if value), *further)


def answer_timeout_s(request: messages_service_pb2.SubmitMessageRequest) -> float | None:
    """Return how long a submitted call may take; None if the caller did not say."""
    if not request.HasField("answer_timeout"):
        return None
    seconds = _seconds(request.answer_timeout)
    if not 0 < seconds <= _MAX_ANSWER_TIMEOUT_S:
        raise InvalidCall("answer_timeout: must be over 0 and up to 24 hours", metadata={"field": "answer_timeout"})
    return seconds


def origin(reply: Reply, id: str) -> options_pb2.Origin:
    """Return where the answer to the call of this id came from."""
    said = options_pb2.Origin(
        source=SOURCES[reply.source],
        attempts=reply.attempts,
        ticket=reply.ticket,
        cache_status=reply.cache_status,
        request_id=reply.request_id,
        headrace_request_id=id,
    )
    if reply.age_s > 0:
        said.age.FromMilliseconds(int(reply.age_s * 1000))
    return said


def _cache_control(asked: options_pb2.CacheControl) -> CacheControl:
    return CacheControl(
        no_store=asked.no_store,
        no_cache=asked.no_cache,
        only_if_cached=asked.only_if_cached,
        max_age_s=_seconds(asked.max_age) if asked.HasField("max_age") else None,
        stale_if_error_s=_seconds(asked.stale_if_error) if asked.HasField("stale_if_error") else None,
    )


def _directives(asked: CacheControl) -> str:
    # Whole seconds, rounded down: never older than was asked for.
    flags = [name for name in ("no_store", "no_cache", "only_if_cached") if getattr(asked, name)]
    spans = {"max_age": asked.max_age_s, "stale_if_error": asked.stale_if_error_s}
    named = [f"{name}={int(span_s)}" for name, span_s in spans.items() if span_s is not None]
    return ", ".join((*flags, *named)).replace("_", "-")


def _seconds(span: Duration) -> float:
    return max(0.0, span.seconds + span.nanos / 1e9)


def _lane(options: options_pb2.CallOptions) -> str:
    # Whether there is a lane of that name, admission knows.
    if options.lane not in _LANES:
        raise InvalidCall(f"options.lane: there is no lane {options.lane}", metadata={"field": "options.lane"})
    known, named = _LANES[options.lane], options.lane_name
    if known and named and named.lower() != known:
        field = "options.lane_name"
        raise InvalidCall(f"{field}: {named[:32]!r} is not the {known!r} that options.lane chooses", metadata={"field": field})
    return named or known


def _on_disconnect(options: options_pb2.CallOptions) -> str:
    # A value that we do not know is one that nobody can keep.
    return _ON_DISCONNECT.get(options.on_disconnect, str(options.on_disconnect))


def _label(name: str, value: str) -> tuple[str, str]:
    # What parts labels in the header cannot be in one.
    if any(sign in name + value for sign in ",=\r\n") or not value:
        raise InvalidCall(f"options.labels: {name[:32]!r} or its value is none", metadata={"field": "options.labels"})
    return name, value


def _header(name: str, value: str) -> tuple[str, str]:
    field = "options.anthropic_headers"
    if name in _TYPED_HEADERS:
        raise InvalidCall(f"{field}: {name} belongs into {_TYPED_HEADERS[name]}", metadata={"field": field})
    if not _HEADER_NAME.fullmatch(name):
        raise InvalidCall(f"{field}: names must be lower-case and begin with anthropic-", metadata={"field": field})
    return name, _value("anthropic_headers", value)


def _betas(options: options_pb2.CallOptions) -> tuple[str, ...]:
    # One item may name several, as the header may.
    names = (name.strip() for beta in options.anthropic_betas for name in _value("anthropic_betas", beta).split(","))
    return tuple(name for name in names if name)


def _value(field: str, value: str) -> str:
    if not _HEADER_VALUE.fullmatch(value):
        field = f"options.{field}"
        raise InvalidCall(f"{field}: must be 1 to 1,024 visible ASCII characters", metadata={"field": field})
    return value
