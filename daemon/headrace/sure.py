"""
Writes that a failover must not lose: they are done when so many replicas have them, too (`redis.wait_replicas`).

Redis copies to its replicas after it has answered, so what was acknowledged a moment before its primary died may be gone. WAIT
says how many have what this connection wrote. It holds up whatever comes behind it, so these writes have a connection of their
own. Too few replicas is Redis being away: the write is there, and may or may not stay, as with any whose reply was lost.

A script may find that all is as it is to be: said again over another connection, or by another who came with the same key. It
writes nothing then, and WAIT would speak of nothing. So a mark is written behind it, which replicas have only after all before.
The same goes for who reads an answer to hand it out: it may be read a moment before any replica has it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from headrace import keys
from headrace.errors import RedisAway

_WAIT_MS = 500
_MARK_MS = 1000


class Connected(Protocol):
    """What this needs of a link."""

    @property
    def connection(self) -> object | None:
        """The connection on which commands go now."""

    def do(self, *command: Any) -> Awaitable[Any]:
        """Run a command."""


async def surely(link: Connected, replicas: int, ask: Callable[[], Awaitable[Any]]) -> Any:
    """
    Ask something on a link that is for this alone, and wait until replicas have what the reply tells of.

    Raises `RedisAway` if too few have it.
    """
    reply = await ask()
    connection = link.connection
    _, have = await asyncio.gather(
        link.do("SET", keys.PROBE, "1", "PX", _MARK_MS),
        link.do("WAIT", replicas, _WAIT_MS),
    )
    if link.connection is not connection or connection is None:  # then it speaks of another server, maybe
        raise RedisAway("the connection broke before replicas had the write", retry_after_s=1.0)
    if have < replicas:
        raise RedisAway(f"{have} of {replicas} replicas have the write", retry_after_s=1.0, metadata={"code": "NOREPLICAS"})
    return reply
