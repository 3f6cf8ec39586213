"""Redis, or our own Valkey: why it cannot be reached, what it lacks, and whether what is told it lasts."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import RedisError

from headrace import keys, redis_check, replies, servers
from headrace.config import Settings
from headrace.config.doubts import like, unknown_caller
from headrace.doctor.finding import Finding, fail, ok, warn
from headrace.sentinels import sentinels

Facts = Mapping[str, Any]

_AREA = "redis"
_TIMEOUT_S = 5.0
_CONNECT_S = 3.0
_CLOCKS_S = 2.0
_NEARLY_FULL = 0.8

# By a part of what is said of the cause.
_MENDS = (
    ("connection is refused", "Start it, or name where it listens in redis.url"),
    ("host is unknown", "Look at the name in redis.url, and at this machine's DNS"),
    ("(NOAUTH)", "Give the password: redis.password_file, the credential redis_password, or in redis.url"),
    ("(WRONGPASS)", "Look at user and password in redis.url, or redis.password_file"),
    ("TLS", "Look whether it speaks TLS there (rediss://) or not (redis://), and at redis.tls_ca"),
    ("(NODB)", "Name a database that there is in redis.url, such as /0"),
    ("permission", "Run this as the daemon's user"),
    ("no such socket", "Look at the path in redis.url"),
)


async def examine(settings: Settings, url: str) -> list[Finding]:
    """Return what there is to say of the Redis at *url*."""
    where = replies.where(url)
    try:
        async with asyncio.timeout(2 * _TIMEOUT_S):  # by the loop: it is a socket's
            await _connect(url)
            lacks = await redis_check.look(url)
            client = servers.client(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S)
            async with client:
                return [*_lacking(where, lacks), *await _look(client, where, settings)]
    except (RedisError, OSError, TimeoutError) as error:
        return [_unreached(where, await _other_tongue(url) or replies.cause(error))]


async def _connect(url: str) -> None:
    pool = servers.pool(url, socket_connect_timeout=_CONNECT_S, socket_timeout=_CONNECT_S)
    connection = pool.make_connection()  # type: ignore[no-untyped-call]  # the library's own gap
    try:
        await connection.connect()
    finally:
        await connection.disconnect(nowait=True)


async def _other_tongue(url: str) -> str:
    """Return that TLS is spoken there and not asked for, or the reverse; "" if it is neither. Of Sentinels nobody is asked."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or sentinels(url) is not None:
        return ""
    asks_tls = parts.scheme == "rediss"
    context = None if asks_tls else _trusting()
    try:
        async with asyncio.timeout(_CONNECT_S):  # by the loop: it is a socket's
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 6379, ssl=context)
            writer.write(b"PING\r\n")
            said = await reader.read(1)
            writer.close()
    except (OSError, TimeoutError):
        return ""
    if asks_tls:
        return "TLS: it does not speak TLS there" if said in (b"+", b"-") else ""
    return "TLS: it speaks TLS there, and redis.url does not ask for it"


def _trusting() -> ssl.SSLContext:
    # Nothing is said to whoever answers but PING: only whether it speaks TLS matters.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def _unreached(where: str, cause: str) -> Finding:
    mend = next((mend for part, mend in _MENDS if part in cause), "Look at redis.url")
    return fail(_AREA, f"{where}: {cause}", mend)


def _lacking(where: str, lacks: tuple[redis_check.Lack, ...]) -> Iterator[Finding]:
    for lack in lacks:
        mend = next((mend for part, mend in _MENDS if part in lack.text), "See docs/installation.md, Several hosts")
        yield (fail if lack.is_fatal else warn)(_AREA, f"{where}: {lack.text}", mend)


async def _look(client: Redis, where: str, settings: Settings) -> list[Finding]:
    try:
        began = time.perf_counter()
        seconds, micros = await client.time()
        took_ms = (time.perf_counter() - began) * 1000
        facts = await client.info("everything")
    except RedisError as error:
        if replies.is_away(error):
            raise
        return []  # what it refuses is among what it lacks
    name = f"Valkey {facts['valkey_version']}" if "valkey_version" in facts else f"Redis {facts.get('redis_version', '?')}"
    named = ok(_AREA, f"{where}: {name}, answers in {took_ms:.1f} ms")
    return [named, *_state(facts), _clock(seconds + micros / 1e6), *await _callers(client, settings)]


def _state(facts: Facts) -> Iterator[Finding]:
    if facts.get("role") == "slave":
        yield fail(_AREA, "it is a replica, and takes no writes", "Name the primary, or the Sentinels that know it")
    yield from _lasting(facts)
    yield from _memory(facts)


def _lasting(facts: Facts) -> Iterator[Finding]:
    if not facts.get("aof_enabled"):
        yield warn(_AREA, "appendonly is off: a restart loses tickets, keys and what was spent", "Set appendonly yes")
    elif facts.get("aof_last_write_status", "ok") != "ok":
        yield fail(_AREA, "its append-only file could not be written last time", "Look at its disk, and its log")
    else:
        yield ok(_AREA, "what it is told is kept in an append-only file")


def _memory(facts: Facts) -> Iterator[Finding]:
    most, used = facts.get("maxmemory", 0), facts.get("used_memory", 0)
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy != "noeviction" and not most:  # with a bound it is among what it lacks
        said = f"its maxmemory-policy is {policy}: with a maxmemory it would evict budgets and tickets"
        yield warn(_AREA, said, "Set maxmemory-policy noeviction")
    if most and used > _NEARLY_FULL * most:
        yield warn(_AREA, f"{used / most:.0%} of maxmemory are used", "Raise maxmemory, or lower cache.redis")


def _clock(theirs: float) -> Finding:
    apart_s = abs(theirs - time.time())
    if apart_s <= _CLOCKS_S:
        return ok("clock", f"within {apart_s:.1f} s of Redis's")
    mend = "Let both keep time by NTP; the daemon goes by Redis's, but its log and certificates do not"
    return warn("clock", f"{apart_s:.0f} s apart from Redis's", mend)


async def _callers(client: Redis, settings: Settings) -> list[Finding]:
    """Return a line for each limit whose callers neither the configuration nor a key names."""
    kept: Any = await client.hvals(keys.KEYS)
    known = {*settings.caller, *map(_name, kept)}
    return [
        warn(
            "limits",
            f'limit[{limit.name}].match.caller = "{limit.match.caller}": fits no caller that is configured or has a key',
            f"Look at the name{like(limit.match.caller, known)}",
        )
        for limit in settings.limit
        if unknown_caller(limit.match.caller, known)
    ]


def _name(raw: bytes) -> str:
    try:
        return str(json.loads(raw)["name"])
    except (ValueError, KeyError, TypeError):  # what somebody else put there
        return ""
