"""
Where a call is in its caller's trace: W3C Trace Context, read from what came with it and said to upstream.

What is malformed is as if it had not come (section 4.3 of the standard): it is no reason to refuse a call, and it is neither
passed on nor logged. None of it decides anything: it is in no fingerprint and no key.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated

import msgspec

PARENT_HEADER, STATE_HEADER = "traceparent", "tracestate"

_SAMPLED = 1
_MOST_MEMBERS, _MOST_STATE, _LONG_MEMBER = 32, 512, 128  # sections 3.3.1.1 and 3.3.1.5

_parent = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?").fullmatch
_member = re.compile(
    r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
).fullmatch

# As patterns, since tickets are read by them, too.
_TraceId = Annotated[str, msgspec.Meta(pattern="^(?!0{32})[0-9a-f]{32}$")]
_SpanId = Annotated[str, msgspec.Meta(pattern="^(?!0{16})[0-9a-f]{16}$")]
_Parent = Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{16})?$")]
_Flags = Annotated[int, msgspec.Meta(ge=0, le=255)]
_State = Annotated[str, msgspec.Meta(pattern=r"^[\x20-\x7e]{0,512}$")]


class Trace(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """
    A place in a trace.

    Args:
        trace_id: 32 hex digits.
        span_id: of the span under which hangs whatever is done from here on; 16 hex digits.
        flags: of which the lowest says that the trace is recorded.
        state: what tracing systems pass on with it; "" for nothing.
        parent: the span under which this one hangs; "" for none, or where the span is not ours.
    """

    trace_id: _TraceId
    span_id: _SpanId
    flags: _Flags = 0
    state: _State = ""
    parent: _Parent = ""

    @property
    def is_sampled(self) -> bool:
        """Whether somebody records it."""
        return bool(self.flags & _SAMPLED)

    def child(self) -> Trace:
        """Return the place of a new span under this one."""
        return Trace(self.trace_id, new_span_id(), self.flags, self.state, self.span_id)

    def unrecorded(self) -> Trace:
        """Return the same place in a trace that nobody records."""
        return Trace(self.trace_id, self.span_id, self.flags & ~_SAMPLED, self.state, self.parent)

    def headers(self) -> list[tuple[str, str]]:
        """Return what whoever is asked next is told."""
        said = [(PARENT_HEADER, f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}")]
        return [*said, (STATE_HEADER, self.state)] if self.state else said


def new_span_id() -> str:
    """Return the id of a new span."""
    return os.urandom(8).hex()


def said(trace: Trace | None) -> list[tuple[str, str]]:
    """Return what whoever is asked next is told, as headers: [] for nothing."""
    return [] if trace is None else trace.headers()


def begun(given: Trace | None, *, is_sampled: bool) -> Trace:
    """Return the place of a call's own span: under what came with it, or at the root of a new trace."""
    if given is None:
        return Trace(os.urandom(16).hex(), new_span_id(), int(is_sampled))
    flags = given.flags & ~_SAMPLED | is_sampled
    return Trace(given.trace_id, new_span_id(), flags, given.state, given.span_id)


def of_headers(headers: Mapping[str, str]) -> Trace | None:
    """Return what the headers of a request say; None for nothing, or for nonsense."""
    if PARENT_HEADER not in headers:
        return None
    if not hasattr(headers, "getall"):
        return read([headers[PARENT_HEADER]], [headers.get(STATE_HEADER, "")])
    return read(headers.getall(PARENT_HEADER), headers.getall(STATE_HEADER, ()))


def of_pairs(pairs: Iterable[tuple[str, str | bytes]]) -> Trace | None:
    """Return what metadata of gRPC say, as `of_headers` does."""
    named: dict[str, list[str]] = {PARENT_HEADER: [], STATE_HEADER: []}
    for name, value in pairs:
        if name in named and isinstance(value, str):
            named[name].append(value)
    return read(named[PARENT_HEADER], named[STATE_HEADER])


def read(parents: Sequence[str], states: Sequence[str] = ()) -> Trace | None:
    """Return what these values of the two headers say; None unless there is one parent, and it is well-formed."""
    if len(parents) != 1 or (found := _parent(parents[0].strip(" \t"))) is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if version == "00" and rest is not None:
        return None
    return Trace(trace_id, span_id, int(flags, 16), _state(states))


def _state(states: Sequence[str]) -> str:
    members = [member for state in states for each in state.split(",") if (member := each.strip(" \t"))]
    names = {member.partition("=")[0] for member in members}
    if len(members) > _MOST_MEMBERS or len(names) < len(members) or not all(map(_member, members)):
        return ""
    if len(",".join(members)) > _MOST_STATE:
        members = [member for member in members if len(member) <= _LONG_MEMBER]
    while len(",".join(members)) > _MOST_STATE:
        members.pop()  # the eldest
    return ",".join(members)
