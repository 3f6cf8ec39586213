"""
Callers on hold: what they would ask upstream waits until they are released, or is refused.

Nothing is reserved for a call that waits here, and it stands in no line: on its release it takes its place like one that comes
then. It waits as long as its deadline allows, since a hold may be lifted at any moment, and is told of the hold at last, not of
a deadline.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from headrace.clock import Clock
from headrace.crowd import Waiting
from headrace.errors import CallerOnHold
from headrace.model import Errand
from headrace.schedule.slices import Slices, Work
from headrace.trail import HOLD


@dataclass(frozen=True, slots=True)
class Halt:
    """
    A caller's hold.

    Args:
        refuses: its calls; else they wait.
        ends: when it does by itself (Unix seconds); None: when the caller is released.
    """

    refuses: bool = False
    reason: str = ""
    ends: float | None = None


@dataclass(frozen=True, slots=True)
class HaltingStats:
    """How many callers are on hold, and how many calls of each wait."""

    callers: int
    waiting: Mapping[str, int]


class Halting:
    """The callers on hold in this process, and those of their calls that wait."""

    def __init__(self, clock: Clock, slices: Slices) -> None:
        self._clock = clock
        self._slices = slices
        self._halts: Mapping[str, Halt] = {}
        self._waiting: dict[asyncio.Future[None], str] = {}  # in the order in which they came

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Halting [{stats.callers} callers, {sum(stats.waiting.values())} waiting]>"

    def stats(self) -> HaltingStats:
        """Return its state now."""
        return HaltingStats(len(self._halts), Counter(self._waiting.values()))

    def holds(self, call: Errand) -> bool:
        """Whether a call's caller is on hold."""
        return call.caller.name in self._halts

    def reload(self, halts: Mapping[str, Halt]) -> None:
        """Go by other holds, by the callers' names; who waits looks anew."""
        self._halts = halts
        self._slices.start(self._wake(), "release")

    def _wake(self) -> Work:
        for waiting, caller in list(self._waiting.items()):
            halt = self._halts.get(caller)
            if (halt is None or halt.refuses) and not waiting.done():
                waiting.set_result(None)
                yield 1

    async def passed(self, call: Errand, counted: Waiting) -> None:
        """Wait while the caller is on hold. Raises `CallerOnHold` if it refuses, or lasts too long, and `QueueFull`."""
        while (halt := self._halts.get(call.caller.name)) is not None:
            left_s = call.begin_by - self._clock.now()
            if halt.refuses or left_s <= 0:
                raise _refusal(call.caller.name, halt, self._clock.now())
            counted.take()
            counted.held_by(HOLD, self._clock.now())
            await self._wait(call.caller.name, left_s)

    async def _wait(self, caller: str, seconds: float) -> None:
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[waiting] = caller
        bound = self._clock.timeout(seconds)
        try:
            async with bound:
                await waiting
        except TimeoutError:
            if not bound.expired():
                raise
        finally:
            del self._waiting[waiting]


def _refusal(caller: str, halt: Halt, now: float) -> CallerOnHold:
    why = f": {halt.reason}" if halt.reason else ""
    refusal = CallerOnHold(
        f"caller {caller} is on hold{why}",
        retry_after_s=None if halt.ends is None else max(0.001, halt.ends - now),
        metadata={"caller": caller, "reason": halt.reason},
    )
    refusal.is_at_once = halt.refuses
    return refusal
