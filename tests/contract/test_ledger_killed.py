"""Who is killed leaves its connections: what it held is free before its leases end, and who only stands still keeps its own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from headrace.budget import pulse
from headrace.budget.ledger import Wait
from headrace.budget.redis import RedisLedger
from headrace.link import Link
from ledger_parts import PERMITS, beaten


@dataclass
class Other:
    """Another process, that holds both permits, as far as Redis can tell."""

    link: Link
    listening: asyncio.Task[None]

    @classmethod
    async def holding(cls, url: str) -> Other:
        link = Link(url)
        other = cls(link, asyncio.create_task(link.listen()))
        await link.listening()
        await other.beat()
        return other

    async def beat(self) -> None:
        await RedisLedger(self.link).renew({"x": (PERMITS,), "y": (PERMITS,)})

    async def go_deaf(self) -> None:
        self.listening.cancel()
        await asyncio.gather(self.listening, return_exceptions=True)

    async def die(self) -> None:
        await self.go_deaf()
        await self.link.aclose()


@pytest.fixture
async def other(valkey_url, monkeypatch):
    monkeypatch.setattr(pulse, "LEASE_US", 1_000_000)
    monkeypatch.setattr(pulse, "GAP_US", 900_000)
    monkeypatch.setattr(pulse, "SILENT_US", 100_000)
    other = await Other.holding(valkey_url)
    yield other
    await other.die()


@pytest.mark.parametrize("kit", ["redis", "borrowing"], indirect=True)
async def test_killed(kit, other):
    """Who is killed leaves its connections: its permits are free soon, long before their leases end, and who waits is told."""
    await kit.ledger.renew({})
    assert isinstance(await kit.ask("a", PERMITS), Wait)
    for _ in range(28):
        await beaten(kit, 0.04)
        await other.beat()
    kit.nudged.clear()
    assert isinstance(await kit.ask("a", PERMITS), Wait)
    await other.die()
    await beaten(kit, 0.3)
    assert kit.nudged == [kit.waiter("a")]
    assert (await kit.ask("a", PERMITS)).levels == (1,)


@pytest.mark.parametrize("kit", ["redis"], indirect=True)
async def test_deaf_or_still(kit, other):
    """Who beats and does not listen, or listens and does not beat, may live: it keeps what it holds until its lease ends."""
    await kit.ledger.renew({})
    await other.go_deaf()
    for _ in range(40):
        await beaten(kit, 0.04)
        await other.beat()
    assert (await kit.ask("a", PERMITS)).levels == (0,)
    other.listening = asyncio.create_task(other.link.listen())
    await other.link.listening()
    await other.beat()
    await beaten(kit, 0.6)
    assert (await kit.ask("b", PERMITS)).levels == (0,)
    await beaten(kit, 0.8)
    assert (await kit.ask("b", PERMITS)).levels == (1,)
