"""
Pages of sorted sets in Redis, newest or first first, that stay right while these change.

A page ends at a place: a score and a member. The next one begins behind that place, whether what stood there is still there or
not; so nothing is told twice, and nothing is left out that was there all the time.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from headrace import records
from headrace.errors import InvalidCall
from headrace.link import Link

T = TypeVar("T")

_NEWEST = 1 << 62
_MOST_LOOKED_AT = 5000  # for one page; what is left is for the next


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
    return await _next(link, name, (place.score, least, "BYSCORE", "REV"), most, lambda each: each < place)


async def ahead(link: Link, name: str, place: Place, most: int) -> list[Place]:
    """Return up to *most* members of a sorted set after a place, from the lowest score up, each as its place."""
    return await _next(link, name, (place.score, "+inf", "BYSCORE"), most, lambda each: each > place)


async def _next(link: Link, name: str, span: tuple[object, ...], most: int, fits: Callable[[Place], bool]) -> list[Place]:
    # In one look, whatever stands at the place itself: between two of them members go, and others would be passed over.
    window = most + 1
    while True:
        asked = link.do("ZRANGE", name, *span, "LIMIT", 0, window, "WITHSCORES")
        rows = await records.or_nothing("ticket", name, asked) or []
        read = (Place(_score(score), member.decode(errors="replace")) for member, score in rows)
        found = [each for each in read if fits(each)]
        if len(found) >= most or len(rows) < window:
            return found[:most]
        window *= 2


async def walk(
    at: Place,
    size: int,
    more: Callable[[Place, int], Awaitable[list[Place]]],
    read: Callable[[Sequence[Place]], Awaitable[Sequence[T | None]]],
) -> tuple[list[T], str]:
    """
    Return a page, and the token of the next one, "" of none.

    Args:
        at: where it begins; size: how many it may hold.
        more: returns so many places behind one.
        read: returns what stands at each place, None for what does not belong on the page.
    """
    page: list[T] = []
    looked_at = 0
    while looked_at < _MOST_LOOKED_AT:
        found = await more(at, size)
        for each, made in zip(found, await read(found), strict=True):
            at, looked_at = each, looked_at + 1
            if made is not None:
                page.append(made)
            if len(page) == size:
                return page, at.token
        if len(found) < size:
            return page, ""
    return page, at.token


def _score(score: float) -> int:
    # Somebody else's may be infinite; no page ends there, and none is asked for from there.
    return int(min(max(float(score), 0.0), float(_NEWEST)))
