"""
The order of all that waits: start-time fair queueing, in whole microseconds. Pure.

A *flow* is one caller's calls in one lane. Each line has a clock, which shows the rank of whoever went last, and each flow that
is ahead of the clock has a finish. Who comes is given the later of the two as its rank, and moves its flow's finish on by what
it costs: by the time that the line takes to give so much, divided by the flow's share. So a flow that asks for less than its
share is placed by the clock, in the order in which calls come, and one that asks for more as though it had asked later. Nothing
starves, since the clock reaches every rank; and nothing is saved up, since a flow that was idle starts at the clock.

A share is that of the lane, whoever else waits, times that of the caller's weight among the callers of its lane that are ahead
of the clock. So a line's clock goes the faster the less of it those ask for who have much, and what a flood asked for while its
lane was alone does not go, call by call, with those of a lane that comes later: what counts is who has which share, and not who
was there when. Who leaves without its grant takes its cost back; what a call used in the end corrects it.

The burst of a bucket is shared like its rate. Were it not, a flood would keep the bucket empty, and even who goes before all
others would wait for each single token: a bucket is there so that those who come by chance at once need not. So a call that
waits leaves as much in the bucket as the other lanes that were here lately could still ask for and go before it, by its rank.
That costs nothing but the moment in which it gathers; and of a lane that has its share already nothing more would go before.

A call that waits in several lines has one rank in all of them, or two calls could each stand behind the other. So that ranks of
different lines can be compared, the clocks of lines in which one call waits are brought together: to the latest.

reserve.lua and settle.lua do the same sums (`Fair` is a hash and a zset there), and are held against this.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

FULL_SHARE = 1_000_000
LANES = {"interactive": 800_000, "standard": 150_000, "batch": 50_000}
"""The shares of the lanes that there always are, as far as the configuration does not say otherwise."""

PRESENT_US = 10_000_000  # so long after its last call a lane finds its share of the burst
_MOST_US = 10**12  # of one charge: eleven days
_MOST_ROOM = 0.8  # of what a bucket holds: a full one loses what flows in until somebody asks


def lane_within(lane: str, ceiling: str, shares: Mapping[str, int]) -> str:
    """Return a lane, or *ceiling* where that is a lane and has the smaller share of the two."""
    return lane if shares.get(ceiling, FULL_SHARE) >= shares.get(lane, 0) else ceiling


@dataclass(frozen=True, slots=True)
class Flow:
    """
    The calls of one caller in one lane.

    Args:
        caller: whose they are (`Owner.text`).
        lane: its name; one without slashes.
        share: the lane's, in millionths.
        weight: the caller's, among the callers of the lane.
        name: how the scripts know it; *lane* and *share* are read from it there, and *weight*.
    """

    caller: str = field(compare=False)
    lane: str = field(default="", compare=False)
    share: int = field(default=FULL_SHARE, compare=False)
    weight: int = field(default=1, compare=False)
    name: str = field(default="", init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.lane}/{self.share}/{self.weight}/{self.caller}")


NOBODY = Flow("")
"""For what waits in no line."""


class Fair:
    """
    The clock of one line, and the flows that are ahead of it.

    Args:
        clock: where it begins (us): the time, where nobody has waited for a while.
    """

    __slots__ = ("_finishes", "_heap", "_lanes", "_weights", "clock")

    def __init__(self, clock: int) -> None:
        self.clock = clock
        self._finishes: dict[str, int] = {}
        self._heap: list[tuple[int, str, Flow]] = []  # each flow by a moment not later than its finish
        self._weights: dict[tuple[str, int], int] = {}  # of each lane, summed over its flows here
        self._lanes: dict[tuple[str, int], tuple[int, int]] = {}  # the finish of each, and when it was last here

    def __repr__(self) -> str:
        return f"<Fair [{self.clock} us, {len(self._finishes)} flows]>"

    @property
    def finishes(self) -> dict[str, int]:
        """When each flow, by name, will have had what it has asked for; one that is not here starts at the clock."""
        return dict(self._finishes)

    def start(self, flow: Flow) -> int:
        """Return the rank that a flow's next call has."""
        return max(self.clock, self._finishes.get(flow.name, 0))

    def serve(self, rank: int) -> None:
        """A call of this rank goes: move the clock on to it, if it is later."""
        self.clock = max(self.clock, rank)

    def tick(self) -> None:
        """Move the clock on by a microsecond: so equals go in the order in which they come."""
        self.clock += 1
        if self._heap and self._heap[0][0] <= self.clock:
            self.sweep()

    def sweep(self) -> None:
        """Forget the flows that are no longer ahead of the clock."""
        while self._heap and self._heap[0][0] <= self.clock:
            _, name, flow = heapq.heappop(self._heap)
            finish = self._finishes.get(name)
            if finish is None:
                continue
            if finish > self.clock:  # it was moved on
                heapq.heappush(self._heap, (finish, name, flow))
                continue
            del self._finishes[name]
            self._weigh(flow, -flow.weight)

    def charge(self, flow: Flow, span_us: float) -> int:
        """Return by how much a call moves its flow's finish on, if the line takes so long to give what it costs."""
        weights = self._weights.get((flow.lane, flow.share), 0)
        if flow.name not in self._finishes:
            weights += flow.weight
        return max(1, min(_MOST_US, math.floor(span_us * FULL_SHARE * weights / (flow.share * flow.weight))))

    @property
    def lanes(self) -> dict[tuple[str, int], tuple[int, int]]:
        """When each lane, by name and share, will have had what it has asked for, and when it last asked (us)."""
        return dict(self._lanes)

    def add(self, flow: Flow, rank: int, charge: int, now_us: int = 0) -> None:
        """A call of this rank comes: move its flow's finish on."""
        self._finish(flow, max(self._finishes.get(flow.name, 0), rank) + charge)
        lane = flow.lane, flow.share
        finish, _ = self._lanes.get(lane, (0, 0))
        self._lanes[lane] = max(finish, rank) + self._of_lane(flow, charge), now_us

    def _of_lane(self, flow: Flow, charge: int) -> int:
        return math.floor(charge * flow.weight / self._weights[flow.lane, flow.share])

    def correct(self, flow: Flow, more: int) -> None:
        """A call of the flow has cost so much more than it was charged; below zero: less, or nothing, if it has left."""
        if flow.name not in self._finishes:
            return
        self._finish(flow, self._finishes[flow.name] + more)
        lane = flow.lane, flow.share
        if lane in self._lanes:
            finish, seen_us = self._lanes[lane]
            self._lanes[lane] = finish + self._of_lane(flow, more), seen_us

    def headroom(self, flow: Flow, rank: int, after: int, now_us: int, *, rate: int, room: int) -> int:
        """
        Return how much a call leaves to other lanes: what they could still ask for and go before it.

        Args:
            after: the rank of whoever goes right before it; 0: nobody.
            rate: what flows in, in a microsecond.
            room: how much the bucket holds beside what the call costs.
        """
        room, total = math.floor(max(0, room) * _MOST_ROOM), 0
        for (lane, share), (finish, seen_us) in self._lanes.items():
            ahead_us = rank - max(self.clock, finish, after)
            if (lane, share) != (flow.lane, flow.share) and now_us - seen_us < PRESENT_US and ahead_us > 0:
                total += min(room, math.floor(ahead_us * share / FULL_SHARE * rate))
        return min(total, room)

    def _finish(self, flow: Flow, finish: int) -> None:
        name = flow.name
        before = self._finishes.get(name)
        self._finishes[name] = finish
        if before is None:
            self._weigh(flow, flow.weight)
        elif finish >= before:
            return
        heapq.heappush(self._heap, (finish, name, flow))
        if len(self._heap) > 64 and len(self._heap) > 4 * len(self._finishes):  # mostly of the past
            flows = {name: flow for _, name, flow in self._heap if name in self._finishes}
            self._heap = [(self._finishes[name], name, flow) for name, flow in flows.items()]
            heapq.heapify(self._heap)

    def _weigh(self, flow: Flow, weight: int) -> None:
        lane = flow.lane, flow.share
        self._weights[lane] = self._weights.get(lane, 0) + weight
        if not self._weights[lane]:
            del self._weights[lane]


def correction(charge: int, back: int, cost: int) -> int:
    """Return by how much a finish moves when *back* of a cost comes back; that much is its flow's again."""
    return -math.floor(float(charge) * back / cost) if cost else 0


def together(fairs: Sequence[Fair]) -> int:
    """Bring the clocks of these lines together, and a microsecond on: so equals go in the order in which they came."""
    clock = max([fair.clock for fair in fairs]) + 1
    for fair in fairs:
        fair.serve(clock)
        fair.sweep()
    return clock
