"""HTTP clients on the socket of nobody, or of a daemon that misbehaves: what went wrong is said as httpx says it."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest

import headrace_client
from headrace_client.v1 import api_service_pb2 as api
from headrace_client.v1.api_service_pb2_grpc import ApiServiceServicer
from transport_parts import URL, serving


def test_nobody_there(library, tmp_path):
    """Without a daemon it is a ConnectError."""
    with library.client(f"unix:{tmp_path}/none.sock") as client, pytest.raises(library.module.ConnectError):
        client.post(URL, json={})


async def test_nobody_there_async(library, tmp_path):
    """The same for asyncio."""
    async with library.async_client(f"unix:{tmp_path}/none.sock") as client:
        with pytest.raises(library.module.ConnectError):
            await client.post(URL, json={})


class Odd(ApiServiceServicer):
    """Does what the path says."""

    def __init__(self):
        self.heads = []

    def Call(self, parts, context):  # noqa: N802  # the RPC's name
        head = next(parts).head
        self.heads.append(head)
        match head.path:
            case "/v1/refuse":
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no HTTP")
            case "/v1/away":
                context.abort(grpc.StatusCode.UNAVAILABLE, "Cancelling all calls")
            case "/v1/nothing":
                return
            case "/v1/half":
                yield _head(200)
                yield api.CallResponse(chunk=b"half")
                context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            case "/v1/steady":
                yield _head(200)
                for _ in range(6):
                    time.sleep(0.15)
                    yield api.CallResponse(chunk=b"tick")
            case "/v1/early":
                yield _head(413)
                for _ in parts:
                    pass
            case _:
                yield _head(200)
                yield api.CallResponse(chunk=b"".join(part.chunk for part in parts))


def _head(status):
    return api.CallResponse(head=api.CallResponseHead(status=status, headers=[api.Header(name="x-latin", value="grüße")]))


@pytest.fixture
def odd(tmp_path):
    with serving(Odd(), tmp_path / "odd.sock") as servicer:
        yield servicer


FAILURES = {
    "refuse": "LocalProtocolError",
    "away": "RemoteProtocolError",
    "nothing": "RemoteProtocolError",
    "half": "RemoteProtocolError",
}


@pytest.mark.parametrize(("path", "kind"), FAILURES.items())
async def test_failures(library, odd, path, kind):
    """What goes wrong with the RPC is the exception of httpx's own transports."""
    error = getattr(library.module, kind)
    with library.client(odd.address) as client, pytest.raises(error) as caught:
        await asyncio.to_thread(client.get, f"http://daemon/v1/{path}")
    assert caught.value.request.url.path == f"/v1/{path}"
    async with library.async_client(odd.address) as client:
        with pytest.raises(error):
            await client.get(f"http://daemon/v1/{path}")


async def test_head_says_what_http_says(library, odd):
    """The head has method, path and query as the URL has them, the host and the scheme."""
    async with library.async_client(odd.address, timeout=2.5) as client:
        response = await client.patch(
            "https://h.example/v1/caf%C3%A9/a?b=%20c&d", headers={"x-latin": "grüße".encode("latin-1")}
        )
    (head,) = odd.heads
    headers = {header.name.lower(): header.value for header in head.headers}
    assert (head.method, head.path, head.query) == ("PATCH", "/v1/caf%C3%A9/a", "b=%20c&d")
    assert headers["host"] == "h.example"
    assert headers["x-forwarded-proto"] == "https"
    assert "x-headrace-timeout-ms" not in headers
    assert headers["x-latin"] == "grüße"
    assert response.headers["x-latin"] == "grüße"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"a": 1}', "2500"),
        (b'{"stream": false}', "2500"),
        (b'{"stream":true}', None),
        (b"", None),
        (b" " * 2_000_000 + b'"stream": true', None),
    ],
    ids=["whole", "no stream", "stream", "nothing", "stream, said late"],
)
def test_daemon_hears_of_the_timeout(library, odd, body, said):
    """The daemon is told how long the caller will wait, but for streams, which it would cut off then."""
    with library.client(odd.address, timeout=2.5) as client:
        client.post("http://daemon/v1/echo", content=body)
    assert {header.name: header.value for header in odd.heads[0].headers}.get("x-headrace-timeout-ms") == said


async def test_a_stream_outlives_the_read_timeout(library, odd):
    """The timeout is for one wait: a stream that goes on is not cut off."""
    with library.client(odd.address, timeout=0.5) as client:
        assert (await asyncio.to_thread(client.get, "http://daemon/v1/steady")).content == b"tick" * 6
    async with library.async_client(odd.address, timeout=0.5) as client:
        assert (await client.get("http://daemon/v1/steady")).content == b"tick" * 6


def test_a_slow_reader_is_no_timeout(library, odd):
    """Only waiting counts, not what the caller does between two pieces."""
    with library.client(odd.address, timeout=0.4) as client, client.stream("GET", "http://daemon/v1/steady") as response:
        pieces = response.iter_bytes()
        first = next(pieces)
        time.sleep(0.8)
        assert first + b"".join(pieces) == b"tick" * 6


async def test_error_in_a_body_is_the_callers_own(library, odd):
    """An exception while the body is made comes out as it is."""

    def bad():
        yield b"x"
        raise KeyError("mine")

    async def bad_async():
        yield b"x"
        raise KeyError("mine")

    with library.client(odd.address) as client, pytest.raises(KeyError, match="mine"):
        await asyncio.to_thread(client.post, "http://daemon/v1/echo", content=bad())
    async with library.async_client(odd.address) as client:
        with pytest.raises(KeyError, match="mine"):
            await client.post("http://daemon/v1/echo", content=bad_async())


async def test_answer_before_the_body_has_ended(library, odd):
    """A refusal may come while the request is still being said, and ends it."""

    def endless():
        while True:
            yield b"x" * 1000

    async def endless_async():
        while True:
            yield b"x" * 1000

    with library.client(odd.address) as client:
        assert (await asyncio.to_thread(client.post, "http://daemon/v1/early", content=endless())).status_code == 413
    async with library.async_client(odd.address) as client:
        assert (await client.post("http://daemon/v1/early", content=endless_async())).status_code == 413


def test_typed_client_against_an_odd_daemon(odd):
    """The typed client says UNAVAILABLE and the like of raw calls, too."""
    with headrace_client.Headrace(odd.address) as client:
        with pytest.raises(headrace_client.UnavailableError):
            client.request("GET", "/v1/away")
        with pytest.raises(headrace_client.InternalError) as caught:
            client.request("GET", "/v1/nothing")
    assert caught.value.reason == "NO_RESPONSE"
