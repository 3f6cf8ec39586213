"""
Lists in pages, in the two ways in which the API has them.

Most lists are walked by id (`after_id`, `before_id`, answered with `has_more`, `first_id` and `last_id`), newer ones by a
cursor (`page`, answered with `next_page`).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from headrace.simulator.refusals import invalid

_DEFAULT = 20
_MOST = 1_000

Item = Mapping[str, Any]


def by_id(items: Sequence[Item], query: Mapping[str, str], key: str = "id") -> dict[str, Any]:
    """Return one page of *items*, which are in the order of the list."""
    size = _size(query) or _DEFAULT
    first, last = 0, len(items)
    if before := query.get("before_id"):
        if query.get("after_id"):
            raise invalid("before_id: only one of before_id and after_id may be given")
        last = _where(items, before, key, "before_id")
        first = max(0, last - size)
        has_more = first > 0
    else:
        if after := query.get("after_id"):
            first = _where(items, after, key, "after_id") + 1
        last = min(last, first + size)
        has_more = last < len(items)
    page = items[first:last]
    return {
        "data": page,
        "has_more": has_more,
        "first_id": page[0][key] if page else None,
        "last_id": page[-1][key] if page else None,
    }


def by_cursor(items: Sequence[Item], query: Mapping[str, str], default: int | None = _DEFAULT) -> dict[str, Any]:
    """Return one page of *items*; a *default* of None is all of them."""
    size = _size(query) or default or len(items)
    first = _where(items, _read_cursor(query["page"]), "id", "page") if query.get("page") else 0
    page = items[first : first + size]
    more = items[first + size : first + size + 1]
    return {"data": page, "next_page": _cursor(more[0]["id"]) if more else None}


def _size(query: Mapping[str, str]) -> int | None:
    limit = query.get("limit")
    if limit is None:
        return None
    if not limit.isdecimal():
        raise invalid("limit: Input should be a valid integer")
    if not 1 <= int(limit) <= _MOST:
        raise invalid(f"limit: Input should be from 1 to {_MOST}")
    return int(limit)


def _where(items: Sequence[Item], wanted: str, key: str, name: str) -> int:
    for index, item in enumerate(items):
        if item[key] == wanted:
            return index
    raise invalid(f"{name}: Invalid cursor")


def _cursor(item_id: str) -> str:
    return "page_" + base64.urlsafe_b64encode(item_id.encode()).decode().rstrip("=")


def _read_cursor(cursor: str) -> str:
    raw = cursor.removeprefix("page_")
    try:
        return base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4)).decode()
    except (binascii.Error, ValueError):
        raise invalid("page: Invalid cursor") from None
