"""For tests of the live page: two daemons on one Redis, callers at both, and who looks."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from fleet import Daemon, daemon_beside
from headrace.callers import KeyStore
from headrace.link import Link

ADMIN = {"LISTEN__ADMIN": '["unix:admin.sock", "127.0.0.1:0"]'}
LIMITS = json.dumps(
    [
        {"name": "org", "per": ["model"], "requests_per_minute": 6000, "input_tokens_per_minute": 10_000_000},
        {"name": "reports", "match": {"caller": "reports"}, "requests_per_minute": 2, "burst": "1m"},
    ]
)
ROLES = {"AUTH__REQUIRED": "true", "CALLER__EYE__ROLE": "observer", "CALLER__OPS__ROLE": "operator"}
MODEL = "claude-sonnet-4-5"


def admin_url(daemon: Daemon) -> str:
    """Return where a daemon's page is, as its log says, less the path."""
    said = next(json.loads(line) for line in daemon.served.log.splitlines() if "daemon.started" in line)
    return next(url for url in said["admin"] if url.startswith("http")).removesuffix("/admin/")


def admin_socket(daemon: Daemon) -> str:
    """Return the path of its admin socket."""
    said = next(json.loads(line) for line in daemon.served.log.splitlines() if "daemon.started" in line)
    return next(url for url in said["admin"] if url.startswith("unix:")).removeprefix("unix:")


@dataclass
class House:
    """Two daemons, and a session; *keys* by name, where keys are asked for."""

    one: Daemon
    two: Daemon
    session: aiohttp.ClientSession
    keys: dict[str, str] = field(default_factory=dict)
    number: int = 0

    async def call(
        self, at: Daemon, caller: str = "ann", *, text: str = "", within_ms: int = 60_000, model: str = MODEL, **headers: str
    ) -> int:
        """Make a call, one of its own unless *text* says what it asks; return its status."""
        self.number += 1
        body = {"model": model, "max_tokens": 9, "messages": [{"role": "user", "content": text or f"{self.number}"}]}
        said = {"anthropic-version": "2023-06-01", "x-headrace-timeout-ms": f"{within_ms}", **headers}
        said |= {"x-api-key": self.keys[caller]} if self.keys else {"x-headrace-caller": caller}
        async with self.session.post(f"{at.http}/v1/messages", json=body, headers=said) as response:
            await response.read()
            return response.status

    async def view(self, at: Daemon, path: str, who: str = "", **headers: str) -> tuple[int, Any]:
        """Ask for something below /admin/api; return the status and the JSON."""
        said = headers | ({"x-api-key": self.keys[who]} if who else {})
        async with self.session.get(f"{admin_url(at)}/admin/api/{path}", headers=said) as response:
            return response.status, await response.json()

    async def rows(self, at: Daemon, path: str) -> list[dict[str, Any]]:
        """Return a view's rows."""
        status, said = await self.view(at, path)
        assert status == 200, said
        return said["rows"]

    async def act(self, at: Daemon, path: str, who: str = "", said: Any = None, **headers: str) -> tuple[int, Any]:
        """Do something; return the status and the JSON."""
        more = headers | ({"x-api-key": self.keys[who]} if who else {})
        async with self.session.post(f"{admin_url(at)}/admin/api/{path}", json=said or {}, headers=more) as response:
            return response.status, await response.json()


@contextlib.asynccontextmanager
async def house(upstream: str, redis_url: str, **settings: str) -> AsyncIterator[House]:
    """Run two daemons with their pages; where *settings* ask for keys, with a key each for ann, reports, eye and ops."""
    keys: dict[str, str] = {}
    if "AUTH__REQUIRED" in settings:
        link = Link(redis_url)
        store = KeyStore(link)
        keys = {name: await store.create(name) for name in ("ann", "reports", "eye", "ops")}
        await link.aclose()
    said = ADMIN | {"LIMIT": LIMITS} | settings
    async with (
        daemon_beside(upstream, redis_url, **said) as one,
        daemon_beside(upstream, redis_url, **said) as two,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        yield House(one, two, session, keys)


async def shown(look: Callable[[], Awaitable[bool]], *, within: float = 15.0) -> float:
    """Wait until something is there to see; return how long it took (s)."""
    began = time.monotonic()
    while not await look():
        assert time.monotonic() - began < within, f"not within {within} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - began
