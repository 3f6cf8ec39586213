"""
Limits that can never bind, since another one that holds for the same calls, and is shared at least as widely, is no larger.

A limit is held kind by kind (requests, tokens, calls in the air, spend); one that another bounds in each of its kinds only
looks as if it held anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase

from headrace.budget.limits import Limit, Match

Figures = dict[str, tuple[float, ...]]  # by what is bounded; of a rate what flows in by the minute, and what the bucket holds


def never_bind(limits: Sequence[Limit]) -> Iterator[str]:
    """Yield a sentence for each limit that the others make idle."""
    for n, limit in enumerate(limits):
        if limit.shadow:
            continue
        over = [other for m, other in enumerate(limits) if m != n and _is_before(other, limit, is_first=m < n)]
        named = {what: _smallest(over, what, figures) for what, figures in _figures(limit).items()}
        if named and all(named.values()):
            others = ", ".join(sorted({other.name for other in named.values() if other}))
            yield f"limit[{limit.name}]: can never bind, since {others} holds for the same calls, and is no larger"


def _smallest(over: Sequence[Limit], what: str, figures: tuple[float, ...]) -> Limit | None:
    return next((other for other in over if _holds(_figures(other).get(what), figures)), None)


def _holds(other: tuple[float, ...] | None, figures: tuple[float, ...]) -> bool:
    return other is not None and all(one <= another for one, another in zip(other, figures, strict=True))


def _is_before(other: Limit, limit: Limit, *, is_first: bool) -> bool:
    """Whether *other* holds whatever *limit* does. Of two that are the same only the later one is idle."""
    if other.shadow or not _covers(other.match, limit.match) or not set(other.per) <= set(limit.per):
        return False
    is_same = _covers(limit.match, other.match) and set(limit.per) == set(other.per) and _figures(limit) == _figures(other)
    return other.cache_read_weight >= limit.cache_read_weight and (is_first or not is_same)


def _figures(limit: Limit) -> Figures:
    rates: Figures = {kind: (rate, limit.capacity(rate)) for kind, rate in limit.rates}
    windows: Figures = {f"{span} {limit.zone}": (amount,) for span, amount in limit.windows}
    return rates | windows | ({} if limit.concurrency is None else {"concurrency": (limit.concurrency,)})


def _covers(wide: Match, narrow: Match) -> bool:
    if wide.endpoint not in (narrow.endpoint, "*") or not set(wide.labels) <= set(narrow.labels):
        return False
    skipped = {"endpoint", "labels"}
    names = [name for name in Match.__dataclass_fields__ if name not in skipped]
    return all(_is_in(getattr(narrow, name), getattr(wide, name)) for name in names)


def _is_in(narrow: str, wide: str) -> bool:
    # A pattern as a text: what "claude-*" fits is all in what "*" fits, and in itself; that is as far as this goes.
    return wide in ("*", narrow) or (not any(mark in narrow for mark in "*?[") and fnmatchcase(narrow, wide))
