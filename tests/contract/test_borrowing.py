"""Borrowing from a real Redis: what it spares, what it gives back, and that it invents nothing, whatever happens to whom."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import redis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

import audit
from conftest import until
from headrace import keys
from headrace.budget import borrowing as borrowing_module
from headrace.budget import pulse, quanta
from headrace.budget.borrowing import Borrowing
from headrace.budget.bucket import UNITS
from headrace.budget.gate import Told, Verdict
from headrace.budget.ledger import Granted, Said, Wait
from headrace.budget.quanta import Terms
from headrace.budget.redis import RedisLedger
from headrace.budget.want import Form, Want
from headrace.errors import RedisAway
from headrace.link import Link
from headrace.rank import Flow
from windows import worst_window

REQUESTS = Want("org:requests", "org", "requests", Form.RATE, 60_000, 1000, 1)
TOKENS = Want("org:input_tokens", "org", "input_tokens", Form.RATE, 60, 1000, 10)  # one a second: what is there is there
BUDGET = Want("org:spend", "org", "spend", Form.WINDOW, 0, 1000, 10, ends_us=4_000_000_000_000_000)
PERMITS = Want("org:concurrency", "org", "concurrency", Form.PERMIT, 0, 1000, 1)


class Host:
    """A process that borrows: its link can lose answers, and its clock can go on without it."""

    def __init__(self, url: str, terms: Terms | None = None, audit: str = "") -> None:
        self.stands_open: set[str] = set()
        self.link = Link(url)
        self.slept = 0.0
        self.trouble = ""
        self.exchanges = 0
        self.tried: dict[int, tuple[list[str], str]] = {}  # exchanges by number: names, and moves for the audit
        self._run, self.link.run = self.link.run, self.run  # type: ignore[method-assign]
        self.ledger = Borrowing(
            RedisLedger(self.link, audit=audit),
            self.link,
            terms=terms or Terms(0.4, 0.0),
            monotonic=lambda: time.monotonic() + self.slept,
            audit=audit,
            is_open=lambda want: want.bucket_id in self.stands_open,
        )

    def run(self, script, names, args):
        if script.name == "exchange.lua":
            self.exchanges += 1
            self.tried[args[1]] = names, args[3]
            if self.trouble:
                return asyncio.ensure_future(self._lose(script, names, args))
        return self._run(script, names, args)

    async def _lose(self, script, names, args):
        if self.trouble == "lost":
            await self._run(script, names, args)
        raise RedisAway("gone")

    async def ask(self, hold, *wants):
        return await self.ledger.reserve(hold, wants, waiter=f"{self.link.inbox}|{hold}", flow=Flow(hold))

    async def exchange(self) -> None:
        """Exchange, and let a tick pass before."""
        self.slept += quanta.TICK_S
        await self.ledger.exchange()

    async def borrow(self, *wants, calls=20) -> None:
        """Have demand, so that something of these buckets is held."""
        for number in range(calls):
            await self.ask(f"{self.link.instance}-{number}", *wants)
        await self.exchange()
        assert set(self.ledger.held()) == {want.bucket_id for want in wants}


@asynccontextmanager
async def host(url: str, *, keeps: bool = False, **options) -> AsyncIterator[Host]:
    made = Host(url, **options)
    tasks = [asyncio.create_task(work()) for work in ([made.link.listen, made.ledger.keep] if keeps else [made.link.listen])]
    try:
        await made.link.listening()
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await made.link.aclose()


def level(url: str, want: Want) -> tuple[int, int]:
    """Return the whole tokens in a bucket in Redis as it is written, and those that are lent."""
    with redis.Redis.from_url(url) as client:
        stored = client.hgetall(keys.bucket(want.bucket_id))
    lent = int(stored.get(b"lent", 0))
    if want.form is Form.WINDOW:
        return want.capacity - int(stored[b"used"]), lent
    return int(stored[b"level"]) // UNITS, lent


async def test_without_a_round_trip(valkey_url):
    """What is held is granted and settled without a word to Redis; the next exchange tells it all."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS, BUDGET)
        sent = one.link.stats().round_trips
        for number in range(5):
            assert isinstance(await one.ask(f"h{number}", TOKENS, BUDGET), Granted)
            await one.ledger.settle(f"h{number}", (TOKENS, BUDGET), {TOKENS.bucket_id: 7, BUDGET.bucket_id: 12})
        assert one.link.stats().round_trips == sent
        await one.exchange()
        assert one.link.stats().round_trips == sent + 1
        await one.ledger.close()
        assert sum(level(valkey_url, TOKENS)) == pytest.approx(1000 - 200 - 35, abs=1)
        assert level(valkey_url, BUDGET) == (1000 - 200 - 60, 0)
        assert one.ledger.held() == {}


