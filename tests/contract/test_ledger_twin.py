"""
The scripts against their twin: whatever is done in whatever order, Redis and memory say the same.

Redis's clock cannot be set, so the twin's is: to the time of each reply.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from headrace import keys
from headrace.budget.bucket import FIRST_US, Bucket, Window
from headrace.budget.gate import Told, Verdict
from headrace.budget.ledger import Granted, HoldClosed, Never, Said, Spent
from headrace.budget.memory import MemoryLedger
from headrace.budget.redis import RedisLedger
from headrace.budget.want import Form, Want
from headrace.link import Link
from headrace.rank import Flow
from ledger_parts import BUDGET, PERMITS, REQUESTS, TOKENS
from windows import worst_window

GATE = Want("gate:m", "upstream", "overload", Form.GATE, 0, 1, 1)
BUCKETS = (
    replace(REQUESTS, rate_per_minute=60_000, capacity=5),
    replace(TOKENS, rate_per_minute=3_000_000, capacity=500),
    replace(PERMITS, capacity=2),
    replace(BUDGET, capacity=1500),
    GATE,
)
SAID = st.builds(
    lambda tokens, verdict, told: (tokens, Verdict(verdict), Told(*told)),
    st.none() | st.integers(-50, 500),
    st.integers(-2, 1),
    st.tuples(st.integers(1, 1500), st.integers(1, 5), st.integers(1, 4000), st.integers(0, 3000)),
)
FLOWS = (Flow("a", "high", 800_000, 3), Flow("b", "high", 800_000), Flow("a", "low", 200_000), Flow("c", "low", 200_000, 7))
CASES = st.lists(
    st.one_of(
        st.tuples(
            st.just("reserve"),
            st.integers(0, 11),
            st.sets(st.integers(0, 4), min_size=1),
            st.integers(1, 500),
        ),
        st.tuples(st.just("settle"), st.integers(0, 11), st.integers(0, 900), SAID),
        st.tuples(st.just("release"), st.integers(0, 11)),
        st.tuples(st.just("amend"), st.integers(0, 11), st.integers(0, 900)),
        st.tuples(st.just("sleep"), st.integers(1, 4)),
        st.tuples(st.just("age")),
    ),
    min_size=5,
    max_size=40,
)


class Replay:
    """Does each step in Redis, then the same in memory at the same time, and compares."""

    def __init__(self, link: Link, prefix: str) -> None:
        self.link = link
        self.prefix = prefix
        self.at_us = 0
        self.changes: list[int] = []
        self.twin = MemoryLedger(lambda: self.at_us, on_change=lambda bucket_id, change: self.changes.append(change))
        self.redis = RedisLedger(link)
        self.wants: dict[int, tuple[Want, ...]] = {}
        self.open: set[int] = set()
        self.amended = 0
        self.moves: list[tuple[int, int]] = []

    async def reserve(self, hold, picked, tokens):
        wants = self.wants.setdefault(hold, tuple(self._want(i, tokens) for i in sorted(picked)))
        asked = {"waiter": f"i|{hold}", "flow": FLOWS[hold % len(FLOWS)]}
        try:
            outcome = await self.redis.reserve(f"{self.prefix}{hold}", wants, **asked)
        except HoldClosed:
            with pytest.raises(HoldClosed):
                await self.twin.reserve(f"{self.prefix}{hold}", wants, **asked)
            return
        if isinstance(outcome, Spent):
            told = await self.twin.reserve(f"{self.prefix}{hold}", wants, **asked)
            assert isinstance(told, Spent)
            return
        if hold not in self.open and not isinstance(outcome, Never):
            self.at_us = max(self.at_us, outcome.at_us)
        assert await self.twin.reserve(f"{self.prefix}{hold}", wants, **asked) == outcome
        if isinstance(outcome, Granted) and hold not in self.open:
            self.open.add(hold)
            self.moves += [(outcome.at_us, want.cost) for want in wants if want.kind == "requests"]

    def _want(self, i, tokens):
        want = BUCKETS[i]
        cost = tokens if i in (1, 3) else want.cost
        return replace(want, bucket_id=f"{self.prefix}:{want.bucket_id}", cost=cost)

    async def amend(self, hold, actual):
        """Amend what is granted and open; it costs so much from then on."""
        if hold not in self.open:
            return
        wants, hold_id = self.wants[hold], f"{self.prefix}{hold}"
        used = {want.bucket_id: actual for want in wants if want.kind == "input_tokens" or want.form is Form.WINDOW}
        self.amended += 1
        for _ in range(2):  # sent twice, done once
            sent = self._spy()
            assert self.redis.amend(hold_id, self.amended, wants, used)
            what, at_us, _ = await sent()
            if what == 1:
                self.at_us = max(self.at_us, int(at_us))
                self.twin.amend(hold_id, self.amended, wants, used)
        self.wants[hold] = tuple(want.at(used.get(want.bucket_id, want.cost)) for want in wants)

    async def close(self, hold, actual, said=None):
        wants = self.wants.get(hold)
        if wants is None:
            return
        hold_id = f"{self.prefix}{hold}"
        used = {want.bucket_id: actual for want in wants if want.kind == "input_tokens" or want.form is Form.WINDOW}
        said = self._said(wants, *said) if said else None
        sent = self._spy()
        if actual is None:
            await self.redis.release(hold_id, wants, waiter=f"i|{hold}")
        else:
            await self.redis.settle(hold_id, wants, used, said)
        what, at_us, change = await sent()
        self.open.discard(hold)
        self.at_us = max(self.at_us, int(at_us))
        if what == 1 and actual is None:
            self.moves += [(self.at_us, -want.cost) for want in wants if want.kind == "requests"]
        if actual is None:
            await self.twin.release(hold_id, wants, waiter=f"i|{hold}")
        else:
            await self.twin.settle(hold_id, wants, used, said)
        assert self.changes == ([change] if change else [])
        self.changes.clear()

    async def age(self):
        """Let the first word on each bucket be long ago."""
        for bucket_id, state in self.twin._states.items():
            if isinstance(state.bucket, Bucket) and state.bucket.first_us is not None:
                state.bucket.first_us -= FIRST_US
                if await self.link.do("HEXISTS", keys.bucket(bucket_id), "first"):
                    await self.link.do("HINCRBY", keys.bucket(bucket_id), "first", -FIRST_US)

    def _said(self, wants, tokens, verdict, told):
        most = {want.bucket_id: tokens for want in wants if want.form is Form.RATE and tokens is not None}
        return Said(most, verdict, told)

    async def compare_levels(self):
        """Compare what is in the buckets to the unit."""
        for bucket_id, state in self.twin._states.items():
            if isinstance(state.bucket, Window):
                used = await self.link.do("HGET", keys.bucket(bucket_id), "used")
                assert int(used or 0) == state.bucket.used
            elif state.bucket is not None:
                figures = await self.link.do(
                    "HMGET", keys.bucket(bucket_id), "level", "at", "foreign", "kept", "heard", "first"
                )
                level, at_us, foreign, uncounted, heard_us, first_us = figures
                if level is not None:
                    kept = dataclasses.replace(state.bucket, level=int(level), at_us=int(at_us), foreign=float(foreign or 0))
                    kept.kept, kept.heard_us = int(uncounted or 0), heard_us and int(heard_us)
                    kept.first_us = first_us and int(first_us)
                    kept.flow(self.at_us)
                    state.bucket.flow(self.at_us)
                    assert kept == state.bucket

    async def compare_fairness(self):
        """Compare the clocks of the lines, and how far ahead of them each flow is."""
        for bucket_id, state in self.twin._states.items():
            if state.fair is None:
                continue
            name = keys.line(bucket_id)
            sums = dict(await self.link.do("HGETALL", name.replace(":line:", ":fair:")))
            flows = await self.link.do("ZRANGE", name.replace(":line:", ":flows:"), 0, -1, "WITHSCORES")
            finishes = {flow.decode(): int(finish) for flow, finish in flows}
            assert int(sums.pop(b"clock")) == state.fair.clock
            assert finishes == state.fair.finishes
            lanes = {f"@{lane}/{share}".encode(): b"%d %d" % at for (lane, share), at in state.fair.lanes.items()}
            assert {lane: sums.pop(lane, None) for lane in lanes} == lanes
            weights = {f"{lane}/{share}".encode(): weight for (lane, share), weight in state.fair._weights.items()}
            assert {lane: int(weight) for lane, weight in sums.items()} == weights

    def _spy(self) -> Callable:
        """Catch the reply of the next script."""
        caught = []
        run = self.link.run

        def spying(*args):
            caught.append(run(*args))
            return caught[0]

        self.link.run = spying

        async def reply():
            del self.link.run
            return await caught[0]

        return reply


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(cases=CASES)
def test_twin(valkey_url, cases):
    """Whatever is reserved, settled and released in whatever order, the scripts and the reference say the same."""

    async def play():
        link = Link(valkey_url)
        replay = Replay(link, f"t{time.monotonic_ns()}")
        with redis.Redis.from_url(valkey_url) as client, client.pubsub() as ear:
            ear.subscribe("i")  # where nobody listens, nobody waits
            ear.get_message(timeout=5)
            for step, *rest in cases:
                if step == "reserve":
                    await replay.reserve(*rest)
                elif step == "age":
                    await replay.age()
                elif step == "amend":
                    await replay.amend(*rest)
                elif step == "sleep":
                    await asyncio.sleep(rest[0] / 1000)
                else:
                    await replay.close(*rest) if step == "settle" else await replay.close(*rest, None)
        await replay.compare_levels()
        await replay.compare_fairness()
        await link.aclose()
        if replay.moves:
            assert worst_window(replay.moves, rate_per_minute=60_000, capacity=5).is_kept

    asyncio.run(play())
