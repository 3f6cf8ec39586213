"""
The key that a request was sent with, made unreadable in what upstream says back. Pure.

A gateway before upstream may repeat in its errors what it was asked, headers included. What comes back is shown to callers and
kept in caches, tickets and dead letters, and our key must be in none of them. As many stars stand in its place, so that lengths
and frames stay what they were.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

_SHORTEST = 16  # of a key: what is shorter is none, and may be a word


def key_in(headers: Sequence[tuple[str, str]]) -> str:
    """Return the key with which a request is sent; "" for none."""
    said = next((value for name, value in reversed(headers) if name in ("x-api-key", "authorization")), "")
    key = said.rpartition(" ")[2]
    return key if len(key) >= _SHORTEST else ""


class Mask:
    """Goes over one body, piece by piece; the key may begin in one and end in the next."""

    __slots__ = ("_held", "_key", "_stars")

    def __init__(self, key: str) -> None:
        self._key = key.encode(errors="surrogateescape")
        self._stars = b"*" * len(self._key)
        self._held = b""

    def __repr__(self) -> str:
        return f"<Mask [{len(self._held)} bytes held]>"

    def feed(self, piece: bytes) -> bytes:
        """Return what can be said by now: all, but for an end with which the key may begin."""
        text = self._held + piece if self._held else piece
        if self._key in text:
            text = text.replace(self._key, self._stars)
        at = text.find(self._key[:1], max(0, len(text) - len(self._key) + 1))
        while at >= 0 and not self._key.startswith(text[at:]):
            at = text.find(self._key[:1], at + 1)
        self._held = text[at:] if at >= 0 else b""
        return text[:at] if at >= 0 else text

    def end(self) -> bytes:
        """Return what was held."""
        held, self._held = self._held, b""
        return held

    async def over(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the chunks so."""
        async for chunk in chunks:
            if said := self.feed(chunk):
                yield said
        if said := self.end():
            yield said
