"""
What operators and admins did: who, what, to whom, why. One line in the log, and the last ten thousand acts in Redis.

An act is noted after it was done, so what is noted happened; one that was done as Redis went away is in the log alone. Acts
from the command line that need no daemon (keys, purges) are noted by the command.
"""

from __future__ import annotations

import re

import msgspec
import structlog

from headrace import codec, keys, observe, records
from headrace.errors import InvalidCall, RedisAway
from headrace.link import Link

MOST_REASON = 200  # characters
_KEPT = 10_000
_END_OF_TIME_MS = 253_402_300_800_000  # the year 10,000
_is_place = re.compile(r"[0-9]{1,20}-[0-9]{1,20}").fullmatch

log = structlog.get_logger()


class Act(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """
    What somebody did.

    Args:
        at: when, in Unix seconds.
        by: a caller's name, or a user of a daemon's machine, as "uid:0".
        what: a noun and a participle, as "limit.set"; target: to whom or what; details: more of what.
        instance: the process that did it.
    """

    at: float = 0.0
    by: str
    what: str
    target: str = ""
    reason: str = ""
    details: str = ""
    instance: str = ""


class Audit:
    """
    Notes acts, and tells them.

    Args:
        tells: whether acts are lines in the log, too; a command on the command line has none.
    """

    def __init__(self, link: Link, *, tells: bool = True) -> None:
        self._link = link
        self._tells = tells

    def __repr__(self) -> str:
        return "<Audit>"

    async def note(self, what: str, target: str, *, by: str, reason: str = "", details: str = "") -> None:
        """Note what was done; while Redis is away in the log alone."""
        act = Act(by=by, what=what, target=target, reason=reason, details=details, instance=self._link.instance)
        if self._tells:
            log.info(observe.ACT_DONE, act=what, target=target, by=by, reason=reason, details=details)
        try:
            await self._link.do("XADD", keys.AUDIT, "MAXLEN", "~", _KEPT, "*", "act", msgspec.json.encode(act))
        except RedisAway:
            return

    async def page(self, size: int = 50, token: str = "") -> tuple[list[Act], str]:
        """Return so many acts, the latest first, and the token of those before; raises `InvalidCall` and `RedisAway`."""
        if token and not _is_place(token):
            raise InvalidCall("page_token is not one that ListActs returned", metadata={"field": "page_token"})
        asked = self._link.do("XREVRANGE", keys.AUDIT, f"({token}" if token else "+", "-", "COUNT", size)
        rows = await records.or_nothing("act", keys.AUDIT, asked) or []
        acts = [act for act in (_read(place, fields) for place, fields in rows) if act is not None]
        return acts, rows[-1][0].decode() if len(rows) == size else ""


def _read(place: bytes, fields: list[bytes]) -> Act | None:
    try:
        act = codec.decode(dict(zip(fields[::2], fields[1::2], strict=False)).get(b"act", b""), Act)
        at_ms = int(place.partition(b"-")[0])
        if at_ms >= _END_OF_TIME_MS:
            raise ValueError("done at no moment")
        return msgspec.structs.replace(act, at=at_ms / 1000)
    except (ValueError, OverflowError):
        records.unreadable("act", place)
        return None


def check(reason: str) -> None:
    """Raise `InvalidCall` for a reason that is too long."""
    if len(reason) > MOST_REASON:
        raise InvalidCall(f"reason: has {len(reason)} characters; use {MOST_REASON} at most", metadata={"field": "reason"})
