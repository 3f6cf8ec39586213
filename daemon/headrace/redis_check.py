"""
What the Redis of the configuration lacks, found out at the start rather than call by call.

A user whose ACL is too narrow is let in, and refused at the first call that needs what it may not do; a Redis Cluster takes a
script until two of its keys lie in different slots. So every command that we use is said once, inside a transaction that is
then given up: Redis looks at each whether it is allowed, and does none of them. What is missing is one line of the log and
of health; as long as something is, it is looked at again now and then, since an ACL can be mended without us.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ResponseError

from headrace import keys, observe, replies, schema, servers
from headrace.clock import Clock
from headrace.replies import Meaning

log = structlog.get_logger()

_TIMEOUT_S = 5.0
_AWAY_S = 1.0
_AGAIN_S = 5.0
_OLDEST_REDIS = 7

_HEARING = "subscribe to the channels"  # nudges only save time
_SPARE = frozenset({"INFO", "CLIENT"})
_CHANNELS = (keys.ALL, keys.inbox("check"))
# By key, with arguments of the right number, since Redis counts them before it looks at what is allowed.
_ON_BOTH = """
DEL K|EXISTS K|GET K|SET K v|PEXPIRE K 1|EXPIRE K 1|PTTL K|HSET K f v|HGET K f|HMGET K f|HGETALL K|HDEL K f|HINCRBY K f 1
ZADD K 1 m|ZREM K m|ZCARD K|ZRANGE K 0 1|ZRANGEBYSCORE K 0 1|ZREMRANGEBYSCORE K 0 1|ZSCORE K m|XADD K * f v
EVAL r 1 K|EVALSHA s 1 K
"""
_ON_OURS = """
HVALS K|HSCAN K 0|HLEN K|INCR K|INCRBY K 1|DECRBY K 1|EXPIREAT K 1|PEXPIREAT K 1
TYPE K|ZCOUNT K 0 1|ZLEXCOUNT K - +|ZRANGEBYLEX K - +|ZREVRANGE K 0 1|ZREVRANK K m|ZINCRBY K 1 m|XRANGE K - +|XREVRANGE K + -
XINFO STREAM K|LTRIM K 0 1
"""
_ON_RQS = """
BLMOVE K K LEFT RIGHT 1|RPUSH K v|LRANGE K 0 1|LREM K 1 v|LLEN K|HEXISTS K f|HINCRBYFLOAT K f 1|PERSIST K
SADD K m|SREM K m|SMEMBERS K|SCARD K
"""
_ON_NONE = "PING|TIME|INFO memory|CLIENT SETNAME check|CLIENT INFO|SCRIPT LOAD r|WAIT 0 0"


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that Redis does not give us, in words; whether calls cannot go on without it."""

    text: str
    is_fatal: bool = True


@dataclass(frozen=True, slots=True)
class RedisCheckStats:
    """What is missing, as far as was seen."""

    lacks: tuple[Lack, ...]


class RedisCheck:
    """Looks what Redis lacks. Run `run` as a task; it ends when nothing is missing."""

    def __init__(self, url: str, clock: Clock) -> None:
        self._url = url
        self._clock = clock
        self.lacks: tuple[Lack, ...] = ()

    def __repr__(self) -> str:
        return f"<RedisCheck [{'; '.join(lack.text for lack in self.stats().lacks) or 'nothing is missing'}]>"

    def stats(self) -> RedisCheckStats:
        """Return its state now."""
        return RedisCheckStats(self.lacks)

    @property
    def fatal(self) -> tuple[str, ...]:
        """What calls cannot go on without."""
        return tuple(lack.text for lack in self.lacks if lack.is_fatal)

    async def run(self) -> None:
        """Look until nothing is missing, and log what is."""
        while True:
            try:
                lacks = await look(self._url)
            except Exception as error:
                if not replies.is_away(error):
                    raise
                await self._clock.sleep(_AWAY_S)
                continue
            if lacks != self.lacks:
                log.warning(observe.REDIS_LACKS, lacks=[lack.text for lack in lacks])
            self.lacks = lacks
            if not lacks:
                return
            await self._clock.sleep(_AGAIN_S)


