"""
Records in Redis that cannot be read: skipped, counted by kind, and told once.

Redis is shared with other versions of ours, with people, and perhaps with somebody who means harm. Whoever reads a record there
goes on without one that is none, and says so here: one bad record costs itself and nothing else. The log has one line a record,
and of one kind no more than a few a minute, however many there are.
"""

from __future__ import annotations

import functools
import hashlib
import time
from collections import defaultdict, deque
from collections.abc import Awaitable
from typing import TypeVar

import structlog

from headrace import observe
from headrace.errors import RedisAway, RedisRefused

_T = TypeVar("_T")

log = structlog.get_logger()

_LINES_A_MINUTE = 5
_MINUTE_S = 60.0
_REMEMBERED = 4096

_told: defaultdict[str, deque[float]] = defaultdict(lambda: deque(maxlen=_LINES_A_MINUTE))


def unreadable(kind: str, record: bytes | str, event: str = observe.RECORD_UNREADABLE) -> None:
    """
    Say that a record is skipped.

    Args:
        kind: what it should be: a constant, and the label of the metric.
        record: what is there, or what it is called. Neither is said: only a hash of it is.
    """
    observe.BAD_RECORDS.inc(kind)
    _tell(kind, hashlib.sha256(record.encode(errors="replace") if isinstance(record, str) else record).hexdigest()[:12], event)


def forget() -> None:
    """Tell all anew."""
    _tell.cache_clear()
    _told.clear()


def is_misfit(error: RedisAway) -> bool:
    """Whether Redis refuses a key since it holds another type of value than ours, or one that a script cannot read."""
    return isinstance(error, RedisRefused) and error.metadata.get("code") in ("WRONGTYPE", "ERR")


async def or_nothing(kind: str, key: str, reply: Awaitable[_T]) -> _T | None:
    """Return what Redis says of a key; None, and told, if that holds another type of value. Raises `RedisAway`."""
    try:
        return await reply
    except RedisRefused as refused:
        if not is_misfit(refused):
            raise
        unreadable(kind, key)
        return None


@functools.lru_cache(_REMEMBERED)
def _tell(kind: str, digest: str, event: str) -> None:
    # Remembered, since most are read again every few seconds.
    lately, now = _told[kind], time.monotonic()  # for the log alone
    if len(lately) == _LINES_A_MINUTE and now - lately[0] < _MINUTE_S:
        return
    lately.append(now)
    log.warning(event, kind=kind, record=digest)
