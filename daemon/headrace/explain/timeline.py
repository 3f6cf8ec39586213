"""
A call as phases, one after the other: what it waited for, when it was tried, how long it was parked, and what was left. Pure.

Waits before a try end where the try begins. What lies between a try's end and the next one's wait is the time in the queue. A
call that was never tried has its waits alone, in the order in which they began to hold it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from headrace.trail import Try

_LEAST_S = 0.001

What = Literal["wait", "attempt", "parked", "rest"]


@dataclass(frozen=True, slots=True)
class Phase:
    """
    One part of a call's time.

    Args:
        what: "wait" (about: for what), "attempt" (about: its outcome), "parked", or "rest": what no other says.
        after_s: from the call's beginning; took_s: how long.
        made: the try, of an attempt.
    """

    what: What
    after_s: float
    took_s: float
    about: str = ""
    made: Try | None = None


def phases(tries: Sequence[Try], *, began: float, took_s: float, waits: Sequence[tuple[str, float]] = ()) -> list[Phase]:
    """Return the phases of a call that began at this moment (Unix seconds), and has taken so long."""
    said = list(_of_tries(tries, began) if tries else _of_waits(waits))
    ends = max((phase.after_s + phase.took_s for phase in said), default=0.0)
    if took_s - ends >= _LEAST_S:
        said.append(Phase("rest", ends, took_s - ends))
    return said


def _of_tries(tries: Sequence[Try], began: float) -> Iterator[Phase]:
    ends = 0.0
    for number, made in enumerate(tries):
        starts = max(0.0, made.began - began)
        waited_s = min(made.waited_s, starts)
        if number and starts - waited_s - ends >= _LEAST_S:
            yield Phase("parked", ends, starts - waited_s - ends)
        if waited_s >= _LEAST_S:
            yield Phase("wait", starts - waited_s, waited_s, made.held_by)
        yield Phase("attempt", starts, made.took_s, made.outcome, made)
        ends = starts + made.took_s


def _of_waits(waits: Sequence[tuple[str, float]]) -> Iterator[Phase]:
    after_s = 0.0
    for what, seconds in waits:
        yield Phase("wait", after_s, seconds, what)
        after_s += seconds
