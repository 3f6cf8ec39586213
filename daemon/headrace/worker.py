"""
The function that queue jobs name. Jobs keep its dotted path, so "headrace.worker.run_attempt" is a wire format.

A job is an alarm clock: it says which attempt of which ticket is due when, and nothing else. What an attempt is, the runner
knows that the daemon (or `headrace worker`) registers at its start.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

Runner = Callable[[str, int], Awaitable[None]]

_runner: Runner | None = None


def serve_with(runner: Runner | None) -> None:
    """Make attempts with *runner*, an async callable of ticket and attempt; None: no more."""
    global _runner
    _runner = runner


async def run_attempt(ticket_id: str, attempt: int, not_before: float) -> None:
    """Make one attempt of a ticket, never before its due time (Unix seconds)."""
    if _runner is None:
        raise RuntimeError("no runner is registered: jobs of this queue are for headrace's own worker, not for the rq command")
    # The alarm rings a little early by design; and a sleep may end a hair early by the wall clock.
    while (left_s := not_before - time.time()) > 0:  # noqa: ASYNC110  time is no event
        await asyncio.sleep(left_s)
    await _runner(ticket_id, attempt)
