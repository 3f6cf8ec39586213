"""
An upstream that is never the bottleneck: a bare protocol that reads a request's length and writes one stored answer.

    python -m tests.bench.upstream HOST:PORT

Not a simulator (`headrace simulate` is): it exists so that what a measured miss costs is the daemon's, not upstream's.
"""

from __future__ import annotations

import asyncio
import json
import sys

import uvloop
from tests.bench.floor import ANSWER, CHAT


def _response(kind: bytes, body: bytes) -> bytes:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\nrequest-id: req_bench\r\ncontent-length: %d\r\n\r\n"
    return head % (kind, len(body)) + body


def _events(*data: str) -> bytes:
    # Six of each, as the floor has.
    named = [f"event: {json.loads(one).get('type', '')}\n" if "type" in json.loads(one) else "" for one in data]
    return "".join(f"{name}data: {one}\n\n" for name, one in zip(named, data, strict=True)).encode()


_MESSAGE = _events(
    '{"type":"message_start","message":{"id":"m","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[],'
    '"stop_reason":null,"stop_sequence":null,"usage":{"input_tokens":200,"output_tokens":1}}}',
    '{"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
    '{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"%s"}}' % ("x" * 800),
    '{"type":"content_block_stop","index":0}',
    '{"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},"usage":{"output_tokens":200}}',
    '{"type":"message_stop"}',
)
_CHUNK = '{"id":"c","object":"chat.completion.chunk","model":"m","choices":[{"index":0,"delta":%s,"finish_reason":%s}]}'
_CHUNKS = (
    _events(
        _CHUNK % ('{"role":"assistant","content":""}', "null"),
        *[_CHUNK % ('{"content":"%s"}' % ("x" * 200), "null") for _ in range(4)],
        _CHUNK % ("{}", '"stop"'),
    )
    + b"data: [DONE]\n\n"
)

JSON, SSE = b"application/json", b"text/event-stream"
# By whether it is a chat, and whether it streams.
RESPONSES = {
    (False, False): _response(JSON, ANSWER),
    (False, True): _response(SSE, _MESSAGE),
    (True, False): _response(JSON, CHAT),
    (True, True): _response(SSE, _CHUNKS),
}


class Upstream(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.received = b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (head := self.received.find(b"\r\n\r\n")) >= 0:
            size = _length(self.received[:head])
            if len(self.received) < head + 4 + size:
                return
            asked, self.received = self.received[: head + 4 + size], self.received[head + 4 + size :]
            which = b" /v1/chat/" in asked[:50], b'"stream":true' in asked[head:]
            self.transport.write(RESPONSES[which])  # type: ignore[attr-defined]


def _length(head: bytes) -> int:
    at = head.lower().find(b"content-length:")
    return int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


async def serve(address: str) -> None:
    host, _, port = address.rpartition(":")
    await asyncio.get_running_loop().create_server(Upstream, host, int(port))
    print("listening", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[1]))
