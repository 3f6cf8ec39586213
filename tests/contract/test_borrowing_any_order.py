"""Everything at once: three borrow, spend, lose answers and die in any order, and nothing is invented."""

from __future__ import annotations

import asyncio
import itertools

import pytest
import redis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import audit
from borrowing_parts import BUDGET, REQUESTS, TOKENS, Host
from headrace import keys
from headrace.budget import borrowing as borrowing_module
from headrace.budget import quanta
from headrace.budget.bucket import UNITS
from headrace.budget.ledger import Granted
from headrace.budget.want import Form, Want
from headrace.errors import RedisAway
from windows import worst_window

SPANS_MS = (40, 10)  # of a loan, and the margin
RATES = (replace(REQUESTS, capacity=50), replace(TOKENS, rate_per_minute=600_000, capacity=500))
WINDOW = replace(BUDGET, capacity=2000)
KINDS = (
    ["call"] * 8 + ["exchange"] * 6 + ["settle"] * 3 + ["release", "recall", "crash", "sleep", "clock"]
)  # fmt: skip
STEPS = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.integers(0, 2),  # a borrower
        st.integers(0, 90),  # a cost, or which call
        st.sets(st.integers(0, 2), min_size=1),  # buckets
        st.sampled_from(["", "", "", "", "lost", "unsent"]),  # what befalls an exchange
    ),
    min_size=40,
    max_size=150,
)


