"""
What this process spends of shared buckets while Redis is away: it begins with its part of the level last seen, not of a full
bucket, and when Redis is back, what was spent is told.

Told is what our bucket then lacks beside a twin that nobody drew from. So what flowed in meanwhile is paid with what flowed in,
and no outage, however long, leaves more debt than was spent beyond that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from headrace.budget.memory import MemoryLedger
from headrace.budget.want import Form, Want

_BOUND = 8192  # buckets of which the level is remembered


@dataclass(frozen=True, slots=True)
class _Part:
    """Our part of a shared bucket, the twin that stays untouched, and among how many hosts it is shared."""

    want: Want
    own: Want
    twin: Want
    hosts: int


@dataclass(frozen=True, slots=True)
class OutageStats:
    """How many buckets are drawn from without Redis."""

    buckets: int


class Outage:
    """The levels last seen, and what is drawn from *own* while there is no Redis."""

    def __init__(self, own: MemoryLedger) -> None:
        self._own = own
        self._seen: dict[str, tuple[int, int]] = {}  # bucket id -> whole tokens left, and when (us)
        self._parts: dict[str, _Part] = {}

    def __repr__(self) -> str:
        return f"<Outage [{len(self._parts)} buckets]>"

    def __bool__(self) -> bool:
        return bool(self._parts)

    def stats(self) -> OutageStats:
        """Return its state now."""
        return OutageStats(len(self._parts))

    def see(self, wants: Sequence[Want], levels: Sequence[int]) -> None:
        """Take in what Redis said is left, want by want."""
        if len(self._seen) > _BOUND:
            self._seen.clear()
        now_us = self._own.now_us()
        for want, level in zip(wants, levels, strict=False):
            self._seen[want.bucket_id] = level, now_us

    def begin(self, want: Want, part: Want, hosts: int) -> None:
        """Let a bucket begin, if it has not yet, with its part of what there must be by now."""
        if want.form is Form.PERMIT or want.bucket_id in self._parts:
            return
        level, at_us = self._seen.get(want.bucket_id, (want.capacity, 0))
        inflow = want.rate_per_minute * max(0, self._own.now_us() - at_us) // 60_000_000
        begun = min(want.capacity, level + inflow) // hosts
        twin = replace(part, bucket_id=f"{part.bucket_id}|untouched")
        self._own.begin(part, begun)
        self._own.begin(twin, begun)
        self._parts[want.bucket_id] = _Part(want, part, twin, hosts)

    def end(self) -> Mapping[Want, int]:
        """Return what was spent of each bucket, and begin anew the next time."""
        spent: dict[Want, int] = {}
        for bucket_id, part in self._parts.items():
            left = self._own.level(part.own)
            lacks = self._own.level(part.twin) - left
            if lacks > 0:
                spent[replace(part.want, cost=0)] = lacks
            self._seen[bucket_id] = left * part.hosts, self._own.now_us()  # until Redis says better
            self._own.forget(part.twin.bucket_id)
        self._parts.clear()
        return spent
