"""HTTP clients on the daemon's socket: httpx and httpx2, for threads and for asyncio."""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import time
from concurrent import futures
from pathlib import Path

import grpc
import pytest

import headrace_client
from headrace_client.v1 import api_service_pb2 as api
from headrace_client.v1.api_service_pb2_grpc import ApiServiceServicer, add_ApiServiceServicer_to_server

URL = "https://api.anthropic.com/v1/messages"
HEADERS = {"content-type": "application/json", "x-headrace-caller": "tests"}


class Library:
    """httpx or httpx2, and our transports for it."""

    def __init__(self, name):
        self.module = importlib.import_module(name)
        self.ours = importlib.import_module(f"headrace_client.{name}_transport")

    def client(self, address, **more):
        return self.module.Client(transport=self.ours.HeadraceTransport(address), headers=HEADERS, **more)

    def async_client(self, address, **more):
        return self.module.AsyncClient(transport=self.ours.AsyncHeadraceTransport(address), headers=HEADERS, **more)


@pytest.fixture(params=["httpx", "httpx2"])
def library(request):
    return Library(request.param)


def test_modules_are_twins():
    """The two modules differ in nothing but the library they name, and the SDK in their example."""
    texts = {}
    for name in ("httpx", "httpx2"):
        texts[name] = Path(Library(name).ours.__file__).read_text()
    swapped = texts["httpx"].replace("httpx2", "\0").replace("httpx", "httpx2").replace("\0", "httpx")
    assert texts["httpx2"] == swapped.replace("openai.OpenAI", "anthropic.Anthropic")


# Against a real daemon.


def test_post_and_repeat(library, stage, ask):
    """A call is answered as over HTTP, headers included; its repeat comes from the cache."""
    with library.client(stage.address) as client:
        first, again = (client.post(URL, json=ask("hello")) for _ in range(2))
    assert first.status_code == 200
    assert first.json()["content"][0]["text"].startswith('You said: "hello"')
    assert first.headers["x-headrace-source"] == "upstream"
    assert again.headers["x-headrace-source"] == "cache"
    assert again.content == first.content


async def test_post_and_repeat_async(library, stage, ask):
    """The same for asyncio, and many at once."""
    async with library.async_client(stage.address) as client:
        first = await client.post(URL, json=ask("hello"))
        many = await asyncio.gather(*(client.post(URL, json=ask(f"number {number % 5}")) for number in range(25)))
    assert first.headers["x-headrace-source"] == "upstream"
    assert len({response.json()["id"] for response in many}) == 5


def test_same_as_over_http(library, stage, ask):
    """What comes over the socket is what comes over HTTP, byte for byte."""
    with library.client(stage.address) as ours, library.module.Client(headers=HEADERS) as theirs:
        for body in (ask("same"), ask("same", stream=True), ask("wrong", max_tokens=-1), {"no": "call"}):
            there = theirs.post(f"{stage.http}/v1/messages", json=body)
            here = ours.post(URL, json=body)
            assert (here.status_code, here.headers["content-type"]) == (there.status_code, there.headers["content-type"])
            drop = ("request_id",) if here.status_code >= 400 else ()
            assert _less(here.content, drop) == _less(there.content, drop)


def _less(body, names):
    return {name: value for name, value in json.loads(body).items() if name not in names} if names else body


def test_other_endpoints(library, stage):
    """Any endpoint and method gets through."""
    with library.client(stage.address) as client:
        assert client.get("http://daemon/v1/models/claude-haiku-4-5").json()["type"] == "model"
        assert client.get("http://daemon/v1/nothing").status_code == 404


def test_streamed_request(library, stage, ask):
    """A body that is made on the way arrives whole."""
    body = json.dumps(ask("x" * 3_000_000)).encode()
    with library.client(stage.address) as client:
        response = client.post(URL, content=(body[at : at + 70_000] for at in range(0, len(body), 70_000)))
        assert response.status_code == 200
        again = client.post(URL, content=body)  # in memory, and more than one part
    assert again.headers["x-headrace-source"] == "cache"


async def test_streamed_request_async(library, stage, ask):
    """The same for asyncio."""
    body = json.dumps(ask("y" * 3_000_000)).encode()

    async def pieces():
        for at in range(0, len(body), 70_000):
            yield body[at : at + 70_000]

    async with library.async_client(stage.address) as client:
        assert (await client.post(URL, content=pieces())).status_code == 200
        assert (await client.post(URL, content=body)).headers["x-headrace-source"] == "cache"


