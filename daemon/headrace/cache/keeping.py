"""
How long answers are kept, and for whom: every rule about freshness, age and what may be kept, in one place and without I/O.

An answer is fresh for `cache.ttl`, or for the time that the configuration names for its caller. Two times can differ: that of
the caller whose call was answered, which the entry carries, and that of the caller who asks now. The stricter counts. After it
the entry stays for `cache.stale`, for stale-if-error only.
"""

from __future__ import annotations

from dataclasses import dataclass

from headrace.cache import status
from headrace.cache.entry import Entry
from headrace.cache.policy import no_keep_answer
from headrace.model import Answer, CacheControl, Call, Caller, Source

_KEPT = (Source.CACHE, Source.STALE)


@dataclass(frozen=True, slots=True)
class Keeping:
    """
    The rules of one daemon.

    Args:
        ttl_s: how long an answer is fresh, for callers that have no time of their own.
        stale_s: how long it is kept after that.
        is_on: False keeps nothing and looks nothing up.
    """

    ttl_s: float
    stale_s: float
    is_on: bool = True

    # What is looked up.

    def wish(self, asked: CacheControl, caller: Caller) -> CacheControl:
        """
        Return what a call asks of the cache, the configuration's word about its caller included.

        A caller without cache says no-store with every call. A time of its own bounds the age of what it is given, as max-age
        does; of the two the shorter counts.
        """
        ttl_s = self._ttl_s(caller)
        bound_s = ttl_s if asked.max_age_s is None else min(ttl_s, asked.max_age_s)
        no_store = asked.no_store or caller.cache_ttl_s == 0
        return CacheControl(no_store, asked.no_cache, asked.only_if_cached, bound_s, asked.stale_if_error_s)

    def looks_up(self, call: Call) -> bool:
        """Whether a kept answer may answer this call, as long as upstream is well."""
        asks = call.cache
        return self.is_on and not (asks.no_store or asks.no_cache or call.no_keep)

    def is_fresh(self, entry: Entry, control: CacheControl, now: float) -> bool:
        """Whether a kept answer is fresh enough for who asks."""
        return entry.fresh(now, control.max_age_s)

    def is_young(self, age_s: float, control: CacheControl) -> bool:
        """Whether an answer that another call was given out of the cache is one for this call, too."""
        return not control.no_cache and (control.max_age_s is None or age_s <= control.max_age_s)

    def serves_stale(self, entry: Entry, control: CacheControl, now: float) -> bool:
        """Whether a kept answer may be given while upstream is in trouble: RFC 5861, as far as `cache.stale` goes."""
        allowed_s = control.stale_if_error_s
        if allowed_s is None or control.no_store:
            return False
        return now - entry.fresh_until <= min(allowed_s, self.stale_s)

    def fresh_ms(self, call: Call) -> int:
        """
        Return how long an entry in Redis must have left to live to be worth reading for this call; -1 to read none.

        Its key lives for at least `ttl_s + stale_s`, so what is left tells the greatest age that it can have. This only spares
        Redis the reading: whatever is read is looked at by `is_fresh`.
        """
        if not self.looks_up(call):
            return -1
        most_s = self.ttl_s if call.cache.max_age_s is None else call.cache.max_age_s
        return int(1000 * (self.stale_s + max(0.0, self.ttl_s - most_s)))

    # What is kept.

    def no_keep_call(self, call: Call) -> str:
        """Return why no answer to this call may be kept, or "": one of the reasons in policy.py, "no-store" or "cache-off"."""
        if not self.is_on:
            return "cache-off"
        return "no-store" if call.cache.no_store else call.no_keep

    def no_keep(self, call: Call, answer: Answer) -> str:
        """Return why this answer may not be kept, or "", likewise."""
        try:
            return self.no_keep_call(call) or no_keep_answer(call.endpoint, answer)
        except ValueError:  # nested past reason
            return "bad-message"

    def entry_of(self, call: Call, answer: Answer, asked: float) -> Entry:
        """Return the entry of an answer; *asked* is when upstream was asked for it."""
        fresh_until = answer.created + self._ttl_s(call.caller)
        return Entry(
            fingerprint=call.fingerprint,
            answer=answer,
            scope=call.scope,
            model=call.model,
            asked=asked,
            fresh_until=fresh_until,
            # Never less than by the common time: `fresh_ms` tells the age by what is left of it.
            keep_until=max(fresh_until, answer.created + self.ttl_s) + self.stale_s,
        )

    # What is told.

    def hit_status(self, entry: Entry, now: float) -> str:
        """Return the `Cache-Status` of a kept answer."""
        return status.hit(entry.fingerprint, entry.fresh_until - now)

    def flight_status(self, call: Call, answer: Answer | None, source: Source, now: float) -> str:
        """
        Return the `Cache-Status` of what came of a flight, to one of those who shared it.

        Args:
            answer: None while it is still being said: then nobody knows whether it will be kept.
            source: where this caller has it from.
        """
        if answer is not None and source in _KEPT:
            return status.hit(call.fingerprint, answer.created + self._ttl_s(call.caller) - now)
        return status.forwarded(
            call,
            is_shared=source is Source.SHARED,
            is_stored=answer is not None and answer.is_kept,
            detail=call.no_keep or (answer.no_keep if answer and not call.cache.no_store else ""),
        )

    def _ttl_s(self, caller: Caller) -> float:
        return self.ttl_s if caller.cache_ttl_s is None else caller.cache_ttl_s


def age_s(answer: Answer, now: float) -> float:
    """Return how long ago upstream finished an answer; never less than nothing, whatever another host's clock said."""
    return max(0.0, now - answer.created)
