"""
How a call over gRPC is called: by the `x-request-id` of its metadata, or else by an id of ours.

To look at its metadata costs a hit a tenth of what it costs by itself. So hits have ids of ours, unless keys are asked for:
then the metadata have been read.

An answer says its id in its message (`Origin.headrace_request_id`, or among the headers of `ApiService`), where a hit can
afford it: a trailer would cost as much. Whatever is no hit, errors above all, says it in the trailers, too, with
`server-timing`.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

from headrace.trace import Trace, of_pairs
from headrace.trail import GIVEN_HEADER, ID_HEADER, MAX_ID, TIMING_HEADER, Trail, id_of, timing
from headrace.v1 import options_pb2

Metadata = tuple[tuple[str, str], ...]

_ID_FIELD: int = options_pb2.Origin.DESCRIPTOR.fields_by_name["headrace_request_id"].number

# Each RPC is a task of its own, so that this is its own too.
_id: ContextVar[str] = ContextVar("call_id", default="")


def give(named: str | None) -> None:
    """Let this RPC's call go by an id that its own headers say, if they do."""
    if named:
        _id.set(id_of(named))


def call_id(context: Any) -> str:
    """Return the id of this RPC's call: the same each time. It looks at the metadata, which hits cannot afford."""
    known = _id.get()
    if not known:
        known = id_of(dict(context.invocation_metadata() or ()).get(GIVEN_HEADER))
        _id.set(known)
    return known


def named_by(context: Any) -> tuple[str, Trace | None]:
    """Return what `call_id` and `trace_of` do: grpcio makes the metadata anew for each look, and a miss looks once."""
    metadata = context.invocation_metadata() or ()
    if not (known := _id.get()):
        _id.set(known := id_of(dict(metadata).get(GIVEN_HEADER)))
    return known, of_pairs(metadata)


def trace_of(context: Any) -> Trace | None:
    """Return where its caller's metadata say that this RPC's call is in a trace; it looks at them, as `call_id` does."""
    return of_pairs(context.invocation_metadata() or ())


def trailers(context: Any, trail: Trail | None, now: float = 0.0) -> Metadata:
    """Return what the trailers of this RPC say of its call; *now* is as in `timing`."""
    said = timing(trail, now)
    named = (ID_HEADER, call_id(context))
    return (named, (TIMING_HEADER, said)) if said else (named,)


def delimited(number: int, raw: bytes) -> bytes:
    """Return a field of a message that holds text, bytes (under 16 KB) or a message, as it is serialised; number: under 16."""
    size = len(raw)
    length = bytes((size,)) if size < 0x80 else bytes((size & 0x7F | 0x80, size >> 7))
    return b"%c%b%b" % (number << 3 | 2, length, raw)


def named_so(number: int) -> tuple[bytes, ...]:
    """
    Return, by an id's length, what comes before it in the field *number*, an `Origin` that says the id alone.

    A reader adds it to the `Origin` that came before.
    """
    ids = [b"0" * length for length in range(MAX_ID + 1)]
    return tuple(delimited(number, delimited(_ID_FIELD, each)).removesuffix(each) for each in ids)
