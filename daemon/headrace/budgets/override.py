"""
What admins lay over the configuration at run time: other figures for a limit, or a caller's hold. Pure.

Each is a record of its own, with who laid it, why, and when it ends, by Redis's clock. What is laid over a limit changes the
figures that it names, and no others; so a reload of the configuration changes those beneath it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

import msgspec

from headrace import codec
from headrace.budget.limits import Limit, validate
from headrace.clock import is_moment
from headrace.errors import InvalidCall
from headrace.owner import is_name

MOST_REASON = 200
LONGEST_S = 366 * 86_400.0


class Figures(msgspec.Struct, frozen=True, omit_defaults=True):
    """The figures of a limit that are laid over it, as `Limit` has them; None leaves one as it is."""

    requests_per_minute: int | None = None
    input_tokens_per_minute: int | None = None
    output_tokens_per_minute: int | None = None
    total_tokens_per_minute: int | None = None
    concurrency: int | None = None
    spend_per_day: float | None = None
    spend_per_month: float | None = None
    burst_s: float | None = None

    def given(self) -> dict[str, int | float]:
        """Return those that are not None, by name."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class _Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    since: float
    until: float | None = None
    by: str
    reason: str = ""


class Override(_Record, frozen=True, kw_only=True, omit_defaults=True):
    """
    What is laid over a limit.

    Args:
        since, until: Unix seconds, by Redis's clock; without *until* it holds until it is deleted.
        by: the name of the caller who laid it.
    """

    figures: Figures


class Held(_Record, frozen=True, kw_only=True, omit_defaults=True):
    """A caller's hold, with the same beside it."""

    refuse: bool = False


R = TypeVar("R", Override, Held)


def encode(record: Override | Held) -> bytes:
    """Return a record as Redis keeps it: its end in microseconds (0: none) for the script, and the whole as JSON."""
    until_us = 0 if record.until is None else round(record.until * 1e6)
    return b"%d %s" % (until_us, msgspec.json.encode(record))


def decode(kind: type[R], value: bytes) -> R:
    """Return the record; raises `ValueError` if it is none."""
    record: R = codec.decode(value.partition(b" ")[2], kind)
    if not all(map(is_moment, (record.since, record.until or 0.0))):
        raise ValueError("holds from or until no moment")
    return record


def laid(limit: Limit, override: Override) -> Limit:
    """Return a limit with what is laid over it; raises `ValueError`, with what would be right, if that cannot be kept."""
    changed: Limit = replace(limit, **override.figures.given())  # type: ignore[arg-type]  # each is a field of it
    validate(changed)
    return changed


def check(limit: Limit, override: Override) -> None:
    """Raise `InvalidCall` unless an override makes sense over a limit."""
    if not override.figures.given():
        names = ", ".join(name.removesuffix("_s") for name in Figures.__struct_fields__)
        raise InvalidCall(f"figures: is empty; set at least one of {names}", metadata={"field": "figures"})
    try:
        laid(limit, override)
    except ValueError as error:
        field = str(error).partition(" ")[0]
        raise InvalidCall(f"limit {limit.name}: {error}", metadata={"field": f"figures.{field}"}) from None
    _check_reason(override.reason)


def check_hold(caller: str, held: Held) -> None:
    """Raise `InvalidCall` unless a hold makes sense."""
    if not is_name(caller):
        said = f"caller {caller[:80]!r}: use 1 to 64 letters, digits, dots, underscores or hyphens"
        raise InvalidCall(said, metadata={"field": "caller"})
    _check_reason(held.reason)


def _check_reason(reason: str) -> None:
    if len(reason) > MOST_REASON:
        raise InvalidCall(f"reason: has {len(reason)} characters; use {MOST_REASON} at most", metadata={"field": "reason"})


def ends(now: float, *, ttl_s: float | None = None, at: float | None = None) -> float | None:
    """Return when something ends that lasts so long, or until that moment; raises `InvalidCall` if it is over before."""
    if ttl_s is None and at is None:
        return None
    field, until = ("ttl", now + ttl_s) if ttl_s is not None else ("expire_time", at or 0.0)
    if not now < until <= now + LONGEST_S:
        said = f"{field}: ends {until - now:.0f} s from now; use more than 0 s, and {LONGEST_S:.0f} s at most"
        raise InvalidCall(said, metadata={"field": field})
    return until


def in_force(records: Mapping[str, R], now: float) -> dict[str, R]:
    """Return those that have not ended."""
    return {name: record for name, record in records.items() if record.until is None or now < record.until}
