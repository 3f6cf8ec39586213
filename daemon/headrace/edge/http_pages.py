"""
The pages that anybody may ask for: made at most once a second, however often they are asked for.

Nobody needs a key for them, so whatever they cost anybody could let us pay as often as he likes.
"""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web

_FRESH_S = 1.0


class Page:
    """
    One page.

    Args:
        make: returns its status and its bytes.
        kind: its content-type.
        now: the loop's clock.
    """

    def __init__(self, make: Callable[[], tuple[int, bytes]], kind: str, *, now: Callable[[], float]) -> None:
        self._make, self._kind, self._now = make, kind, now
        self._made: tuple[int, bytes] = 0, b""
        self._made_at: float | None = None

    def __repr__(self) -> str:
        return f"<Page {self._kind} [{len(self._made[1])} bytes]>"

    async def show(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return it."""
        now = self._now()
        if self._made_at is None or now - self._made_at >= _FRESH_S:
            self._made, self._made_at = self._make(), now
        status, body = self._made
        return web.Response(status=status, body=body, headers=[("content-type", self._kind)])
