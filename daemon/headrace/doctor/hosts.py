"""The other processes on the same Redis: whether all have one version and one configuration, this file's."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from headrace import keys, servers
from headrace.config import Settings, settings_hash
from headrace.doctor.finding import Finding, ok, warn
from headrace.hosts import Fact
from headrace.hosts.fact import decode, unknown

_AREA = "hosts"
_TIMEOUT_S = 5.0


async def examine(settings: Settings, url: str) -> list[Finding]:
    """Return what there is to say of them; nothing where Redis cannot be asked, which is said elsewhere."""
    try:
        async with servers.client(url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S) as client:
            names: Any = await client.zrange(keys.HOSTS, 0, -1)
            facts = [await _fact(client, name.decode(errors="replace")) for name in names]
    except (RedisError, OSError):
        return []
    return list(judge(facts, settings_hash(settings), socket.gethostname()))


async def _fact(client: Redis, instance: str) -> Fact:
    # Not by hosts/register.py: that says what this process is, too, and this one serves nobody.
    try:
        raw: Any = await client.get(keys.host(instance))
        return unknown(instance) if raw is None else decode(raw)
    except (ValueError, ResponseError):  # what somebody else put there
        return unknown(instance)


def judge(facts: Iterable[Fact], own_config: str, own_host: str) -> Iterator[Finding]:
    """Yield a line for each way in which processes differ from each other, or from this configuration."""
    told = [fact for fact in facts if fact.config]
    if not told:
        return
    others = [fact for fact in told if fact.config != own_config]
    yield from (_differing(fact, own_config, own_host) for fact in others)
    versions = sorted({fact.version for fact in told})
    if len(versions) > 1:
        yield warn(_AREA, f"there are different versions: {', '.join(versions)}", "Bring all hosts to the newest")
    if not others and len(versions) == 1:
        yield ok(_AREA, f"{len(told)} processes, all of one version ({versions[0]}) and with this configuration")


def _differing(fact: Fact, own_config: str, own_host: str) -> Finding:
    if fact.host == own_host:
        mend = "systemctl restart headrace-worker" if fact.kind == "worker" else "systemctl reload headrace"
        return warn(_AREA, f"{fact.instance} runs with other limits than this configuration has", mend)
    said = f"{fact.instance} has other limits than this host (hash {fact.config}, here {own_config})"
    return warn(_AREA, said, "Keep limits, callers, lanes, classes and prices the same on all hosts")
