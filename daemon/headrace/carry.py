"""
The way of the calls that are only carried: every endpoint whose answers are not kept, and those that the API will have.

No cache, no flight, no ticket: a body may be a stream of gigabytes, and two equal creations are two. But the same limits
hold, in the same order of arrival, and the same policy says when another attempt is due. It is made here, while the caller
waits; only if it is safe (`endpoints.py`), and only while the caller's body can still be sent from its beginning.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass

from headrace.clock import Clock
from headrace.endpoints import Endpoint
from headrace.errors import AttemptFailed, DeadlinePassed, UpstreamError
from headrace.model import Errand, Headers, Usage
from headrace.pace import Going, Pace, coming
from headrace.retry.budget import RetryBudget
from headrace.retry.policy import RetryPolicy, Tries
from headrace.schedule import Schedule
from headrace.trail import HERE, Trail, Try
from headrace.upstream.carrying import Body
from headrace.upstream.client import Carried, Upstream


@dataclass(frozen=True, slots=True)
class Load:
    """What is carried: an errand, with headers and body as they came."""

    errand: Errand
    endpoint: Endpoint
    headers: Headers
    body: Body


class Carrier:
    """
    Carries calls upstream and their answers back.

    Args:
        pace: the least pace of a body in either direction, as far as it is the caller's, in bytes a second (0 for any), and how
            long it may fall behind that (s).
    """

    def __init__(
        self, clock: Clock, schedule: Schedule, upstream: Upstream, policy: RetryPolicy, pace: tuple[int, float],
        retries: RetryBudget,
    ) -> None:  # fmt: skip
        self._retries = retries
        self._pace = pace
        self._clock = clock
        self._schedule = schedule
        self._upstream = upstream
        self._policy = policy

    def __repr__(self) -> str:
        return f"<Carrier {self._upstream!r}>"

    @contextlib.asynccontextmanager
    async def carry(self, load: Load) -> AsyncIterator[tuple[Carried, int]]:
        """
        Yield what came back, and how many attempts it took.

        Raises refusals of ours and upstream's final word; among the chunks `AttemptFailed`, if upstream breaks off. `TooSlow`
        comes of a caller that does not send its body, or does not take in its answer; anywhere in the block, as the latter
        waits for no chunk of ours.
        """
        if not isinstance(load.body.content, bytes):
            load.body.content = coming(load.body.content, Pace(*self._pace))
        tries = Tries(self._policy, self._clock)
        while True:
            tries.made += 1
            async with contextlib.AsyncExitStack() as attempt:
                try:
                    carried = await attempt.enter_async_context(self._attempt(load, tries.made))
                except AttemptFailed as failure:
                    if load.body.error is not None:
                        raise load.body.error from failure
                    due = self._due(load, failure, tries)
                else:
                    yield carried, tries.made
                    return
            await self._clock.sleep(due - self._clock.now())

    @contextlib.asynccontextmanager
    async def _attempt(self, load: Load, number: int) -> AsyncIterator[Carried]:
        await self._retries.permit(load.errand, number)
        content = load.body.content
        held_bytes = len(content) if isinstance(content, bytes) else 0
        async with self._schedule.turn(load.errand, f"{os.urandom(8).hex()}-{number}", size=held_bytes) as turn:
            turn.sent()
            self._retries.sent(number)
            trail = load.errand.trail or Trail()
            trail.going = asked = self._clock.now()
            status, outcome, request_id = 0, "abandoned", ""
            try:
                async with (
                    self._upstream.carry(load.errand, load.headers, load.body) as carried,
                    Going(Pace(*self._pace)) as carried.going,
                ):
                    status, request_id = carried.status, carried.request_id
                    yield carried
                outcome = "answered"
            except AttemptFailed as failure:
                status, outcome = failure.error.status, str(failure.failure)
                await turn.fail(failure)
                raise
            finally:
                took_s = max(0.0, self._clock.now() - asked)
                trail.add(Try(number, status, outcome, asked, took_s, turn.waited_s, turn.held_by, request_id, HERE))
            await turn.settle(Usage())

    def _due(self, load: Load, failure: AttemptFailed, tries: Tries) -> float:
        """Return when the next attempt is due, or raise what the caller is told, since there is none."""
        if failure.failure.counts and self._clock.now() >= load.errand.deadline:
            raise DeadlinePassed("the call's deadline passed before upstream had answered")
        if failure.sent and failure.failure.counts and not load.endpoint.is_repeatable:
            raise failure.error  # nobody knows whether it was carried out
        tries.failed(failure)
        due = tries.due(load.errand)
        if load.body.has_gone_by:
            raise _untried(failure.error)
        return due


def _untried(error: UpstreamError) -> UpstreamError:
    error.is_untried = True
    return error
