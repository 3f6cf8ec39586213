"""
Durations and sizes as people write them: "9m30s", "0.5s", "64MB", and ranges of durations, "0.5s..30s".

Inside the program a duration is a float of seconds and a size an int of bytes. Decimal and binary prefixes mean what they
say: 1 MB is 1,000,000 bytes, 1 MiB is 1,048,576. What is formatted can be parsed again, to the same value.
"""

from __future__ import annotations

import re
from decimal import Decimal

_LONGEST_S = 100 * 365 * 86_400
_LARGEST = 2**63 - 1

_NUMBER = r"(\d{1,19}(?:\.\d{1,9})?)"
_DURATION = re.compile(rf"(?:{_NUMBER}d)?(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?(?:{_NUMBER}ms)?")
_SECONDS = (Decimal(86_400), Decimal(3_600), Decimal(60), Decimal(1), Decimal("0.001"))
_SIZE = re.compile(rf"{_NUMBER} ?([A-Za-z]*)")

_BYTES = {
    "TiB": 2**40, "TB": 10**12,
    "GiB": 2**30, "GB": 10**9,
    "MiB": 2**20, "MB": 10**6,
    "KiB": 2**10, "kB": 10**3,
    "B": 1,
}  # fmt: skip
_BY_LOWER_CASE = {unit.lower(): size for unit, size in _BYTES.items()}


def parse_duration(text: str) -> float:
    """Return the seconds of "90s", "1h", "9m30s", "500ms" or "0"; raises ValueError."""
    if text == "0":
        return 0.0
    found = _DURATION.fullmatch(text) if text.isascii() else None
    if found is None or not any(found.groups()):
        raise ValueError(f"{text!r} is no duration")
    total = sum((Decimal(n) * unit for n, unit in zip(found.groups(), _SECONDS, strict=True) if n), Decimal(0))
    if total > _LONGEST_S:
        raise ValueError(f"{text!r} is longer than a hundred years")
    return float(total)


def format_duration(seconds: float) -> str:
    """Return the shortest text that `parse_duration` reads as *seconds*."""
    if seconds != int(seconds):
        return f"{Decimal(repr(seconds)):f}s"
    minutes, rest_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [f"{count}{unit}" for count, unit in ((hours, "h"), (minutes, "m"), (rest_s, "s")) if count]
    return "".join(parts) or "0s"


def parse_size(text: str) -> int:
    """Return the bytes of "64MB", "1.5GiB", "512B" or "0"; raises ValueError."""
    if text == "0":  # any other bare number is a unit forgotten: 64 hardly means 64 bytes
        return 0
    found = _SIZE.fullmatch(text) if text.isascii() else None
    unit = _BY_LOWER_CASE.get(found[2].lower()) if found else None
    if found is None or unit is None:
        raise ValueError(f"{text!r} is no size")
    size = Decimal(found[1]) * unit
    if size != int(size):
        raise ValueError(f"{text!r} is no whole number of bytes")
    if size > _LARGEST:
        raise ValueError(f"{text!r} is larger than any disk")
    return int(size)


def format_size(size: int) -> str:
    """Return the shortest text that `parse_size` reads as *size*."""
    if size == 0:
        return "0"
    return next(f"{size // n}{unit}" for unit, n in _BYTES.items() if size % n == 0)


def parse_range(text: str) -> tuple[float, float]:
    """Return the two durations of "0.5s..30s", the shorter one first; raises ValueError."""
    low, dots, high = text.partition("..")
    if not dots:
        raise ValueError(f"{text!r} is no range")
    shorter, longer = parse_duration(low.strip()), parse_duration(high.strip())
    if shorter > longer:
        raise ValueError(f"{text!r} begins with the longer one")
    return shorter, longer


def format_range(span: tuple[float, float]) -> str:
    """Return the text that `parse_range` reads as *span*."""
    return f"{format_duration(span[0])}..{format_duration(span[1])}"