async def test_events_come_one_by_one(library, stage, ask):
    """The first events are here while upstream is still silent about the rest; leaving then hangs up."""
    stage.fault("hang", after_deltas=2)

    def listen():
        with library.client(stage.address) as client, client.stream("POST", URL, json=ask("events", stream=True)) as response:
            return next(line for line in response.iter_lines() if "text_delta" in line)

    assert "You said" in await asyncio.to_thread(listen)
    await stage.ended("events")


async def test_events_come_one_by_one_async(library, stage, ask):
    """The same for asyncio, left by leaving the block, and by cancelling the task."""
    stage.fault("hang", after_deltas=2)
    heard = asyncio.Event()

    async def listen(text, *, stay):
        async with client.stream("POST", URL, json=ask(text, stream=True)) as response:
            async for line in response.aiter_lines():
                if "text_delta" in line:
                    heard.set()
                    if not stay:
                        return

    async with library.async_client(stage.address) as client:
        await listen("leaving", stay=False)
        await stage.ended("leaving")
        heard.clear()
        task = asyncio.create_task(listen("cancelled", stay=True))
        await heard.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await stage.ended("cancelled")


async def test_dropped_response_hangs_up(library, stage, ask):
    """A response that is neither read nor closed ends with whoever held it."""
    stage.fault("hang", after_deltas=2)
    client = library.client(stage.address)
    response = await asyncio.to_thread(
        lambda: client.send(client.build_request("POST", URL, json=ask("dropped", stream=True)), stream=True)
    )
    await stage.runs("dropped")
    del response
    gc.collect()
    await stage.ended("dropped")
    client.close()


async def test_dropped_response_hangs_up_async(library, stage, ask):
    """The same for asyncio."""
    stage.fault("hang", after_deltas=2)
    async with library.async_client(stage.address) as client:
        response = await client.send(client.build_request("POST", URL, json=ask("dropped", stream=True)), stream=True)
        await stage.runs("dropped")
        del response
        gc.collect()
        await stage.ended("dropped")


def test_closed_response_hangs_up(library, stage, ask):
    """A response that is closed is given up at once, even if somebody holds it still."""
    stage.fault("hang", after_deltas=2)
    with library.client(stage.address) as client:
        response = client.send(client.build_request("POST", URL, json=ask("closed", stream=True)), stream=True)
        lines = response.iter_lines()
        assert next(lines)
        response.close()
        asyncio.run(stage.ended("closed"))
    assert response.is_closed


async def test_read_timeout(library, stage, ask):
    """Silence is a ReadTimeout, before the head and after it; the daemon has hung up by then."""
    stage.fault("hang", text="silent")
    stage.fault("hang", text="falls", after_deltas=2)
    with library.client(stage.address, timeout=0.5) as client:
        for text, stream in (("silent", False), ("falls silent", True)):
            with pytest.raises(library.module.ReadTimeout):
                await asyncio.to_thread(client.post, URL, json=ask(text, stream=stream))
            await stage.ended(text)


async def test_read_timeout_async(library, stage, ask):
    """The same for asyncio."""
    stage.fault("hang", text="silent")
    stage.fault("hang", text="falls", after_deltas=2)
    async with library.async_client(stage.address, timeout=0.5) as client:
        for text, stream in (("silent", False), ("falls silent", True)):
            with pytest.raises(library.module.ReadTimeout):
                await client.post(URL, json=ask(text, stream=stream))
            await stage.ended(text)


async def test_cancelled_wait_hangs_up(library, stage, ask):
    """A task that is cancelled before the head hangs up, and stays cancelled."""
    stage.fault("hang")
    async with library.async_client(stage.address) as client:
        task = asyncio.create_task(client.post(URL, json=ask("before")))
        await stage.runs("before")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await stage.ended("before")


def test_client_outlives_its_loop(library, stage, ask):
    """One client may serve one loop after another."""
    client = library.async_client(stage.address)
    for number in range(2):
        assert asyncio.run(client.post(URL, json=ask(f"loop {number}"))).status_code == 200


# Against nobody, and against a daemon that misbehaves.


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

    def Call(self, parts, context):  # noqa: N802
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
    servicer = Odd()
    with futures.ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool)
        add_ApiServiceServicer_to_server(servicer, server)
        servicer.address = f"unix:{tmp_path}/odd.sock"
        server.add_insecure_port(servicer.address)
        server.start()
        yield servicer
        server.stop(None).wait()


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