class World:
    """Three borrowers of one Redis, and the moves of all that were granted anything."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = redis.Redis.from_url(url)
        self.client.flushall()
        self.hosts = [self._new() for _ in range(3)]
        self.calls: list[tuple[Host, str, tuple[Want, ...]]] = []
        self.numbers = itertools.count()
        self.dead: list[Host] = []
        self.jumped = dict.fromkeys((want.bucket_id for want in RATES), 0.0)  # what a clock that went forward let in

    def _new(self) -> Host:
        return Host(self.url, audit=audit.AUDIT)

    async def call(self, at, number, picked, trouble):
        wants = tuple((*RATES, WINDOW)[index] for index in sorted(picked))
        wants = tuple(want if want.kind == "requests" else replace(want, cost=number) for want in wants)
        hold = f"{at.link.instance}-{next(self.numbers)}"
        if isinstance(await at.ask(hold, *wants), Granted):
            self.calls.append((at, hold, wants))
        else:
            await at.ledger.release(hold, wants, waiter=f"{at.link.inbox}|{hold}")

    async def settle(self, at, number, picked, trouble):
        if self.calls:
            at, hold, wants = self.calls.pop(number % len(self.calls))
            if at in self.hosts:
                await at.ledger.settle(hold, wants, {want.bucket_id: number for want in wants if want.kind != "requests"})

    async def release(self, at, number, picked, trouble):
        if self.calls:
            at, hold, wants = self.calls.pop(number % len(self.calls))
            if at in self.hosts:
                await at.ledger.release(hold, wants)

    async def exchange(self, at, number, picked, trouble):
        at.trouble = trouble
        try:
            await at.ledger.exchange()
        except RedisAway:
            assert trouble
        at.trouble = ""

    async def recall(self, at, number, picked, trouble):
        for index in picked:
            at.ledger._recalled(keys.bucket((*RATES, WINDOW)[index].bucket_id).encode())

    async def crash(self, at, number, picked, trouble):
        self.dead.append(at)
        self.hosts[self.hosts.index(at)] = self._new()

    async def sleep(self, at, number, picked, trouble):
        await asyncio.sleep((2, 60)[number % 2] / 1000)

    async def clock(self, at, number, picked, trouble):
        """Let Redis's clock jump: all that it wrote down was so much later, or earlier."""
        milliseconds = (-20, -3, 3, 20)[number % 4]
        for want in (*RATES, WINDOW):
            key = keys.bucket(want.bucket_id)
            stored = {field.decode(): value.decode() for field, value in self.client.hgetall(key).items()}
            for field, value in stored.items():
                if field in ("at", "lapse"):
                    self.client.hset(key, field, int(value) - milliseconds * 1000)
                elif " " in value:
                    tokens, until_us, last = map(int, value.split())
                    self.client.hset(key, field, f"{tokens} {until_us - milliseconds * 1000} {last}")
            if milliseconds > 0 and want.form is Form.RATE:
                self.jumped[want.bucket_id] += want.rate_per_minute * milliseconds / 60_000 + int(stored.get("lent", 0))

    def look(self):
        """What must hold at every moment, with no exchange in the air."""
        for want in (*RATES, WINDOW):
            stored = self.client.hgetall(keys.bucket(want.bucket_id))
            lent = sum(int(value.split()[0]) for value in stored.values() if b" " in value)
            assert int(stored.get(b"lent", 0)) == lent
            if want.form is Form.RATE and b"level" in stored:
                assert int(stored[b"level"]) + lent * UNITS <= want.capacity * UNITS
            held = sum(host.ledger.held().get(want.bucket_id, 0) for host in self.hosts)
            if not self.jumped[RATES[0].bucket_id]:
                assert held <= lent

    def check(self):
        for want in (*RATES, WINDOW):
            found = audit.read(self.url, want.kind)
            unsaid = self._unsaid(want, {move.hold for move in found.grants})
            found = audit.Audit((*unsaid, *found.moves))
            net = found.net
            assert not found.unsound()
            if net and want.form is Form.RATE:
                most = want.capacity + self.jumped[want.bucket_id] + 0.01  # a local clock counts whole microseconds
                assert worst_window(net, rate_per_minute=want.rate_per_minute, capacity=0).excess_tokens <= most
            assert want.form is Form.RATE or sum(tokens for _, tokens in net) <= want.capacity

    def _unsaid(self, want, said):
        # What a borrower granted and did not live to tell, or told in vain until it gave up, was granted all the same.
        name = keys.bucket(want.bucket_id)
        for host in [*self.hosts, *self.dead]:
            moves = [(name, *move.split()) for move in host.ledger._moves.get(want.bucket_id, ())]
            for names, text in host.tried.values():
                words = text.split()
                moves += [(names[3 * int(words[at]) - 3], *words[at + 1 : at + 5]) for at in range(0, len(words), 5)]
            for bucket, at_us, hold, what, tokens in moves:
                if bucket == name and what == "cost" and int(tokens) > 0 and hold not in said:
                    yield audit.Move(int(at_us), hold, int(tokens))

    async def close(self):
        for host in [*self.hosts, *self.dead]:
            await host.link.aclose()
        self.client.close()


@settings(
    max_examples=80,
    phases=[Phase.explicit, Phase.generate],
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(steps=STEPS)
def test_nothing_is_invented(valkey_url, steps):
    """Three borrow, spend, settle, exchange in vain, are recalled, die and oversleep: no window gets more than its promise."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (borrowing_module, quanta):
            patch.setattr(module, "LOAN_S", SPANS_MS[0] / 1000)
        patch.setattr(quanta, "MARGIN_S", SPANS_MS[1] / 1000)
        patch.setattr(borrowing_module, "_KEEP_TRYING_S", 0.01)
        patch.setattr(quanta, "QUIET_S", 0.002)
        patch.setattr(quanta, "TICK_S", 1e-6)

        async def play():
            world = World(valkey_url)
            try:
                for step, number, *rest in steps:
                    await getattr(world, step)(world.hosts[number], *rest)
                    world.look()
                world.check()
            finally:
                await world.close()
            return sum(host.ledger.stats().grants for host in [*world.hosts, *world.dead])

        GRANTED.append(asyncio.run(play()))


GRANTED: list[int] = []


def test_it_was_borrowing():
    """The test above had many calls granted from quanta."""
    if not GRANTED:
        pytest.skip("runs after the one above")
    assert sum(GRANTED) > 2 * len(GRANTED)
