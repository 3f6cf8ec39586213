"""The other processes on the same Redis: whether all have one version and one configuration, this file's."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Iterator
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from headrace import keys, servers
from headrace.config import Settings, settings_hash
from headrace.doctor.finding import Finding, ok, warn

_AREA = "hosts"
_TIMEOUT_S = 5.0

Fact = dict[str, str]


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
    raw = await client.get(f"headrace:host:{instance}")
    try:
        said = json.loads(raw) if raw else {}
        fact = {name: str(said.get(name, "")) for name in ("host", "kind", "version", "config")}
    except (ValueError, AttributeError):
        fact = {}
    return {**fact, "instance": instance}


def judge(facts: Iterable[Fact], own_config: str, own_host: str) -> Iterator[Finding]:
    """Yield a line for each way in which processes differ from each other, or from this configuration."""
    told = [fact for fact in facts if fact.get("config")]
    if not told:
        return
    others = [fact for fact in told if fact["config"] != own_config]
    for fact in others:
        if fact["host"] == own_host:
            yield warn(
                _AREA, f"{fact['instance']} runs with other limits than this configuration has", "systemctl reload headrace"
            )
        else:
            mend = "Keep limits, callers, lanes, classes and prices the same on all hosts"
            yield warn(
                _AREA, f"{fact['instance']} has other limits than this host (hash {fact['config']}, here {own_config})", mend
            )
    versions = sorted({fact["version"] for fact in told})
    if len(versions) > 1:
        yield warn(_AREA, f"there are different versions: {', '.join(versions)}", "Bring all hosts to the newest")
    if not others and len(versions) == 1:
        yield ok(_AREA, f"{len(told)} processes, all of one version ({versions[0]}) and with this configuration")
