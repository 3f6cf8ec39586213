"""
Limits that nobody configured: learnt from what upstream says, kept in Redis for all daemons, held from the first answer on.

It works only where there is no `[[limit]]` at all. Whoever configures one has said what shall be held.

Before the first answer nobody knows anything. So one call of each model class goes first, and the others wait for its head,
for a second at most: a start under over-demand is no herd. Who goes first next time is decided anew if the first brings no
head in ten. What that head says is left is told to the new buckets before any of the others draws from them: whoever went
after that second has used some of it, and no bucket knows.

A learned limit is a limit like any other: it bounds what the organisation has of a model class, and when Redis is away each
daemon holds its part.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec
import structlog

from headrace import codec, keys, observe, records
from headrace.budget.limits import Limit, Match, validate
from headrace.budget.organisation import Own
from headrace.budget.want import Kind
from headrace.clock import Clock, until_set
from headrace.errors import RedisAway
from headrace.link import Link
from headrace.tuning.heed import Word

log = structlog.get_logger()

By = Literal["answers", "account"]

_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,50}\Z")
_MOST_CLASSES = 256
_LONGEST_NAME = 512  # bytes
_HERALD_S = 1.0  # so long others wait for the head of the first call
_ANEW_S = 10.0
_KEPT_S = 31 * 86_400.0  # what was learnt and has not been heard of since
_LOOK_EVERY_S = 60.0  # should a nudge have been lost
_ACCOUNT_BURST_S = 60
_TOPIC = "learned"


class Learned(msgspec.Struct, frozen=True):
    """
    What is known of the limits of one model class.

    Args:
        rates: a minute, by kind.
        burst_s: a bucket holds what flows in during so long; the most that was seen.
        since: when it was first heard (Unix seconds).
        by: from the heads of answers, or from the account's own list.
    """

    rates: dict[Kind, int]
    burst_s: int
    since: float
    by: By = "answers"

    def limit(self, model_class: str) -> Limit:
        """Return the limit that holds it."""
        return Limit(
            f"learned.{model_class if _PLAIN.match(model_class) else _hash(model_class)}",
            Match(model_class=_literally(model_class)),
            requests_per_minute=self.rates.get("requests"),
            input_tokens_per_minute=self.rates.get("input_tokens"),
            output_tokens_per_minute=self.rates.get("output_tokens"),
            total_tokens_per_minute=self.rates.get("total_tokens"),
            burst_s=max(self.burst_s, *(math.ceil(60 / rate) for rate in self.rates.values())),
            on_redis_loss="share",
        )


@dataclass(frozen=True, slots=True)
class LearnerStats:
    """What is known, by model class, and how many classes wait for the head of their first call."""

    known: Mapping[str, Learned]
    heralds: int


@dataclass(slots=True)
class _Herald:
    """The first call of a class is under way."""

    since: float
    heard: asyncio.Future[None]


class Learner:
    """
    Learns limits. Run `keep` as a task.

    Args:
        on_change: called when the limits have changed.
    """

    def __init__(self, link: Link, clock: Clock, on_change: Callable[[], None] = lambda: None, *, is_on: bool = True) -> None:
        self.is_on = is_on
        self._link = link
        self._clock = clock
        self._on_change = on_change
        self._known: dict[str, Learned] = {}
        self._heard: dict[str, None] = {}  # classes of which a head has come, whatever it said
        self._heralds: dict[str, _Herald] = {}
        self._is_stale = asyncio.Event()
        link.on(_TOPIC, lambda _: self._is_stale.set())

    def __repr__(self) -> str:
        return f"<Learner [{'on' if self.is_on else 'off'}, {len(self._known)} classes]>"

    def stats(self) -> LearnerStats:
        """Return what is known."""
        return LearnerStats(dict(self._known), len(self._heralds))

    def limits(self) -> tuple[Limit, ...]:
        """Return the limits that are known."""
        return tuple(learned.limit(model_class) for model_class, learned in self._known.items()) if self.is_on else ()

    # Before the first answer.

    def must_wait(self, model_class: str) -> bool:
        """
        Return whether a call of this class is to wait for the head of the first; for the first itself it is not.

        Whoever is told no goes: it is the first from now on if nothing is known.
        """
        if not self.is_on or model_class in self._known or model_class in self._heard:
            return False
        now, herald = self._clock.now(), self._heralds.get(model_class)
        if herald is None or now - herald.since >= _ANEW_S:
            self._drop_old(now)
            self._heralds[model_class] = _Herald(now, asyncio.get_running_loop().create_future())
            return False
        return now - herald.since < _HERALD_S

    async def first_head(self, model_class: str, latest: float) -> None:
        """Wait for the head of the first call, for as long as it makes sense, and no longer than until *latest*."""
        herald = self._heralds.get(model_class)
        if herald is None:
            return
        bound = self._clock.timeout(min(herald.since + _HERALD_S, latest) - self._clock.now())
        try:
            async with bound:
                await asyncio.shield(herald.heard)
        except TimeoutError:
            if not bound.expired():
                raise

    def _drop_old(self, now: float) -> None:
        if len(self._heralds) >= _MOST_CLASSES:
            self._heralds = {name: herald for name, herald in self._heralds.items() if now - herald.since < _ANEW_S}

    # Learning.

    def hear(self, model_class: str, word: Word) -> bool:
        """Take in what the head of an answer of this class says; return whether its limits were not known before."""
        if not self.is_on:
            return False
        is_new = bool(word) and model_class not in self._known
        herald = self._heralds.pop(model_class, None)
        if len(self._heard) >= _MOST_CLASSES:
            self._heard.clear()
        self._heard[model_class] = None
        if word:
            rates = {kind: said.per_minute for kind, said in word.readings.items()}
            self._learn(model_class, rates, max(said.burst_s for said in word.readings.values()), "answers")
        if herald is not None and not herald.heard.done():
            herald.heard.set_result(None)
        return is_new and model_class in self._known

    def read(self, account: Mapping[str, Own]) -> None:
        """Take in what the account's own list says; answers know better: they tell of a workspace's limits, too."""
        for model_class, own in account.items():
            known = self._known.get(model_class)
            if known is None or known.by == "account":
                self._learn(model_class, own.rates, _ACCOUNT_BURST_S, "account")

    def _learn(self, model_class: str, rates: Mapping[Kind, int], burst_s: int, by: By) -> None:
        known = self._known.get(model_class)
        if known is not None and known.rates == rates:
            if known.burst_s >= burst_s and known.by == by:
                return
            burst_s = burst_s if known.by == "account" else max(known.burst_s, burst_s)
        if not self.is_on or (known is None and len(self._known) >= _MOST_CLASSES):
            return
        learned = Learned(dict(rates), burst_s, self._clock.now(), by)
        self._known[model_class] = learned
        if known is None or known.rates != rates:
            log.info(observe.LIMIT_LEARNED, model_class=model_class, by=by, rates=dict(rates), burst_s=burst_s)
        self._on_change()
        self._link.do("HSET", keys.LEARNED, model_class, msgspec.json.encode(learned))
        self._link.do("PUBLISH", keys.ALL, f"{_TOPIC} ")

    # Together with the other daemons.

    async def keep(self) -> None:
        """Read what others have learnt: at the start, whenever they have learnt more, and now and then; until cancelled."""
        while True:
            self._is_stale.clear()
            await self._load()
            await until_set(self._is_stale, self._clock, _LOOK_EVERY_S)

    async def _load(self) -> None:
        try:
            stored = await self._link.do("HGETALL", keys.LEARNED)
        except RedisAway:
            return
        found = {
            name.decode(): learned
            for name, value in stored.items()
            if (learned := _read(name, value)) and self._clock.now() - learned.since < _KEPT_S
        }
        before, self._known = self._known, self._known | found
        if any(name not in before or before[name].limit("") != learned.limit("") for name, learned in found.items()):
            self._on_change()


def _read(name: bytes, value: bytes) -> Learned | None:
    try:
        learned, model_class = codec.decode(value, Learned), name[: _LONGEST_NAME + 1].decode()
        if not learned.rates or min(learned.rates.values()) < 1 or len(name) > _LONGEST_NAME:
            raise ValueError("no rates")
        validate(learned.limit(model_class))
    except (ValueError, ArithmeticError):
        records.unreadable("learned limit", value)
        return None
    return learned


def _hash(model_class: str) -> str:
    return "-" + hashlib.sha256(model_class.encode("utf-8", "surrogatepass")).hexdigest()[:24]


def _literally(text: str) -> str:
    return re.sub(r"([*?[])", r"[\1]", text)
