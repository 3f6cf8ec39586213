"""
What others may notice of an attack, whatever it is; and where that is not reached yet, how far it is.

What a machine's own slowness costs is known from a row without an attack, whose process is as hungry as an attacker's: that is
added to the bounds of time.

The short form is a second and a half in which an attack begins: all its connections come at once, and nothing has been given
back yet. So its bounds are wider; it shows that nothing is as it was before there were any.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.truth.goals import Goal, Goals

HITS = ("HTTP", "gRPC", "socket")  # doors by which others' hits come, each a figure
BACK_MB = 50  # as small as this, a rise of memory counts as gone

_BOUNDS: Goals = {
    **{door: Goal(f"others' hits p99, {door}", 50, "ms", reached=50, short=1000) for door in HITS},
    "failed": Goal("others' calls failed", 0, reached=0),
    "rise": Goal("memory risen", 200, "MB", reached=200, short=400),
    "left": Goal("of that left after a minute", BACK_MB, "MB", reached=BACK_MB, short=400),
    "lines": Goal("log lines a minute", 100, reached=100),
    "stall": Goal("longest stall of the loop", 50, "ms", reached=50, short=250),
}
TIMES = (*HITS, "stall")

# What is not as wanted yet, and must not be lost. Whoever comes while a thousand connections do, from the same address, stands
# in line with them, and now and then for too long. A key lets its owner have four thousand calls under way: each costs the loop
# 0.3 ms before anybody can look at it. And messages of gRPC's come whole, before anybody can ask whose they are and wait: two
# of 31 MB may be coming, two more wait to be read, and the helper that reads one takes five times its size. What streams that
# nobody reads leave is a megabyte of small things, scattered over forty of Python's megabytes.
_REACHED: Mapping[str, Mapping[str, float]] = {
    "grpc-unfinished-known": {"gRPC": 500, "socket": 500},
    "few-resets": {"failed": 3},
    "grpc-unread": {"left": 80},
    "grpc-bodies": {"rise": 400},
}


def goals(row: str) -> Goals:
    """Return what is promised of a row, by figure."""
    return {figure: _goal(goal, _REACHED.get(row, {}).get(figure)) for figure, goal in _BOUNDS.items()}


def _goal(goal: Goal, reached: float | None) -> Goal:
    if reached is None:
        return goal
    return Goal(goal.what, goal.wanted, goal.unit, reached=reached, short=max(reached, goal.short or 0))
