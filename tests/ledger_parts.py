"""What tests of ledgers share: what they want of which buckets, and a ledger with the nudges that it gave."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from headrace.budget.borrowing import Borrowing
from headrace.budget.ledger import Ledger
from headrace.budget.want import Form, Want
from headrace.rank import Flow

REQUESTS = Want("org:requests", "org", "requests", Form.RATE, 600, 20, 1)
TOKENS = Want("org:input_tokens", "org", "input_tokens", Form.RATE, 60_000, 2000, 100)
PERMITS = Want("org:concurrency", "org", "concurrency", Form.PERMIT, 0, 2, 1)
SLOW = Want("slow:input_tokens", "slow", "input_tokens", Form.RATE, 1, 100, 100)  # grants once, then nothing for 100 minutes
# A day's or a month's budget; it ends in 2096.
BUDGET = Want("org:spend@1", "org", "spend", Form.WINDOW, 0, 1000, 400, ends_us=4_000_000_000_000_000)


@dataclass
class Kit:
    ledger: Ledger
    inbox: str
    nudged: list[str]

    async def ask(self, hold_id, *wants, waiter="", flow=None):
        flow = flow or Flow(hold_id)
        outcome = await self.ledger.reserve(hold_id, wants, waiter=self.waiter(waiter or hold_id), flow=flow)
        if isinstance(self.ledger, Borrowing):  # as eagerly as can be: so the next call finds that something was borrowed
            await self.ledger.exchange()
        return outcome

    def waiter(self, name):
        return f"{self.inbox}|{name}"


def now_us() -> int:
    return time.time_ns() // 1000


async def beaten(kit, seconds, *alive):
    """Let so much time pass, in which a process beats, and renews what these hold."""
    for _ in range(round(seconds / 0.04)):
        await asyncio.sleep(0.04)
        await kit.ledger.renew(dict.fromkeys(alive, (PERMITS,)))
