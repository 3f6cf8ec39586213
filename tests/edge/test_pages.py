"""Web pages: where no key is asked for only our own may ask, on any path; those of `listen.origins` may, for real."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from pathlib import Path

import pytest

from doors import BODY, open_door
from headrace.edge.http_server import HttpServer
from scripted import Line, say_events, say_message

PAGE = "https://app.example"
ASK = json.dumps(BODY).encode()
PATHS = ["GET /healthz", "GET /readyz", "GET /metrics", "HEAD /metrics", "GET /", "GET /favicon.ico", "POST /v1/messages",
         "GET /v1/models", "GET /v1/files", "POST /v1/things", "DELETE /v1/files/x", "OPTIONS /v1/messages", "OPTIONS /healthz",
         "OPTIONS *", "BREW /v1/messages"]  # fmt: skip


async def ask(
    door: HttpServer, line: str, *headers: str, host: str = "localhost", body: bytes | None = None
) -> tuple[int, str]:
    """Say this; return the status and all that came, the head in small letters."""
    body = ASK if body is None and line.startswith("POST") else body or b""
    reader, writer = await asyncio.open_connection("127.0.0.1", door.port)
    head = [f"{line} HTTP/1.1", f"host: {host}", "connection: close", f"content-length: {len(body)}", *headers, "", ""]
    with contextlib.closing(writer):
        writer.write("\r\n".join(head).encode() + body)
        async with asyncio.timeout(20):
            head, _, rest = (await reader.read()).decode().partition("\r\n\r\n")
    return int(head.split()[1]), head.lower() + "\n\n" + rest


async def anything(line: Line) -> None:
    await (
        say_message(line)
        if b"/v1/messages" in line.head.split()[1]
        else line.answer(200, b"{}", "content-type: application/json")
    )


FOREIGN = {
    "origin": ("Origin: https://evil.example",),
    "null": ("Origin: null",),
    "other port": ("Origin: http://localhost:3000",),
    "other scheme": ("Origin: https://localhost",),
    "cross-site": ("Sec-Fetch-Site: cross-site",),
    "cross-site, in capitals": ("Sec-Fetch-Site: Cross-Site",),
    "both": ("Origin: https://evil.example", "Sec-Fetch-Site: same-origin"),
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN.keys())
async def test_foreign_page(valkey_url: str, tmp_path: Path, headers: tuple[str, ...]) -> None:
    """Where no key is asked for, a page of another origin is refused on every path, and upstream is not asked."""
    async with open_door(valkey_url, tmp_path, anything) as (door, server, _):
        for line in PATHS:
            status, came = await ask(door, line, *headers)
            assert status == (400 if line.startswith("BREW") else 403), (line, came)
            assert "access-control" not in came
            if not line.startswith(("HEAD", "BREW")):
                assert '"permission_error"' in came
        assert server.calls == 0


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:7480", "localhost.evil.example", "127.0.0.1.evil.example", "", "[x]", "0x7f.1"]
)
async def test_foreign_name(valkey_url: str, tmp_path: Path, host: str) -> None:
    """A name that is not this machine's may be one that a page has pointed here: it is refused on every path."""
    async with open_door(valkey_url, tmp_path, anything) as (door, server, _):
        for line in ("GET /healthz", "GET /metrics", "GET /nothing", "POST /v1/messages", "GET /v1/files"):
            status, came = await ask(door, line, host=host)
            assert (status, '"permission_error"' in came) == (403, True)
        assert server.calls == 0


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.0.0.1:7480", "10.1.2.3:80", "[::1]:7480", "[::1]", "localhost", "LOCALHOST:1", "localhost.:7480",
     "headrace.internal:7480", socket.gethostname(), f"{socket.gethostname()}:7480"],
)  # fmt: skip
async def test_own_name(valkey_url: str, tmp_path: Path, host: str) -> None:
    """Addresses, localhost, the machine's name and the configured ones are fine, for pages of their own, too."""
    async with open_door(valkey_url, tmp_path, anything, LISTEN__HOSTS='["headrace.internal"]') as (door, _, _):
        for headers in (
            (),
            (f"Origin: http://{host}", "Sec-Fetch-Site: same-origin"),
            ("Sec-Fetch-Site: none",),
            ("Sec-Fetch-Site: same-site",),
        ):
            assert (await ask(door, "POST /v1/messages", *headers, host=host))[0] == 200
            assert (await ask(door, "GET /healthz", *headers, host=host))[0] == 200
        proxied = ("X-Forwarded-Proto: https", f"Origin: https://{host}")
        assert (await ask(door, "POST /v1/messages", *proxied, host=host))[0] == 200


async def test_full_name(valkey_url: str, tmp_path: Path) -> None:
    """The machine's full name is one of its own."""
    async with open_door(valkey_url, tmp_path) as (door, _, _):
        door._origins.add_host("Box.Example.")
        assert (await ask(door, "GET /healthz", host="box.example"))[0] == 200


async def test_keys_decide(valkey_url: str, tmp_path: Path) -> None:
    """Where a key is asked for, it decides: a page that has one is its caller, by whatever name; none may read the answer."""
    async with open_door(valkey_url, tmp_path, anything, UPSTREAM__CREDENTIALS="caller") as (door, server, _):
        foreign = (f"Origin: {PAGE}", "Sec-Fetch-Site: cross-site")
        status, came = await ask(door, "POST /v1/messages", *foreign, "x-api-key: k", host="x.example")
        assert (status, "access-control" in came) == (200, False)
        assert (await ask(door, "POST /v1/messages", *foreign))[0] == 401
        assert (await ask(door, "OPTIONS /v1/messages", *foreign, "access-control-request-method: POST"))[0] == 403
        assert server.calls == 1


