"""
Views as they change, for all who look: made once a tick for each view that somebody looks at, and not at all while nobody does.

Whoever looks at the same view gets the same bytes. Who is slow in taking them misses a moment, and nobody waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, field

from headrace.admin.rows import Shown
from headrace.admin.views import Asked, Views
from headrace.background import Background
from headrace.clock import Clock
from headrace.errors import QueueFull

TICK_S = 0.4
MOST = 64  # who may look at once

Form = Callable[[Shown], bytes]


@dataclass(slots=True)
class _Channel:
    """One view: who looks, and what was shown last, as the forms in which somebody wants it."""

    watchers: int = 0
    number: int = 0
    shown: Shown | None = None
    said: dict[str, bytes] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


@dataclass(frozen=True, slots=True)
class FeedStats:
    """How many look, at how many views."""

    watchers: int
    views: int


class Feed:
    """
    Feeds. `close` it.

    Args:
        forms: how a view is said, by name.
    """

    def __init__(self, views: Views, clock: Clock, forms: Mapping[str, Form]) -> None:
        self._views = views
        self._clock = clock
        self._forms = forms
        self._channels: dict[Asked, _Channel] = {}
        self._background = Background("admin", clock)
        self._is_closed = False

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Feed [{stats.watchers} look at {stats.views} views]>"

    def stats(self) -> FeedStats:
        """Return its state now."""
        return FeedStats(sum(each.watchers for each in self._channels.values()), len(self._channels))

    async def follow(self, asked: Asked, form: str) -> AsyncGenerator[bytes, None]:
        """Yield a view in a form, now and whenever it was made anew, until the daemon leaves; raises `QueueFull`."""
        if self.stats().watchers >= MOST:
            raise QueueFull(f"{MOST} look already; close one", retry_after_s=5.0)
        channel = self._channels.setdefault(asked, _Channel())
        channel.watchers += 1
        if channel.task is None:
            channel.task = self._background.lasting(lambda: self._keep(asked, channel), "feed")
        try:
            number = 0
            while not self._is_closed:
                if channel.number > number and channel.shown is not None:
                    number = channel.number
                    yield self._said(channel, form)
                else:
                    await channel.changed.wait()
        finally:
            channel.watchers -= 1
            if not channel.watchers:
                channel.task.cancel()
                self._channels.pop(asked, None)

    def _said(self, channel: _Channel, form: str) -> bytes:
        if form not in channel.said and channel.shown is not None:
            channel.said[form] = self._forms[form](channel.shown)
        return channel.said[form]

    async def _keep(self, asked: Asked, channel: _Channel) -> None:
        while True:
            channel.shown = await self._views.show(asked)
            channel.said = {}
            channel.number += 1
            channel.changed.set()
            channel.changed = asyncio.Event()
            await self._clock.sleep(TICK_S)

    async def close(self) -> None:
        """End all that is followed."""
        self._is_closed = True
        for channel in self._channels.values():
            channel.changed.set()
        await self._background.close()
