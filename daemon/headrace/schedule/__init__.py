"""
Schedule: waiting for a turn, in order, within deadlines.

    turns.py     the schedule: who gets its budgets and a slot, and when
    turn.py      a call's turn, from its budgets to what is given back
    counting.py  asking upstream how much input a call has
    hold.py      what it was granted
    asking.py    from a place to its grant: the line, then the ledger
    place.py     a call's place in line, and how it is called, woken or refused
    line.py      who asks the ledger, and who waits until called, in this process; pure
    order.py     who stands, flow by flow and deadline by deadline; pure
    standing.py  who stands in a line, by rank, with running totals; pure
    outlook.py   how long it will take; pure
    slots.py     how many do something at once, such as ask upstream, and who is next
    hands.py     the same of the tickets that a worker takes in hand
    shadows.py   limits that are decided and counted, but not enforced
    halting.py   callers on hold, and those of their calls that wait
    reserved.py  what is reserved and not settled yet, bucket by bucket, and how good the estimates were
    moving.py    who takes its place anew when limits or holds change
    holding.py   what calls hold, from the grant to the settlement
    closing.py   how long an answer waits for its settlement
    permits.py   concurrency permits, renewed while their calls run
"""

from __future__ import annotations

from headrace.schedule.halting import Halt
from headrace.schedule.slots import SlotStats
from headrace.schedule.turn import Turn
from headrace.schedule.turns import Schedule, ScheduleStats

__all__ = ["Halt", "Schedule", "ScheduleStats", "SlotStats", "Turn"]
