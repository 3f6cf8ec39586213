"""
Writes that a failover must not lose: they are done when so many replicas have them, too (`redis.wait_replicas`).

Redis copies to its replicas after it has answered, so what was acknowledged a moment before its primary died may be gone. WAIT
says how many have what this connection wrote. It holds up whatever comes behind it, so these writes have a connection of their
own. Too few replicas is Redis being away: the write is there, and may or may not stay, as with any whose reply was lost.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any, Protocol

from headrace.errors import RedisAway

_WAIT_MS = 500


class Connected(Protocol):
    """What this needs of a link."""

    @property
    def connection(self) -> object | None:
        """The connection on which commands go now."""

    def run(self, script: Any, names: Sequence[str], args: Sequence[Any]) -> Awaitable[Any]:
        """Run a script."""

    def do(self, *command: Any) -> Awaitable[Any]:
        """Run a command."""


async def run_surely(link: Connected, replicas: int, script: Any, names: Sequence[str], args: Sequence[Any]) -> Any:
    """Run a script on a link that is for this alone, and wait for the replicas; raises `RedisAway` if too few have it."""
    reply = await link.run(script, names, args)
    connection = link.connection
    have = await link.do("WAIT", replicas, _WAIT_MS)
    if link.connection is not connection or connection is None:  # then it speaks of the writes of another connection
        raise RedisAway("the connection broke before replicas had the write", retry_after_s=1.0)
    if have < replicas:
        raise RedisAway(f"{have} of {replicas} replicas have the write", retry_after_s=1.0, metadata={"code": "NOREPLICAS"})
    return reply
