"""Parts of a request over gRPC: what is cut out of the bytes is what protobuf would have read."""

from __future__ import annotations

import pytest

from headrace.edge import grpc_params, grpc_parts
from headrace.edge.grpc_calls import parse
from headrace.errors import InvalidCall, TooLarge
from headrace.v1 import tickets_service_pb2
from headrace.v1.api_service_pb2 import CallRequest, CallRequestHead, Header

BODY = bytes(range(256)) * 8_000
NONE = [b"", b"\xff" * 70_000, b"\x0a\xff\xff\xff\x7f" + bytes(70_000), CallRequest(chunk=BODY).SerializeToString()]


def part(**head: object) -> bytes:
    return CallRequest(head=CallRequestHead(method="POST", path="/v1/messages", **head)).SerializeToString()


@pytest.mark.parametrize("body", [b"", b"small", BODY], ids=["none", "small", "large"])
async def test_beginning(body: bytes) -> None:
    """The head and the body are those that were said, whichever way they are read."""
    headers = [Header(name=f"x-{n}", value="y" * 100) for n in range(900)]
    said = await grpc_parts.beginning(part(headers=headers, body=body))
    assert said.body == body
    assert (said.head.method, said.head.path, list(said.head.headers)) == ("POST", "/v1/messages", headers)


async def test_repeated() -> None:
    """Of a body that is said twice the later one counts, and fields that we do not know are passed over, as protobuf has it."""
    inner = CallRequestHead(method="GET", body=BODY).SerializeToString() + b"\x78\x96\x01\x7d1234\x79" + b"12345678"
    inner += CallRequestHead(body=BODY[:-1]).SerializeToString()
    size = bytes((len(inner) & 0x7F | 0x80, len(inner) >> 7 & 0x7F | 0x80, len(inner) >> 14 & 0x7F | 0x80, len(inner) >> 21))
    raw = b"\x0a" + size + inner
    said = await grpc_parts.beginning(raw)
    assert (said.head.method, said.body) == ("GET", CallRequest.FromString(raw).head.body)


@pytest.mark.parametrize("size", [1_500, 200_000, 3_000_000])
async def test_too_many_headers(size: int) -> None:
    """A head of so many headers as HTTP refuses is refused, and not parsed to find that out."""
    with pytest.raises(InvalidCall, match="too many headers"):
        await grpc_parts.beginning(part(headers=[Header()] * size))


async def test_too_long() -> None:
    """The same for long ones."""
    with pytest.raises(InvalidCall, match="too long"):
        await grpc_parts.beginning(part(headers=[Header(value="x" * 300_000)]))


@pytest.mark.parametrize("raw", NONE)
async def test_none(raw: bytes) -> None:
    """What is no first part is refused."""
    with pytest.raises(InvalidCall):
        await grpc_parts.beginning(raw)


@pytest.mark.parametrize("body", [b"small", BODY])
async def test_more(body: bytes) -> None:
    """Later parts hold what they hold, and are no heads."""
    assert await grpc_parts.more(CallRequest(chunk=body).SerializeToString()) == body
    with pytest.raises(InvalidCall, match="comes once"):
        await grpc_parts.more(part(body=body))


def test_bound() -> None:
    """A message in which no prompt is is small, or is not parsed."""
    with pytest.raises(TooLarge):
        parse(tickets_service_pb2.GetTicketRequest, tickets_service_pb2.GetTicketRequest(id="x" * 300_000).SerializeToString())


def test_light() -> None:
    """Thirty kilobytes of text are taken apart at once, as many of tiny things in the helper."""
    assert grpc_params.is_light(b"The quick brown fox\n" * 1_500)
    assert not grpc_params.is_light(b"\x0a\x04\x0a\x02\x0a\x00" * 1_500)
