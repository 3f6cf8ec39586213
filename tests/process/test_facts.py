"""What is wrong around the daemon is told once, as a fact: upstream's troubles, begun and ended; Redis by address and cause."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket

import aiohttp
import pytest
import redis

from conftest import start_valkey, until
from daemon_process import headrace
from fleet import daemon_beside, simulated
from headrace.simulator import Options

HEADERS = {"anthropic-version": "2023-06-01"}
GATELESS = {"UPSTREAM__OVERLOAD_GATE": "off"}


async def ask(session, url: str, text: str, *, timeout_ms: int = 20_000) -> int:
    body = {"model": "claude-haiku-4-5", "max_tokens": 9, "messages": [{"role": "user", "content": text}]}
    headers = HEADERS | {"x-headrace-timeout-ms": str(timeout_ms)}
    async with session.post(f"{url}/v1/messages", json=body, headers=headers) as response:
        await response.read()
        return response.status


async def page(session, url: str) -> str:
    async with session.get(url) as response:
        return await response.text()


async def shows(session, at, series: str) -> bool:
    """Whether the page for Prometheus, which is made once a second, has this line."""
    return series in await page(session, f"{at.http}/metrics")


def events(served, *names: str) -> list[dict]:
    lines = []
    for line in served.log.splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return [line for line in lines if line["event"] in names]


TROUBLES = {
    "spend_limit": ("spend_limit", "upstream's spend limit is reached", 1, 429),
    "overloaded": ("overloaded", "upstream is overloaded", 4, 529),
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_trouble(trouble: str) -> None:
    """It is in /readyz, the metrics and the log from its beginning to its end, and once in the log."""
    fault, words, calls, _ = TROUBLES[trouble]
    async with (
        simulated() as simulator,
        daemon_beside(simulator.url, **GATELESS) as at,
        aiohttp.ClientSession() as session,
    ):
        assert await ask(session, at.http, "well") == 200
        assert f'headrace_upstream_trouble{{trouble="{trouble}"}} 0.0' in await page(session, f"{at.http}/metrics")
        simulator.faults.add(fault, path="/v1/*")
        for number in range(calls):
            assert await ask(session, at.http, f"{number}", timeout_ms=300) >= 400

        async def is_told() -> bool:
            return words in await page(session, f"{at.http}/readyz")

        await until(is_told)
        assert (await page(session, f"{at.http}/readyz")).startswith("ready\n")  # whose fault it is not
        await until(lambda: shows(session, at, f'headrace_upstream_trouble{{trouble="{trouble}"}} 1.0'))
        simulator.faults.clear()
        numbers = iter(range(1000, 2000))

        async def is_over() -> bool:
            await ask(session, at.http, f"{next(numbers)}")
            return words not in await page(session, f"{at.http}/readyz")

        await until(is_over, within=15)
    told = events(at.served, "upstream.troubled", "upstream.well")
    assert [(line["event"], line["trouble"], line["level"]) for line in told] == [
        ("upstream.troubled", trouble, "warning"), ("upstream.well", trouble, "warning"),
    ]  # fmt: skip


async def test_key_refused() -> None:
    """A key of ours that upstream refuses is told at once; its end is an answer."""
    async with (
        simulated(Options.instant(keys=("another",))) as simulator,
        daemon_beside(simulator.url, **GATELESS) as at,
        aiohttp.ClientSession() as session,
    ):
        for number in range(3):
            assert await ask(session, at.http, f"{number}") == 401
        assert "upstream refuses our key since 20" in await page(session, f"{at.http}/readyz")
        series = 'headrace_upstream_answers_total{model_class="claude-haiku-4-5",status="401"} 3.0'
        await until(lambda: shows(session, at, series))
    [told] = events(at.served, "upstream.troubled")
    assert told["trouble"] == "key_refused"


async def test_unreachable() -> None:
    """That nobody listens there is told with the cause."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with (
            daemon_beside(f"http://127.0.0.1:{nobody.getsockname()[1]}", RETRY__BACKOFF="50ms..100ms") as at,
            aiohttp.ClientSession() as session,
        ):
            assert await ask(session, at.http, "x", timeout_ms=3000) >= 500
            assert "upstream cannot be reached since 20" in await page(session, f"{at.http}/readyz")
    [told] = events(at.served, "upstream.troubled")
    assert (told["trouble"], told["why"]) == ("unreachable", "no connection came about")


@contextlib.contextmanager
def plain_valkey(tmp_path_factory, *options: str):
    process, url = start_valkey(tmp_path_factory.mktemp("v"), *options)
    try:
        yield url
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.parametrize(
    ("url", "address", "cause"),
    [
        ("redis://:hidden-word@127.0.0.1:1/3", "redis://127.0.0.1:1/3", "the connection is refused"),
        ("redis://nowhere.invalid:6379/0", "redis://nowhere.invalid:6379/0", "its host is unknown"),
        ("unix:///nowhere/valkey.sock", "unix:///nowhere/valkey.sock", "there is no such socket"),
    ],
)
async def test_redis_unreached(url: str, address: str, cause: str) -> None:
    """Where Redis is, and why it is not reached: in /readyz and in the log, at warning; and never the password."""
    async with (
        daemon_beside("http://127.0.0.1:1", url, AUTH__DEFAULT_ROLE="observer") as at,
        aiohttp.ClientSession() as session,
    ):
        said = await page(session, f"{at.http}/readyz")
        assert f"Redis cannot be reached at {address}: {cause}" in said
        if "hidden-word" in url:
            await commands(at.served.environ | {"HEADRACE_LISTEN__GRPC": json.dumps([at.grpc])}, address, cause)
    told = [line for line in events(at.served, "redis.lost") if line["part"] == "link"]
    assert {(line["address"], line["error"], line["level"]) for line in told} == {(address, cause, "warning")}
    assert "hidden-word" not in at.served.log + said


async def commands(environ, address: str, cause: str) -> None:
    """Commands say it, too, and not that no daemon answers; those that need none say where Redis is."""
    for command in ("hosts", "tickets list", "audit", "keys list"):
        done = await asyncio.to_thread(headrace, *command.split(), environ=environ)
        assert (done.returncode, cause in done.stderr, "is it running" in done.stderr) == (1, True, False), done.stderr
    assert address in done.stderr
    assert "hidden-word" not in done.stderr


async def test_redis_password(tmp_path_factory) -> None:
    """So is a wrong password; and when it is right again, that is told, too."""
    with plain_valkey(tmp_path_factory) as url:
        with redis.Redis.from_url(url) as client:
            client.config_set("requirepass", "right-word")
        wrong = url.replace("unix://", "unix://:wrong-word@")
        async with daemon_beside("http://127.0.0.1:1", wrong) as at, aiohttp.ClientSession() as session:
            said = await page(session, f"{at.http}/readyz")
            assert "the user or the password is wrong (WRONGPASS)" in said
        assert not {"wrong-word", "right-word"} & set(at.served.log.split('"'))


async def test_redis_tls(tmp_path) -> None:
    """TLS spoken to a plain port is called so."""

    async def hang_up(_, writer):
        writer.write(b"-ERR unknown command\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with (
        server,
        daemon_beside("http://127.0.0.1:1", f"rediss://127.0.0.1:{port}/0") as at,
        aiohttp.ClientSession() as session,
    ):
        assert f"Redis cannot be reached at rediss://127.0.0.1:{port}/0: TLS:" in await page(session, f"{at.http}/readyz")
