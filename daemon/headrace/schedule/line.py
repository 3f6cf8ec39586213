"""
The line in front of one set of buckets, within this process: who asks the ledger, who waits until it is called. Pure.

While nobody is held up, calls ask the ledger as they come, many at once. Once one has been told to wait, those behind it stand
here, where waiting costs nothing but memory, and only the first of each flow go on asking. A grant says what is left in the
buckets, and so many of the next as will fit are called at once; so a line drains by the batch, not by one call a round trip.
Where calls give permits back by the batch, as many are called to ask: what a permit lies free for until then is lost.

The order is that of order.py: fair between flows, by deadline within one. Once somebody has been told to wait, the best of each
flow asks the ledger, which has the order of all hosts, and the others of the flow stand here.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from operator import attrgetter, ge, itemgetter

from headrace.rank import Flow
from headrace.schedule.order import Order, Urgency
from headrace.schedule.outlook import Delay, Outlook
from headrace.schedule.place import Place
from headrace.schedule.standing import Rank, plus

# Each who waits at the ledger is looked at by every later one; more than so many at once would make it slow.
MAX_ASKING = 64
MOST_OF_FLOW = 48  # of these; what is left is for flows of which nobody asks yet
_BATCH_S = 0.25  # what comes back within so long comes back together


@dataclass(frozen=True, slots=True)
class LineStats:
    """How many ask the ledger, and how many stand and wait until they are called."""

    asking: int
    waiting: int


@dataclass(frozen=True, slots=True)
class Prospects:
    """
    Who waits in a line, for those who look.

    Args:
        bucket: the one that holds them up.
        flows: how many there are of each.
        first: the first of them in order, each with the moment at which it may go; None if nobody knows.
    """

    bucket: int
    flows: Mapping[Flow, int]
    first: Sequence[tuple[Place, float | None]]


class Line:
    """
    All calls of this process that want the same buckets, at the same rates, and have not been granted them.

    Args:
        rates, ends: of the buckets, as in outlook.py.
    """

    def __init__(self, rates: tuple[int, ...], ends: tuple[float, ...] = ()) -> None:
        self.asking: set[Place] = set()
        self.scanned = 0.0
        self.sorting: asyncio.Task[None] | None = None  # the refusing of those who will not be granted in time
        self._blocked: set[Place] = set()  # those who ask and have been told to wait
        self._askers: dict[str, list[Place]] = {}  # by the names of their flows
        self._held_back: set[str] = set()  # flows that have to leave what there is to others
        self._unheard: list[tuple[Rank, str, Flow]] = []  # flows of which one stands that is to ask, for the most part
        self._dues: dict[Place, tuple[float, int]] = {}  # when those who ask were told that they may go, for which bucket
        self._standing: Order[Place] = Order(len(rates))
        self._outlook = Outlook(rates, ends)
        self._asked = [0] * len(rates)  # what those who ask want, bucket by bucket
        self._stood = [0] * len(rates)  # what those who stand want
        self._newest: Rank = (-1, 0)
        self._freed: deque[float] = deque()  # when permits came back of late

    def __repr__(self) -> str:
        return f"<Line [{len(self.asking)} asking, {self.waiting} waiting]>"

    def stats(self) -> LineStats:
        """Return who is here."""
        return LineStats(len(self.asking), len(self._standing))

    @property
    def waiting(self) -> int:
        """How many stand here without asking."""
        return len(self._standing)

    @property
    def is_held_up(self) -> bool:
        """Whether anybody here has been told to wait."""
        return bool(self._blocked) or len(self._standing) > 0

    @property
    def is_empty(self) -> bool:
        return not self.asking and not self.waiting

    def standing(self) -> list[Place]:
        """Return those who stand here without asking, in order."""
        return list(self._standing)

    def places(self) -> Iterator[Place]:
        """Yield all who are here."""
        yield from self.asking
        yield from self._standing

    # Coming and going.

    def join(self, place: Place) -> bool:
        """Take a place; return whether it may ask at once, or is to wait until it is called."""
        is_held_up = self.is_held_up
        if is_held_up:
            self._standing.rank(place, max([want.span_us for want in place.wants]))
        else:
            place.rank = 0, place.urgency[2]
        if self._has_room(place.flow) and (
            not is_held_up or self._goes_freely(place.flow) or self._is_more_urgent(place.urgency, place.flow)
        ):
            self._let_ask(place)
            return True
        self._standing.add(place)
        self._stood = plus(self._stood, place.costs)
        self._newest = max(self._newest, place.rank)
        self._note_unheard(place.flow, place.rank)
        return False

    def _goes_freely(self, flow: Flow) -> bool:
        # Others are held up, by what is left for this one: it need not wait for the answer to each question before.
        return not self._standing.stands(flow) and not self._asks_in_vain(flow)

    def _is_more_urgent(self, urgency: Urgency, flow: Flow) -> bool:
        return all(urgency < other.urgency for other in self._askers.get(flow.name, ()))

    def _has_room(self, flow: Flow) -> bool:
        return len(self.asking) < (MOST_OF_FLOW if flow.name in self._askers else MAX_ASKING)

    def displace(self, place: Place) -> list[Place]:
        """
        Let a place that begins to ask go by the rank of the first of its flow that is less urgent, that one by the next's, ....

        Returns those others. They go by each other's ranks here, and by each other's names in the ledger's lines; the last has
        the place's own name, and no place in the ledger yet.
        """
        others = [other for other in self._told(place) if other.urgency > place.urgency]
        _shift([place, *others], first=-1)
        place.has_asked = place.has_asked or bool(others)
        return others

    def hand_down(self, place: Place) -> list[Place]:
        """
        Let those of its flow behind a place that gives up asking each move on by one: what is given up is the flow's last.

        Returns those others, the first of which has the place's own.
        """
        has_place = place in self._blocked or place.displaced is not None
        others = [other for other in self._told(place) if other.rank > place.rank] if has_place else []
        _shift([place, *others], first=1)
        return others

    def _told(self, place: Place) -> list[Place]:
        """The others of a flow that have been told to wait, by rank."""
        told = [other for other in self._askers.get(place.flow.name, ()) if other in self._blocked and other is not place]
        return sorted(told, key=attrgetter("rank"))

    def _let_ask(self, place: Place) -> None:
        self.asking.add(place)
        self._askers.setdefault(place.flow.name, []).append(place)
        self._asked = plus(self._asked, place.costs)

    def leave(self, place: Place, *, is_granted: bool = False) -> None:
        """Give up a place, whatever its state."""
        if is_granted and place not in self._blocked:
            self._held_back.discard(place.flow.name)
        self._blocked.discard(place)
        if place in self.asking:
            self._ask_no_longer(place)
        elif self._standing.remove(place):
            self._stood = _less(self._stood, place)
        if is_granted:
            self._standing.serve(place)
        elif place.charge:
            self._standing.take_back(place)

    def _ask_no_longer(self, place: Place) -> None:
        self.asking.discard(place)
        self._asked = _less(self._asked, place)
        self._askers[place.flow.name].remove(place)
        if not self._askers[place.flow.name]:
            del self._askers[place.flow.name]
        self._note_unheard(place.flow, place.rank)
        # It was told when its own costs would be there; who comes now may want less.
        self._dues.pop(place, None)
        self._look_ahead()

    def _note_unheard(self, flow: Flow, rank: Rank) -> None:
        if self._is_unheard(flow):
            heapq.heappush(self._unheard, (rank, flow.name, flow))

    def _is_unheard(self, flow: Flow) -> bool:
        # Those of it that ask may have begun before a more urgent one came, which stood behind one more urgent still.
        return self._standing.stands(flow) and self._is_more_urgent(self._standing.most_urgent(flow), flow)

    def call(self, levels: Sequence[int] | None) -> None:
        """
        Call the best of each flow of which nobody asks, or nobody as urgent, and as many more as fit into *levels*.

        *levels* is what a grant has left.
        """
        while self._unheard and len(self.asking) < MAX_ASKING:
            _, _, flow = heapq.heappop(self._unheard)
            if self._is_unheard(flow) and self._has_room(flow):
                self._call(self._standing.best(flow))
        while levels is not None and (place := self._standing.first) is not None:
            if not self._has_room(place.flow) or not self._fits(place, levels) or self._asks_in_vain(place.flow):
                return
            self._call(place)

    def free(self, now: float) -> None:
        """A call gives its permit back: let the next ask, unless as many ask already as were given back just now."""
        while self._freed and not 0 <= now - self._freed[0] < _BATCH_S:
            self._freed.popleft()
        self._freed.append(now)
        place = self._standing.first
        if place is not None and len(self.asking) < len(self._freed) and self._has_room(place.flow):
            self._call(place)

    def _asks_in_vain(self, flow: Flow) -> bool:
        # Behind one of its own that waits; or what is left is not for this flow, but for others or for another lane.
        return flow.name in self._held_back or any(place in self._blocked for place in self._askers.get(flow.name, ()))

    def _call(self, place: Place) -> None:
        self._standing.remove(place)
        self._stood = _less(self._stood, place)
        self._let_ask(place)
        if place.called is not None and not place.called.done():
            place.called.set_result(None)

    def _fits(self, place: Place, levels: Sequence[int]) -> bool:
        return all(level >= used + cost for level, used, cost in zip(levels, self._asked, place.costs, strict=False))

    # How long it will take.

    def learn(self, levels: tuple[int, ...], now: float) -> None:
        """Take in what the ledger says is left in the buckets."""
        self._outlook.learn(levels, now)

    def block(self, place: Place, seconds: float, bucket: int, now: float, levels: Sequence[int] = ()) -> None:
        """
        Take in that a place that asked must wait so long for this bucket.

        For tokens the ledger's word is exact: it tells to a part of a token how much is there, unless calls of other hosts
        stand before the place. For a permit it is a guess. If what is left (*levels*) would do and is not for it, nor is it for
        the next of its flow.
        """
        self._blocked.add(place)
        if levels and all(map(ge, levels, place.costs)):
            self._held_back.add(place.flow.name)
        rate = self._outlook.rates[bucket]
        ahead = [other.costs[bucket] for other in self.asking if other.rank < place.rank]
        if rate:
            self._outlook.refine(bucket, sum(ahead) + place.costs[bucket] - seconds * rate / 60)
        self._dues[place] = (now + seconds if self._outlook.is_sure(bucket) else now), bucket
        self._look_ahead()

    def _look_ahead(self) -> None:
        # Whoever stands goes behind one who asks: behind the first of its flow, or when there is room for another to ask. Until
        # all of them have been told, one may go at any moment.
        if self._dues and len(self._dues) == len(self.asking):
            self._outlook.expect_front(*min(self._dues.values()))
        else:
            self._outlook.forget_front()

    @property
    def heard_at(self) -> float:
        """When the ledger last said what is left in the buckets."""
        return self._outlook.levels_at

    def delay(self, place: Place, now: float) -> Delay:
        """Return how long a place that has joined will wait, by what is known here, and for which bucket."""
        rank = self._standing.rank_of(place)
        if rank >= self._newest and place not in self.asking:
            return self._outlook.delay(plus(self._asked, self._stood), now)
        needs = plus(self._standing.before(rank, place), place.costs)
        for other in self.asking:
            if other.rank < rank:
                needs = plus(needs, other.costs)
        return self._outlook.delay(needs, now, is_first=place in self.asking)

    def prospects(self, now: float, most: int) -> Prospects:
        """Return who waits here, and when the first *most* of them may go."""
        told = sorted(self._blocked, key=attrgetter("rank"))
        ranked = heapq.merge(((place.rank, place) for place in told), self._standing.firsts(most), key=itemgetter(0))
        first: list[tuple[Place, float | None]] = []
        needs = [0] * len(self._asked)
        for _, place in islice(ranked, most):
            needs = plus(needs, place.costs)
            seconds = self._outlook.delay(needs, now).seconds
            due = self._dues[place][0] if place in self._dues else now + seconds
            first.append((place, due if due > now else None))
        flows = Counter(place.flow for place in told) + Counter(self._standing.sizes())
        return Prospects(self.binding(now), flows, first)

    def binding(self, now: float) -> int:
        """Return the bucket that holds up whoever comes now; where nobody knows how long, as of permits, that of the front."""
        delay = self._outlook.delay(plus(self._asked, self._stood), now)
        return delay.bucket if delay.seconds > 0 or not self._dues else min(self._dues.values())[1]

    def hopeless(self, now: float) -> Iterator[list[tuple[Place, Delay]]]:
        """
        Yield, a few hundred at a time, those who stand and will be granted past their latest moment, each with its delay.

        All by what is known now, though others may come and go while this goes on.
        """
        for found in self._standing.late(self._asked, replace(self._outlook), now):
            yield [(place, delay) for place, delay in found if self._is_late(place, now)]

    def _is_late(self, place: Place, now: float) -> bool:
        # By its own rank it is; it may go by that of another of its flow.
        is_own = self._standing.rank_of(place) == place.rank
        return is_own or now + self.delay(place, now).seconds > place.latest


def _shift(places: Sequence[Place], *, first: int) -> None:
    """Let each go by the rank and name of the next (*first* = -1), or of the one before it (1), in a circle."""
    held = [(place.rank, place.waiter) for place in places]
    for index, place in enumerate(places):
        place.rank, place.waiter = held[(index - first) % len(places)]


def _less(needs: Sequence[int], place: Place) -> list[int]:
    return [need - cost for need, cost in zip(needs, place.costs, strict=True)]
