"""
Ways to Redis, wherever it is: every connection that we make to it is made here.

With Sentinels (sentinels.py) each connection is made anew to whom they say is the primary at that moment. All of them are
asked, and the one counts whose configuration is the newest: one that was cut off from the others goes on naming a primary of
old. What such a primary refuses (READONLY) leads to a new connection, as anywhere.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import redis
import redis.asyncio as redis_asyncio
import redis.asyncio.sentinel as redis_asyncio_sentinel
import redis.sentinel as redis_sentinel
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from headrace.sentinels import Sentinels, sentinels

_PATIENCE_S = 0.5  # with each Sentinel: there are others
_GONE = (redis.RedisError, OSError, TimeoutError)


def pool(url: str, **options: Any) -> redis_asyncio.ConnectionPool:
    """Return a pool of connections for a loop; *options* are those of redis-py's connections."""
    if (named := sentinels(url)) is None:
        return redis_asyncio.ConnectionPool.from_url(url, **options)
    known = {**named.options, **named.secrets, **options}
    return redis_asyncio_sentinel.SentinelConnectionPool(named.name, _Asking(named), **known)  # type: ignore[no-untyped-call]  # the library's own gap


def client(url: str, **options: Any) -> redis_asyncio.Redis:
    """Return a client for a loop; closing it closes its connections."""
    return redis_asyncio.Redis.from_pool(pool(url, **options))


def blocking(url: str, **options: Any) -> redis.Redis:
    """Return a client for threads; closing it closes its connections."""
    if (named := sentinels(url)) is None:
        return redis.Redis.from_url(url, **options)
    known = {**named.options, **named.secrets, **options}
    made = redis_sentinel.SentinelConnectionPool(named.name, _BlockingAsking(named), **known)  # type: ignore[no-untyped-call]  # the library's own gap
    return redis.Redis.from_pool(made)


class Said(NamedTuple):
    """What one Sentinel says: which is counted up with every failover, and where the primary is."""

    epoch: int
    host: str
    port: int

    @classmethod
    def of(cls, facts: list[bytes], address: list[bytes] | None) -> Said | None:
        """Read its two replies: names and values, of which only the epoch is true in mid-failover; host and port."""
        if not address:
            return None
        epoch = dict(zip(facts[::2], facts[1::2], strict=True)).get(b"config-epoch", b"0")
        return cls(int(epoch), address[0].decode(), int(address[1]))


@dataclass(frozen=True, slots=True)
class _Asking:
    """Asks the Sentinels where the primary is; redis-py's pools know it by this method."""

    sentinels: Sentinels

    async def discover_master(self, name: str) -> tuple[str, int]:
        return _newest(await asyncio.gather(*(self._ask(*address, name) for address in self.sentinels.addresses)), name)

    async def _ask(self, host: str, port: int, name: str) -> Said | None:
        client = redis_asyncio.Redis(host=host, port=port, retry=AsyncRetry(NoBackoff(), 0), **_options(self.sentinels.options))
        try:
            async with asyncio.timeout(_PATIENCE_S):  # by the loop: it is a socket's
                ask: Any = client.execute_command
                return Said.of(await ask("SENTINEL", "MASTER", name), await ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name))
        except _GONE:
            return None
        finally:
            with contextlib.suppress(*_GONE):
                await client.aclose()


@dataclass(frozen=True, slots=True)
class _BlockingAsking:
    """The same in a thread, one after the other."""

    sentinels: Sentinels

    def discover_master(self, name: str) -> tuple[str, int]:
        return _newest([self._ask(*address, name) for address in self.sentinels.addresses], name)

    def _ask(self, host: str, port: int, name: str) -> Said | None:
        try:
            with redis.Redis(host=host, port=port, retry=Retry(NoBackoff(), 0), **_options(self.sentinels.options)) as client:
                ask: Any = client.execute_command
                return Said.of(ask("SENTINEL", "MASTER", name), ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", name))
        except _GONE:
            return None


def _options(of: Mapping[str, Any]) -> dict[str, Any]:
    return {"socket_timeout": _PATIENCE_S, "socket_connect_timeout": _PATIENCE_S, "protocol": 2, **of}


def _newest(replies: Iterable[Said | None], name: str) -> tuple[str, int]:
    known = [said for said in replies if said is not None]
    if not known:
        raise redis.ConnectionError(f"no Sentinel knows {name}")
    newest = max(known)
    return newest.host, newest.port
