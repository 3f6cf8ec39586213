"""
What a reload changes, by the names of keys: what is taken at once, and what waits for a restart. Pure; no value is ever said.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from headrace.budget.limits import Limit
from headrace.config.tables import Settings, attribute, fields_of

# All else is bound or built when the process begins.
_TAKEN = (
    "limit[", "caller.", "class.", "lane.", "price.", "log.", "metrics.", "auth.", "listen.tls_clients",
    "upstream.api_key", "upstream.admin_api_key",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Changes:
    """
    Names of keys.

    Args:
        taken: what is other than it was before the reload, and holds from now on.
        waiting: what is other than when the process began, and needs a restart.
    """

    taken: tuple[str, ...]
    waiting: tuple[str, ...]


def changes(begun: Settings, before: Settings, now: Settings) -> Changes:
    """Return what differs in *now* from the settings *before* the reload, and from those with which the process began."""
    return Changes(
        tuple(name for name in _differing(before, now) if name.startswith(_TAKEN)),
        tuple(name for name in _differing(begun, now) if not name.startswith(_TAKEN)),
    )


def _differing(one: Settings, other: Settings) -> list[str]:
    first, second = dict(_flat(one)), dict(_flat(other))
    return sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))


def _flat(settings: Settings) -> Iterator[tuple[str, Any]]:
    for table in fields_of(Settings):
        value = getattr(settings, attribute(table))
        if isinstance(value, tuple):
            yield from ((f"{table}[{limit.name}]", limit) for limit in value if isinstance(limit, Limit))
        elif isinstance(value, dict):
            yield from ((f"{table}.{name}", inner) for name, inner in value.items())
        elif isinstance(value, msgspec.Struct):
            yield from ((f"{table}.{key}", getattr(value, attribute(key))) for key in fields_of(type(value)))
