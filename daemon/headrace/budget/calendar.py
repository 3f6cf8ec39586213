"""Calendar windows: the day or the month that a moment lies in, in some zone. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo

Span = Literal["day", "month"]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A day or a month: when it begins and ends, in Unix seconds."""

    begins: int
    ends: int

    @property
    def id(self) -> str:
        """Its beginning as part of a bucket's id: the same moment has the same one, whatever the zone."""
        return datetime.fromtimestamp(self.begins, UTC).strftime("%Y-%m-%dT%H:%MZ")


def zone_of(name: str) -> tzinfo:
    """Return a zone by its name in the tz database; ValueError if there is none on this machine."""
    if name == "UTC":
        return UTC  # also where there is no database
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"no zone {name!r}") from error


def stretch(span: Span, zone: tzinfo, now: float) -> Stretch:
    """Return the day or the month that *now* lies in."""
    today = datetime.fromtimestamp(now, zone).replace(tzinfo=None, hour=0, minute=0, second=0, microsecond=0)
    first = today if span == "day" else today.replace(day=1)
    following = first + timedelta(days=1) if span == "day" else (first + timedelta(days=32)).replace(day=1)
    return Stretch(_moment(first, zone), _moment(following, zone))


def _moment(midnight: datetime, zone: tzinfo) -> int:
    # Where clocks go forward at midnight there is none: this is then the moment at which they do.
    return int(midnight.replace(tzinfo=zone).timestamp())
