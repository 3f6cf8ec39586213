"""Whatever answers where a daemon should be: `headrace top` says what it is, in a line."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from headrace.errors import StartupError
from headrace.top.client import Client

DEEP = b"[" * 100_000
ODD = {
    "deep": DEEP,
    "no object": b"[1]",
    "no JSON": b'{"view',
    "no UTF-8": b'"\xff"',
    "another version's": b'{"view":"hosts","rows":{"a":1}}',
    "another version's rows": b'{"view":"hosts","rows":[5]}',
    "an error of no shape": b'{"error":5}',
}


@contextlib.contextmanager
def answering(said: bytes) -> Iterator[str]:
    """A server that says this to whoever asks; yields its address."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield f"127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.mark.parametrize("said", ODD.values(), ids=ODD.keys())
def test_odd_answers(said: bytes) -> None:
    with answering(said) as address, Client((address,)) as client, pytest.raises(StartupError, match=f"{address} says"):
        client.view("hosts")
