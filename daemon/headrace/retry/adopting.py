"""
Tickets from before there was a seal: in our own Valkey, where nobody else can write, they are sealed at each start.

So nothing that was accepted is lost by an upgrade. In a Redis that others may write to, what has no seal is nobody's word, and
stays that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from headrace import keys, records
from headrace.link import Link, Script
from headrace.retry.ticket import BARE, sealed_anew
from headrace.seal import Seal

_ADOPT = Script(__package__, "adopt.lua")
_AT_ONCE = 64


NAMES = keys.ticket("*")


async def adopt(link: Link, seal: Seal, names: Sequence[str]) -> int:
    """Seal those tickets that have no seal, by their names in Redis, and return how many those are; raises `RedisAway`."""
    adopted = 0
    for begin in range(0, len(names), _AT_ONCE):
        adopted += sum(await asyncio.gather(*(_adopt(link, seal, name) for name in names[begin : begin + _AT_ONCE])))
    return adopted


async def _adopt(link: Link, seal: Seal, name: str) -> bool:
    ticket_id = name.removeprefix(keys.ticket(""))
    said = await records.or_nothing("ticket", ticket_id, link.do("HMGET", name, "state", "facts"))
    if said is None or said[0] is None or said[1] is not None:
        return False
    values = await link.do("HMGET", name, *BARE)
    return bool(await link.run(_ADOPT, [name], sealed_anew(ticket_id, values, seal)))
