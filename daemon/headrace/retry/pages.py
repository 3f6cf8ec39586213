"""
Pages of a sorted set in Redis, newest first, that stay right while it changes.

A page ends at a place: a score and a member. The next one begins behind that place, whether what stood there is still there or
not; so nothing is told twice, and nothing is left out that was there all the time.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace import records
from headrace.errors import InvalidCall
from headrace.link import Link

_NEWEST = 1 << 62


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a page ends: the score (us) and the member that came last. A lower place comes later."""

    score: int = _NEWEST
    member: str = ""

    @property
    def token(self) -> str:
        """How a caller brings it back."""
        return f"{self.score}-{self.member}"


def place(token: str, rpc: str) -> Place:
    """Return the place that a page token stands for, "" for the beginning; raises `InvalidCall` for what is none."""
    if not token:
        return Place()
    score, _, member = token.partition("-")
    if not (score.isdecimal() and len(score) < 19 and score.isascii() and member):
        raise InvalidCall(f"page_token is not one that {rpc} returned", metadata={"field": "page_token"})
    return Place(int(score), member)


async def behind(link: Link, name: str, place: Place, most: int, *, least: int = 0) -> list[Place]:
    """Return up to *most* members of a sorted set behind a place, from the highest score down to *least*, each as its place."""
    found: list[Place] = []
    offset = 0
    while len(found) < most:
        asked = link.do("ZRANGE", name, place.score, least, "BYSCORE", "REV", "LIMIT", offset, most, "WITHSCORES")
        rows = await records.or_nothing("ticket", name, asked) or []
        offset += most
        read = [Place(_score(score), member.decode(errors="replace")) for member, score in rows]
        found += [each for each in read if each < place]
        if len(read) < most:
            break
    return found[:most]


def _score(score: float) -> int:
    # Somebody else's may be infinite; no page ends there, and none is asked for from there.
    return int(min(max(float(score), 0.0), float(_NEWEST)))
