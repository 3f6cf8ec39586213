"""
What somebody plants in Redis, in every family of keys: rubbish of the right type, and of every wrong one.

Pickles are among it, and jobs that name others' functions. None of it may be run.
"""

from __future__ import annotations

import pickle
import re
import time
from collections.abc import Iterator

import redis

from headrace import keys

NAMES = ["id", "x" * 64, "caller", "default", "checkout", "tkt_000000000000", "\udcff\udcfe"]
RUBBISH = [
    b"", b"\0", b"\xff\xfe", b"nan", b"-1", b"1e400", b"9" * 400, b"null", b"[]", b"{}", b'{"a":', b"5", b'"x"',
    b"[" * 5000, b"1 2 3", b"0 {}", b'9999999999999999 {"by":5}', b'{"rates":{"requests":0},"burst_s":0,"since":9e99}',
    b'{"id":"id","name":"../","digest":"zz","prefix":"","created":"now"}', b'{"selector":{"all":5},"at":1e308}',
    b'{"selector":{"all":false,"scope":"none"},"at":1e18}', b"HRe2" + b"x" * 100, b"l1 upstream \n=", b"e\n", b"trap.spring",
]  # fmt: skip
TICKETS = ["tkt_00000000000000000000000000000001", "tkt_rubbish", "tkt ../", "\udcff"]


class Spring:
    """Leaves a mark where it is unpickled."""

    def __init__(self, mark: str) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return open, (self.mark, "w")


def families() -> dict[str, str]:
    """Return every family of keys as the page of keys has it, with its type."""
    rows = re.findall(r"^\| (?:both, while.*?|(\S+)) +\| (\w*) \|", keys.__doc__ or "", re.M)
    return {name: kind for name, kind in rows if kind in ("string", "hash", "zset", "stream", "list")}


def named(family: str) -> list[str]:
    """Return keys of a family, by names that the daemon will look up, and others."""
    if not (hole := re.search(r"<[^>]+>", family)):
        return [family]
    prefix, kind = family[: hole.start()], hole[0]
    names = TICKETS if kind == "<id>" and ":ticket:" in prefix else NAMES
    if kind in ("<minute>", "<day>", "<month>"):
        form = {"<minute>": "%Y-%m-%dT%H:%M", "<day>": "%Y-%m-%d", "<month>": "%Y-%m"}[kind]
        names = [time.strftime(form, time.gmtime())]
    return [re.sub(r"<[^>]+>", name, family) for name in names]


def put(client: redis.Redis, key: bytes, kind: str, values: list[bytes]) -> None:
    """Put values into a key of a type, whatever was there."""
    client.delete(key)
    match kind:
        case "string":
            client.set(key, values[0])
        case "hash":
            client.hset(key, mapping={value[:100]: other for value, other in zip(values, reversed(values), strict=True)})
        case "list":
            client.rpush(key, *values)
        case "set":
            client.sadd(key, *values)
        case "zset":
            client.zadd(key, {value[:100]: score for value, score in zip(values, _scores(), strict=False)})
        case "stream":
            for value in values:
                client.xadd(key, {b"purge": value} if len(value) % 2 else {b"i": value, b"more": value})


def _scores() -> Iterator[float]:
    while True:
        yield from (0.0, -1.0, 1e15, 9e18, float("inf"), time.time() * 1e6)


TICKET_FIELDS = (
    "caller", "state", "created", "due", "deadline", "attempts", "broken", "lease_us", "wanted_us", "error", "call", "body",
)  # fmt: skip


def plant_tickets(client: redis.Redis) -> None:
    """Tickets that are listed, and due, and of which nothing can be read."""
    for number, ticket in enumerate(TICKETS):
        name = ticket.encode(errors="surrogateescape")
        fields = dict.fromkeys(TICKET_FIELDS, RUBBISH[number]) | {"caller": b"checkout"}
        fields["state"] = [b"QUEUED", b"RUNNING", b"SUCCEEDED", b"\xff"][number % 4]
        client.delete(b"headrace:ticket:" + name)
        client.hset(b"headrace:ticket:" + name, mapping=fields)
        client.zadd(keys.TICKETS, {name: 1.0})
        client.zadd(keys.tickets_of("checkout"), {name: time.time() * 1e6 + number})


def plant_jobs(client: redis.Redis, mark: str) -> None:
    """Jobs that are pickles, that name others' functions, and that are nothing at all."""
    spring = pickle.dumps(Spring(mark))
    for name, data in {"pickled": spring, "named": b'["trap.spring",null,[],{}]', "nothing": b"\xff"}.items():
        client.hset(f"rq:job:{name}", mapping={"data": data, "status": "queued", "origin": "headrace", "created_at": "never"})
        client.rpush("rq:queue:headrace", name)
        client.zadd("rq:scheduled:headrace", {name: 0})
    client.rpush("rq:queue:headrace", b"\xff\xfe", "none")
    client.sadd("rq:workers", b"rq:worker:\xff", "rq:worker:none")
