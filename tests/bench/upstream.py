"""
An upstream that is never the bottleneck: a bare protocol that reads a request's length and writes one stored answer.

    python -m tests.bench.upstream HOST:PORT

Not a simulator (`headrace simulate` is): it exists so that what a measured miss costs is the daemon's, not upstream's.
"""

from __future__ import annotations

import asyncio
import sys

import uvloop
from tests.bench.floor import ANSWER

RESPONSE = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: req_bench\r\ncontent-length: %d\r\n\r\n%b" % (
    len(ANSWER),
    ANSWER,
)


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
            self.received = self.received[head + 4 + size :]
            self.transport.write(RESPONSE)  # type: ignore[attr-defined]


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
