"""
Upstream's troubles, as facts with a beginning and an end: our key is refused, a spend limit is reached, it cannot be reached,
or it is overloaded.

Made of what each attempt came to, here, in this process. A refused key and a spend limit are plain at once; a connection that
fails or an overload may be one call's bad luck, so these begin with the third in a row. Each ends with an answer that shows
that it is over, and an overload also when nobody has met it for a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from headrace import observe
from headrace.errors import AttemptFailed, Failure
from headrace.model import Errand
from headrace.upstream.failures import is_spend_limit

log = structlog.get_logger()

KEY, SPEND, UNREACHABLE, OVERLOADED = "key_refused", "spend_limit", "unreachable", "overloaded"
ALL = (KEY, SPEND, UNREACHABLE, OVERLOADED)

_WORDS = {
    KEY: "upstream refuses our key",
    SPEND: "upstream's spend limit is reached",
    UNREACHABLE: "upstream cannot be reached",
    OVERLOADED: "upstream is overloaded",
}
_IN_A_ROW = {UNREACHABLE: 3, OVERLOADED: 3}
_OVER_S = 60.0  # without anybody who met an overload
_SURELY_S = 5.0  # so long after the last overload an answer shows that it is over


@dataclass(slots=True)
class Trouble:
    """What upstream is in, since when (Unix seconds) it is, and when it was met last."""

    kind: str
    since: float
    last: float
    model: str = ""
    why: str = ""

    @property
    def text(self) -> str:
        """It in a line, for people."""
        since = datetime.fromtimestamp(self.since, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return f"{_WORDS[self.kind]} since {since}{f': {self.why}' if self.why else ''}"


@dataclass(frozen=True, slots=True)
class TroublesStats:
    """What upstream is in now."""

    now: tuple[Trouble, ...]


class Troubles:
    """
    The troubles of now.

    Args:
        now: returns Unix seconds.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._open: dict[str, Trouble] = {}
        self._in_a_row: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Troubles [{', '.join(self._open) or 'none'}]>"

    def stats(self) -> TroublesStats:
        """Return them."""
        self._expire()
        return TroublesStats(tuple(self._open.values()))

    def measure(self) -> None:
        """Let the metrics of upstream's troubles read from here."""
        observe.UPSTREAM_STATE.read = lambda: {(kind,): float(kind in {each.kind for each in self.stats().now}) for kind in ALL}
        observe.UPSTREAM_SINCE.read = lambda: {(each.kind,): each.since for each in self.stats().now}

    def failed(self, call: Errand, failed: AttemptFailed) -> None:
        """Take in a failed attempt."""
        kind = _kind(call, failed)
        if kind:
            self._met(kind, call, failed)
        if failed.sent and failed.error.body:  # it has answered
            self._end(UNREACHABLE)
            if kind != KEY and not call.credential:
                self._end(KEY)

    def answered(self, call: Errand) -> None:
        """Take in an answer."""
        if not self._open and not self._in_a_row:
            return
        self._end(UNREACHABLE)
        if not call.credential:
            self._end(KEY)
        spent = self._open.get(SPEND)
        if spent is not None and call.model == spent.model:
            self._end(SPEND)
        loaded = self._open.get(OVERLOADED)
        if loaded is None or self._now() - loaded.last >= _SURELY_S:
            self._end(OVERLOADED)

    def _met(self, kind: str, call: Errand, failed: AttemptFailed) -> None:
        now = self._now()
        if (known := self._open.get(kind)) is not None:
            known.last = now
            return
        self._in_a_row[kind] = self._in_a_row.get(kind, 0) + 1
        if self._in_a_row[kind] < _IN_A_ROW.get(kind, 1):
            return
        why = failed.error.message if kind == UNREACHABLE else ""  # words of ours
        self._open[kind] = Trouble(kind, now, now, call.model, why.rpartition(": ")[2])
        log.warning(observe.UPSTREAM_TROUBLED, trouble=kind, why=self._open[kind].why)

    def _end(self, kind: str) -> None:
        self._in_a_row.pop(kind, None)
        if (over := self._open.pop(kind, None)) is not None:
            log.warning(observe.UPSTREAM_WELL, trouble=kind, lasted_s=round(self._now() - over.since, 1))

    def _expire(self) -> None:
        loaded = self._open.get(OVERLOADED)
        if loaded is not None and self._now() - loaded.last >= _OVER_S:
            self._end(OVERLOADED)


def _kind(call: Errand, failed: AttemptFailed) -> str:
    error = failed.error
    if not failed.sent:
        return UNREACHABLE if error.status == 502 else ""
    if error.status == 401:
        return "" if call.credential else KEY
    if is_spend_limit(failed):
        return SPEND
    return OVERLOADED if failed.failure is Failure.OVERLOADED else ""
