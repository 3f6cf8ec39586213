"""
Who stands, in fair order: flows by rank (rank.py), and within a flow the earliest deadline first. Pure.

Each place that comes is given a rank, and with it moves its flow's finish on. The ranks belong to the flow, and not to places:
the lowest of them goes to whoever of the flow has the earliest deadline, or, of equal deadlines, came first. A call that was
parked and comes back has its old deadline and arrival, and so its old place within its flow.
"""

from __future__ import annotations

import bisect
import heapq
from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter, itemgetter
from typing import Generic, Protocol, TypeVar

from headrace.rank import Fair, Flow
from headrace.schedule.outlook import Delay, Outlook
from headrace.schedule.standing import Rank, Ranks

Urgency = tuple[float, float, int]  # deadline, arrival, and a number that tells equals apart
_urgency = attrgetter("urgency")


class Ordered(Protocol):
    """What is needed of a place; its rank and charge are written here."""

    rank: Rank
    charge: int

    @property
    def flow(self) -> Flow: ...
    @property
    def urgency(self) -> Urgency: ...
    @property
    def costs(self) -> tuple[int, ...]: ...
    @property
    def latest(self) -> float: ...


P = TypeVar("P", bound=Ordered)


class _Standing(Generic[P]):
    """The places of one flow by urgency, and its ranks; equally many."""

    __slots__ = ("places", "ranks")

    def __init__(self) -> None:
        self.places: list[P] = []
        self.ranks: list[Rank] = []

    def add(self, place: P) -> None:
        if self.places and self.places[-1].urgency < place.urgency and self.ranks[-1] < place.rank:  # as nearly all who come
            self.places.append(place)
            self.ranks.append(place.rank)
        else:
            bisect.insort(self.places, place, key=_urgency)
            bisect.insort(self.ranks, place.rank)

    def remove(self, place: P) -> None:
        del self.places[bisect.bisect_left(self.places, place.urgency, key=_urgency)]
        del self.ranks[bisect.bisect_left(self.ranks, place.rank)]

    def rank_of(self, place: P) -> Rank:
        if self.places[-1] is place:
            return self.ranks[-1]
        at = bisect.bisect_left(self.places, place.urgency, key=_urgency)
        is_here = at < len(self.places) and self.places[at] is place
        return self.ranks[at] if is_here else place.rank


class Order(Generic[P]):
    """All that stand. *width* is the number of costs of each."""

    def __init__(self, width: int = 0) -> None:
        self._fair = Fair(0)
        self._ranks: Ranks[P] = Ranks(width)
        self._flows: dict[str, _Standing[P]] = {}  # by the names of the flows

    def __len__(self) -> int:
        return len(self._ranks)

    def __iter__(self) -> Iterator[P]:
        return iter(self._ranks)

    def __repr__(self) -> str:
        return f"<Order [{len(self)} standing, {len(self._flows)} flows]>"

    # Ranks.

    def rank(self, place: P, span_us: float) -> None:
        """Give a place its rank, and charge its flow for what takes so long."""
        self._fair.tick()
        start, place.charge = self._fair.start(place.flow), self._fair.charge(place.flow, span_us)
        place.rank = start, place.urgency[2]
        self._fair.add(place.flow, start, place.charge)

    def serve(self, place: P) -> None:
        """A place that has a rank gets what it waits for."""
        self._fair.serve(place.rank[0])

    def take_back(self, place: P) -> None:
        """A place that has a rank leaves without what it waited for."""
        self._fair.correct(place.flow, -place.charge)

    # Standing.

    def add(self, place: P) -> None:
        """Let a place stand that has been given its rank."""
        flow = self._flows.get(place.flow.name)
        if flow is None:
            flow = self._flows[place.flow.name] = _Standing()
        flow.add(place)
        self._ranks.add(place)

    def remove(self, place: P) -> bool:
        """Take a place out, with its rank; return whether it was there."""
        flow = self._flows.get(place.flow.name)
        if flow is None or not self._ranks.remove(place):
            return False
        flow.remove(place)
        if not flow.places:
            del self._flows[place.flow.name]
        return True

    def stands(self, flow: Flow) -> bool:
        """Whether anybody of a flow stands here."""
        return flow.name in self._flows

    @property
    def first(self) -> P | None:
        """Who is next: of the flow that has the lowest rank, whoever has the earliest deadline."""
        first = self._ranks.first
        return None if first is None else self.best(first.flow)

    def first_of(self, may: Callable[[P], bool]) -> P | None:
        """Return who is next of the flows that may go: *may* is asked of one place of each."""
        if (first := self.first) is None or may(first):
            return first
        flows = [flow for flow in self._flows.values() if may(flow.places[0])]
        return self.best(min(flows, key=lambda flow: flow.ranks[0]).places[0].flow) if flows else None

    def most_urgent(self, flow: Flow) -> Urgency:
        """Return the urgency of who is next of a flow that stands here; no rank changes."""
        return self._flows[flow.name].places[0].urgency

    def best(self, flow: Flow) -> P:
        """Return who is next of a flow that stands here; it has the flow's lowest rank from now on."""
        standing = self._flows[flow.name]
        best = standing.places[0]
        if best.rank != standing.ranks[0]:
            self._exchange(best, self._ranks.at(standing.ranks[0]))
        return best

    def _exchange(self, one: P, other: P) -> None:
        self._ranks.remove(one)
        self._ranks.remove(other)
        one.rank, other.rank = other.rank, one.rank
        self._ranks.add(one)
        self._ranks.add(other)

    def sizes(self) -> dict[Flow, int]:
        """Return how many stand of each flow."""
        return {standing.places[0].flow: len(standing.places) for standing in self._flows.values()}

    def firsts(self, most: int) -> list[tuple[Rank, P]]:
        """Return the first *most* who stand, by the ranks that they will go by."""
        flows = self._flows.values()
        pairs = ((rank, place) for flow in flows for rank, place in zip(flow.ranks[:most], flow.places[:most], strict=True))
        return heapq.nsmallest(most, pairs, key=itemgetter(0))

    # Who goes before whom.

    def rank_of(self, place: P) -> Rank:
        """Return the rank that a place will go by: its own, unless others of its flow came later and have to go earlier."""
        standing = self._flows.get(place.flow.name)
        return place.rank if standing is None else standing.rank_of(place)

    def before(self, rank: Rank, place: P) -> list[int]:
        """Return what those of lower rank want, bucket by bucket, a place itself left out."""
        needs = self._ranks.before(rank)
        if place.rank < rank and self._ranks.holds(place):
            return [need - cost for need, cost in zip(needs, place.costs, strict=True)]
        return needs

    def late(self, needs: Sequence[int], outlook: Outlook, now: float) -> Iterator[list[tuple[P, Delay]]]:
        """Yield those who will be too late by their own ranks, as `Ranks.late` does."""
        return self._ranks.late(needs, outlook, now)