PREFLIGHT = (
    f"Origin: {PAGE}", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: x-api-key,anthropic-version",
    "Sec-Fetch-Site: cross-site",
)  # fmt: skip


@pytest.mark.parametrize("settings", [{}, {"AUTH__REQUIRED": "true"}, {"UPSTREAM__CREDENTIALS": "caller"}])
async def test_preflight(valkey_url: str, tmp_path: Path, settings: dict[str, str]) -> None:
    """A listed page's browser is told that it may ask, without a key and without upstream; no other page's is."""
    origins = f'["{PAGE.upper()}", "http://localhost:3000"]'
    async with open_door(valkey_url, tmp_path, anything, LISTEN__ORIGINS=origins, **settings) as (door, server, _):
        for path in ("/v1/messages", "/v1/files", "/healthz", "/v1/%2e%2e/x"):
            status, came = await ask(door, f"OPTIONS {path}", *PREFLIGHT)
            assert status == 204
            assert f"access-control-allow-origin: {PAGE}\r\n" in came
            assert "access-control-allow-methods: get, head, post, put, patch, delete\r\n" in came
            assert "access-control-allow-headers: x-api-key,anthropic-version\r\n" in came
            assert "access-control-max-age: " in came
            assert "vary: origin" in came
        private = await ask(door, "OPTIONS /v1/messages", *PREFLIGHT, "Access-Control-Request-Private-Network: true")
        assert "access-control-allow-private-network: true" in private[1]
        for headers in (("Origin: https://evil.example", *PREFLIGHT[1:]), ("Origin: null",), ()):
            status, came = await ask(door, "OPTIONS /v1/messages", *headers)
            assert (status, "access-control-allow" in came) == (403, False)
        assert server.calls == 0


async def test_listed_page(valkey_url: str, tmp_path: Path) -> None:
    """A listed page reads every answer: kept, carried, streamed and refused, whatever upstream says of origins."""

    async def talk(line: Line) -> None:
        if b'"stream"' in line.body:
            await say_events(line)
        elif b"/v1/messages" in line.head.split()[1]:
            await say_message(line)
        else:
            await line.answer(200, b"{}", "access-control-allow-origin: https://upstream.example", "vary: Accept-Encoding")

    async with open_door(valkey_url, tmp_path, talk, LISTEN__ORIGINS=f'["{PAGE}"]') as (door, server, _):
        headers = (
            f"Origin: {PAGE}",
            "Sec-Fetch-Site: cross-site",
            "Referer: https://app.example/x",
            "anthropic-dangerous-direct-browser-access: true",
        )
        stream = json.dumps(BODY | {"stream": True, "model": "n"}).encode()
        for line, body, right in (
            ("POST /v1/messages", ASK, 200), ("POST /v1/messages", ASK, 200), ("POST /v1/messages", stream, 200),
            ("GET /v1/files", b"", 200), ("POST /v1/messages", b"{", 400), ("GET /healthz", b"", 200), ("GET /x", b"", 404),
            ("PUT /metrics", b"", 405), ("GET /v1//x", b"", 400),
        ):  # fmt: skip
            status, came = await ask(door, line, *headers, body=body)
            assert status == right, came
            assert came.count("access-control-allow-origin") == 1
            assert f"access-control-allow-origin: {PAGE}\r\n" in came
            assert "vary: origin" in came
            assert "x-headrace-source" in came.partition("access-control-expose-headers: ")[2].partition("\r\n")[0]
        for line in server.lines:
            assert not [name for name in line.headers if name in ("origin", "referer") or name.startswith("sec-fetch-")]
        # Who is no page sees nothing of it, but for what caches must know.
        status, came = await ask(door, "POST /v1/messages")
        assert (status, "access-control" in came, "vary: origin" in came) == (200, False, True)
        assert (await ask(door, "POST /v1/messages", "Origin: https://evil.example"))[0] == 403


@pytest.mark.parametrize("path", ["/messages", "/chat/completions", "/models", "/"])
async def test_without_v1(valkey_url: str, tmp_path: Path, path: str) -> None:
    """A path without /v1 is told what is missing."""
    async with open_door(valkey_url, tmp_path) as (door, server, _):
        status, came = await ask(door, f"POST {path}")
        assert (status, "begins with /v1" in came, server.calls) == (404, True, 0)


@pytest.mark.parametrize("path", ["/v1/v1/messages", "/v1/v1/chat/completions"])
async def test_v1_twice(valkey_url: str, tmp_path: Path, path: str) -> None:
    """So is one that has it twice; upstream, which could only say that it knows no such path, is not asked."""
    async with open_door(valkey_url, tmp_path) as (door, server, _):
        status, came = await ask(door, f"POST {path}")
        assert (status, "/v1 twice" in came, '"not_found_error"' in came, server.calls) == (404, True, True, 0)


async def test_head(valkey_url: str, tmp_path: Path) -> None:
    """What answers GET answers HEAD."""
    async with open_door(valkey_url, tmp_path) as (door, _, _):
        for path in ("/healthz", "/readyz", "/metrics"):
            status, came = await ask(door, f"HEAD {path}")
            assert (status, came.rpartition("\n\n")[2]) == (200, "")