async def test_at_once(valkey_url):
    """What is held is granted at once, all of it or nothing, and never to who stands in a line of Redis's."""
    async with host(valkey_url, terms=Terms(0.2, 0.0)) as one:
        assert one.ledger.take("early", (TOKENS, BUDGET)) is None
        await one.borrow(TOKENS, BUDGET)
        held, gate = one.ledger.held(), Want("gate:m", "upstream", "overload", Form.GATE, 0, 1, 1, "open")
        assert one.ledger.take("dear", (TOKENS, BUDGET.at(held[BUDGET.bucket_id] + 1))) is None
        assert one.ledger.take("gated", (TOKENS, BUDGET, gate)) is None
        assert one.ledger.held() == held
        one.stands_open = {gate.bucket_id}
        assert one.ledger.take("a", (TOKENS, BUDGET, gate)) == (790, 790, 1)
        assert one.ledger.held() == {bucket_id: tokens - 10 for bucket_id, tokens in held.items()}
        assert isinstance(await one.ask("late", TOKENS.at(995)), Wait)
        assert one.ledger.take("late", (TOKENS,)) is None
        await one.ledger.release("a", (TOKENS, BUDGET, gate))


async def test_all_or_nothing(valkey_url):
    """A call that fits into one quantum and not into another is granted by Redis as a whole, and the quantum stays whole."""
    async with host(valkey_url, terms=Terms(0.2, 0.0)) as one:
        await one.borrow(TOKENS, BUDGET)
        held = one.ledger.held()
        dear = replace(BUDGET, cost=held[BUDGET.bucket_id] + 1)
        assert isinstance(await one.ask("a", TOKENS, dear), Granted)
        assert one.ledger.held() == held
        await one.ledger.release("a", (TOKENS, dear))
        assert one.ledger.stats().running == 0


async def test_permits_go_one_by_one(valkey_url):
    """A call that wants a permit asks Redis for all it wants."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        sent = one.link.stats().round_trips
        assert isinstance(await one.ask("a", TOKENS, PERMITS), Granted)
        assert one.link.stats().round_trips == sent + 1


async def test_recalled(valkey_url):
    """Whoever must wait has everything brought home at once, is nudged, and is granted what had been lent."""
    async with host(valkey_url) as one, host(valkey_url, keeps=True, terms=Terms(0.4, 10.0)) as other:
        nudged = []
        one.link.on("permit", lambda waiter: nudged.append(waiter.decode()))
        for number in range(40):
            await other.ask(f"o{number}", TOKENS)
        await until(other.ledger.held, within=2)
        began = time.monotonic()
        waiting = await one.ask("all", replace(TOKENS, cost=600))
        assert isinstance(waiting, Wait)
        assert waiting.seconds < 1  # what is lent is counted in: nobody is refused for it
        await until(lambda: nudged, within=2)
        assert time.monotonic() - began < 0.3
        assert isinstance(await one.ask("all", replace(TOKENS, cost=600)), Granted)
        assert other.ledger.held() == {}


async def test_nothing_is_lent_while_somebody_waits(valkey_url):
    """While there is a line nothing is borrowed, and who had to ask Redis once goes on asking there."""
    async with host(valkey_url) as one, host(valkey_url) as other:
        assert isinstance(await one.ask("a", replace(TOKENS, cost=995)), Granted)
        assert isinstance(await one.ask("b", TOKENS), Wait)
        await other.ask("c", replace(TOKENS, cost=1))
        await other.exchange()
        assert other.ledger.held() == {}
        await one.ledger.release("a", (replace(TOKENS, cost=995),))
        await one.exchange()
        assert isinstance(await one.ask("b", TOKENS), Granted)


async def test_waiters_stay_in_their_line(valkey_url):
    """Who waits at Redis is not granted from a quantum meanwhile: its place in line would stay behind and hold up others."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        dear = replace(TOKENS, cost=900)
        assert isinstance(await one.ask("a", dear), Wait)
        one.ledger._quanta[TOKENS.bucket_id].hear(950, 1.0, 0, one.ledger._monotonic())
        assert isinstance(await one.ask("a", dear), Wait)
        await one.ledger.release("a", (dear,), waiter=f"{one.link.inbox}|a")
        with redis.Redis.from_url(valkey_url) as client:
            assert not client.exists(keys.line(TOKENS.bucket_id))


