"""What is promised of each row, and what is only shown."""

from __future__ import annotations

from collections.abc import Mapping

from tests.truth.goals import Goal

# Of lines that complain, by the process that says most: a line of a hundred bytes or two for each state, not for each call.
_LOG_BYTES_PER_S = 2_000

GOALS: Mapping[str, Goal] = {
    "lost": Goal("lost", 0, reached=0),
    "twice": Goal("answered twice", 0, reached=0),
    "spliced": Goal("spliced", 0, reached=0),
    "hung": Goal("hung", 0, reached=0),
    "recover": Goal("worst recovery", 5.0, "s", reached=20.0),
    "log": Goal("log bytes a failing second", _LOG_BYTES_PER_S, reached=_LOG_BYTES_PER_S),
    "memory": Goal("MB more after", 60, reached=150),
    "descriptors": Goal("descriptors more after", 20, reached=20),
}
SHOWN: Mapping[str, str] = {
    "asked": "asked",
    "accepted": "accepted",
    "answered": "answered",
    "kills": "kills",
    "attempts": "upstream calls an answer",
    "slowest": "slowest answer, s",
}
