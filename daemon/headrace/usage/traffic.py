"""
One line a call, for rehearsals: when it came, whose it was, what it used, how long it took. Off unless it is asked for.

The lines are those of the calls that upstream was asked for, and of those that were refused before that; hits and shared calls
ask nothing of any budget. They wait here, at most so many, until they are posted with the usage of the same second.
"""

from __future__ import annotations

from collections import deque

import msgspec

from headrace.outcome import LEFT, Outcome
from headrace.owner import name_in

_WAITING = 20_000


class Line(msgspec.Struct, frozen=True):
    """
    One call, as the file has it.

    Args:
        at: when it came, in Unix seconds.
        input_tokens: those that count against limits: fresh ones, and what was written to upstream's prompt cache.
        seconds: from its turn until its end; the wait for the turn is not in it.
        deadline_s: how long after it came it had to be answered.
        max_tokens, body_bytes: what estimates are made of; 0 where the body was not read.
        labels: as "env=prod,feature=search".
    """

    at: float
    caller: str
    lane: str
    model: str
    endpoint: str
    input_tokens: int
    output_tokens: int
    seconds: float
    deadline_s: float
    max_tokens: int = 0
    body_bytes: int = 0
    labels: str = ""


class Traffic:
    """The lines that are not posted yet; of more than *bound* the oldest are dropped, and counted."""

    def __init__(self, *, bound: int = _WAITING) -> None:
        self._lines: deque[bytes] = deque(maxlen=bound)
        self.dropped = 0

    def __repr__(self) -> str:
        return f"<Traffic [{len(self._lines)} lines, {self.dropped} dropped]>"

    def __len__(self) -> int:
        return len(self._lines)

    def heed(self, outcome: Outcome) -> None:
        """Take in what came of a call."""
        if not outcome.endpoint or outcome.cost_class not in ("paid", "none") or outcome.reason == LEFT:
            return
        self.dropped += len(self._lines) == self._lines.maxlen
        self._lines.append(msgspec.json.encode(_line(outcome)))

    def take(self, most: int) -> list[bytes]:
        """Return the oldest lines, and forget them."""
        return [self._lines.popleft() for _ in range(min(most, len(self._lines)))]


def _line(outcome: Outcome) -> Line:
    usage = outcome.usage
    return Line(
        at=round(outcome.began, 3),
        caller=name_in(outcome.caller),
        lane=str(outcome.lane),
        model=outcome.model[:100].encode("utf-8", "backslashreplace").decode(),
        endpoint=outcome.endpoint,
        input_tokens=usage.metered_input_tokens,
        output_tokens=usage.output_tokens,
        seconds=round(max(0.0, outcome.took_s - outcome.waited_s), 3),
        deadline_s=round(outcome.deadline_s, 3),
        max_tokens=outcome.max_tokens,
        body_bytes=outcome.body_bytes,
        labels=outcome.labels,
    )
