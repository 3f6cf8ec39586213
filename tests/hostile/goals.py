"""
What others may notice of an attack, whatever it is; and where that is not reached yet, how far it is.

What a machine's own slowness costs is known from a row without an attack, whose process is as hungry as an attacker's: that is
added to the bounds of time.

The short form is a second and a half in which an attack begins: all its connections come at once, and its bodies lie in memory
until they have gone upstream: 500 to 800 MB of them in that time, by how fast the machine is. So its bounds are wide; it shows
that nothing is as it was before there were any.
"""

from __future__ import annotations

from collections.abc import Mapping

from tests.truth.goals import Goal, Goals

HITS = ("HTTP", "gRPC", "socket")  # doors by which others' hits come, each a figure
BACK_MB = 50  # as small as this, a rise of memory counts as gone

_BOUNDS: Goals = {
    **{door: Goal(f"others' hits p99, {door}", 50, "ms", reached=50, short=1000) for door in HITS},
    "failed": Goal("others' calls failed", 0, reached=0),
    "rise": Goal("memory risen", 200, "MB", reached=200, short=1600),
    "left": Goal("of that left after a minute", BACK_MB, "MB", reached=BACK_MB, short=1000),
    "lines": Goal("log lines a minute", 100, reached=100),
    "stall": Goal("longest stall of the loop", 50, "ms", reached=50, short=250),
}
TIMES = (*HITS, "stall")

# What is not as wanted yet, and must not be lost. All calls at gRPC's ports stand in one line before the loop, 0.3 ms
# each: a new connection brings as many as `listen.max_streams` at one go, and nobody can look at them before. With 128 in
# place of 1024 a flood costs others 0.2 to 0.4 s, but gRPC refuses two in five of the calls of a client with a thousand.
_REACHED: Mapping[str, Mapping[str, float]] = {
    "grpc-unfinished-known": {"gRPC": 4000},
    "grpc-unread": {"gRPC": 3000},
    "rapid-reset": {"gRPC": 6000},
    "rapid-reset-known": {"gRPC": 6000},
}


def goals(row: str) -> Goals:
    """Return what is promised of a row, by figure."""
    return {figure: _goal(goal, _REACHED.get(row, {}).get(figure)) for figure, goal in _BOUNDS.items()}


def _goal(goal: Goal, reached: float | None) -> Goal:
    if reached is None:
        return goal
    return Goal(goal.what, goal.wanted, goal.unit, reached=reached, short=max(reached, goal.short or 0))
