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
from headrace.schedule.slots import SPARE
from headrace.schedule.standing import Rank
from headrace.share import Share

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
        self._slots = Share(slots, slots // SPARE)
        self._standing: Order[Standing[T]] = Order()

    def __repr__(self) -> str:
        return f"<Daemon [{self._slots.taken} of {self._slots.most} slots, {len(self._standing)} standing]>"

    def take_free(self, flow: Flow) -> bool:
        """Take a slot for a call if there is one for it."""
        if not self._has_room(flow):
            return False
        self._slots.take(flow.caller, 1, _weight(flow))
        return True

    def _has_room(self, flow: Flow) -> bool:
        return self._slots.has_room(flow.caller, 1, _weight(flow))

    def stand(self, place: Standing[T]) -> None:
        """Let a call wait for a slot."""
        self._standing.rank(place, _SPAN_US)
        self._standing.add(place)

    def give_back(self, flow: Flow) -> None:
        """Give a call's slot back."""
        self._slots.give_back(flow.caller)

    def next(self) -> T | None:
        """Take a slot for whoever is next of those that may have one, and return who that is."""
        place = self._standing.first_of(lambda place: self._has_room(place.flow))
        if place is None:
            return None
        self._standing.remove(place)
        self._standing.serve(place)
        self._slots.take(place.flow.caller, 1, _weight(place.flow))
        return place.what


def _weight(flow: Flow) -> int:
    return flow.share * flow.weight
