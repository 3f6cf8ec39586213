"""
The tries of calls with tickets, in Redis: whoever waits for such a call learns what other processes did for it.

Each try is told as it ends, sent and not waited for: a trail with a gap harms nobody. What is read of it is checked like all
else that lies there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping

import msgspec

from headrace import keys, observe, records
from headrace.errors import RedisAway
from headrace.link import Link
from headrace.seal import UNSEALED, Broken, Seal
from headrace.trail import Trail, Try

_KEPT_S = 86_400
_MOST = 200  # tries of one ticket that are told

_decode = msgspec.json.Decoder(Try).decode


class Trails:
    """Tells the tries of tickets, and reads them."""

    def __init__(self, link: Link, seal: Seal = UNSEALED) -> None:
        self._link = link
        self._seal = seal

    def __repr__(self) -> str:
        return "<Trails>"

    def tell(self, ticket: str, tries: tuple[Try, ...]) -> None:
        """Tell tries of a ticket; they are kept a day after the last."""
        told = [each for each in tries if each.number <= _MOST]
        if told:
            key = keys.trail(ticket)
            pairs = (part for each in told for part in (each.number, self._seal.seal(key, msgspec.json.encode(each))))
            self._link.do("HSET", key, *pairs)
            self._link.do("EXPIRE", key, _KEPT_S)

    async def learn(self, ticket: str, trail: Trail) -> None:
        """Add to a trail what was told of a ticket; nothing while Redis is away."""
        try:
            said = await records.or_nothing("trail", ticket, self._link.do("HGETALL", keys.trail(ticket)))
        except RedisAway:
            return
        for each in self._read(ticket, (said or {}).values()):
            trail.heard(each)

    async def latest(self, made: Mapping[str, int]) -> dict[str, Try]:
        """Return the last try of each ticket that is told, by how many were made for it; raises `RedisAway`."""
        asked = (
            records.or_nothing("trail", ticket, self._link.do("HGET", keys.trail(ticket), number))
            for ticket, number in made.items()
        )
        said = zip(made, await asyncio.gather(*asked), strict=True)
        return {ticket: each for ticket, raw in said if raw for each in self._read(ticket, (raw,))}

    def _read(self, ticket: str, raws: Iterable[bytes]) -> list[Try]:
        read = []
        for raw in raws:
            try:
                read.append(_decode(self._seal.open(keys.trail(ticket), raw)))
            except Broken:
                records.unreadable("trail", ticket, observe.RECORD_UNSEALED)
            except (msgspec.DecodeError, ValueError):
                records.unreadable("trail", ticket)
        return read
