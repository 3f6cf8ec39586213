"""
A list with only one's own in it, made of the pages of upstream's list. Pure.

Most lists go on by id: a page has so many of one's own as were asked for, of however many pages of upstream's, and `has_more`,
`first_id` and `last_id` speak of one's own, as though there were no others. Lists that go on by a cursor are filtered page by
page: a page may have few items, or none, and its cursor leads on. Items stay the bytes that they were.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import msgspec

from headrace.model import Headers

_USUAL = 20
_MOST_PAGES = 50
_Raw = msgspec.Raw
_OF_ALL = frozenset({
    "accept-ranges", "content-digest", "content-md5", "content-range", "digest", "etag", "last-modified", "link", "location",
    "repr-digest",
})  # fmt: skip
_COUNTS = re.compile(r"total|count|cursor|(first|last|next|prev)[a-z]*-")


class _Item(msgspec.Struct):
    id: str


class _Head(msgspec.Struct):
    data: list[msgspec.Raw]
    has_more: bool | None = None


class Listing:
    """
    One request for a page of a list. `take` upstream's answer to `target`, and on, until that is "".

    Args:
        target: path and query, as the caller asks.
        page: how many items upstream gives at once; 0 if nobody knows.
    """

    def __init__(self, target: str, page: int = 0) -> None:
        self._most = page
        self._path, _, query = target.partition("?")
        self._query = parse_qsl(query, keep_blank_values=True)
        named = dict(self._query)
        self._limit = int(limit) if (limit := named.get("limit", "")).isdecimal() and len(limit) < 5 else _USUAL
        self._is_backward = bool(named.get("before_id"))
        self._page: dict[str, msgspec.Raw] = {}
        self._own: list[tuple[str, msgspec.Raw]] = []
        self._pages = 0
        self._is_by_id = False
        self._has_more = False
        self._edge = ""  # the last thing that was seen, in the direction of the walk
        self.target = target

    def __repr__(self) -> str:
        return f"<Listing {self._path} [{len(self._own)} own of {self._pages} pages]>"

    def take(self, body: bytes) -> list[tuple[str, msgspec.Raw]]:
        """Return the items of a page with their ids, for `keep`; ValueError if it is no page of a list."""
        try:
            head = msgspec.json.decode(body, type=_Head)
            page = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            items = [(msgspec.json.decode(item, type=_Item).id, item) for item in head.data]
        except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors, too
            raise ValueError("no page of a list") from error
        self._page = self._page or page
        self._pages += 1
        self._is_by_id = head.has_more is not None
        self._has_more = bool(head.has_more) and bool(items)
        if items:
            self._edge = items[0 if self._is_backward else -1][0]
        return items

    def beside(self) -> list[tuple[str, bytes]]:
        """Return what the page says beside its items and where it ends."""
        return [(name, bytes(said)) for name, said in self._page.items() if name not in ("data", "first_id", "last_id")]

    def leave_out(self, name: str) -> None:
        """Say nothing by this name."""
        self._page.pop(name)

    def keep(self, items: list[tuple[str, msgspec.Raw]], is_own: Callable[[str, msgspec.Raw], bool]) -> None:
        """Keep those of the page that are one's own, and go on if there are not enough."""
        own = [(thing, item) for thing, item in items if is_own(thing, item)]
        self._own = own + self._own if self._is_backward else self._own + own
        self.target = self._next() if self._is_by_id and self._has_more and not self._is_full else ""

    @property
    def _is_full(self) -> bool:
        # One more than was asked for tells that there is more.
        return len(self._own) > self._limit or self._pages >= _MOST_PAGES

    def _next(self) -> str:
        cursor = "before_id" if self._is_backward else "after_id"
        less = ("after_id", "before_id", *(("limit",) if self._most else ()))
        kept = [(name, value) for name, value in self._query if name not in less]
        asked = [*kept, *([("limit", str(self._most))] if self._most else []), (cursor, self._edge)]
        return f"{self._path}?{urlencode(asked, quote_via=quote)}"

    def body(self) -> bytes:
        """Return the page that the caller is given."""
        if not self._is_by_id:
            return msgspec.json.encode(self._page | {"data": _raw([item for _, item in self._own])})
        page = self._own[-self._limit :] if self._is_backward else self._own[: self._limit]
        is_left = len(self._own) > len(page) or self._has_more
        first, last = (page[0][0], page[-1][0]) if page else (None, None)
        if not page and is_left:  # nothing of one's own for so long: who asks on must be able to
            first = last = self._edge
        said = {"data": [item for _, item in page], "has_more": is_left, "first_id": first, "last_id": last}
        return msgspec.json.encode(self._page | {name: _raw(value) for name, value in said.items()})


def said_of_own(headers: Headers) -> Headers:
    """Return the headers of a list less those that speak of all that there is."""
    return tuple(pair for pair in headers if pair[0] not in _OF_ALL and not _COUNTS.search(pair[0]))


def _raw(value: Any) -> msgspec.Raw:
    return _Raw(msgspec.json.encode(value))
