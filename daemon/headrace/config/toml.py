"""Plain values as TOML: what `headrace config show` prints, and what can be read again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

_BARE = re.compile(r"[A-Za-z0-9_-]+")


def dumps(values: Mapping[str, Any]) -> str:
    """Return the tables as TOML text."""
    return "\n".join(_table(values, ())).lstrip("\n") + "\n"


def _table(values: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    for name, value in values.items():
        if not _is_table(value) and not _is_rows(value):
            yield f"{_key(name)} = {_inline(value)}"
    for name, value in values.items():
        header = ".".join(_key(part) for part in (*path, name))
        if _is_table(value):
            # A table of nothing but tables needs no header of its own.
            if not value or not all(_is_table(inner) for inner in value.values()):
                yield f"\n[{header}]"
            yield from _table(value, (*path, name))
        elif _is_rows(value):
            for row in value:
                yield f"\n[[{header}]]"
                yield from (f"{_key(inner)} = {_inline(item)}" for inner, item in row.items())


def _is_table(value: object) -> bool:
    return isinstance(value, Mapping)


def _is_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and all(_is_table(item) for item in value)


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(name)} = {_inline(item)}' for name, item in value.items())} }}" if value else "{}"
    if isinstance(value, list):
        return f"[{', '.join(_inline(item) for item in value)}]"
    if isinstance(value, str):  # a path of the environment's need not be UTF-8
        value = value.encode(errors="replace").decode()
    # JSON's texts, numbers and booleans are TOML's, but for one character.
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _inline(name)