async def test_what_stands_open(valkey_url):
    """A want that is not lent and stands open is not asked for; once it does not, all that want it ask Redis."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        one.stands_open.add(PERMITS.bucket_id)
        sent = one.link.stats().round_trips
        granted = await one.ask("a", PERMITS, TOKENS)
        assert isinstance(granted, Granted)
        assert len(granted.levels) == 2
        await one.ledger.settle("a", (PERMITS, TOKENS), {TOKENS.bucket_id: 5})
        assert one.link.stats().round_trips == sent
        assert set(one.ledger._quanta) == {TOKENS.bucket_id}
        one.stands_open.clear()
        assert isinstance(await one.ask("b", PERMITS, TOKENS), Granted)
        assert one.link.stats().round_trips == sent + 1


async def test_gate(valkey_url):
    """A gate that nobody has heard to be there costs nothing; who passed it so and meets an overload shuts it for all."""
    gate = Want("gate:opus-4", "upstream", "overload", Form.GATE, 0, 1, 1, "open")
    async with host(valkey_url) as one, host(valkey_url) as other:
        await one.borrow(TOKENS)
        one.stands_open.add(gate.bucket_id)
        assert isinstance(await one.ask("a", TOKENS, gate), Granted)
        assert one.ledger.stats().running == 1
        said = Said(verdict=Verdict.OVERLOADED, told=Told(chance=1000, in_the_air=1, first_us=500_000, longest_us=500_000))
        await one.ledger.settle("a", (TOKENS, gate), {TOKENS.bucket_id: 0}, said)
        waits = await other.ask("b", TOKENS, gate)
        assert isinstance(waits, Wait)
        assert waits.bucket_id == gate.bucket_id


async def test_dead(valkey_url, monkeypatch):
    """What a dead borrower held is lost: it flows in again at the bucket's own pace, and is nobody's before."""
    monkeypatch.setattr(borrowing_module, "LOAN_S", 0.1)
    monkeypatch.setattr(quanta, "MARGIN_S", 0.02)
    async with host(valkey_url) as one, host(valkey_url) as other:
        await one.borrow(TOKENS)
        before, lent = level(valkey_url, TOKENS)
        assert lent > 0
        await asyncio.sleep(0.11)
        assert isinstance(await other.ask("a", TOKENS), Granted)
        assert level(valkey_url, TOKENS) == (before - 10, 0)
        assert isinstance(await other.ask("b", replace(TOKENS, cost=before - 9)), Wait)


async def test_dead_waiter(valkey_url, monkeypatch):
    """Who waited and is dead keeps a bucket from being lent for a lease, and no longer: the exchange itself lets it go."""
    monkeypatch.setattr(pulse, "LEASE_US", 100_000)
    monkeypatch.setattr(pulse, "GAP_US", 90_000)
    async with host(valkey_url) as one:

        async def is_lent(exchanges):
            for _ in range(exchanges):
                await one.ledger.renew({})
                await one.ledger.reserve(f"{time.monotonic_ns()}", (TOKENS,), waiter="", flow=Flow("a"))
                await one.exchange()
                await asyncio.sleep(0.02)
            return bool(one.ledger.held())

        await one.ask("first", TOKENS)
        dear = replace(TOKENS, cost=1000)
        assert isinstance(await RedisLedger(one.link).reserve("d", (dear,), waiter="gone|1", flow=Flow("gone")), Wait)
        assert not await is_lent(3)
        assert await is_lent(25)


async def test_no_room_while_it_ran(valkey_url, monkeypatch):
    """What had no room in the bucket beside a loan does not flow in after all once the loan has ended."""
    monkeypatch.setattr(borrowing_module, "LOAN_S", 0.1)
    monkeypatch.setattr(quanta, "MARGIN_S", 0.02)
    fast = replace(TOKENS, rate_per_minute=6_000_000)
    async with host(valkey_url) as one, host(valkey_url) as other:
        await one.borrow(fast)
        _, lent = level(valkey_url, fast)
        await asyncio.sleep(0.11)
        assert (await other.ask("a", fast)).levels == (1000 - lent - 10,)


async def test_stopped_and_woken(valkey_url):
    """A borrower that stood still finds its loan over: it asks Redis, and sends home what nobody counts on any more."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        one.slept += 2.0
        sent = one.link.stats().round_trips
        assert isinstance(await one.ask("a", TOKENS), Granted)
        assert one.link.stats().round_trips == sent + 1


async def test_debt(valkey_url):
    """A bucket in debt lends nothing, and what is lent of it comes home as soon as the borrower hears of it."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        await one.ask("a", TOKENS)
        await one.ledger.settle("a", (TOKENS,), {TOKENS.bucket_id: 5000})
        await one.exchange()
        await one.exchange()
        assert one.ledger.held() == {}
        assert level(valkey_url, TOKENS)[0] == pytest.approx(1000 - 200 - 5000, abs=1)


async def test_upstreams_word(valkey_url):
    """What upstream said to a call that was granted here lowers the bucket with the next exchange, and raises none."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        await one.ask("a", TOKENS)
        await one.ask("b", TOKENS)
        await one.ledger.settle("a", (TOKENS,), {TOKENS.bucket_id: 10}, Said({TOKENS.bucket_id: 500}))
        await one.ledger.settle("b", (TOKENS,), {TOKENS.bucket_id: 10}, Said({TOKENS.bucket_id: 700}))
        await one.exchange()
        left, lent = level(valkey_url, TOKENS)
        assert (left + lent, lent > 0) == (500, True)
        await one.ask("c", TOKENS)
        await one.ledger.settle("c", (TOKENS,), {TOKENS.bucket_id: 10}, Said({TOKENS.bucket_id: 990}))
        await one.exchange()
        assert sum(level(valkey_url, TOKENS)) == pytest.approx(490, abs=1)


