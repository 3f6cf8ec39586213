"""
What each daemon of a rehearsal has for itself: what it has learnt, whom it lets wait, and its slots at upstream.

The budgets are common to all daemons (lines.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

from headrace.budget.estimate import Estimator
from headrace.crowd import Crowd
from headrace.rank import Flow
from headrace.rehearse.lending import Borrower
from headrace.schedule.order import Order, Urgency
from headrace.schedule.standing import Rank

_SPAN_US = 1e6  # each slot costs the same, as in schedule/slots.py

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Standing(Generic[T]):
    """A call that has its budgets and waits for a slot."""

    flow: Flow
    urgency: Urgency
    latest: float
    what: T
    costs: tuple[int, ...] = ()
    rank: Rank = (0, 0)
    charge: int = 0


class Daemon(Generic[T]):
    """One daemon. *slots* is `upstream.max_in_flight`."""

    def __init__(self, slots: int, max_waiting: int, max_waiting_bytes: int, borrower: Borrower | None = None) -> None:
        self.estimator = Estimator()
        self.crowd = Crowd(max_waiting, max_waiting_bytes)
        self.borrower = borrower
        self._slots, self._in_use = slots, 0
        self._standing: Order[Standing[T]] = Order()

    def __repr__(self) -> str:
        return f"<Daemon [{self._in_use} of {self._slots} slots, {len(self._standing)} standing]>"

    def take_free(self) -> bool:
        """Take a slot if one is free."""
        if self._in_use >= self._slots:
            return False
        self._in_use += 1
        return True

    def stand(self, place: Standing[T]) -> None:
        """Let a call wait for a slot."""
        self._standing.rank(place, _SPAN_US)
        self._standing.add(place)

    def give_back(self) -> T | None:
        """Give a slot back; return who has it at once, if somebody waits for one."""
        place = self._standing.first
        if place is None:
            self._in_use -= 1
            return None
        self._standing.remove(place)
        self._standing.serve(place)
        return place.what
