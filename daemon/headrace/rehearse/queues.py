"""
The calls of one flow that want the same buckets: the most urgent of them stands in the lines, the others behind it. Pure.

Within a flow the earliest deadline goes first, as in a daemon's own line. Who comes is told how long it will probably take, by
what waits: all of its own flow that is more urgent, and of the other flows as much as their shares give them meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace.budget.estimate import Estimate
from headrace.budget.want import Want
from headrace.rank import Flow
from headrace.rehearse.lines import Line, Place
from headrace.schedule.standing import Rank, Ranks, plus


@dataclass(slots=True, eq=False)
class Waiting:
    """
    A call that has not begun.

    Args:
        call: its number; `rank` is its order within its flow: its latest moment (us), then its number.
        shadows: what it wants of limits that enforce nothing.
    """

    call: int
    daemon: int
    rank: Rank
    queue: Queue
    wants: tuple[Want, ...]
    shadows: tuple[Want, ...]
    estimate: Estimate
    costs: tuple[int, ...] = ()
    is_counted: bool = False  # among those that wait
    is_borrowed: bool = False  # granted from what its daemon had borrowed

    def __post_init__(self) -> None:
        self.costs = tuple([want.cost for want in self.wants])

    @property
    def latest(self) -> float:
        return self.rank[0]


class Queue:
    """The calls of one flow that want the same buckets. `head` is the place of the first, None while nobody waits."""

    __slots__ = ("alarm_us", "behind", "flow", "group", "head", "part", "wanted")

    def __init__(self, flow: Flow, group: Group) -> None:
        self.flow, self.group = flow, group
        self.part = flow.share * flow.weight  # to be divided by the weights of those of its lane that wait
        self.head: Place[Waiting] | None = None
        self.alarm_us = 0  # when its head's latest moment is looked at
        self.behind: Ranks[Waiting] = Ranks(len(group.lines))
        self.wanted = [0] * len(group.lines)  # by all who wait, bucket by bucket

    def __repr__(self) -> str:
        return f"<Queue {self.flow.name} [{len(self.behind)} behind {self.head and 'a head'}]>"

    def stand(self, place: Place[Waiting]) -> None:
        """This place has to wait from now on."""
        if self.head is None:
            self.group.weigh(self, self.flow.weight)
        self.head = place

    def leave(self) -> None:
        """The head has its grant, or none; who was behind it has not asked yet."""
        if self.head is not None:
            self.group.weigh(self, -self.flow.weight)
        self.head = None

    def count(self, waiting: Waiting, sign: int) -> None:
        """A call begins to wait here, or does no longer (-1)."""
        wanted, total = self.wanted, self.group.wanted
        for index, cost in enumerate(waiting.costs):
            wanted[index] += sign * cost
            total[index] += sign * cost

    def pop(self) -> Waiting | None:
        """Return the most urgent of those behind, and let it stand there no longer."""
        first = self.behind.first
        if first is not None:
            self.behind.remove(first)
        return first

    def is_late(self, waiting: Waiting, now_us: int) -> bool:
        """Whether a call that comes now, while others wait, will be granted too late, as far as is known."""
        left_us = waiting.rank[0] - now_us
        if self.group.longest_us(plus(self.group.wanted, waiting.costs), now_us)[0] <= left_us:
            return False  # even if all who wait go before it
        own = plus(self.behind.before(waiting.rank), waiting.costs)
        if self.head is not None:
            own = plus(own, self.head.waiting.costs)
        wait_us, index = self.group.longest_us(own, now_us)
        if wait_us > left_us:
            return True  # even if no other flow does
        need = own[index] + self._others(own[index], index)
        line = self.group.lines[index]
        return line.bucket is not None and line.wait_us(need, now_us) > left_us

    def _others(self, own: int, index: int) -> int:
        """Return what other flows are given of a bucket while this one is given so much."""
        weights, need = self.group.weights, 0.0
        scale = own * weights[self.flow.lane] / self.part
        for queue in self.group.waiting.values():
            if queue is not self:
                need += min(queue.wanted[index], scale * queue.part / weights[queue.flow.lane])
        return int(need)


class Group:
    """All queues for the same buckets. `waiting` are those in which somebody waits, `weights` those of their flows by lane."""

    __slots__ = ("_queues", "lines", "waiting", "wanted", "weights")

    def __init__(self, lines: tuple[Line, ...]) -> None:
        self.lines = lines
        self._queues: dict[str, Queue] = {}
        self.waiting: dict[str, Queue] = {}
        self.weights: dict[str, int] = {}
        self.wanted = [0] * len(lines)  # by all who wait, bucket by bucket

    def __repr__(self) -> str:
        return f"<Group [{len(self.lines)} buckets, {len(self.waiting)} of {len(self._queues)} flows wait]>"

    def queue(self, flow: Flow) -> Queue:
        """Return the queue of a flow."""
        queue = self._queues.get(flow.name)
        if queue is None:
            queue = self._queues[flow.name] = Queue(flow, self)
        return queue

    def weigh(self, queue: Queue, weight: int) -> None:
        """Somebody begins to wait in a queue; below zero: nobody does any more."""
        self.weights[queue.flow.lane] = self.weights.get(queue.flow.lane, 0) + weight
        if weight > 0:
            self.waiting[queue.flow.name] = queue
        else:
            del self.waiting[queue.flow.name]

    def longest_us(self, needs: Sequence[int], now_us: int) -> tuple[int, int]:
        """Return how long it takes until all of this has flowed in, and into which bucket; permits come back when they will."""
        waits = [
            (line.wait_us(need, now_us), index)
            for index, (line, need) in enumerate(zip(self.lines, needs, strict=True))
            if line.bucket is not None
        ]
        return max(waits, default=(0, 0))