async def test_upstreams_word_takes_loans_home(valkey_url):
    """When upstream has less than is lent, all of it comes home, and nothing is lent until there is more."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        await one.ask("a", TOKENS)
        await one.ledger.settle("a", (TOKENS,), {TOKENS.bucket_id: 10}, Said({TOKENS.bucket_id: 50}))
        await one.exchange()
        await one.exchange()
        assert one.ledger.held() == {}
        assert level(valkey_url, TOKENS) == (pytest.approx(50, abs=1), 0)
        assert isinstance(await one.ask("b", replace(TOKENS, cost=60)), Wait)


async def test_upstreams_word_is_said_once(valkey_url):
    """An exchange that is said again says nothing of what upstream said: that was so when it was said first."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        await one.ask("a", TOKENS)
        await one.ledger.settle("a", (TOKENS,), {TOKENS.bucket_id: 10}, Said({TOKENS.bucket_id: 50}))
        one.trouble = "unsent"
        with pytest.raises(RedisAway):
            await one.exchange()
        one.trouble = ""
        await one.exchange()
        assert sum(level(valkey_url, TOKENS)) == pytest.approx(1000 - 210, abs=1)


@pytest.mark.parametrize("trouble", ["lost", "unsent"])
async def test_said_again(valkey_url, trouble):
    """An exchange whose answer is lost, done or not, is said again and counts once; what settles meanwhile follows it."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        await one.ask("a", TOKENS)
        await one.ask("b", TOKENS)
        await one.ledger.settle("a", (TOKENS,), {TOKENS.bucket_id: 4})
        one.trouble = trouble
        for _ in range(3):
            with pytest.raises(RedisAway):
                await one.exchange()
        await one.ledger.settle("b", (TOKENS,), {TOKENS.bucket_id: 30})
        one.trouble = ""
        await one.exchange()
        await one.ledger.close()
        assert sum(level(valkey_url, TOKENS)) == pytest.approx(1000 - 200 - 34, abs=1)


async def test_given_up(valkey_url, monkeypatch):
    """What could not be said for a minute is given up, once; what follows is said all the same."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        await one.ask("a", TOKENS)
        one.trouble = "unsent"
        with pytest.raises(RedisAway):
            await one.exchange()
        one.slept += 61
        with pytest.raises(RedisAway):
            await one.exchange()
        one.trouble = ""
        await one.ledger.settle("a", (TOKENS,), {TOKENS.bucket_id: 110})
        await one.ledger.close()
        assert level(valkey_url, TOKENS) == (pytest.approx(1000 - 200 - 110, abs=1), 0)


async def test_other_figures(valkey_url):
    """When a limit has changed, what was borrowed under the old one goes home, and calls ask Redis until it has."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        other = replace(TOKENS, capacity=500)
        assert isinstance(await one.ask("a", other), Granted)
        assert one.ledger.held()  # not yet home
        await one.exchange()
        assert one.ledger.held() == {}
        assert level(valkey_url, TOKENS)[1] == 0
        await one.exchange()
        await one.borrow(other)


async def test_closed(valkey_url):
    """At the end all is home, and nothing is borrowed any more."""
    async with host(valkey_url, keeps=True) as one:
        await one.borrow(TOKENS)
        await one.ask("a", TOKENS)
        await one.ledger.close()
        assert level(valkey_url, TOKENS) == (pytest.approx(1000 - 210, abs=1), 0)
        assert isinstance(await one.ask("b", TOKENS), Granted)
        assert repr(one.ledger).startswith("<Borrowing [0 buckets, 1 calls, ")


async def test_redis_forgets(valkey_url):
    """A Redis that has lost everything lends anew, and what was held of what it lost is not granted on top."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS)
        with redis.Redis.from_url(valkey_url) as client:
            client.flushall()
        await one.ask("a", TOKENS)
        await one.exchange()
        left, lent = level(valkey_url, TOKENS)
        assert left + lent <= 1000
        assert one.ledger.held().get(TOKENS.bucket_id, 0) <= lent


async def test_nothing_left_behind(valkey_url):
    """What an exchange leaves in Redis is on its way out."""
    async with host(valkey_url) as one:
        await one.borrow(TOKENS, REQUESTS)
        await one.ledger.close()
        with redis.Redis.from_url(valkey_url) as client:
            assert all(client.pttl(key) > 0 for key in client.scan_iter())


# Everything at once.

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
