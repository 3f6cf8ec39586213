"""
How a purge reaches every host, those that were away too.

The stream of purges is the truth, a nudge only says "look". Every process remembers the last purge it has applied (on disk,
beside the entries that outlive it) and reads on from there: when nudged, whenever its link comes up, and now and then, since
a nudge may be lost. One that was away for longer than the stream remembers drops everything it has.

An answer may be on its way while a purge passes: from upstream, or from a far tier to a near one. So recent purges are
remembered, and an answer that was asked for before a purge that means it is not let in any more. That is enough on a host that
knows of the purge. One that does not know yet must not put into Redis what nobody there will look for again: with every entry
goes the last purge that its host has applied, and store.lua refuses it if there has been another since.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from headrace import codec, keys, observe, records
from headrace.background import Background
from headrace.cache.entry import Entry
from headrace.cache.selector import Selector
from headrace.clock import Clock, until_set
from headrace.errors import RedisAway
from headrace.link import Link

_log = structlog.get_logger()

TOPIC = "purge"
_KEPT = 10_000
_AHEAD_S = 60.0  # by so much another host's clock may be
_PAGE = 1000
_LOOK_EVERY_S = 30.0
_REMEMBER_S = 600.0
_MOST_RECENT = 256
_START = "0-0"
_ID = re.compile(r"([0-9]{1,20})-([0-9]{1,20})", re.ASCII)

Apply = Callable[[Sequence[Selector]], Awaitable[object]]


class Notice(msgspec.Struct, frozen=True):
    """A purge as the stream has it: what is meant, and when it was asked for (Unix seconds)."""

    selector: Selector
    at: float


@dataclass(frozen=True, slots=True)
class PurgesStats:
    """Whether every purge is applied here; the id of the last ("" before the first look); how many were made of late."""

    caught_up: bool
    seen: str
    recent: int


class Purges:
    """
    This process's place in the stream of purges.

    Args:
        apply: drops what the selectors mean from the tiers of this host.
        read_seen, write_seen: where the id of the last applied purge outlives us.
    """

    def __init__(
        self,
        link: Link,
        clock: Clock,
        *,
        apply: Apply,
        read_seen: Callable[[], Awaitable[str]],
        write_seen: Callable[[str], Awaitable[None]],
    ) -> None:
        self._link, self._clock = link, clock
        self._apply, self._read_seen, self._write_seen = apply, read_seen, write_seen
        self._seen = ""
        self._forgotten_at = 0.0  # the moment of the latest purge that is no longer remembered
        self.losses = 0  # how often everything was dropped, since it was not known what was purged
        self._news = asyncio.Event()
        self._recent: deque[tuple[float, Notice]] = deque()  # by when we heard of it
        self._background = Background("cache", clock)
        self.caught_up = False

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Purges [{'caught up' if stats.caught_up else 'behind'}, seen {stats.seen or 'none'}, {stats.recent} recent]>"

    def stats(self) -> PurgesStats:
        """Return its state now."""
        return PurgesStats(self.caught_up, self._seen, len(self._recent))

    async def start(self) -> None:
        """Catch up if Redis is there, and follow from then on."""
        self._link.on(TOPIC, lambda _: self._news.set())
        self._link.on_connect(self._connected)
        with contextlib.suppress(RedisAway):
            await self.catch_up()
        self._background.lasting(self._follow, "purges")

    async def close(self) -> None:
        await self._background.close()

    async def announce(self, selector: Selector) -> None:
        """Tell every host, those that are away when they are back; raises `RedisAway`."""
        notice = self.remember(selector)
        text = msgspec.json.encode(notice)
        await self._link.do("XADD", keys.CACHE_PURGES, "MAXLEN", "~", _KEPT, "*", "purge", text)
        # Only now: who is nudged must find it.
        await self._link.tell_all(TOPIC)

    def remember(self, selector: Selector) -> Notice:
        """Let nothing in any more that was said before now and that the selector means."""
        notice = Notice(selector, self._clock.now())
        self._note(notice)
        return notice

    def _note(self, *notices: Notice) -> None:
        now = self._clock.now()
        self._recent.extend((now, notice) for notice in notices)
        while self._recent and (len(self._recent) > _MOST_RECENT or self._recent[0][0] + _REMEMBER_S < now):
            _, forgotten = self._recent.popleft()
            self._forgotten_at = max(self._forgotten_at, forgotten.at)

    @property
    def seen(self) -> str:
        """The id of the last purge that was applied here, as Redis has it."""
        return self._seen or _START

    def forbids(self, entry: Entry) -> bool:
        """Whether a kept entry was purged while it was on its way here from another tier."""
        if not self._recent:
            return False
        self._note()
        return any(
            entry.asked <= notice.at and notice.selector.matches(entry.fingerprint, entry.scope, entry.model, entry.asked)
            for _, notice in self._recent
        )

    def forbids_new(self, entry: Entry) -> bool:
        """
        Whether the answer was purged while it was asked of upstream.

        Upstream may take longer than purges are remembered. Then nobody knows, and the answer is not kept.
        """
        return self.forbids(entry) or entry.asked <= self._forgotten_at

    async def catch_up(self) -> None:
        """Apply every purge since the last one we know of; raises `RedisAway`."""
        self._seen = self._seen or _stream_id(await self._read_seen()) or _START
        if await self._missed_some():
            self.losses += 1
            await self._apply([Selector(all=True)])
        while page := await self._link.do("XRANGE", keys.CACHE_PURGES, f"({self._seen}", "+", "COUNT", _PAGE):
            notices = [self._read(fields) for _, fields in page]
            self._note(*notices)
            await self._apply([notice.selector.until(notice.at) for notice in notices])
            self._seen = page[-1][0].decode()
            await self._write_seen(self._seen)
            _log.info(observe.CACHE_PURGED, purges=len(notices))
        self.caught_up = True

    def _read(self, fields: Sequence[bytes]) -> Notice:
        # What cannot be read was written by a newer version, or by nobody of ours: it may mean any entry, so it means all.
        now = self._clock.now()
        try:
            notice = codec.decode(dict(zip(fields[::2], fields[1::2], strict=True))[b"purge"], Notice)
        except (ValueError, KeyError):
            records.unreadable("purge", b" ".join(fields), observe.PURGE_UNREADABLE)
            return Notice(Selector(all=True), now)
        # One from a far future would forbid all that is said until then.
        return notice if notice.at <= now + _AHEAD_S else Notice(notice.selector, now)

    async def _missed_some(self) -> bool:
        """Whether purges that we have not seen are no longer in the stream, or our place in it means nothing."""
        oldest = await self._link.do("XRANGE", keys.CACHE_PURGES, "-", "+", "COUNT", 1)
        if not oldest:
            return False
        info = await self._link.do("XINFO", "STREAM", keys.CACHE_PURGES)
        # A map in RESP3, a flat list in RESP2.
        facts: dict[bytes, Any] = info if isinstance(info, dict) else dict(zip(info[::2], info[1::2], strict=True))
        if _place(facts[b"last-generated-id"].decode()) < _place(self._seen):  # ours was lost with its Redis, or never was
            self._seen = _START
            return True
        return _place(oldest[0][0].decode()) > _place(self._seen) and bool(facts[b"entries-added"] > facts[b"length"])

    async def _connected(self) -> None:
        self._news.set()

    async def _follow(self) -> None:
        while True:
            await until_set(self._news, self._clock, _LOOK_EVERY_S)
            self._news.clear()
            # Redis away: the link says so when it is back.
            with contextlib.suppress(RedisAway):
                await self.catch_up()


def _stream_id(text: str) -> str:
    """Return an id of a stream as it was noted; "" if it is none."""
    found = _ID.fullmatch(text.strip())
    return found[0] if found and max(map(int, found.groups())) < 2**64 else ""


def _place(stream_id: str) -> tuple[int, int]:
    moment, _, number = stream_id.partition("-")
    return int(moment), int(number)
