"""
The retry budget: retries are at most a share of the first attempts that all processes sent upstream lately.

So a bad hour cannot multiply load. First attempts ask nobody: each process counts its own, and says how many they were when it
next has something to ask, or after a few seconds. A retry that is over the budget waits, in the order in which they came; the
gate, where one is shut, holds up both. However little is sent, some retries may go, or a quiet service could mend nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass

from headrace import keys, observe
from headrace.background import Background
from headrace.clock import Clock
from headrace.errors import BudgetExhausted, RedisAway
from headrace.link import Link, Script
from headrace.model import Errand
from headrace.retry.policy import RETRY_BUDGET, jitter

_TALLY = Script(__package__, "budget.lua")

_SAY_EVERY_S = 5.0
_ASK_AGAIN_S = 1.0  # at the latest: others send meanwhile


@dataclass(frozen=True, slots=True)
class Bounds:
    """
    How many retries may go.

    Args:
        share: for each first attempt.
        window_s: of so much of the past; *bins* parts of it go one by one.
        least: in any such window beside that, however little is sent: at once if nothing else went, else bin by bin.
    """

    share: float = 1.0
    window_s: float = 60.0
    bins: int = 12
    least: int = 60


@dataclass(frozen=True, slots=True)
class RetryBudgetStats:
    """How many retries wait for the budget in this process."""

    waiting: int


class RetryBudget:
    """This process's part in the budget. Run `keep` as a task."""

    def __init__(self, link: Link, clock: Clock, bounds: Bounds | None = None) -> None:
        self._link = link
        self._clock = clock
        self._bounds = bounds = bounds or Bounds()
        self._args = [
            round(bounds.window_s * 1e6 / bounds.bins), bounds.bins, round(bounds.share * 1e6), bounds.least,
        ]  # fmt: skip
        self._firsts = 0  # that nobody was told of yet
        self._alone = float(bounds.least)  # retries that may go while Redis is away
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._background = Background("retry-budget", clock)
        self._asking: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<RetryBudget [{self.stats().waiting} waiting]>"

    def stats(self) -> RetryBudgetStats:
        """Return its state now."""
        return RetryBudgetStats(len(self._waiting))

    def sent(self, number: int) -> None:
        """Count an attempt that goes upstream; only a call's first makes room for retries."""
        if number == 1:
            self._firsts += 1
            self._alone = min(self._alone + self._bounds.share, float(self._bounds.least))

    async def permit(self, errand: Errand, number: int) -> None:
        """Wait until an attempt may go, a first one at once; raises `BudgetExhausted` if its caller has no time for that."""
        if number == 1:
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(granted)
        if self._asking is None:
            self._asking = self._background.start(self._ask(), "ask")
        try:
            async with self._clock.timeout(errand.begin_by - self._clock.now()):
                await granted
        except TimeoutError as error:
            observe.RETRIES.inc("refused")
            raise BudgetExhausted(
                "retries are at their share of upstream calls, and the call's deadline comes before its next one may go",
                retry_after_s=_ASK_AGAIN_S,
                metadata={"limit": RETRY_BUDGET},
            ) from error
        finally:
            if granted in self._waiting:
                self._waiting.remove(granted)

    async def _ask(self) -> None:
        try:
            while self._waiting:
                left_s = await self._grant()
                if self._waiting:
                    await self._clock.sleep(min(left_s, _ASK_AGAIN_S) * jitter())
        finally:
            self._asking = None

    async def _grant(self) -> float:
        """Let as many go as may, and return when it is worth asking again, in seconds."""
        try:
            count, left_us = await self._say(len(self._waiting))
        except RedisAway:
            count, left_us = min(len(self._waiting), int(self._alone)), 1e6
            self._alone -= count
        while count > 0 and self._waiting:
            if not (granted := self._waiting.popleft()).done():  # else it has just been given up
                granted.set_result(None)
                observe.RETRIES.inc("granted")
                count -= 1
        return left_us / 1e6

    async def _say(self, wanted: int) -> tuple[int, float]:
        firsts, self._firsts = self._firsts, 0
        try:
            granted, left_us = await self._link.run(_TALLY, [keys.RETRIES], [*self._args, firsts, wanted])
        except BaseException:
            self._firsts += firsts
            raise
        return granted, left_us

    async def keep(self) -> None:
        """Say now and then how many first attempts there were, until cancelled; nothing where there were none."""
        while True:
            await self._clock.sleep(_SAY_EVERY_S)
            if self._firsts:
                try:
                    await self._say(0)
                except RedisAway:
                    continue

    async def close(self) -> None:
        """Ask no more; those that wait wait on, until they are given up."""
        await self._background.close()
