"""
The calls of one flow that want the same buckets: the most urgent of them stands in the lines, the others behind it. Pure.

Within a flow the earliest deadline goes first, as in a daemon's own line. Who comes is told how long it will probably take, by
what waits: all of its own flow that is more urgent, and of the other flows as much as their shares give them meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

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


@dataclass(slots=True, eq=False)
class Queue:
    """The calls of one flow that want the same buckets. `head` is the place of the first, None while nobody waits."""

    flow: Flow
    group: Group
    head: Place[Waiting] | None = None
    alarm_us: int = 0  # when its head's latest moment is looked at
    behind: Ranks[Waiting] = field(init=False)
    wanted: list[int] = field(init=False)  # by all who wait, bucket by bucket

    def __post_init__(self) -> None:
        self.behind = Ranks(len(self.group.lines))
        self.wanted = [0] * len(self.group.lines)

    def __repr__(self) -> str:
        return f"<Queue {self.flow.name} [{len(self.behind)} behind {self.head and 'a head'}]>"

    def count(self, waiting: Waiting, sign: int) -> None:
        """A call begins to wait here, or does no longer (-1)."""
        self.wanted = [total + sign * cost for total, cost in zip(self.wanted, waiting.costs, strict=True)]

    def pop(self) -> Waiting | None:
        """Return the most urgent of those behind, and let it stand there no longer."""
        first = self.behind.first
        if first is not None:
            self.behind.remove(first)
        return first

    def needs(self, waiting: Waiting) -> list[int]:
        """Return what will be taken of each bucket until a call that comes now has had its own, as far as is known."""
        head = self.head.waiting.costs if self.head is not None else [0] * len(waiting.costs)
        before = plus(self.behind.before(waiting.rank), head)
        needs = own = plus(before, waiting.costs)
        for part, other in self.group.others(self):
            needs = [need + min(total, int(cost * part)) for need, total, cost in zip(needs, other.wanted, own, strict=True)]
        return needs


@dataclass(slots=True, eq=False)
class Group:
    """All queues for the same buckets, flow by flow."""

    lines: tuple[Line, ...]
    queues: dict[str, Queue] = field(default_factory=dict)

    def queue(self, flow: Flow) -> Queue:
        """Return the queue of a flow."""
        queue = self.queues.get(flow.name)
        if queue is None:
            queue = self.queues[flow.name] = Queue(flow, self)
        return queue

    def others(self, own: Queue) -> Iterator[tuple[float, Queue]]:
        """Yield the other queues in which somebody waits, each with its share of the buckets as a part of *own*'s."""
        waiting = [queue for queue in self.queues.values() if queue.head is not None or queue is own]
        if len(waiting) == 1:
            return
        weights: dict[str, int] = {}
        for queue in waiting:
            weights[queue.flow.lane] = weights.get(queue.flow.lane, 0) + queue.flow.weight
        shares = [queue.flow.share * queue.flow.weight / weights[queue.flow.lane] for queue in waiting]
        share = shares[waiting.index(own)]
        for queue, its in zip(waiting, shares, strict=True):
            if queue is not own:
                yield its / share, queue
