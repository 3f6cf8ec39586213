"""Redis over TLS, with an authority and a client certificate of one's own: every connection of a daemon speaks it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import aiohttp
import pytest

import tls_redis
from daemon_process import environment, headrace
from fleet import daemon_beside, simulated
from pki import Authority

BODY = {"model": "claude-sonnet-4-5", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}]}
HEADERS = {"anthropic-version": "2023-06-01"}
Ways = Callable[[Authority, Path], contextlib.AbstractAsyncContextManager[str]]


@pytest.fixture(params=["door", "server"])
def way(request: pytest.FixtureRequest, valkey_url: str) -> Ways:
    """How a Redis comes to speak TLS."""

    @contextlib.asynccontextmanager
    async def enter(authority: Authority, directory: Path) -> AsyncIterator[str]:
        shows = authority.server()
        if request.param == "door":
            opened = tls_redis.door(valkey_url, shows, authority)
        elif binary := tls_redis.capable():
            opened = tls_redis.server(binary, directory, shows, authority)
        else:
            pytest.skip("no server on PATH speaks TLS")
        async with opened as url:
            yield url

    return enter


async def ask(one, **headers: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"{one.http}/v1/messages", json=BODY, headers=HEADERS | headers) as response,
    ):
        await response.read()
        return response.status, response.headers.get("x-headrace-source", "")


async def ready(one) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{one.http}/readyz") as response:
        return await response.text()


async def test_all_of_it(tmp_path: Path, way: Ways) -> None:
    """Commands, nudges, the queue, the shared cache tier and the command line: two daemons are one over TLS."""
    authority = Authority(tmp_path)
    ours = authority.sign("headrace")
    async with way(authority, tmp_path) as url, simulated() as upstream:
        tls = {
            "REDIS__TLS_CA": str(authority.certificate), "REDIS__TLS_CERTIFICATE": str(ours.certificate),
            "REDIS__TLS_KEY": str(ours.key),
        }  # fmt: skip
        required = tls | {"AUTH__REQUIRED": "true", "RETRY__BACKOFF": "0.1s..0.2s"}
        async with daemon_beside(upstream.url, url, **required) as one, daemon_beside(upstream.url, url, **required) as two:
            environ = environment(tmp_path, HEADRACE_REDIS__URL=url, **{f"HEADRACE_{name}": path for name, path in tls.items()})
            assert await ready(one) == "ready\n"
            key = await asked(headrace, "keys", "create", "a", environ=environ)
            for each in (one, two):  # by a nudge, or soon after
                while (await ask(each, **{"x-api-key": key, "cache-control": "only-if-cached"}))[0] == 401:
                    pass
            upstream.faults.add("overloaded", count=1, retry_after_s=0)  # so that it is parked, and rung for
            assert await ask(one, **{"x-api-key": key}) == (200, "upstream")
            assert await ask(two, **{"x-api-key": key}) == (200, "cache")
            assert upstream.counts.total == 2


async def asked(work, *arguments, environ) -> str:
    done = await asyncio.to_thread(work, *arguments, environ=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("lacks", ["authority", "certificate"])
async def test_not_trusted(tmp_path: Path, valkey_url: str, lacks: str) -> None:
    """A Redis whose certificate is not trusted, or that does not trust ours, is away, and no byte goes to it in the clear."""
    authority, other = Authority(tmp_path), Authority(tmp_path, "other")
    ours = (other if lacks == "certificate" else authority).sign("headrace")
    async with tls_redis.door(valkey_url, authority.server(), authority) as url, simulated() as upstream:
        ca = other if lacks == "authority" else authority
        tls = {
            "REDIS__TLS_CA": str(ca.certificate), "REDIS__TLS_CERTIFICATE": str(ours.certificate),
            "REDIS__TLS_KEY": str(ours.key), "DRAIN__TIME": "0s",
        }  # fmt: skip
        async with daemon_beside(upstream.url, url, **tls) as one:
            assert "Redis cannot be reached" in await ready(one)
            if lacks == "authority":
                assert "TLS: self-signed certificate in certificate chain" in one.served.log
