"""
A typed request taken apart: its params as the JSON body that they stand for, and the rest.

Small requests are taken apart at once, large ones in the process beside this one: hundreds of thousands of blocks take seconds
to translate.
"""

from __future__ import annotations

import functools
import struct
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from headrace.aside import Aside, cut
from headrace.edge import translate
from headrace.edge.grpc_calls import parse
from headrace.errors import InvalidCall
from headrace.forms import exact
from headrace.v1 import chat_service_pb2, message_batches_service_pb2, messages_service_pb2, organization_service_pb2
from headrace.values import quick

JOB = "headrace.edge.grpc_params:job"

_TINY_BYTES = 4_096  # whatever is in them
_SMALL_BYTES = 32_768  # if not many small things are in them
_MOST_LENGTHS = 600  # of things of less than 32 bytes, more or less
_MAX_REST_BYTES = 65_536  # of a request without its params
_CONTROL = bytes(set(range(32)) - set(b"\t\n\r"))
_FILES = (messages_service_pb2, chat_service_pb2, message_batches_service_pb2, organization_service_pb2)
_REPLY = struct.Struct("!?I")


@quick(frozen=True, slots=True)
class Parted:
    """
    A request taken apart.

    Args:
        request: what is left of it; its params are not to be looked at.
        body: the JSON of its params.
        is_stream: what the body says of the form.
    """

    request: Any
    body: bytes
    is_stream: bool


def is_light(raw: bytes) -> bool:
    """Whether taking this request apart takes but a moment."""
    if len(raw) <= _TINY_BYTES:
        return True
    # The length of a small thing is a byte that no text has.
    return len(raw) <= _SMALL_BYTES and len(raw) - len(raw.translate(None, _CONTROL)) <= _MOST_LENGTHS


async def take_apart(aside: Aside, cls: type[Message], raw: bytes, *, streams: bool) -> Parted:
    """
    Take a request apart; `InvalidCall` if it makes no sense.

    Args:
        raw: the request, serialised.
        streams: whether the RPC streams, which the body then says, too, if the params leave it open.
    """
    if is_light(raw) or "params" not in _fields(cls.DESCRIPTOR):
        return _take_apart(cls, raw, streams=streams)
    said = await aside.run(JOB, f"{'+' if streams else '-'}{cls.DESCRIPTOR.name}".encode(), raw)
    is_stream, length = _REPLY.unpack_from(said)
    rest = said[_REPLY.size : _REPLY.size + length]
    return Parted(parse(cls, rest), await cut(said, _REPLY.size + length, len(said)), is_stream)


@functools.cache
def _fields(descriptor: Descriptor) -> frozenset[str]:
    return frozenset(descriptor.fields_by_name)  # which protobuf makes anew each time it is asked


def _take_apart(cls: type[Message], raw: bytes, *, streams: bool) -> Parted:
    has_params = "params" in _fields(cls.DESCRIPTOR)
    request: Any = parse(cls, raw, **({"most_bytes": None} if has_params else {}))
    if not has_params:
        return Parted(request, b"", streams)
    return Parted(request, *written(request.params, streams=streams))


def written(params: Any, *, streams: bool) -> tuple[bytes, bool]:
    """Return the body that params stand for, and whether it asks for a stream: as *streams* says where they leave it open."""
    if "stream" not in _fields(params.DESCRIPTOR):
        return translate.write(params), False
    if streams and not params.HasField("stream"):
        params.stream = True
    body = translate.write(params)
    # It may stand in extra_json, too; in most bodies the word does not occur, however it may be spelled.
    names_it = b"stream" in body or b"\\u" in body
    return body, names_it and bytes(exact.fields(body).get("stream", b"false")) == b"true"


def job(head: bytes, raw: bytes) -> bytes:
    """Take a request apart, in the helper."""
    name = head[1:].decode()
    cls = next(getattr(file, name) for file in _FILES if hasattr(file, name))
    parted = _take_apart(cls, raw, streams=head[:1] == b"+")
    parted.request.ClearField("params")
    rest = parted.request.SerializeToString()
    if len(rest) > _MAX_REST_BYTES:
        raise InvalidCall(f"options: have {len(rest):,} bytes, and may have {_MAX_REST_BYTES:,}", metadata={"field": "options"})
    return b"".join((_REPLY.pack(parted.is_stream, len(rest)), rest, parted.body))
