"""
Whatever happens in whatever order, no budget is invented, nothing comes back twice, and in the end every bucket is whole.

A few daemons share a Redis. They reserve, settle, release, borrow and exchange; answers are lost, daemons die, clocks jump, and
Redis forgets its scripts or is killed and started anew on its data. The ledgers are the real ones (lossy.py), and Redis is;
only time is turned by hand (turned.py). After every step what is in Redis and in the daemons is held against the books
(books.py).

What the books allow: a daemon that dies takes with it the debts that it had not told yet; and if Redis's clock jumps ahead, a
borrower goes on with its loan for the second that it lasts there, and after a jump of a minute and a half an exchange whose
answer was lost may be done twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from msgspec.structs import replace

from books import Books
from headrace import keys
from headrace.budget import pulse
from headrace.budget.ledger import Granted, HoldClosed, Wait
from headrace.budget.quanta import LOAN_S, TICK_S
from headrace.budget.want import Form, Want
from headrace.errors import RedisAway
from headrace.rank import Flow
from lossy import Daemon, Held, Wire
from turned import TurnedValkey

BEGIN_US = 1_800_000_000_000_000
# What is reserved of the first is never too little; of the second it may be, and then there is debt.
REQUESTS = Want("org:requests", "org", "requests", Form.RATE, 3000, 40, 1, is_ceiling=True)
TOKENS = Want("org:input_tokens", "org", "input_tokens", Form.RATE, 1200, 500, 1)
SPEND = Want("org:spend@1", "org", "spend", Form.WINDOW, 0, 4000, 1, ends_us=4_000_000_000_000_000)
PERMITS = Want("org:concurrency", "org", "concurrency", Form.PERMIT, 0, 2, 1)
RATES = (REQUESTS, TOKENS, SPEND)
BEAT_US = round(pulse.BEAT_S * 1e6)
LONG_ENOUGH_US = 1_200_000_000  # to pay every debt, and past every loan that a clock which went back has made longer
CLOSED_FOR_US = 50_000_000  # a closed hold is remembered at least so long

WHICH = st.integers(0, 9)
PICKED = st.sampled_from(((PERMITS,), (TOKENS, PERMITS), (TOKENS,), (SPEND,), (*RATES, PERMITS), RATES))
TROUBLE = st.sampled_from(["", "", "lost", "unsent"])
SHARE = st.sampled_from([0.0, 0.3, 1.0, 1.7, 4.0])
LULL_US = st.sampled_from([0, 0, 0, 1_100_000])  # past the end of a loan
LONG_US = st.sampled_from([30_000, 100_000, 400_000, 1_100_000, 3_000_000, 15_000_000])


class AnyOrder(RuleBasedStateMachine):
    """Three daemons, and what they do and what befalls them."""

    valkey: TurnedValkey  # one for all examples
    granted: ClassVar[Counter[str]] = Counter()  # in all examples: by Redis, and here

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.true_us = self.redis_us = BEGIN_US
        self.valkey.empty(self.redis_us)
        self.books = Books(RATES, self.redis_us)
        self.wire = Wire(self.valkey.url, self.books, lambda: self.true_us / 1e6)
        self.numbers = itertools.count()
        self.capacity = TOKENS.capacity
        self.blurred_until_us = 0
        self.back: Counter[tuple[str, str]] = Counter()  # what is to be given back by each borrower, bucket by bucket
        self.waiting: list[Held] = []
        self.running: list[Held] = []
        self.left: list[Held] = []
        self.daemons: list[Daemon] = []
        for _ in range(3):
            self._begin(len(self.daemons))

    def _begin(self, at: int) -> None:
        daemon = Daemon(self.wire, next(self.numbers))
        self.daemons[at : at + 1] = [daemon]
        self.valkey.listen(daemon.link.inbox)

    def _do(self, what: Callable[..., Awaitable[Any]], *args: Any, **named: Any) -> Any:
        return self.loop.run_until_complete(self._quietly(what, *args, **named))

    async def _quietly(self, what: Callable[..., Awaitable[Any]], *args: Any, **named: Any) -> Any:
        """Do it, then wait until nobody has anything more to say."""
        try:
            return await what(*args, **named)
        finally:
            await self.wire.quiet()

    def _daemon(self, which: int) -> Daemon:
        return self.daemons[which % len(self.daemons)]

    # Calls.

    @rule(which=WHICH, costs=st.lists(st.integers(1, 200), min_size=1, max_size=4), picked=PICKED, trouble=TROUBLE)
    def call(self, which, costs, picked, trouble):
        for cost in costs:
            by = self._daemon(which)
            wants = tuple(self._want(want, cost) for want in picked)
            self._ask(Held(by, f"h{next(self.numbers)}", wants), trouble)

    @rule(which=WHICH, cost=st.integers(1, 9), count=st.integers(5, 9), lull_us=LULL_US, trouble=TROUBLE)
    def burst(self, which, cost, count, lull_us, trouble):
        """Many calls, an exchange, some more, another: so there is something to borrow for, then to spend, then to tell."""
        self.call(which, [cost] * count, RATES, "")
        self._pass(round(TICK_S * 1e6))
        self.exchange(which, "")
        self._pass(lull_us)
        self.call(which, [cost] * 2, RATES, "")
        if self.running:
            self.settle([-1], 0.3, "", False)
        self.exchange(which, trouble)

    def _want(self, want: Want, cost: int) -> Want:
        if want is TOKENS:
            return replace(want, capacity=self.capacity, cost=cost)
        return replace(want, cost=cost) if want is SPEND else want

    @precondition(lambda self: self.waiting)
    @rule(which=WHICH, trouble=TROUBLE)
    def ask_again(self, which, trouble):
        self._ask(self.waiting.pop(which % len(self.waiting)), trouble)

    def _ask(self, call: Held, trouble: str) -> None:
        by = call.by
        by.trouble = trouble
        before = by.ledger.stats().grants
        try:
            outcome = self._do(by.ledger.reserve, call.hold, call.wants, waiter=call.waiter, flow=Flow(by.name))
        except RedisAway:
            outcome = None  # taken or not: the next word with this hold will tell
        by.trouble = ""
        if by.ledger.stats().grants > before:
            call.is_here = True
            self.books.grant_here(by.link.inbox, call.wants)
        (self.running if isinstance(outcome, Granted) else self.waiting).append(call)
        self.granted["here" if call.is_here else "Redis"] += isinstance(outcome, Granted)
        assert outcome is None or isinstance(outcome, (Granted, Wait))

    @precondition(lambda self: self.running)
    @rule(calls=st.lists(WHICH, min_size=1, max_size=5), share=SHARE, trouble=TROUBLE, twice=st.booleans())
    def settle(self, calls, share, trouble, twice):
        """Settle by less, as much or more than was reserved; at once a second time, by mistake."""
        for which in calls[: len(self.running)]:
            call = self.running.pop(which % len(self.running))
            used = {want.bucket_id: int(want.cost * (min(share, 1.0) if want.is_ceiling else share)) for want in call.wants}
            used.pop(PERMITS.bucket_id, None)
            self._close(call, trouble, used)
            if twice:
                self._do(call.by.ledger.settle, call.hold, call.wants, used)

    @precondition(lambda self: self.running or self.waiting)
    @rule(which=WHICH, trouble=TROUBLE)
    def release(self, which, trouble):
        """Give back what was granted unused, or leave the line."""
        calls = self.running or self.waiting
        self._close(calls.pop(which % len(calls)), trouble)

    def _close(self, call: Held, trouble: str = "", used: Mapping[str, int] | None = None) -> None:
        call.by.trouble = trouble
        with contextlib.suppress(RedisAway):  # it is said again in the background, as time goes on
            if used is None:
                self._do(call.by.ledger.release, call.hold, call.wants, waiter=call.waiter)
            else:
                self._do(call.by.ledger.settle, call.hold, call.wants, used)
        call.by.trouble = ""
        for want in call.wants if call.is_here else ():
            back = want.cost if used is None else want.cost - used[want.bucket_id]
            self.back[call.by.link.inbox, want.bucket_id] += back
        call.left_us = self.redis_us
        self.left.append(call)

    @precondition(lambda self: self.left)
    @rule(which=WHICH)
    def release_again(self, which):
        """What has left says so once more, however much later."""
        call = self.left[which % len(self.left)]
        self._do(call.by.shared.release, call.hold, call.wants, waiter=call.waiter)

    @precondition(lambda self: any(self._is_fresh(call) for call in self.left))
    @rule(which=WHICH)
    def late_reserve(self, which):
        """A reserve that was on its way when its call left takes nothing."""
        fresh = [call for call in self.left if self._is_fresh(call)]
        call = fresh[which % len(fresh)]
        with pytest.raises(HoldClosed):
            self._do(call.by.shared.reserve, call.hold, call.wants, waiter=call.waiter, flow=Flow(call.by.name))

    def _is_fresh(self, call: Held) -> bool:
        age_us = self.redis_us - call.left_us
        return call.hold in self.books.closed and 0 <= age_us < CLOSED_FOR_US and call.by in self.daemons

    # Daemons, Redis, time.

    @rule(which=WHICH, trouble=TROUBLE)
    def exchange(self, which, trouble):
        by = self._daemon(which)
        by.trouble = trouble
        try:
            self._do(by.ledger.exchange)
        except RedisAway:
            if by.ledger._unsaid is None:  # after a minute it has given up
                for account in self.books.accounts.values():
                    self.back[by.link.inbox, account.want.bucket_id] = by.given_back(account.want.bucket_id)
        by.trouble = ""

    @rule(which=WHICH)
    def crash(self, which):
        """A daemon dies, with all that it held, waited for and had not told; another takes its place."""
        self.call(which, [1], (PERMITS,), "")
        by = self._daemon(which)
        for calls in (self.waiting, self.running, self.left):
            calls[:] = [call for call in calls if call.by is not by]
        self.valkey.leave(by.link.inbox)
        self._do(by.link.aclose)
        self._begin(self.daemons.index(by))

    @rule(us=LONG_US)
    def time_passes(self, us):
        self._pass(us)

    def _pass(self, us: int) -> None:
        """Let time pass, in which who lives says so twice a second."""
        until = self.true_us + us
        while self.true_us < until:
            step = min(until - self.true_us, BEAT_US - self.true_us % BEAT_US)
            self._turn(step, step, beats=(self.true_us + step) % BEAT_US == 0)

    def _turn(self, true_us: int, redis_us: int, *, beats: bool = False) -> None:
        self.true_us += true_us
        self.redis_us += redis_us
        self.books.is_blurred = self.true_us < self.blurred_until_us
        self.books.turn(self.redis_us, self.valkey.client)
        self.valkey.turn(self.redis_us)
        self._do(self._go_on, true_us / 1e6, beats)
        if beats:
            renewed = self._permits(self.redis_us + pulse.LEASE_US)
            assert self._holders() <= renewed, f"not renewed: {self._holders() - renewed}"

    async def _go_on(self, seconds: float, beats: bool) -> None:
        for daemon in self.daemons:
            await daemon.clock.advance(seconds)
            if beats:
                await daemon.ledger.renew({call.hold: call.wants for call in self.running if call.by is daemon})

    @rule(ms=st.sampled_from([-4000, -300, 300, 1200, 4000, 90_000]))
    def redis_clock_jumps(self, ms):
        self._do(self.daemons[0].shared.release, f"h{next(self.numbers)}", RATES)  # a loan that has ended is seen to have ended
        if ms > 0:
            self.blurred_until_us = self.true_us + round(LOAN_S * 1e6)
            self.books.is_blurred = self.books.was_blurred = True
        self._turn(0, ms * 1000, beats=True)

    @rule(which=WHICH, seconds=st.sampled_from([-600, -2, 2, 3600]))
    def clock_of_a_daemon_jumps(self, which, seconds):
        """It has a say in nothing but when a settlement is said again."""
        self._do(self._daemon(which).clock.advance, float(seconds))

    @rule()
    def scripts_are_forgotten(self):
        self.valkey.client.script_flush()

    @rule(away_us=st.sampled_from([10_000, 3_000_000]))
    def redis_is_killed(self, away_us):
        self.valkey.stop()
        self.true_us += away_us
        self.valkey.start()
        self._turn(0, away_us)

    @rule(capacity=st.sampled_from([300, 500, 800]))
    def limit_changes(self, capacity):
        self.capacity = capacity
        self.books.accounts[keys.bucket(TOKENS.bucket_id)].change(capacity)

    # What must hold at every moment.

    @invariant()
    def recalls_arrive(self):
        for inbox, message in self.valkey.heard():
            for daemon in self.daemons:
                if daemon.link.inbox == inbox and message.startswith(b"recall "):
                    daemon.ledger._recalled(message.removeprefix(b"recall "))

    @invariant()
    def nothing_is_invented(self):
        self.books.check(self.valkey.client)
        for account in self.books.accounts.values():
            for daemon in self.daemons:
                held = daemon.ledger.held().get(account.want.bucket_id, 0)
                loan = account.loans.get(daemon.link.inbox)
                assert self.books.is_blurred or held <= (loan.left if loan else 0), f"{daemon} holds {held}, {account}"

    @invariant()
    def each_gives_back_once(self):
        for account in self.books.accounts.values():
            for daemon in self.daemons:
                expected = self.back[daemon.link.inbox, account.want.bucket_id]
                assert daemon.given_back(account.want.bucket_id) == expected, (
                    f"{daemon} gives back {account}, and not {expected}"
                )

    @invariant()
    def permits_are_bounded(self):
        assert len(self._holders()) <= PERMITS.capacity
        assert self._holders() <= self._permits(0)

    def _holders(self) -> set[str]:
        return {call.hold for call in self.running if PERMITS in call.wants}

    def _permits(self, from_us: int) -> set[str]:
        """What Redis knows to hold a permit until this moment or longer."""
        name = keys.permits(PERMITS.bucket_id)
        return {hold.decode().split("@")[0] for hold in self.valkey.client.zrange(name, from_us, "+inf", byscore=True)}

    def teardown(self):
        try:
            if sys.exc_info()[0] is None:
                self._end()
        finally:
            self._shut()

    def _end(self) -> None:
        """All leave, and time passes: no window had more than its promise, and every bucket is whole again by itself."""
        for account in self.books.accounts.values():
            account.check_windows()
        for call in [*self.running, *self.waiting]:
            self._close(call)
        for daemon in self.daemons:
            self._do(daemon.ledger.close)
        for _ in range(2):  # until all is told, then until it is paid
            self._turn(LONG_ENOUGH_US, LONG_ENOUGH_US)
        self.running, self.waiting = [], []
        self._pass(3 * pulse.LEASE_US)
        self.nothing_is_invented()
        unclosed = self.books.granted.keys() & {call.hold for call in self.left}
        assert not unclosed, f"never closed in Redis: {unclosed}"
        whole = tuple(replace(want, cost=want.capacity) for want in (REQUESTS, self._want(TOKENS, self.capacity), PERMITS))
        outcome = self._do(self.daemons[0].shared.reserve, "all", whole, waiter="", flow=Flow("all"))
        assert isinstance(outcome, Granted), f"not whole again: {outcome}"

    def _shut(self) -> None:
        for daemon in self.daemons:
            self._do(daemon.link.aclose)
        while tasks := asyncio.all_tasks(self.loop):
            for task in tasks:
                task.cancel()
            self.loop.run_until_complete(asyncio.wait(tasks))
        self.loop.close()


@pytest.fixture
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TurnedValkey]:
    server = TurnedValkey(Path(tmp_path_factory.mktemp("v")))
    yield server
    server.stop()


@pytest.mark.slow
def test_any_order(valkey, long):
    """No step breaks the books, no window its promise, and all is whole in the end; and there was much to break."""
    AnyOrder.valkey, examples = valkey, 2000 if long else 40
    run_state_machine_as_test(
        AnyOrder,
        settings=settings(
            max_examples=examples, stateful_step_count=50, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
    assert min(AnyOrder.granted["Redis"], AnyOrder.granted["here"]) > examples / 10
