"""
The port of a tier, and what every tier has in common: how a purge selects, and what a tier counts.

A tier never fails: what cannot be read is a miss, what cannot be written is not kept, and either is counted. `put` takes the
entry and its encoded form, so that the tiers that need bytes share one encoding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from headrace import observe
from headrace.cache.entry import Entry


class Selector(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    Which entries a purge means: those that match everything that is given; `all` must be asked for by name.

    Args:
        scope: a caller's name, or "" for the shared scope; a scope of the form "<caller>#..." belongs to the caller too.
    """

    fingerprint: str | None = None
    scope: str | None = None
    model: str | None = None
    all: bool = False

    def __post_init__(self) -> None:
        given = (self.fingerprint, self.scope, self.model)
        if self.all != all(part is None for part in given):
            raise ValueError("a purge needs a key, a caller or a model, or else all of them, but not both")

    def matches(self, fingerprint: str, scope: str, model: str) -> bool:
        return (
            (self.fingerprint is None or self.fingerprint == fingerprint)
            and (self.scope is None or self.scope == scope or scope.startswith(f"{self.scope}#"))
            and (self.model is None or self.model == model)
        )


@dataclass(frozen=True, slots=True)
class TierStats:
    """
    What a tier holds now, and what this process has done with it since it started.

    Args:
        on: False where the tier is switched off, or gave up.
        drops: entries that went before their time, or were never written, for want of room.
    """

    tier: str
    on: bool
    entries: int
    bytes: int
    bound: int
    hits: int
    misses: int
    stores: int
    drops: int
    errors: int


class Tally:
    """A tier's counts: as plain figures for its stats, and as metrics."""

    def __init__(self, tier: str) -> None:
        self.tier = tier
        self.hits = self.misses = self.stores = self.drops = self.errors = 0

    def looked(self, entry: Entry | None) -> Entry | None:
        if entry is None:
            self.misses += 1
            observe.CACHE_EVENTS.inc(self.tier, "miss")
        else:
            self.hits += 1
            observe.CACHE_EVENTS.inc(self.tier, "hit")
        return entry

    def stored(self, count: int = 1) -> None:
        self.stores += count
        observe.CACHE_EVENTS.inc(self.tier, "store", by=count)

    def dropped(self, count: int = 1) -> None:
        if count:
            self.drops += count
            observe.CACHE_EVENTS.inc(self.tier, "drop", by=count)

    def failed(self) -> None:
        self.errors += 1
        observe.CACHE_EVENTS.inc(self.tier, "error")

    def stats(self, *, on: bool, entries: int, bytes: int, bound: int) -> TierStats:
        figures = (self.hits, self.misses, self.stores, self.drops, self.errors)
        return TierStats(self.tier, on, entries, bytes, bound, *figures)


class Store(Protocol):
    """A tier that needs I/O."""

    async def get(self, fingerprint: str) -> Entry | None:
        """Return the entry, be it stale; None if there is none that is whole."""

    async def put(self, entry: Entry, raw: bytes) -> None:
        """Keep the entry. What has to be sent is sent before anything is awaited."""

    async def purge(self, selectors: Sequence[Selector]) -> int:
        """Drop what any of the selectors means; return how many entries went."""

    async def stats(self) -> TierStats:
        """Say what is held."""

    async def close(self) -> None:
        """Finish what was begun."""
