"""
Which version of our records lies in a Redis, and whether this program goes with it.

`SCHEMA` goes up when a program of before could not read what is written from now on, by one with each minor version that does
so. A program reads what the version before it wrote, and writes what the version before it reads: so hosts are upgraded one
after the other, and can go back. Two versions apart it refuses, with a sentence, rather than guess. The mark is the highest
version that has been here; a Redis without one is new, or of before there were marks.
"""

from __future__ import annotations

from typing import Any

from redis.exceptions import RedisError

from headrace import keys, replies, servers
from headrace.errors import StartupError

SCHEMA = 1

_TIMEOUT_S = 5.0
# Never down: who goes back a version must still know that the newer one was here. In one script, since hosts start together.
_RAISE = """
local found = tonumber(redis.call('GET', KEYS[1]) or '')
if not found or found < tonumber(ARGV[1]) then redis.call('SET', KEYS[1], ARGV[1]) end
"""


def problem(mark: bytes | None) -> str:
    """Return why this program does not go with what lies there, in a sentence; "" if it does, or if that is no mark of ours."""
    if mark is None or not mark.isdigit():
        return ""
    found = int(mark[:9])
    if found > SCHEMA + 1:
        return (
            f"its records are of schema {found}, and this headrace knows {SCHEMA} and reads {SCHEMA + 1} at most; "
            f"install a newer headrace on this host, or restore a backup of before"
        )
    if found < SCHEMA - 1:
        return (
            f"its records are of schema {found}, and this headrace reads {SCHEMA - 1} at least; upgrade by way of the minor "
            f"version between"
        )
    return ""


async def require(url: str) -> None:
    """Raise `StartupError` if this program does not go with the Redis at *url*; one that cannot be asked is asked later."""
    try:
        async with servers.client(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S) as client:
            mark: Any = await client.get(keys.SCHEMA)
            wrong = problem(mark)
            if not wrong:
                await client.eval(_RAISE, 1, keys.SCHEMA, str(SCHEMA))
    except (RedisError, OSError):
        return
    if wrong:
        raise StartupError(f"the Redis at {replies.where(url)}: {wrong}")
