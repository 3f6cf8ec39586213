"""Figures as people read them: spans, amounts, shares, money. Pure; the page and `top` share it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

KINDS = {
    "requests": "requests",
    "input_tokens": "input tokens",
    "output_tokens": "output tokens",
    "total_tokens": "tokens",
    "concurrency": "at once",
    "spend": "spend",
    "overload": "overload",
}

_NANO = 1_000_000_000


def span(seconds: float | None) -> str:
    """Return a span in its two largest units, below ten seconds to the tenth; "" of none."""
    if seconds is None:
        return ""
    seconds = max(0.0, seconds)
    if seconds < 0.0995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    days, hours, minutes = whole // 86_400, whole // 3600 % 24, whole // 60 % 60
    parts = [f"{count} {unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (whole % 60, "s")) if count]
    return " ".join(parts[:2]) or "0 s"


def short(seconds: float | None) -> str:
    """Return a span in six characters at most, as "850ms", "14s", "1m30s" or "2h05m"; "-" of none."""
    if seconds is None:
        return "-"
    seconds = max(0.0, seconds)
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f}ms"
    whole = round(seconds)
    for small, large, size in (("s", "m", 60), ("m", "h", 3600), ("h", "d", 86_400)):
        unit = size // {"m": 60, "h": 60, "d": 24}[large]
        if whole < size:
            return f"{whole // unit}{small}"
        if whole < size * {"m": 60, "h": 24, "d": 100}[large]:
            return f"{whole // size}{large}{whole % size // unit:02}{small}"
    return f"{whole // 86_400}d"


def count(figure: float | None) -> str:
    """Return an amount, short from ten thousand on."""
    if figure is None:
        return ""
    if abs(figure) < 10_000:
        return f"{figure:,.0f}" if figure >= 10 or figure == int(figure) else f"{figure:.1f}"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(figure) >= size:
            return f"{figure / size:.1f}{unit}" if abs(figure) < 100 * size else f"{figure / size:,.0f}{unit}"
    return f"{figure:,.0f}"


def money(nano_usd: float) -> str:
    """Return dollars; small sums to the tenth of a cent."""
    dollars = nano_usd / _NANO
    return f"${dollars:,.2f}" if dollars >= 1 or dollars == 0 else f"${dollars:.4f}"


def amount(kind: str, figure: int) -> str:
    """Return so much of a kind."""
    return money(figure) if kind == "spend" else count(figure)


def share(part: float | None) -> str:
    """Return a share in percent; "" of none."""
    return "" if part is None else f"{100 * part:.0f} %"


def whose(of: Mapping[str, str]) -> str:
    """Return whose a bucket is: the values of what its limit's `per` names; "" where all share it."""
    return ", ".join(f"{name} {value}" for name, value in sorted(of.items()))


def moment(seconds: float | None) -> str:
    """Return a moment of today, to the second, by UTC; "" of none."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S")


def day(seconds: float | None) -> str:
    """Return a moment with its day, by UTC; "" of none."""
    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")