async def look(url: str) -> tuple[Lack, ...]:
    """Return what the Redis at *url* lacks. Raises what redis-py raises when it is away."""
    pool = servers.pool(url, socket_connect_timeout=_TIMEOUT_S)
    connection = pool.make_connection()  # type: ignore[no-untyped-call]  # the library's own gap
    try:
        async with asyncio.timeout(_TIMEOUT_S):  # by the loop: it is a socket's
            return await _look(connection)
    except Exception as error:
        if replies.meaning(error) is Meaning.REFUSED:  # at the door
            return (Lack(str(replies.ours(error, "a connection"))),)
        raise
    finally:
        await connection.disconnect(nowait=True)


async def _look(connection: AbstractConnection) -> tuple[Lack, ...]:
    await connection.connect()  # type: ignore[no-untyped-call]  # the library's own gap
    return (
        *_server(await _said(connection, "HELLO")),
        *await _forbidden(connection),
        *await _memory(connection),
        *_schema(await _said(connection, "GET", keys.SCHEMA)),
    )


def _server(hello: Any) -> tuple[Lack, ...]:
    # A map in RESP3, a flat list in RESP2.
    facts = (
        hello if isinstance(hello, dict) else dict(zip(hello[::2], hello[1::2], strict=True)) if isinstance(hello, list) else {}
    )
    said = {_text(name): _text(value) for name, value in facts.items()}
    lacks = []
    if said.get("mode") == "cluster":
        lacks.append(Lack("it is a Redis Cluster, which is not supported: use a single server, with Sentinel or replicas"))
    major = said.get("version", "").partition(".")[0]
    if said.get("server") == "redis" and major.isdecimal() and int(major) < _OLDEST_REDIS:
        lacks.append(Lack(f"it is Redis {said['version']}; Redis 7 or Valkey 8 is needed"))
    return tuple(lacks)


async def _memory(connection: AbstractConnection) -> tuple[Lack, ...]:
    info = await _said(connection, "INFO", "memory")
    facts = dict(line.partition(":")[::2] for line in _text(info).splitlines()) if isinstance(info, bytes | str) else {}
    policy = facts.get("maxmemory_policy", "noeviction")
    if policy == "noeviction" or facts.get("maxmemory", "0") == "0":
        return ()
    return (
        Lack(f"its maxmemory-policy is {policy}: budgets and tickets may be evicted; noeviction is needed", is_fatal=False),
    )


def _schema(mark: Any) -> tuple[Lack, ...]:
    wrong = schema.problem(mark) if mark is None or isinstance(mark, bytes) else ""
    return (Lack(wrong),) if wrong else ()


async def _forbidden(connection: AbstractConnection) -> tuple[Lack, ...]:
    """Return what the ACL of our user lacks."""
    if _is_forbidden(await _said(connection, "MULTI")):
        return (Lack("its user may not run MULTI"),)  # and the rest would be done in earnest
    missing: dict[str, set[str]] = {}
    for words, place in _everything():
        reply = await _said(connection, *words)
        if _is_forbidden(reply):
            what, which = ("run", words[0]) if "run the" in str(reply) else place
            missing.setdefault(what, set()).add(which)
    await _said(connection, "DISCARD")
    return tuple(
        Lack(f"its user may not {what} {', '.join(sorted(which))}", is_fatal=what != _HEARING and not which <= _SPARE)
        for what, which in missing.items()
    )


def _everything() -> list[tuple[list[str], tuple[str, str]]]:
    """Return each command, and in words what it does where: its keys or its channel."""
    on = (("headrace:", _ON_BOTH + _ON_OURS), ("rq:", _ON_BOTH + _ON_RQS))
    keyed = [
        (line.replace(" K", f" {prefix}check"), ("touch the keys", f"{prefix}*"))
        for prefix, text in on
        for line in _lines(text)
    ]
    nudging = [(f"PUBLISH {channel} check", ("publish to the channels", "headrace:*")) for channel in _CHANNELS]
    hearing = [(f"SUBSCRIBE {channel}", (_HEARING, "headrace:*")) for channel in _CHANNELS]
    plain = [(line, ("run", line)) for line in _lines(_ON_NONE)]
    return [(line.split(" "), place) for line, place in (*keyed, *nudging, *hearing, *plain)]


def _lines(text: str) -> list[str]:
    return [line for line in text.replace("\n", "|").split("|") if line]


async def _said(connection: AbstractConnection, *words: str) -> Any:
    """Say a command and return the reply, an error reply too."""
    await connection.send_command(*words)
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


def _is_forbidden(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and replies.code(reply) == "NOPERM"


def _text(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
