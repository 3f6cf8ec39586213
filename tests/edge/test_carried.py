"""What is only carried, over a real edge: other methods and endpoints, bodies, headers, and when it is tried again."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conftest import until
from doors import cancel_at_every_step, open_door
from flow_parts import Daemon
from headrace import observe
from headrace.edge.asked import Request
from headrace.edge.http_server import HttpServer
from headrace.model import Caller
from scripted import Line

BATCH = b'{"requests":[]}'
BROKEN = b'{"type":"error","error":{"type":"api_error","message":"oh"}}'
LIMITED = b'{"type":"error","error":{"type":"rate_limit_error","message":"slow down"}}'


class Asked:
    """What a client had for an answer."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        head, _, self.body = raw.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").split("\r\n")
        self.status = int(lines[0].split()[1])
        self.headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines[1:])]

    def __getitem__(self, name: str) -> str | None:
        return dict(self.headers).get(name)


@contextlib.asynccontextmanager
async def connected(door: HttpServer) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def ask(door: HttpServer, line: str, *headers: str, body: bytes = b"") -> Asked:
    """Say this on the wire, and return all that came."""
    length = [f"content-length: {len(body)}"] if body else []
    head = [f"{line} HTTP/1.1", "host: edge.example:7480", "connection: close", *length, *headers]
    async with connected(door) as (reader, writer):
        writer.write("\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body)
        async with asyncio.timeout(20):
            return Asked(await reader.read())


def saying(*answers: tuple[int, bytes]):
    """Return a talk that gives these answers in turn, and the last one ever after."""
    left = list(answers)

    async def talk(line: Line) -> None:
        status, body = left.pop(0) if len(left) > 1 else left[0]
        await line.answer(status, body, "content-type: application/json")

    return talk


# Headers.


async def test_onward(valkey_url: str, tmp_path: Path) -> None:
    """What is the caller's goes upstream as it came; what is of one hop, a key or a cookie does not."""
    async with open_door(valkey_url, tmp_path, saying((200, b"{}"))) as (door, server, _):
        await ask(
            door, "PATCH /v1/things/x?a=1&b=%20", "X-Api-Key: callers", "Authorization: Bearer callers", "Cookie: c=1",
            "Connection: close, X-Secret", "X-Secret: s", "TE: trailers", "Proxy-Authorization: p", "X-Headrace-Lane: batch",
            "X-Forwarded-For: 1.2.3.4", "Anthropic-Version: 2026-10-21", "Anthropic-Beta: a", "User-Agent: mine",
            "X-Twice: 1", "X-Twice: 2", "Content-Type: text/odd", body=b"body",
        )  # fmt: skip
        (line,) = server.lines
    assert line.head.startswith(b"PATCH /v1/things/x?a=1&b=%20 HTTP/1.1\r\n")
    assert line.body == b"body"
    assert {name: value for name, value in line.headers.items() if name != "host"} == {
        "anthropic-version": "2026-10-21", "anthropic-beta": "a", "user-agent": "mine", "x-twice": "1, 2",
        "content-type": "text/odd", "content-length": "4", "via": "1.1 headrace", "x-api-key": "own-key",
        "accept": "*/*", "accept-encoding": "identity",
    }  # fmt: skip


async def test_back(valkey_url: str, tmp_path: Path) -> None:
    """Upstream's headers come back, less those of its own hop and its cookies; ours are added."""

    async def talk(line: Line) -> None:
        more = ("content-type: text/odd", "set-cookie: c=1", "keep-alive: timeout=5", "x-theirs: 1", "anthropic-x: y")
        await line.answer(202, b"body", *more)

    async with open_door(valkey_url, tmp_path, talk) as (door, _, _):
        said = await ask(door, "GET /v1/things")
    assert (said.status, said.body) == (202, b"body")
    assert {name for name, _ in said.headers} - {"date", "server", "connection"} == {
        "content-length", "content-type", "request-id", "x-theirs", "anthropic-x", "x-headrace-source", "x-headrace-attempts",
        "x-headrace-request-id", "server-timing",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("encoding", "body"),
    [("gzip", gzip.compress(b"text")), ("br", b"\x0b\x01\x80text\x03"), ("zstd", b"z")],
    ids=["gzip", "br", "zstd"],
)
async def test_encodings(valkey_url: str, tmp_path: Path, encoding: str, body: bytes) -> None:
    """An encoding that the caller asked for is between it and upstream."""

    async def talk(line: Line) -> None:
        assert line.headers["accept-encoding"] == encoding
        await line.answer(200, body, f"content-encoding: {encoding}")

    async with open_door(valkey_url, tmp_path, talk) as (door, _, _):
        said = await ask(door, "GET /v1/things", f"accept-encoding: {encoding}")
    assert (said["content-encoding"], said.body) == (encoding, body)


async def test_methods(valkey_url: str, tmp_path: Path) -> None:
    """HEAD has the headers of a GET and no body; OPTIONS never goes upstream; neither does what is no method of the API."""

    async def talk(line: Line) -> None:
        if line.head.startswith(b"HEAD"):
            await line.say(b"HTTP/1.1 200 OK\r\ncontent-length: 77\r\n\r\n")
        else:
            await line.say(b"HTTP/1.1 204 No Content\r\nallow: GET\r\n\r\n")

    async with open_door(valkey_url, tmp_path, talk) as (door, server, _):
        head, options = await ask(door, "HEAD /v1/models"), await ask(door, "OPTIONS /v1/models")
        assert (head.status, head["content-length"], head.body) == (200, "77", b"")
        assert (options.status, server.calls) == (403, 1)
        assert (await ask(door, "TRACE /v1/models")).status == 400
        assert server.calls == 1


# Bodies.


async def test_expect(valkey_url: str, tmp_path: Path) -> None:
    """A caller that asks whether to send its body is told so, unless the answer is no already; other wishes are 400."""
    async with open_door(valkey_url, tmp_path, saying((200, b"{}"))) as (door, server, _):
        async with connected(door) as (reader, writer):
            writer.write(b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n")
            async with asyncio.timeout(5):
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
                assert not server.calls
                writer.write(b"body")
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200 ")
        too_much = await ask(door, "POST /v1/files", "expect: 100-continue", f"content-length: {10**12}")
        assert too_much.status == 413
        assert (await ask(door, "POST /v1/files", "expect: miracles", body=b"x")).status == 400
        assert server.calls == 1
        assert "expect" not in server.lines[0].headers


async def test_chunked(valkey_url: str, tmp_path: Path) -> None:
    """A body of unknown length goes through as it comes, and so does an answer: the first piece before the last is said."""
    go_on = asyncio.Event()

    async def talk(line: Line) -> None:
        await line.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        await line.chunk(line.body)
        await go_on.wait()
        await line.say(b"0\r\n\r\n")

    async with open_door(valkey_url, tmp_path, talk) as (door, server, _), connected(door) as (reader, writer):
        writer.write(
            b"POST /v1/things HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        )
        async with asyncio.timeout(5):
            assert b"abcde" in await reader.readuntil(b"abcde")
            go_on.set()
            await reader.readuntil(b"0\r\n\r\n")
        assert server.lines[0].body == b"abcde"
        assert "content-length" not in server.lines[0].headers


async def test_caller_leaves(valkey_url: str, tmp_path: Path) -> None:
    """A caller that goes away hangs up upstream: in the middle of its own body, and in the middle of the answer."""

    async def talk(line: Line) -> None:
        await line.say(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\nbegun")
        await line.reader.read()

    async with open_door(valkey_url, tmp_path, talk) as (door, server, one):
        async with connected(door) as (reader, writer):
            writer.write(b"GET /v1/things HTTP/1.1\r\nhost: localhost\r\n\r\n")
            await reader.readuntil(b"begun")
        await asyncio.wait_for(server.hung_up.wait(), 5)
        async with connected(door) as (_, writer):
            writer.write(b"POST /v1/files HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2000000\r\n\r\nbegun")
            await until(lambda: len(server.lines) == 2 or one.parts.upstream.in_the_air, what="it is under way")
        await until(lambda: not one.held(), what=one.held())


async def test_upstream_breaks_off(valkey_url: str, tmp_path: Path) -> None:
    """Half an answer does not look like a whole one, and counts as a broken attempt."""
    before = observe.ATTEMPTS.value("broken")

    async def talk(line: Line) -> None:
        await line.say(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        await line.chunk(b"half")
        line.reset()

    async with open_door(valkey_url, tmp_path, talk) as (door, _, _), connected(door) as (reader, writer):
        writer.write(b"GET /v1/things HTTP/1.1\r\nhost: localhost\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(5):
                came = await reader.read()
                assert not came.endswith(b"0\r\n\r\n")
        await until(lambda: observe.ATTEMPTS.value("broken") == before + 1)


@pytest.mark.parametrize(
    ("headers", "address"),
    [((), "http://edge.example:7480"), (("x-forwarded-proto: https",), "https://edge.example:7480")],
)
async def test_addresses(valkey_url: str, tmp_path: Path, headers: tuple[str, ...], address: str) -> None:
    """The address of a batch's results is ours, as the caller sees us, in single batches and in lists, encoded or not."""

    async def talk(line: Line) -> None:
        batch = {
            "id": "b",
            "results_url": f"http://{line.headers['host']}/v1/messages/batches/b/results",
            "note": "results_url",
        }
        body = json.dumps(batch if line.head.startswith(b"POST") else {"data": [batch, {"results_url": None}]}).encode()
        packed = "gzip" in line.headers["accept-encoding"]
        await line.answer(200, gzip.compress(body) if packed else body, *(["content-encoding: gzip"] if packed else []))

    async with open_door(valkey_url, tmp_path, talk) as (door, _, _):
        made = await ask(door, "POST /v1/messages/batches", *headers, body=BATCH)
        listed = await ask(door, "GET /v1/messages/batches", "accept-encoding: gzip", *headers)
    results = f"{address}/v1/messages/batches/b/results"
    assert json.loads(made.body) == {"id": "b", "results_url": results, "note": "results_url"}
    assert [batch["results_url"] for batch in json.loads(listed.body)["data"]] == [results, None]
    assert listed["content-encoding"] is None


# Again, or not.


@pytest.mark.parametrize("status", [500, 503, 429, 529, 408])
async def test_again(valkey_url: str, tmp_path: Path, status: int) -> None:
    """What is safe to repeat is repeated, and the caller sees only the answer."""
    async with open_door(valkey_url, tmp_path, saying((status, LIMITED), (200, b"{}"))) as (door, server, _):
        said = await ask(door, "DELETE /v1/files/file_1")
    assert (said.status, said["x-headrace-attempts"], server.calls) == (200, "2", 2)


@pytest.mark.parametrize(("status", "calls"), [(500, 1), (503, 1), (408, 1), (429, 2), (529, 2)])
async def test_creations(valkey_url: str, tmp_path: Path, status: int, calls: int) -> None:
    """A creation is repeated only where upstream said that it did nothing."""
    async with open_door(valkey_url, tmp_path, saying((status, BROKEN), (200, b"{}"))) as (door, server, _):
        said = await ask(door, "POST /v1/messages/batches", body=BATCH)
    assert server.calls == calls
    assert said.status == (200 if calls == 2 else status)
    if calls == 1:
        assert said.body == BROKEN
        assert said["x-should-retry"] == "false", "an SDK must not make it twice either"


async def test_broken_connection(valkey_url: str, tmp_path: Path) -> None:
    """A connection that broke may have brought the creation there: it is not made again; a look is."""

    async def talk(line: Line) -> None:
        if line.number == 0:
            line.reset()
        else:
            await line.answer(200, b"{}")

    async with open_door(valkey_url, tmp_path, talk) as (door, server, _):
        assert (await ask(door, "POST /v1/messages/batches", body=BATCH)).status == 502
        assert server.calls == 1
    async with open_door(valkey_url, tmp_path, talk) as (door, server, _):
        assert (await ask(door, "GET /v1/messages/batches")).status == 200
        assert server.calls == 2


async def test_body_gone_by(valkey_url: str, tmp_path: Path) -> None:
    """A body that has gone by cannot be sent again; the caller, who has it, is told that it may."""
    body = b"x" * 2_000_000
    async with open_door(valkey_url, tmp_path, saying((429, LIMITED), (200, b"{}"))) as (door, server, _):
        said = await ask(door, "POST /v1/files", body=body)
        assert (said.status, said.body, server.calls) == (429, LIMITED, 1)
        assert said["x-should-retry"] is None
        assert (await ask(door, "POST /v1/files", body=body)).status == 200


async def test_final(valkey_url: str, tmp_path: Path) -> None:
    """Upstream's no is passed on with its status, its headers and its very bytes."""

    async def talk(line: Line) -> None:
        await line.answer(404, b'{"odd": true}', "content-type: text/odd", "x-theirs: 1")

    async with open_door(valkey_url, tmp_path, talk) as (door, server, _):
        said = await ask(door, "GET /v1/files/file_none")
    assert (said.status, said.body, said["content-type"], said["x-theirs"]) == (404, b'{"odd": true}', "text/odd", "1")
    assert server.calls == 1


# Who may, and how often.


async def test_admin(valkey_url: str, tmp_path: Path) -> None:
    """The Admin API is for admins, and is asked with its own key; everything else never is."""
    async with open_door(valkey_url, tmp_path, saying((200, b"{}"))) as (door, server, _):
        for target in ("/v1/organizations/users", "/v1/organizations", "/v1/organizations/me?x=1"):
            assert (await ask(door, f"GET {target}")).status == 403
        assert not server.calls
    keys = []

    async def talk(line: Line) -> None:
        keys.append(line.headers["x-api-key"])
        await line.answer(200, b"{}")

    async with open_door(valkey_url, tmp_path, talk, AUTH__DEFAULT_ROLE="admin") as (door, _, _):
        assert (await ask(door, "GET /v1/organizations/users")).status == 200
        assert (await ask(door, "GET /v1/files")).status == 200
    assert keys == ["admin-key", "own-key"]


async def test_limits(valkey_url: str, tmp_path: Path) -> None:
    """A limit that names an endpoint holds for it alone; one that names none leaves alone what uses no tokens."""
    limits = json.dumps([
        {"name": "batches", "match": {"endpoint": "batches"}, "requests_per_minute": 60, "burst": "1s"},
        {"name": "all", "requests_per_minute": 60, "burst": "1s"},
    ])  # fmt: skip
    async with open_door(valkey_url, tmp_path, saying((200, b"{}")), LIMIT=limits) as (door, server, _):
        hurried = "x-headrace-timeout-ms: 300"
        for _ in range(3):
            assert (await ask(door, "GET /v1/files", hurried)).status == 200
        assert (await ask(door, "GET /v1/messages/batches", hurried)).status == 200
        refused = await ask(door, "GET /v1/messages/batches", hurried)
        assert (refused.status, refused["retry-after"]) == (429, "1")
        assert server.calls == 4


async def test_only_if_cached(valkey_url: str, tmp_path: Path) -> None:
    """Who wants a kept answer or none gets none, and upstream is not asked."""
    async with open_door(valkey_url, tmp_path, saying((200, b"{}"))) as (door, server, _):
        assert (await ask(door, "GET /v1/files", "cache-control: only-if-cached")).status == 504
        assert not server.calls


async def test_deadline(valkey_url: str, tmp_path: Path) -> None:
    """The deadline bounds how long an answer may take to begin, and not how long it then goes on."""

    async def talk(line: Line) -> None:
        if b"/slow" in line.head:
            await line.reader.read()
        await line.say(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nab")
        await asyncio.sleep(0.6)
        await line.say(b"cd")

    async with open_door(valkey_url, tmp_path, talk) as (door, _, one):
        assert (await ask(door, "POST /v1/things/slow", "x-headrace-timeout-ms: 300")).status == 504
        assert (await ask(door, "POST /v1/things/long", "x-headrace-timeout-ms: 300")).body == b"abcd"
        await until(lambda: not one.held(), what=one.held())


@pytest.mark.parametrize("talks", [[(200, b"{}")], [(429, LIMITED), (200, b"{}")]], ids=["at once", "again"])
async def test_cancelled_at_every_step(valkey_url: str, tmp_path: Path, talks: list[tuple[int, bytes]], long: bool) -> None:
    """Whenever a caller leaves, everything that was held for it is given back."""
    limits = json.dumps([{"name": "all", "match": {"endpoint": "*"}, "requests_per_minute": 600_000, "concurrency": 3}])
    current = [saying(*talks)]

    async def speak(line: Line) -> None:
        await current[0](line)

    async def carry(one: Daemon) -> None:
        asked = Request("PUT", "/v1/files", Caller("ann"), body=b"x", length=1)
        async with one.parts.exchange.open(asked) as response:
            assert await response.read() == b"{}"

    async with open_door(valkey_url, tmp_path, speak, LIMIT=limits, RETRY__BACKOFF="0.01s..0.02s") as (_, _, one):

        def begin(step: int) -> asyncio.Task[None]:
            current[0] = saying(*talks)
            return asyncio.create_task(carry(one))

        await cancel_at_every_step(one, valkey_url, begin, every=1 if long else 7)
