"""
Hits by the very bytes: the hot path of every door.

A door makes a digest of a call's bytes, and of whatever else decides the answer, and looks here before it parses anything. What
a call asks is remembered by its digest once it has been parsed; a repeat of the same bytes is then a look-up, and is answered
with what the entry's `renditions` hold ready. No I/O, no parsing, no locks.

To make a digest takes longer than all the rest of it. So bytes that have been found once are kept near as they are, some
megabytes of them, and the next look-up is by themselves.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from headrace import forms
from headrace.answers import SMALL_BYTES, is_light
from headrace.aside import LIGHT_BYTES
from headrace.cache import status
from headrace.cache.entry import Entry
from headrace.cache.tiered import Cache
from headrace.clock import Clock
from headrace.model import Call, Caller, Form, Labels
from headrace.outcome import Outcome, labels_text
from headrace.owner import text_of
from headrace.trace import Trace

JSON = ("content-type", "application/json")
SSE = ("content-type", "text/event-stream; charset=utf-8")

TOLD_S = 0.01  # what many ask for at once is told them in the same words, be they so old
_COMMON_BYTES = 512  # of a head that may be that of many calls
_NEAR_BYTES = 16_000_000  # of calls' bytes that are kept near, each with a weight beside it
_NEAR_WEIGHT = 200
_MEMO = 65_536  # digests remembered; about 300 bytes each
_COUNTS = ("anthropic-", "cache-control", "x-headrace-lane", "x-headrace-labels")  # headers; ours for the budget shown


@dataclass(slots=True)
class Seen:
    """
    What the bytes of an earlier call asked; not frozen, since that would triple what it costs to remember a call.

    Args:
        owner: whose call it was, as `Owner.text` has it.
        told: what a door said last to such bytes that differs from hit to hit: of an answer made when, at what age, the words.
    """

    fingerprint: str
    owner: str
    caller: Caller
    model: str
    lane: str
    endpoint: str
    stream: bool
    max_age_s: float | None
    labels: Labels = ()
    told: tuple[float, float, bytes] | None = None


class Hit(msgspec.Struct, frozen=True):
    """A kept answer that may be given as it stands, to a call that was seen before."""

    entry: Entry
    age_s: float
    seen: Seen


class Drains(Protocol):
    """Who says whether calls are taken."""

    is_draining: bool


@dataclass(frozen=True, slots=True)
class HitsStats:
    """How many digests are remembered; how many calls are kept near, and their bytes."""

    remembered: int
    near: int
    near_bytes: int


class Hits:
    """
    Finds the kept answer to bytes that were seen before.

    Args:
        flow: a daemon that drains gives no hits either.
    """

    def __init__(self, clock: Clock, cache: Cache, flow: Drains) -> None:
        self._clock = clock
        self._cache = cache
        self._flow = flow
        self._memo: OrderedDict[bytes, Seen] = OrderedDict()
        self._near: dict[tuple[bytes, bytes], Seen] = {}
        self._near_bytes = 0
        self._forgot_at = -math.inf

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Hits [{stats.remembered} remembered, {stats.near} near of {stats.near_bytes} bytes]>"

    def stats(self) -> HitsStats:
        """Return its state."""
        return HitsStats(len(self._memo), len(self._near), self._near_bytes)

    def near(self, head: bytes, body: bytes) -> Hit | None:
        """Return what `glance` would, if these bytes, of which `digest` would be made, are kept near."""
        seen = self._near.get((head, body)) if len(body) <= LIGHT_BYTES else None
        return None if seen is None else self._fresh(seen)

    def bring_near(self, head: bytes, body: bytes, hit: Hit) -> None:
        """Keep bytes near that have been found, unless they are many; when all are too many, they begin anew."""
        if len(body) > LIGHT_BYTES or (head, body) in self._near:
            return
        self._near_bytes += len(body) + _NEAR_WEIGHT
        if self._near_bytes > _NEAR_BYTES:
            self._near.clear()
            self._near_bytes = len(body) + _NEAR_WEIGHT
        self._near[head, body] = hit.seen

    def glance(self, digest: bytes) -> Hit | None:
        """Return the fresh answer to the very bytes of this digest, if it lies in memory, and telling it takes but a moment."""
        seen = self._memo.get(digest)
        return None if seen is None else self._fresh(seen)

    def _fresh(self, seen: Seen) -> Hit | None:
        if self._flow.is_draining:
            return None
        now = self._clock.now()
        entry = self._cache.glance(seen.fingerprint, now, seen.max_age_s)
        if entry is None or (len(entry.answer.payload) > SMALL_BYTES and not _is_at_hand(entry, seen)):
            return None
        age_s = now - entry.answer.created
        return Hit(entry, age_s if age_s > 0 else 0.0, seen)  # another host's clock may be ahead of ours

    def remember(self, digest: bytes, call: Call) -> None:
        """
        Remember what these bytes ask, unless they ask for more than a look-up.

        Once the call is answered: before, nothing is found by it, and what is kept of calls that were never answered lies
        scattered over all the memory that a crowd of them took, so that none of it can be given back.
        """
        asks = call.cache
        if call.arrival < self._forgot_at:
            return  # what it says of its caller was configured before
        if call.idempotency_key or asks.no_store or asks.no_cache or call.no_keep:
            return
        self._memo[digest] = Seen(
            call.fingerprint,
            text_of(call.caller.name, call.credential),
            call.caller,
            call.model,
            call.lane,
            call.endpoint,
            call.stream,
            asks.max_age_s,
            call.labels,
        )
        if len(self._memo) > _MEMO:
            self._memo.popitem(last=False)

    def forget(self) -> None:
        """Forget all digests: what the configuration says of callers has changed."""
        self._forgot_at = self._clock.now()
        self._memo.clear()
        self._near.clear()
        self._near_bytes = 0


def digest(head: bytes, body: bytes) -> bytes:
    """Return the hash of all that decides an answer. The length keeps the parts apart: no two different calls run together."""
    whole = _begun(head).copy() if len(head) < _COMMON_BYTES else _begin(head)
    whole.update(body)  # as it is: a copy of a large one would hold up all other threads
    return whole.digest()


def _begin(head: bytes) -> hashlib._Hash:
    return hashlib.sha256(b"%d:%b" % (len(head), head))


_begun = functools.lru_cache(256)(_begin)  # most calls of a method begin alike, and to begin takes as long as a body of 1 KB


def http_digest(caller: str, credential: str, method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """
    Return the digest of a request as HTTP has it: who asks, method, path and query, the headers that count, and the raw body.

    By the caller's name, even where answers are shared: the budget that a hit shows is the caller's own.
    """
    counted = [f"{name}:{value}" for name, value in headers.items() if _counts(name)]
    counted.sort()
    head = "\n".join((caller, credential, method, target, *counted))
    return digest(head.encode("utf-8", "surrogateescape"), body)


@functools.lru_cache(256)  # names may have 64 KiB each
def _counts(name: str) -> bool:
    return name.lower().startswith(_COUNTS)


def outcome_of(hit: Hit, edge: str, id: str = "", trace: Trace | None = None) -> Outcome:
    """Return what came of a call that is a hit."""
    seen, answer = hit.seen, hit.entry.answer
    return Outcome(
        edge,
        seen.endpoint,
        seen.owner,
        seen.lane,
        seen.model,
        team=seen.caller.team,
        labels=labels_text(seen.labels) if seen.labels else "",
        source="cache",
        cost_class="kept",
        usage=answer.usage,
        began=answer.created + hit.age_s,
        first_s=0.0,
        request_id=answer.request_id,
        id=id,
        trace=trace,
        fingerprint=seen.fingerprint,
    )


def constant_headers(hit: Hit) -> list[tuple[str, str]]:
    """Return those headers of a hit that are the same each time the entry answers in this form."""
    return [
        SSE if hit.seen.stream else JSON,
        ("request-id", hit.entry.answer.request_id),
        ("x-headrace-source", "cache"),
        ("x-headrace-attempts", "0"),
        ("server-timing", 'cache;desc="hit"'),
        *hit.entry.answer.headers,
    ]


def varying_headers(hit: Hit) -> list[tuple[str, str]]:
    """Return those that tell of the entry's age; the caller's budget comes on top."""
    entry = hit.entry
    ttl_s = entry.fresh_until - entry.answer.created - hit.age_s
    return [("cache-status", status.hit(entry.fingerprint, ttl_s)), ("age", str(int(hit.age_s)))]


def payload(hit: Hit) -> bytes:
    """Return the answer as HTTP says it, in the form that was asked for."""
    answer, form = hit.entry.answer, _form(hit.seen)
    told: bytes | None = hit.entry.renditions.get(form)
    if told is not None:
        return told
    return forms.sse_payload(answer) if hit.seen.stream else forms.json_payload(answer)


def _form(seen: Seen) -> Form:
    return Form.EVENTS if seen.stream else Form.JSON


def _is_at_hand(entry: Entry, seen: Seen) -> bool:
    form = _form(seen)
    return entry.answer.form is form or form in entry.renditions or is_light(entry.answer.payload)
