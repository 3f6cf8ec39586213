"""
Model classes: the models that share one set of limits upstream. Pure.

Upstream counts some families' models in one bucket, and a model's dated snapshots always. Which models those are is a table of
globs, of which the first that fits decides; a model that no glob fits is a class of its own, named after it without its date.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from types import MappingProxyType

Table = Mapping[str, tuple[str, ...]]

# As upstream's page on rate limits has it: all Opus 4 models share their limits, all Sonnet 4 models theirs, and no others do.
DEFAULT: Table = MappingProxyType(
    {
        "opus-4": ("claude-opus-4", "claude-opus-4-*"),
        "sonnet-4": ("claude-sonnet-4", "claude-sonnet-4-*"),
    }
)

_DATE = re.compile(r"[-@](\d{8}|latest)\Z")
_MEMO = 4096


class ModelClasses:
    """
    Says which class a model is of.

    Args:
        table: class by class, globs of its models; laid over the default, so that one class can be set without the others.
    """

    def __init__(self, table: Table | None = None) -> None:
        self._table = {**(table or {}), **{name: globs for name, globs in DEFAULT.items() if name not in (table or {})}}
        self._memo: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<ModelClasses [{', '.join(self._table)}]>"

    def of(self, model: str) -> str:
        """Return the name of the model's class; "" for no model."""
        found = self._memo.get(model)
        if found is None:
            if len(self._memo) >= _MEMO:  # model names are the callers' free text
                self._memo.clear()
            found = self._memo[model] = self._find(model)
        return found

    def _find(self, model: str) -> str:
        for name, globs in self._table.items():
            if any(fnmatchcase(model, glob) for glob in globs):
                return name
        return _DATE.sub("", model)


_DEFAULT = ModelClasses()


def class_of(model: str) -> str:
    """Return the class of a model by the default table."""
    return _DEFAULT.of(model)
