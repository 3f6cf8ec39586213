"""
The parts of a request over gRPC, taken apart without copying what is large in them and without parsing what is none.

Whatever protobuf parses it makes objects of, all at once, and each look at a body in a message is one more copy of it. So of a
large part only the frame is read here, which is some numbers, and the body is cut out of it once; all that is not the body is
parsed, and has a bound, as HTTP's heads have.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from headrace.aside import cut
from headrace.edge.grpc_calls import parse
from headrace.errors import InvalidCall
from headrace.v1.api_service_pb2 import CallRequest, CallRequestHead

_LIGHT_BYTES = 65_536  # of a part: parsed as it is
_MAX_HEAD_BYTES = 262_144  # of all that is not the body; the same over HTTP
_MAX_HEADERS = 1_000
_MAX_FIELDS = _MAX_HEADERS + 100  # in a head: a header each, and some more
_HEAD, _CHUNK = (CallRequest.DESCRIPTOR.fields_by_name[name].number for name in ("head", "chunk"))
_BODY = CallRequestHead.DESCRIPTOR.fields_by_name["body"].number
_TOO_MANY = "it has too many headers, or too long ones"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class Beginning(NamedTuple):
    """The first part: its head, and apart from it the beginning of the body."""

    head: CallRequestHead
    body: bytes


async def beginning(raw: bytes) -> Beginning:
    """Return the first part of a request; raises `InvalidCall` if it is none."""
    if len(raw) <= _LIGHT_BYTES:
        part = parse(CallRequest, raw)
        if part.WhichOneof("part") != "head":
            raise _no_head()
        return Beginning(_bounded(part.head), part.head.body)
    view, rest, body = memoryview(raw), bytearray(), (0, 0)
    for number, _, end, begin in _fields(view, 0, len(view)):
        if number != _HEAD:
            raise _no_head()
        for inner, inner_at, inner_end, inner_begin in _fields(view, begin, end):
            if inner == _BODY:
                body = inner_begin, inner_end
            else:
                rest += view[inner_at:inner_end]
            if len(rest) > _MAX_HEAD_BYTES:
                raise _wrong(_TOO_MANY)
    return Beginning(_bounded(parse(CallRequestHead, bytes(rest))), await cut(raw, *body))


async def more(raw: bytes) -> bytes:
    """Return what a later part holds; raises `InvalidCall` if it is none."""
    if len(raw) <= _LIGHT_BYTES:
        part = parse(CallRequest, raw)
        if part.WhichOneof("part") != "chunk":
            raise InvalidCall("head: comes once, and chunks after it", metadata={"field": "head"})
        return part.chunk
    view, held = memoryview(raw), (0, 0)
    for number, _, end, begin in _fields(view, 0, len(view)):
        if number != _CHUNK:
            raise InvalidCall("head: comes once, and chunks after it", metadata={"field": "head"})
        held = begin, end
    return await cut(raw, *held)


def _bounded(head: CallRequestHead) -> CallRequestHead:
    if len(head.headers) > _MAX_HEADERS:
        raise _wrong(_TOO_MANY)
    return head


def _fields(view: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the fields between two places: number, where each begins and ends, and where its value does begin."""
    for _ in range(_MAX_FIELDS):
        if at >= end:
            return
        tag, value = _number(view, at, end)
        kind = tag & 7
        if kind == _BYTES:
            size, value = _number(view, value, end)
            after = value + size
        elif kind == _VARINT:
            _, after = _number(view, value, end)
        elif kind in (_FIXED64, _FIXED32):
            after = value + (8 if kind == _FIXED64 else 4)
        else:
            raise _wrong("its bytes do not parse")
        if after > end:
            raise _wrong("its bytes do not parse")
        yield tag >> 3, at, after, value
        at = after
    raise _wrong(_TOO_MANY)


def _number(view: memoryview, at: int, end: int) -> tuple[int, int]:
    said = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = view[at]
        at += 1
        said |= (byte & 0x7F) << shift
        if byte < 0x80:
            return said, at
    raise _wrong("its bytes do not parse")


def _no_head() -> InvalidCall:
    return InvalidCall("head: must be the first part, and is missing", metadata={"field": "head"})


def _wrong(what: str) -> InvalidCall:
    name = CallRequest.DESCRIPTOR.full_name
    return InvalidCall(f"the request is no {name}: {what}", metadata={"field": name})
