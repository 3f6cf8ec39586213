"""
Who leads next: what follows from a no that was the leader's own.

The lead passes to one other member at a time, so that a thousand equal calls without budget are a thousand refusals and not a
thousand flights. A no that plainly holds for other members too is told to them at once, without asking again.
"""

from __future__ import annotations

from headrace.errors import BudgetExhausted, CallerOnHold, HeadraceError, OutOfTime, QueueFull, RedisAway
from headrace.flight.flight import Flight, Member
from headrace.model import Call


def pass_on(flight: Flight, leader: Member, no: HeadraceError, now: float) -> None:
    """
    Tell the leader its no, and let another member lead; raises the no when nobody is left.

    Whoever leads next is what `flight.lead` returns.
    """
    flight.refuse(leader, no)
    refuse_likewise(flight, leader.call, no, now)
    flight.ticket = ""  # it was the leader's; nobody else is told its name


def refuse_likewise(flight: Flight, asked: Call, no: HeadraceError, now: float) -> None:
    """Tell a no to all members for whom it holds as it did for *asked*; raises it when nobody is left."""
    for member in flight.members:
        if _holds(no, asked, member.call, now):
            flight.refuse(member, no.again())


def _holds(no: HeadraceError, asked: Call, call: Call, now: float) -> bool:
    """Whether a no to one call is one to an equal call of another member, too."""
    if isinstance(no, RedisAway | QueueFull):
        return True  # this process's trouble, and nobody's own
    if isinstance(no, CallerOnHold):
        return no.is_at_once and call.caller.name == asked.caller.name
    is_too_late = no.retry_after_s is None or now + no.retry_after_s >= call.begin_by
    if isinstance(no, OutOfTime):
        return is_too_late
    is_same_budget = (call.caller, call.lane) == (asked.caller, asked.lane)
    return isinstance(no, BudgetExhausted) and is_same_budget and is_too_late
