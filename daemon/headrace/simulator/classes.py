"""
Model classes: which models share one set of limits.

All Opus 4 models do, and all Sonnet 4 models; any other model has limits of its own, together with its dated snapshots. This
table is the simulator's own, so that a mistake in the daemon's is not made twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_FAMILIES = ("claude-opus-4", "claude-sonnet-4")
_SNAPSHOT = re.compile(r"-(\d{8}|latest)$")


def model_class(model: str) -> str:
    """Return the name of a model's class."""
    shared = (family for family in _FAMILIES if f"{model}-".startswith(f"{family}-"))
    return next(shared, _SNAPSHOT.sub("", model))


def by_class(models: Iterable[str]) -> dict[str, list[str]]:
    """Return models by their class, in the order in which they come."""
    grouped: dict[str, list[str]] = {}
    for model in models:
        grouped.setdefault(model_class(model), []).append(model)
    return grouped
