"""
What calls have reserved and not settled yet, bucket by bucket, and how good the estimates were: for those who look, and for
nobody's decision.

What is in the air is what was reserved less what was closed; it may still turn out to be too little, by about as much as what
was closed did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from headrace import observe
from headrace.budget.costs import USES
from headrace.budget.want import Want
from headrace.instruments import Cell

_BOUND = 8192  # buckets that are remembered though nothing is reserved of them
_PARTS = ("reserved", "closed", "under", "over")


@dataclass(frozen=True, slots=True)
class Share:
    """So many calls have reserved so much."""

    calls: int = 0
    amount: int = 0


class _Book:
    """What is reserved of one bucket, and its part of the metric, which counts what depends on use."""

    __slots__ = ("amount", "calls", "closed", "over", "reserved", "under")

    def __init__(self, want: Want) -> None:
        self.calls = self.amount = 0
        is_shown = want.kind in USES
        cells = [observe.ESTIMATED.at(want.limit, want.kind, part) if is_shown else Cell() for part in _PARTS]
        self.reserved, self.closed, self.under, self.over = cells


class Reserved:
    """What this process has reserved."""

    def __init__(self) -> None:
        self._books: dict[str, _Book] = {}  # by bucket id

    def __repr__(self) -> str:
        return f"<Reserved [{len(self.stats())} buckets]>"

    def stats(self) -> Mapping[str, Share]:
        """Return what is reserved now, by bucket id."""
        return {bucket_id: Share(book.calls, book.amount) for bucket_id, book in self._books.items() if book.calls}

    def add(self, wants: Sequence[Want]) -> None:
        """A call has reserved these."""
        for want in wants:
            book = self._books.get(want.bucket_id) or self._open(want)
            book.calls += 1
            book.amount += want.cost
            book.reserved.count += want.cost

    def amend(self, wants: Sequence[Want], actual: Mapping[str, int]) -> None:
        """So much became known while the call goes on: so much less of these, or more, is in the air."""
        for want in wants:
            more = actual.get(want.bucket_id, want.cost) - want.cost
            book = self._books[want.bucket_id]
            book.amount += more
            if more > 0:
                book.reserved.count += more
                book.under.count += more
            else:
                book.closed.count -= more
                book.over.count -= more

    def close(self, wants: Sequence[Want], actual: Mapping[str, int]) -> None:
        """It holds these no longer; it used so much of them, as far as is known."""
        for want in wants:
            book, cost = self._books[want.bucket_id], want.cost
            book.calls -= 1
            book.amount -= cost
            book.closed.count += cost
            more = actual.get(want.bucket_id, cost) - cost
            if more > 0:
                book.under.count += more
            else:
                book.over.count -= more

    def _open(self, want: Want) -> _Book:
        if len(self._books) >= _BOUND:
            self._books = {bucket_id: book for bucket_id, book in self._books.items() if book.calls}
        book = self._books[want.bucket_id] = _Book(want)
        return book
