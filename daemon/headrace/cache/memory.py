"""
The nearest tier: entries in this process, least recently used first to go, bounded by bytes.

The hot path of the whole daemon runs through `glance`: one dict look-up and one move to the end; it takes no lock, asks for no
time and does no I/O.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from headrace.cache.entry import Entry
from headrace.cache.selector import Selector
from headrace.cache.tally import Tally, TierStats, own_stats


class Memory:
    """Args: bound: bytes that entries and their renditions may take; 0 keeps nothing."""

    def __init__(self, bound: int) -> None:
        self.bound = bound
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._bytes = 0
        self.tally = Tally("memory", shows_looks=False)

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Memory [{stats.entries} entries, {stats.bytes} of {stats.bound} bytes]>"

    def glance(self, fingerprint: str, now: float, max_age_s: float | None) -> Entry | None:
        """
        Return the entry, if it is fresh at *now* and no older than *max_age_s*.

        Counted only if it is there: whoever finds nothing here looks once more, farther (`Cache.near`), and is counted then.
        """
        entry = self._entries.get(fingerprint)
        # Most ask for no age of their own: then no method is called to compare two figures.
        if entry is None or now >= entry.fresh_until or (max_age_s is not None and not entry.fresh(now, max_age_s)):
            return None
        self._entries.move_to_end(fingerprint)
        self.tally.hits += 1
        return entry

    def get(self, fingerprint: str) -> Entry | None:
        """Return the entry, be it stale."""
        entry = self._entries.get(fingerprint)
        if entry is not None:
            self._entries.move_to_end(fingerprint)
        return entry

    def put(self, entry: Entry, now: float) -> None:
        """Keep the entry, and drop the least recently used to make room for it."""
        self.drop(entry.fingerprint)
        weight = entry.weight
        if weight > self.bound:
            self.tally.dropped(self.bound > 0)
            return
        self._entries[entry.fingerprint] = entry
        self._bytes += weight
        entry.renditions.tell = self._grew
        self.tally.stored()
        self._forget_lapsed(now)
        if self._bytes > self.bound:
            self._make_room()

    def drop(self, fingerprint: str) -> bool:
        """Let an entry go; say whether there was one."""
        entry = self._entries.pop(fingerprint, None)
        if entry is None:
            return False
        self._bytes -= entry.weight
        entry.renditions.tell = None  # those who still send it may add to it; it weighs on nobody
        return True

    def purge(self, selectors: Sequence[Selector]) -> int:
        selected = [
            fingerprint
            for fingerprint, entry in self._entries.items()
            if any(selector.matches(fingerprint, entry.scope, entry.model, entry.asked) for selector in selectors)
        ]
        return sum(map(self.drop, selected))

    def stats(self) -> TierStats:
        return self.tally.stats(on=self.bound > 0, entries=len(self._entries), bytes=self._bytes, bound=self.bound)

    def held(self, scope: str) -> TierStats:
        """Return what one scope has here."""
        weights = [entry.weight for entry in self._entries.values() if entry.scope == scope]
        return own_stats(self.tally.tier, len(weights), sum(weights))

    def _grew(self, by: int) -> None:
        self._bytes += by
        self._make_room()

    def _make_room(self) -> None:
        while self._bytes > self.bound:
            self.drop(next(iter(self._entries)))
            self.tally.dropped()

    def _forget_lapsed(self, now: float) -> None:
        # Whatever lies dead is no longer touched, so it drifts to the old end; there it is found without a search.
        while (oldest := next(iter(self._entries.values()))).keep_until <= now:
            self.drop(oldest.fingerprint)
            if not self._entries:
                return
