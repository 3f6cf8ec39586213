"""
The function that queue jobs name. Jobs keep its dotted path, so "headrace.worker.run_attempt" is a wire format.

A job is an alarm clock: it says which attempt of which ticket is due when, and nothing else. What an attempt is, the runner
knows that the daemon (or `headrace worker`) registers at its start.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from headrace.clock import Clock, SystemClock

Runner = Callable[[str, int], Awaitable[None]]

_runner: Runner | None = None
_clock: Clock = SystemClock()


def serve_with(runner: Runner | None, clock: Clock | None = None) -> None:
    """Make attempts with *runner*, an async callable of ticket and attempt; None: no more."""
    global _runner, _clock
    _runner, _clock = runner, clock or SystemClock()


async def run_attempt(ticket_id: str, attempt: int, not_before: float) -> None:
    """Make one attempt of a ticket, never before its due time (Unix seconds)."""
    if _runner is None:
        raise RuntimeError("no runner is registered: jobs of this queue are for headrace's own worker, not for the rq command")
    # The alarm rings a little early by design; and a sleep may end a hair early by the wall clock.
    while (left_s := not_before - _clock.now()) > 0:
        await _clock.sleep(left_s)
    await _runner(ticket_id, attempt)
