"""What is rehearsed: the parts of a configuration that decide who waits, and how many daemons go by it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.budget.costs import USES, Costs
from headrace.budget.draw import Draw
from headrace.budget.limits import Limits
from headrace.budget.quanta import Terms
from headrace.budget.want import Form, Want
from headrace.model import Caller, Labels
from headrace.rank import LANES, Flow, lane_within
from headrace.rehearse.lines import Line
from headrace.rehearse.queues import Queue
from headrace.rehearse.traffic import Profile


@dataclass(frozen=True, slots=True)
class Plan:
    """
    What is rehearsed.

    Args:
        lanes: the share of each lane, in millionths.
        slots, max_waiting, max_waiting_bytes: of each daemon.
        terms: how much a daemon may borrow; None: nothing.
        seed: of all chance.
    """

    limits: Limits
    costs: Costs
    callers: Mapping[str, Caller] = field(default_factory=dict)
    lanes: Mapping[str, int] = field(default_factory=lambda: dict(LANES))
    daemons: int = 1
    slots: int = 512
    max_waiting: int = 10_000
    max_waiting_bytes: int = 512_000_000
    terms: Terms | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Paying:
    """Who pays for the calls of a profile: what limits go by."""

    caller: Caller
    model: str
    lane: str
    endpoint: str
    labels: Labels


@dataclass(slots=True, eq=False)
class Kind:
    """
    All calls of one profile: who pays, which flow they are of, and what they want at the moment.

    Args:
        most: the longest answer among them, for those that do not say their `max_tokens`.
        ends_us: when the first of the windows that they want ends.
    """

    paying: Paying
    flow: Flow
    most: int = 1
    buckets: tuple[Want, ...] = ()
    shadows: tuple[Want, ...] = ()
    ends_us: int = 0
    lines: tuple[Line, ...] = ()
    shadow_lines: tuple[Line, ...] = ()
    queue: Queue | None = None
    has_ceilings: bool = False
    is_lent: bool = False  # whether all that they want may be borrowed
    is_estimated: bool = False  # whether it depends on their use

    @property
    def key(self) -> tuple[str, str]:
        return self.flow.caller, self.flow.lane

    def want(self, draw: Draw) -> None:
        """Go by these buckets from now on."""
        self.buckets, self.shadows, self.has_ceilings = draw.enforced, draw.shadows, draw.has_ceilings
        self.ends_us = min([want.ends_us for want in draw.buckets if want.form is Form.WINDOW], default=0)
        self.is_estimated = any(want.kind in USES for want in draw.buckets)
        self.is_lent = bool(draw.enforced) and all(want.form is not Form.PERMIT for want in draw.enforced)


def kind_of(profile: Profile, plan: Plan) -> Kind:
    """Return the kind of a profile's calls."""
    caller = plan.callers.get(profile.caller) or Caller(profile.caller)
    lane = lane_within(profile.lane or caller.lane, caller.ceiling, plan.lanes)
    flow = Flow(caller.name, lane, plan.lanes.get(lane, min(plan.lanes.values())), caller.weight)
    return Kind(Paying(caller, profile.model, lane, profile.endpoint, profile.labels), flow)
