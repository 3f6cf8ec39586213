"""A schedule with everything around it, on a clock turned by hand."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

from headrace.budget.costs import Costs
from headrace.budget.estimate import Estimator
from headrace.budget.limits import Limit, Limits
from headrace.budget.loss import LossPolicy
from headrace.budget.memory import MemoryLedger
from headrace.budget.want import Form
from headrace.clock import HandClock
from headrace.errors import RedisAway
from headrace.model import Call, Caller, Lane, Usage
from headrace.rank import Flow
from headrace.schedule import Schedule

ONE_A_SECOND = Limit("org", requests_per_minute=60, burst_s=1.0)
ONE_AT_A_TIME = Limit("org", concurrency=1)
MORNING = 1_800_000_000.0  # of some day, 08:00 UTC


class SteppedLedger(MemoryLedger):
    """A ledger in memory that takes a few turns of the loop to answer, as Redis does, and can be away."""

    def __init__(self, now_us) -> None:
        super().__init__(now_us, nudge=lambda waiter: self.tell(waiter))
        self.tell = lambda waiter: None
        self.is_away = False
        self.asked = 0

    async def reserve(self, hold_id, wants, *, waiter, flow):
        self.asked += 1
        await asyncio.sleep(0)
        if self.is_away:
            raise RedisAway("gone")
        outcome = await super().reserve(hold_id, wants, waiter=waiter, flow=flow)
        await asyncio.sleep(0)
        return outcome

    async def renew(self, holds):
        if self.is_away:
            raise RedisAway("gone")
        await super().renew(holds)


class House:
    """
    A schedule with everything around it, and a clock turned by hand.

    With *hosts*, its limits say what becomes of them while the ledger is away. *now* is the moment at which it begins.
    """

    def __init__(self, *limits: Limit, hosts: int = 0, costs: Costs | None = None, now: float = MORNING, **options) -> None:
        self.clock = HandClock(now)
        self.ledger = SteppedLedger(lambda: round(self.clock.now() * 1e6))
        link = SimpleNamespace(inbox="inbox", on=lambda topic, handler: None)
        own = MemoryLedger(lambda: round(self.clock.now() * 1e6), nudge=lambda waiter: self.ledger.tell(waiter))
        surviving = LossPolicy(self.ledger, own, is_up=lambda: not self.ledger.is_away, known_hosts=lambda: hosts)
        ledger = surviving if hosts else self.ledger
        self.schedule = Schedule(Limits(limits, costs=costs), ledger, Estimator(), link, self.clock, **options)
        self.ledger.tell = self.schedule.nudge
        self.keeping = asyncio.ensure_future(self.schedule.keep())
        self.went: list[str] = []
        self.number = 0

    def call(self, *, of: str = "x", within: float = 60.0, arrival: float | None = None, weight: int = 1, **more) -> Call:
        now = self.clock.now()
        call = Call(
            caller=Caller(of, weight=weight), body=b"{}", model="m", max_tokens=100, stream=False, version="", betas=(),
            headers=(), lane=Lane.STANDARD, fingerprint="f", scope="", arrival=now if arrival is None else arrival,
            deadline=now + within,
        )  # fmt: skip
        return replace(call, **more)

    def go(self, name: str = "x", *, hold_s: float = 0.0, **more) -> asyncio.Task[None]:
        """Let a call go that `went` knows by this name; whose it is, says *of*."""
        self.number += 1
        return asyncio.ensure_future(self._go(name, self.call(**more), f"h{self.number}", hold_s))

    async def _go(self, name: str, call: Call, hold_id: str, hold_s: float) -> None:
        async with self.schedule.turn(call, hold_id) as turn:
            turn.sent()
            self.went.append(name)
            if hold_s:
                await self.clock.sleep(hold_s)
            await turn.settle(Usage(10, 10))

    async def advance(self, seconds: float) -> None:
        """Let time pass in small steps, so that everybody sees it pass."""
        until = self.clock.now() + seconds
        while self.clock.now() < until:
            await self.clock.advance(min(0.25, until - self.clock.now()))
            await self.settle_down()

    async def settle_down(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


async def levels(house: House) -> tuple[int, ...]:
    wants = [
        want.at(0)
        for want in house.schedule._limits.buckets(house.call(), house.clock.now())
        if want.form in (Form.RATE, Form.WINDOW)
    ]
    house.number += 1
    return (await MemoryLedger.reserve(house.ledger, f"look{house.number}", wants, waiter="", flow=Flow("x"))).levels
