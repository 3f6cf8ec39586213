"""
Leads that nobody has: Redis was asked to let us lead, and we gave up waiting for its word; or it was told twice, and was done
once more when the flight was over.

Such a command may be done when a Redis that stood still goes on, and even later where a network held it up. Then all who ask
follow a leader that leads nothing, until its lease lapses. So what may have become ours is given up as soon as Redis answers,
and a few times more. And who is told of followers in a flight that it does not lead looks whether Redis thinks that it does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator

from headrace import keys
from headrace.clock import Clock
from headrace.errors import RedisAway
from headrace.link import Link

_TIMES = 4
_EVERY_S = 0.75
_MOST = 10_000


class Strays:
    """
    What is to be given up, by token. Run `keep` as a task.

    Args:
        give_up: gives a flight up, by its fingerprint, if a token leads it; returns whether it did. It may raise `RedisAway`.
    """

    def __init__(self, link: Link, clock: Clock, give_up: Callable[[str, str], Awaitable[bool]]) -> None:
        self._link = link
        self._clock = clock
        self._give_up = give_up
        self._ours: dict[str, str] = {}
        self._times: dict[tuple[str, str], int] = {}
        self._has_some = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Strays [{len(self._ours)} ours, {len(self._times)} to give up]>"

    @property
    def ours(self) -> int:
        """How many tokens somebody here asks, leads or follows by."""
        return len(self._ours)

    @contextlib.contextmanager
    def asking(self, fingerprint: str, token: str) -> Iterator[None]:
        """While the block lasts there is somebody here who leads by this token, if Redis says so, or follows."""
        self._ours[token] = fingerprint
        try:
            yield
        finally:
            del self._ours[token]

    def is_asked(self, fingerprint: str) -> bool:
        """Whether anybody here asks, leads or follows in this flight."""
        return fingerprint in self._ours.values()

    def add(self, fingerprint: str, token: str) -> None:
        """Give this up when Redis answers; of very many the latest, for the leases of the others lapse."""
        self._times[fingerprint, token] = _TIMES
        if len(self._times) > _MOST:
            del self._times[next(iter(self._times))]
        self._has_some.set()

    def suspect(self, fingerprint: str) -> None:
        """Somebody follows us in a flight that we do not lead: look whether Redis thinks that we do."""
        leading = self._link.do("HMGET", keys.flight(fingerprint), "inbox", "token")
        leading.add_done_callback(lambda leading: self._see_leader(fingerprint, leading))

    def _see_leader(self, fingerprint: str, leading: asyncio.Future[list[bytes | None]]) -> None:
        if leading.cancelled() or leading.exception() is not None:
            return
        inbox, token = [(each or b"").decode(errors="replace") for each in leading.result()]
        if inbox == self._link.inbox and token not in self._ours:
            self.add(fingerprint, token)

    async def keep(self) -> None:
        """Give up what there is, until cancelled. Redis away is waited out."""
        while True:
            await self._has_some.wait()
            with contextlib.suppress(RedisAway):
                await self._go_through()
            if not self._times:
                self._has_some.clear()
            await self._clock.sleep(_EVERY_S)

    async def _go_through(self) -> None:
        for stray in list(self._times):
            was_ours = await self._give_up(*stray)
            if stray not in self._times:  # one of very many, for which another came meanwhile
                continue
            self._times[stray] -= 1
            if was_ours or not self._times[stray]:
                del self._times[stray]
