"""A call's place in line: what it wants, how it stands, and how it is called, woken or refused."""

from __future__ import annotations

import asyncio
import math
from dataclasses import dataclass

from headrace.budget.want import Form, Want
from headrace.crowd import Waiting
from headrace.model import Errand
from headrace.rank import Flow
from headrace.schedule.order import Urgency
from headrace.schedule.standing import Rank


class Outdated(Exception):
    """The limits were changed while a place waited under the old ones: it is to be taken anew."""


@dataclass(slots=True, eq=False)
class Place:
    """
    A call's place in line.

    Args:
        call: whose place it is; what it wants is worked out anew when the limits change.
        flow: whose calls it is one of.
        urgency: its order within its flow.
        entered: when it began to wait.
        latest: the moment past which a grant is of no use to it.
        buckets: what its wants were made of, to see whether they still hold after a reload.
        ends: the moment at which the first of its windows ends, and its wants with it.
        counted: its place among all that wait, taken once it has to.
        asked_at: when it last asked the ledger.
        called: done when it is its turn to ask; failed when it is refused. None while it need not wait.
    """

    call: Errand
    flow: Flow
    urgency: Urgency
    entered: float
    latest: float
    hold_id: str
    waiter: str
    buckets: tuple[Want, ...]
    wants: tuple[Want, ...]
    counted: Waiting
    called: asyncio.Future[None] | None = None
    alarm: asyncio.Future[None] | None = None
    displaced: Place | None = None  # who is to take a place in the ledger's lines anew, because of this one
    is_nudged: bool = False
    is_outdated: bool = False
    has_asked: bool = False
    asked_as: str = ""
    asked_at: float = 0.0
    costs: tuple[int, ...] = ()
    ends: float = math.inf
    rank: Rank = (0, 0)  # among all in its line, once somebody is held up there; before that who comes goes
    charge: int = 0

    def __post_init__(self) -> None:
        self.costs = tuple([want.cost for want in self.wants])
        if ends_us := [want.ends_us for want in self.wants if want.form is Form.WINDOW]:
            self.ends = min(ends_us) / 1e6

    def nudge(self) -> None:
        """Wake it from its nap; if it is just asking, it will not nap afterwards."""
        self.is_nudged = True
        if self.alarm is not None and not self.alarm.done():
            self.alarm.set_result(None)

    @property
    def stands(self) -> bool:
        """Whether it stands without asking, and has been neither called nor refused."""
        return self.called is not None and not self.called.done()

    def refuse(self, error: Exception) -> bool:
        """Let it leave the line with this error, if it stands; return whether it did."""
        if self.called is None or self.called.done():
            return False
        self.called.set_exception(error)
        self.called.exception()  # if it was cancelled at this very moment, nobody looks
        return True

    def outdate(self) -> None:
        """Let it take its place anew: at once if it stands or naps, else as soon as the ledger has answered."""
        self.is_outdated = True
        self.refuse(Outdated())
        self.nudge()
