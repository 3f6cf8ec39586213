"""
Load for the benchmarks: HTTP/1.1 and gRPC calls over raw sockets, cheap enough to keep one server core busy.

Ready-made generators send one body over and over; a miss needs a new body each time. So each call's body comes from a
function of its number. gRPC is spoken with a constant header block (no dynamic table), and an answer is over at its END_STREAM.

    python -m tests.bench.load http|KIND HOST:PORT hit|miss CONNECTIONS SECONDS

where KIND is one of grpc (CreateMessage), grpc-stream, grpc-chat, grpc-chat-stream and grpc-call (ApiService.Call), prints a
JSON line: calls, seconds, errors, p50_ms, p99_ms.
"""

from __future__ import annotations

import asyncio
import json
import os
import struct
import sys
import time
from collections.abc import Callable

import uvloop

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
Body = Callable[[], bytes]


class Tally:
    """What came back, and how long it took."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.errors = 0
        self.is_over = False

    def report(self, seconds: float) -> str:
        times = sorted(self.times) or [0.0]
        at = lambda q: round(1000 * times[min(len(times) - 1, int(q * len(times)))], 3)  # noqa: E731
        return json.dumps(
            {"calls": len(self.times), "seconds": seconds, "errors": self.errors, "p50_ms": at(0.5), "p99_ms": at(0.99)}
        )


class Http(asyncio.Protocol):
    """One HTTP/1.1 connection with one call at a time in the air."""

    def __init__(self, tally: Tally, body: Body) -> None:
        self.tally, self.body = tally, body
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        body = self.body()
        self.started = time.perf_counter()
        self.transport.write(  # type: ignore[attr-defined]
            b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nx-api-key: k\r\n"
            b"anthropic-version: 2023-06-01\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )

    def data_received(self, data: bytes) -> None:
        self.received += data
        head = self.received.find(b"\r\n\r\n")
        if head < 0:
            return
        at = self.received.lower().find(b"content-length:")
        size = int(self.received[at + 15 :].split(b"\r\n", 1)[0])
        if len(self.received) < head + 4 + size:
            return
        self.tally.errors += not self.received.startswith(b"HTTP/1.1 200")
        self.received = b""
        self.tally.times.append(time.perf_counter() - self.started)
        if not self.tally.is_over:
            self.send()


def _literal(name: bytes, value: bytes) -> bytes:
    # A literal header field without indexing, no Huffman: RFC 7541, 6.2.2.
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


METHODS = {
    "grpc": "MessagesService/CreateMessage",
    "grpc-stream": "MessagesService/StreamMessage",
    "grpc-chat": "ChatService/CreateChatCompletion",
    "grpc-chat-stream": "ChatService/StreamChatCompletion",
    "grpc-call": "ApiService/Call",
}


def _headers(kind: str) -> bytes:
    return b"".join(
        [
            b"\x83\x86",  # :method POST, :scheme http, from the static table
            _literal(b":path", b"/headrace.v1." + METHODS[kind].encode()),
            _literal(b":authority", b"bench"),
            _literal(b"content-type", b"application/grpc"),
            _literal(b"te", b"trailers"),
        ]
    )


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


class Grpc(asyncio.Protocol):
    """One HTTP/2 connection with one gRPC call at a time in the air."""

    def __init__(self, tally: Tally, body: Body, kind: str) -> None:
        self.tally, self.body = tally, body
        self.headers = _headers(kind)
        self.received = b""
        self.stream = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        # Windows so large that no call ever waits for one; ours are topped up below.
        settings = struct.pack(">HI", 4, 2**31 - 1)
        self.write(PREFACE + _frame(4, 0, 0, settings) + _frame(8, 0, 0, struct.pack(">I", 2**31 - 65536)))
        self.send()

    def write(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]

    def send(self) -> None:
        self.stream += 2
        message = self.body()
        data = b"\x00" + struct.pack(">I", len(message)) + message
        self.started = time.perf_counter()
        self.answered = False
        self.write(_frame(1, 0x4, self.stream, self.headers) + _frame(0, 0x1, self.stream, data))

    def data_received(self, data: bytes) -> None:
        self.received += data
        while len(self.received) >= 9:
            size = int.from_bytes(self.received[:3], "big")
            if len(self.received) < 9 + size:
                return
            kind, flags = self.received[3], self.received[4]
            payload, self.received = self.received[9 : 9 + size], self.received[9 + size :]
            self.take(kind, flags, payload)

    def take(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == 4 and not flags & 1:
            self.write(_frame(4, 1, 0, b""))
        elif kind == 6 and not flags & 1:
            self.write(_frame(6, 1, 0, payload))
        elif kind == 0:
            self.answered = True
        elif kind == 3 or (kind == 1 and flags & 1):
            # Trailers. A call that failed has no message before them.
            self.tally.errors += not self.answered
            self.tally.times.append(time.perf_counter() - self.started)
            if not self.tally.is_over:
                self.send()


async def run(kind: str, address: str, body: Body, connections: int, seconds: float) -> str:
    """Keep *connections* calls in the air for *seconds*, and report."""
    tally = Tally()
    protocol = (lambda: Http(tally, body)) if kind == "http" else (lambda: Grpc(tally, body, kind))
    loop = asyncio.get_running_loop()
    host, _, port = address.rpartition(":")
    made = [await loop.create_connection(protocol, host, int(port)) for _ in range(connections)]
    began = time.perf_counter()
    await asyncio.sleep(seconds)
    tally.is_over = True
    took = time.perf_counter() - began
    report = tally.report(took)
    for transport, _ in made:
        transport.close()
    return report


def bodies(kind: str, what: str) -> Body:
    """Return where bodies come from: the same one each time for hits, a new one each time for misses."""
    salt = os.urandom(6).hex()
    number = 0

    def fresh() -> bytes:
        nonlocal number
        number += what == "miss"
        return MAKERS[kind](f"{salt} {number:09d} " + "y" * 800)

    return fresh if what == "miss" else (lambda kept: lambda: kept)(fresh())


def _json(text: str) -> bytes:
    body = {"model": "claude-sonnet-4-5", "max_tokens": 64, "messages": [{"role": "user", "content": text}]}
    return json.dumps(body, separators=(",", ":")).encode()


def _message(text: str) -> bytes:
    from headrace.v1 import messages_service_pb2

    request = messages_service_pb2.CreateMessageRequest()  # StreamMessageRequest looks the same
    request.params.model = "claude-sonnet-4-5"
    request.params.max_tokens = 64
    message = request.params.messages.add(role="user")
    message.content.text = text
    return request.SerializeToString()


def _chat(text: str) -> bytes:
    from headrace.v1 import chat_service_pb2

    request = chat_service_pb2.CreateChatCompletionRequest()  # StreamChatCompletionRequest looks the same
    request.params.model = "claude-sonnet-4-5"
    request.params.max_tokens = 64
    message = request.params.messages.add(role="user")
    message.content.text = text
    return request.SerializeToString()


def _call(text: str) -> bytes:
    # As an official SDK has it.
    from headrace.v1 import api_service_pb2

    body = _json(text)
    request = api_service_pb2.CallRequest()
    request.head.method, request.head.path, request.head.body = "POST", "/v1/messages", body
    headers = {
        "host": "bench",
        "accept": "application/json",
        "content-type": "application/json",
        "user-agent": "Anthropic/Python 2.12.0",
        "x-stainless-lang": "python",
        "x-stainless-os": "Linux",
        "x-stainless-runtime": "CPython",
        "anthropic-version": "2023-06-01",
        "x-api-key": "k",
        "x-stainless-retry-count": "0",
        "x-stainless-timeout": "600",
        "content-length": str(len(body)),
    }
    for name, value in headers.items():
        request.head.headers.add(name=name, value=value)
    return request.SerializeToString()


MAKERS = {
    "http": _json,
    "grpc": _message,
    "grpc-stream": _message,
    "grpc-chat": _chat,
    "grpc-chat-stream": _chat,
    "grpc-call": _call,
}


if __name__ == "__main__":
    kind, address, what, connections, seconds = sys.argv[1:]
    print(uvloop.run(run(kind, address, bodies(kind, what), int(connections), float(seconds))))
