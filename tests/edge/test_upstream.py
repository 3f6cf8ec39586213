"""The upstream client against real sockets: what it sends, what it makes of answers and of errors that upstream says."""

from __future__ import annotations

import gzip
from dataclasses import replace

import pytest

from headrace import observe
from headrace.errors import Failure
from headrace.model import Form, Usage
from headrace.upstream import Upstream
from scripted import (
    CALL,
    EVENTS,
    MESSAGE,
    OVERLOADED,
    STREAM,
    Line,
    asking,
    everything,
    failed_stream,
    failure_of,
    say_events,
    say_message,
    serving,
)

# Answers.


async def test_ask() -> None:
    """A whole answer comes with its exact bytes, its usage and upstream's id; the connection serves again."""
    async with asking(say_message) as (upstream, server):
        before = observe.ATTEMPTS.value("answered")
        for _ in range(3):
            answer = await upstream.ask(CALL)
        assert (answer.form, answer.payload, answer.usage, answer.request_id) == (Form.JSON, MESSAGE, Usage(3, 7), "req_1")
        assert len(server.lines) == 1
        assert observe.ATTEMPTS.value("answered") == before + 3
        assert repr(upstream) == f"<Upstream {server.url} [0 in the air]>"


async def test_stream() -> None:
    """A stream's events come with their exact bytes, up to the last; the connection serves again."""
    async with asking(say_events) as (upstream, server):
        for _ in range(3):
            async with upstream.stream(STREAM) as events:
                assert events.request_id == "req_1"
                assert [event.raw async for event in events] == EVENTS
            assert events.complete
        assert len(server.lines) == 1


async def test_headers() -> None:
    """Upstream sees the call as it was, with our key and name; nothing of a caller's own connection or keys."""
    async with asking(say_message) as (upstream, server):
        await upstream.ask(CALL)
        (line,) = server.lines
        assert line.head.startswith(b"POST /v1/messages HTTP/1.1\r\n")
        assert line.body == CALL.body
        said = line.headers
        assert said.pop("via") == "1.1 headrace"
        assert said.pop("user-agent").startswith("headrace/")
        assert said == {
            "host": server.url.removeprefix("http://"), "accept": "application/json", "accept-encoding": "gzip",
            "content-length": str(len(CALL.body)), "content-type": "application/json",
            "x-api-key": "own-key", "anthropic-version": "2026-10-21",
            "anthropic-beta": "a-1,b-2", "anthropic-dangerous": "yes",
        }  # fmt: skip


@pytest.mark.parametrize(
    ("credential", "name", "value"),
    [
        ("", "x-api-key", "own-key"),
        ("bearer:their:key", "authorization", "Bearer their:key"),
        ("x-api-key:k", "x-api-key", "k"),
    ],
)
async def test_credential(credential: str, name: str, value: str) -> None:
    """A caller's own key goes upstream as the caller presented it, instead of ours."""
    async with asking(say_message) as (upstream, server):
        await upstream.ask(replace(CALL, credential=credential, version="", betas=()))
        said = server.lines[0].headers
        assert {key: said[key] for key in ("x-api-key", "authorization") if key in said} == {name: value}
        assert said["anthropic-version"] == "2023-06-01"
        assert "anthropic-beta" not in said


@pytest.mark.parametrize("value", ["a\r\nx-api-key: b", "a\nb", "a\rb", "\0"])
async def test_unsendable(value: str) -> None:
    """A value that would smuggle in a header is refused, and nothing is sent."""
    async with asking(say_message) as (upstream, server):
        failed = await failure_of(upstream.ask(replace(CALL, version=value)))
        assert (failed.failure, failed.sent, failed.error.status, server.calls) == (Failure.FINAL, False, 400, 0)


@pytest.mark.parametrize("value", ["a\tb", "caf\u00e9", "\u6c34", "caf\udce9", "\x01"])
async def test_value_as_it_is(value: str) -> None:
    """All other values go upstream as the bytes that they are."""
    async with asking(say_message) as (upstream, server):
        await upstream.ask(replace(CALL, version=value))
        assert b"anthropic-version: " + value.encode(errors="surrogateescape") + b"\r\n" in server.lines[0].head


async def test_gzip_and_large() -> None:
    """A compressed answer is unpacked; one of many megabytes comes whole."""
    large = MESSAGE.replace(b"Hi", b"Hi" * 4_000_000)

    async def talk(line: Line) -> None:
        await line.answer(200, gzip.compress(large, 1), "content-encoding: gzip")

    async with asking(talk) as (upstream, _):
        assert (await upstream.ask(CALL)).payload == large


async def test_cookies() -> None:
    """What upstream sets for one call does not travel with the next."""

    async def talk(line: Line) -> None:
        await line.answer(200, MESSAGE, "set-cookie: tracked=1")

    async with serving(talk) as server:
        upstream = Upstream(
            server.url.replace("127.0.0.1", "localhost"), lambda: "k"
        )  # for a bare address nobody keeps cookies
        await upstream.ask(CALL)
        await upstream.ask(CALL)
        assert server.calls == 2
        assert "cookie" not in server.lines[-1].headers
        await upstream.aclose()


# Errors that upstream says.


@pytest.mark.parametrize("stream", [False, True])
async def test_error_status(stream: bool) -> None:
    """An error keeps its status, its exact body and the headers worth passing."""
    page = b"<html>502 Bad gateway</html>"

    async def talk(line: Line) -> None:
        await line.answer(502, page, "content-type: text/html", "retry-after: 2", "cf-ray: 1")

    async with asking(talk) as (upstream, _):
        before = observe.ATTEMPTS.value("broken")
        failed = await failure_of(everything(upstream) if stream else upstream.ask(CALL))
        assert (failed.failure, failed.error.status, failed.error.body) == (Failure.BROKEN, 502, page)
        assert dict(failed.error.headers) == {"request-id": "req_1", "content-type": "text/html", "retry-after": "2"}
        assert failed.retry_after_s == 2.0
        assert observe.ATTEMPTS.value("broken") == before + 1


async def test_error_cut_off() -> None:
    """A status whose body breaks off still says what it says."""

    async def talk(line: Line) -> None:
        await line.say(b"HTTP/1.1 529 So\r\ncontent-length: 100\r\n\r\n{")
        line.writer.close()

    async with asking(talk) as (upstream, _):
        failed = await failure_of(upstream.ask(CALL))
        assert (failed.failure, failed.error.status, failed.error.body) == (Failure.OVERLOADED, 529, b"")


@pytest.mark.parametrize("after", [0, 1, 4])
async def test_error_event(after: int) -> None:
    """An error event is raised where it stands, after the events before it."""

    async def talk(line: Line) -> None:
        await line.begin_stream()
        await line.chunk(b"".join(EVENTS[:after]) + b"event: error\ndata: " + OVERLOADED + b"\n\n")
        await line.say(b"0\r\n\r\n")

    async with asking(talk) as (upstream, _):
        came, failed = await failed_stream(upstream)
        assert came == EVENTS[:after]
        error = failed.error
        assert (failed.failure, error.status, error.body) == (Failure.OVERLOADED, 529, OVERLOADED)
        assert dict(error.headers) == {"request-id": "req_1", "content-type": "application/json"}
