"""
What an attempt says of its model class: that upstream is well, is overloaded, or has reached its spend limit.

The state itself is one for all daemons: a gate in Redis (budget/gate.py), which answers with the reserve reply and is told
with the settlement. A call whose limits ask the ledger anyhow asks the gate with them. A call that no limit holds asks
nobody, until some daemon has shut the gate: that is made known to all, and for a minute all calls of the class ask.
"""

from __future__ import annotations

import random
from calendar import monthrange
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from headrace import keys, observe
from headrace.budget.gate import ONE, Change, Told, Verdict
from headrace.budget.want import Form, Want
from headrace.clock import Clock
from headrace.errors import AttemptFailed, Failure
from headrace.link import Link
from headrace.retry.policy import jitter
from headrace.upstream.failures import is_spend_limit

log = structlog.get_logger()

PREFIX = "gate:"
_OVERLOADED = (503, 529)
_TOPIC = "gate"
_TROUBLE_S = 60.0
_MOST_DIGITS = 5  # of how long a trouble lasts, in seconds: a day
_ASK_S = 86_400.0  # a spend limit is told anew by whoever asks for it
_LONGEST_S = 366 * 86_400.0
_EVENTS = {
    Change.SHUT: observe.GATE_SHUT,
    Change.OPENED: observe.GATE_OPENED,
    Change.SPENT: observe.GATE_SPENT,
    Change.GONE: observe.GATE_GONE,
}
_CUTS = (Change.SHUT, Change.STILL_SHUT, Change.NARROWED)


@dataclass(frozen=True, slots=True)
class End:
    """How an attempt ended: as it *failed*, else answered, or nobody knows how."""

    failed: AttemptFailed | None = None
    is_answered: bool = False


ANSWERED, UNKNOWN = End(is_answered=True), End()


def verdict(end: End) -> Verdict:
    """Return what the end of an attempt says of its model class."""
    failure = end.failed
    if failure is None:
        return Verdict.WELL if end.is_answered else Verdict.UNKNOWN
    if is_spend_limit(failure):
        return Verdict.SPENT
    if failure.failure is Failure.OVERLOADED or failure.error.status in _OVERLOADED:
        return Verdict.OVERLOADED
    return Verdict.UNKNOWN


def least_s(failure: AttemptFailed, now: float) -> float:
    """Return how long it will last at least; a spend limit, of which upstream does not say: until the month is over (UTC)."""
    if failure.retry_after_s:
        return min(failure.retry_after_s, _LONGEST_S)
    if not is_spend_limit(failure):
        return 0.0
    today = datetime.fromtimestamp(now, UTC)
    first = today.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    return (first + timedelta(days=monthrange(today.year, today.month)[1])).timestamp() - now


@dataclass(frozen=True, slots=True)
class GatesStats:
    """Which model classes are troubled, as far as this process has heard, and how many calls of each are at upstream."""

    troubled: tuple[str, ...]
    in_the_air: dict[str, int]


class Gates:
    """
    The gates, as this process's calls see them.

    Args:
        hosts: how many processes share them.
        backoff_s: the first pause, and the longest.
        random: as `random.random`.
    """

    def __init__(
        self,
        link: Link,
        clock: Clock,
        *,
        hosts: Callable[[], int] = lambda: 1,
        backoff_s: tuple[float, float] = (0.5, 30.0),
        random: Callable[[], float] = random.random,
    ) -> None:
        self._link = link
        self._clock = clock
        self._hosts = hosts
        self._pause_us = round(1e6 * backoff_s[0]), round(1e6 * backoff_s[1])
        self._random = random
        self._troubled: dict[str, float] = {}  # model class -> until when all its calls ask
        self._in_the_air: dict[str, int] = {}
        self._wants: dict[str, Want] = {}
        link.on(_TOPIC, self._hear)

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Gates [{', '.join(stats.troubled) or 'all open'}, {sum(stats.in_the_air.values())} in the air]>"

    def stats(self) -> GatesStats:
        """Return its state now."""
        now = self._clock.now()
        return GatesStats(tuple(name for name, until in self._troubled.items() if until > now), dict(self._in_the_air))

    def want(self, model_class: str) -> Want:
        """Return what every call of a class wants of its gate."""
        found = self._wants.get(model_class)
        if found is None:
            if len(self._wants) >= 1024:  # model names are the callers' free text
                self._wants.clear()
            bucket_id = PREFIX + model_class
            found = self._wants[model_class] = Want(bucket_id, "upstream", "overload", Form.GATE, 0, 1, 1, "open")
        return found

    def is_troubled(self, model_class: str) -> bool:
        """Whether a gate of this class may be there, so that all its calls ask."""
        return bool(self._troubled) and self._troubled.get(model_class, 0.0) > self._clock.now()

    def is_open(self, want: Want) -> bool:
        """Whether this is a gate that nobody need ask for, as far as this process has heard."""
        return want.form is Form.GATE and not (self._troubled and self.is_troubled(want.bucket_id.removeprefix(PREFIX)))

    def enter(self, model_class: str) -> None:
        """A call of this class goes upstream."""
        if not model_class:
            return
        self._in_the_air[model_class] = self._in_the_air.get(model_class, 0) + 1

    def leave(self, model_class: str) -> None:
        """It has come back."""
        if not model_class:
            return
        self._in_the_air[model_class] -= 1
        if self._in_the_air[model_class] <= 0:
            del self._in_the_air[model_class]

    def told(self, model_class: str, end: End, age_s: float) -> Told:
        """Return what a settlement says beside its verdict; *age_s* ago the attempt was granted."""
        age_us = round(1e6 * max(0.0, age_s))
        if end.failed is None:  # no gate is shut by it
            return Told(age_us=age_us)
        least = least_s(end.failed, self._clock.now())
        return Told(
            chance=round(ONE * jitter(self._random)),
            in_the_air=max(1, self._in_the_air.get(model_class, 0) * max(1, self._hosts())),
            least_us=round(1e6 * least),
            age_us=age_us,
            first_us=self._pause_us[0],
            longest_us=self._pause_us[1],
        )

    def changed(self, bucket_id: str, change: Change) -> None:
        """Take in that a settlement of ours has changed a gate, and make known what all must know."""
        model_class = bucket_id.removeprefix(PREFIX)
        observe.GATES.inc(change.name.lower())
        if event := _EVENTS.get(change):
            (log.warning if change in (Change.SHUT, Change.SPENT) else log.info)(event, model_class=model_class)
        trouble_s = _TROUBLE_S if change in _CUTS else _ASK_S if change is Change.SPENT else 0.0
        self._link.do("PUBLISH", keys.ALL, f"{_TOPIC} {trouble_s:.0f} {model_class}")

    def _hear(self, payload: bytes) -> None:
        seconds, _, model_class = payload.decode(errors="replace").partition(" ")
        now = self._clock.now()
        self._troubled = {name: until for name, until in self._troubled.items() if until > now}
        if seconds.isdecimal() and len(seconds) <= _MOST_DIGITS and int(seconds):  # anybody may publish anything
            self._troubled[model_class] = now + int(seconds)
