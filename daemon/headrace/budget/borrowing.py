"""
Borrowing: a ledger that grants from quanta it holds of the buckets, without a round trip, and asks Redis for the rest.

    call -> Borrowing -> fits into what is held: granted here, settled here, told in the next exchange
                      -> else RedisLedger, as though there were no borrowing

One exchange a tick (sooner if all is spent), and only if there is something to say, tells Redis for all buckets at once what
was spent and what came back, sends home what is not needed, and asks for more; while more than half of each loan is left, it
waits for a few ticks. While anybody waits on a bucket nothing is lent of it; who must wait has Redis recall what is lent, it is
home a round trip later, and grants go one by one in the line's order. Who is granted here is charged nothing for it (rank.py),
as nobody waited; so its settlement has no charge to correct.

The arithmetic, and why no window gets more than its bucket's promise, is in quanta.py. Calls that want permits go one by one: a
permit is held for as long as its call runs, so a process that borrowed some would keep them from others for minutes. Whatever
else is not lent does not matter while it is known to stand open.

What upstream says of a bucket with an answer goes with the next exchange, once: said again later it would no longer be so.

An exchange that fails may have been done. It is said again, under the same number, until Redis answers or a minute has passed
(Redis knows the numbers for longer); what happens meanwhile is added up for the next. After that minute what it said is lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import structlog

from headrace import keys, observe
from headrace.budget.exchange import Exchange
from headrace.budget.gate import Verdict
from headrace.budget.ledger import NOTHING_SAID, Granted, Ledger, Reserved, Said, Wait, all_back, given_back, put_right
from headrace.budget.quanta import EASE_S, LOAN_S, NOTHING, TICK_S, Quantum, Terms, Word
from headrace.budget.redis import names_of
from headrace.budget.want import Form, Want
from headrace.clock import Clock, SystemClock, until_set
from headrace.errors import RedisAway
from headrace.link import Link, Script
from headrace.rank import Flow

log = structlog.get_logger()

_EXCHANGE = Script(__package__, "exchange.lua", after=("bucket.lua", "line.lua"))
_LENT = (Form.RATE, Form.WINDOW)
_SOON_S = 0.01  # exchanges are so far apart at least, unless something is recalled
_AGAIN_S = 1.0
_KEEP_TRYING_S = 60.0
_CLOSING_S = 1.0
_AT_ONCE = 256  # buckets in one exchange
_ASKED_BOUND = 65_536
_BUCKET = keys.bucket("").encode()
_GRANTS = observe.BORROWED_GRANTS.at()


_BOOT_TIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def elapsed() -> float:
    """Return seconds that only go forward, through a sleep of the machine, too."""
    return time.clock_gettime(_BOOT_TIME)


@dataclass(frozen=True, slots=True)
class BorrowingStats:
    """Of how many buckets something is held; how many calls granted here run; since the start: grants here, exchanges."""

    buckets: int
    running: int
    grants: int
    exchanges: int

    @property
    def saved(self) -> int:
        """How many commands Redis was spared: a reserve and a settle for each grant, less the exchanges."""
        return 2 * self.grants - self.exchanges


class Borrowing:
    """
    A ledger in front of the one in Redis. Run `keep` as a task; without it nothing is ever borrowed.

    Args:
        audit: as for `RedisLedger`.
        monotonic: seconds that only go forward, by which loans end.
        is_open: whether a want that is not lent stands open as far as is known here, so that nobody need ask for it.
    """

    def __init__(
        self,
        shared: Ledger,
        link: Link,
        *,
        is_open: Callable[[Want], bool],
        terms: Terms | None = None,
        clock: Clock | None = None,
        monotonic: Callable[[], float] = elapsed,
        audit: str = "",
    ) -> None:
        self._shared = shared
        self._link = link
        self._terms = terms or Terms()
        self._clock = clock or SystemClock()
        self._monotonic = monotonic
        self._audit = audit
        self._is_open = is_open
        self._quanta: dict[str, Quantum] = {}
        self._granted: set[str] = set()  # holds that Redis knows nothing of
        self._asked: dict[str, None] = {}  # holds that Redis may know of, though they were not granted
        self._numbers = itertools.count(1)
        self._unsaid: Exchange | None = None
        self._moves: dict[str, list[str]] = {}  # for the audit, by bucket
        self._stirred = asyncio.Event()
        self._urgent = asyncio.Event()
        self._said_at = float("-inf")
        self._grants = self._exchanges = 0
        link.on("recall", self._recalled)

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Borrowing [{stats.buckets} buckets, {stats.running} calls, {stats.saved} commands saved] {self._shared!r}>"

    def stats(self) -> BorrowingStats:
        """Return its state now."""
        return BorrowingStats(len(self.held()), len(self._granted), self._grants, self._exchanges)

    def held(self) -> dict[str, int]:
        """Return what is held, in tokens, by bucket id."""
        now = self._monotonic()
        return {bucket_id: quantum.held for bucket_id, quantum in self._quanta.items() if quantum.held and now < quantum.until}

    def measure(self) -> None:
        """Be the one whose figures the metrics show."""
        observe.BORROWED_BUCKETS.read = lambda: self.stats().buckets
        observe.COMMANDS_SAVED.read = lambda: self.stats().saved

    # Being a ledger.

    def take(self, hold_id: str, wants: Sequence[Want]) -> tuple[int, ...] | None:
        """Take all costs from what is held here, or nothing."""
        if hold_id in self._asked or not (drawn := self._drawn(wants)):
            return None
        now = self._monotonic()
        for quantum, cost in drawn:
            if not quantum.fits(cost, now):
                return None
        for quantum, cost in drawn:
            quantum.note(cost)
            quantum.take(cost)
        self._granted.add(hold_id)
        self._grants += 1
        _GRANTS.count += 1
        if self._audit:
            self._note_moves(hold_id, wants, "cost", [want.cost for want in wants])
        return tuple([self._quanta[want.bucket_id].left if want.form in _LENT else want.capacity for want in wants])

    async def reserve(self, hold_id: str, wants: Sequence[Want], *, waiter: str, flow: Flow) -> Reserved:
        """Take all costs or none, from here or from Redis."""
        levels = self.take(hold_id, wants)
        if levels is not None:
            return Granted(int(self._clock.now() * 1e6), levels)
        if hold_id not in self._asked:
            self._hurry(wants)
        return await self._ask(hold_id, wants, waiter, flow)

    def settle(
        self, hold_id: str, wants: Sequence[Want], actual: Mapping[str, int], said: Said = NOTHING_SAID
    ) -> asyncio.Future[Any]:
        """
        Replace what was reserved by what was used; of what was granted here Redis hears with the next exchange.

        But what shuts a gate it hears at once: that is for all, and at once.
        """
        if hold_id not in self._granted:
            return self._shared.settle(hold_id, wants, actual, said)
        if said.most:
            self._bound(wants, said.most)
        closed = self._close(hold_id, wants, given_back(wants, actual))
        if said.verdict < Verdict.UNKNOWN and (gates := [want for want in wants if want.form is Form.GATE]):
            return self._shared.settle(hold_id, gates, {}, said)
        return closed

    def _bound(self, wants: Sequence[Want], most: Mapping[str, int]) -> None:
        for want in wants:
            if want.form in _LENT and want.bucket_id in most:
                self._quantum(want).bound(most[want.bucket_id])

    def amend(self, hold_id: str, number: int, wants: Sequence[Want], actual: Mapping[str, int]) -> bool:
        """Replace what was reserved of some buckets while the hold stays open, where it was reserved."""
        if hold_id not in self._granted:
            return self._shared.amend(hold_id, number, wants, actual)
        self._put_back(f"{hold_id}|told{number}", wants, put_right(wants, actual))
        return True

    def release(self, hold_id: str, wants: Sequence[Want], *, waiter: str = "") -> asyncio.Future[Any]:
        """Give everything back, and leave the lines."""
        if hold_id in self._granted:
            return self._close(hold_id, wants, all_back(wants))
        self._asked.pop(hold_id, None)
        return self._shared.release(hold_id, wants, waiter=waiter)

    async def renew(self, holds: Mapping[str, Sequence[Want]]) -> None:
        """Say that this process lives, and renew the permits of these holds; none of them was granted here."""
        await self._shared.renew(holds)

    def _drawn(self, wants: Sequence[Want]) -> list[tuple[Quantum, int]]:
        """Return the quanta that a call draws from, and how much from each; none if it must ask Redis."""
        if not self._terms.at_most:
            return []
        drawn = []
        for want in wants:
            if want.form not in _LENT:
                if self._is_open(want):
                    continue
                return []
            quantum = self._quanta.get(want.bucket_id) or self._quantum(want)
            if not quantum.is_of(want):  # the limits have changed; once all is said it is forgotten, and begun anew
                quantum.is_over = True
                self._come_home(quantum)
                return []
            drawn.append((quantum, want.cost))
        return drawn

    def _quantum(self, want: Want) -> Quantum:
        quantum = self._quanta.get(want.bucket_id)
        if quantum is None:
            quantum = self._quanta[want.bucket_id] = Quantum(want, self._monotonic())
            self._stirred.set()
        return quantum

    def _hurry(self, wants: Sequence[Want]) -> None:
        # What is held has run out before the tick: a burst, or a bucket of which a tick's demand may not be held.
        drawn = self._drawn(wants)
        for quantum, cost in drawn:
            quantum.note(cost)
        now = self._monotonic()
        if drawn and now - self._said_at >= _SOON_S and all(quantum.is_lent(now) for quantum, _ in drawn):
            self._urgent.set()

    async def _ask(self, hold_id: str, wants: Sequence[Want], waiter: str, flow: Flow) -> Reserved:
        try:
            outcome = await self._shared.reserve(hold_id, wants, waiter=waiter, flow=flow)
        except RedisAway:
            self._note_asked(hold_id)
            raise
        if not isinstance(outcome, Wait):
            self._asked.pop(hold_id, None)
        elif waiter:  # else it stands in no line, and nobody is to make way for it
            self._note_asked(hold_id)
            if quantum := self._quanta.get(outcome.bucket_id):
                self._come_home(quantum)
        if isinstance(outcome, (Granted, Wait)):
            self._learn(wants, outcome.levels)
        return outcome

    def _learn(self, wants: Sequence[Want], levels: Sequence[int]) -> None:
        for want, level in zip(wants, levels, strict=True):
            if quantum := self._quanta.get(want.bucket_id):
                quantum.level = level

    def _note_asked(self, hold_id: str) -> None:
        # Who stands in a line of Redis's, or may, goes on asking there, until it is granted or leaves. Bounded, since who is
        # granted without Redis (loss.py) does not come back here.
        self._asked[hold_id] = None
        if len(self._asked) > _ASKED_BOUND:
            del self._asked[next(iter(self._asked))]

    def _close(self, hold_id: str, wants: Sequence[Want], back: Sequence[int]) -> asyncio.Future[Any]:
        self._granted.discard(hold_id)
        self._put_back(hold_id, wants, back)
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    def _put_back(self, hold_id: str, wants: Sequence[Want], back: Sequence[int]) -> None:
        for want, tokens in zip(wants, back, strict=True):
            if tokens and want.form in _LENT:
                self._quantum(want).put_back(tokens)
        if self._audit:
            self._note_moves(hold_id, wants, "back", back)

    def _note_moves(self, hold_id: str, wants: Sequence[Want], what: str, tokens: Sequence[int]) -> None:
        at_us = int(self._clock.now() * 1e6)
        for want, number in zip(wants, tokens, strict=True):
            if want.form in _LENT and (number or what == "cost"):
                self._moves.setdefault(want.bucket_id, []).append(f"{at_us} {hold_id} {what} {number}")

    # Talking to Redis.

    async def keep(self) -> None:
        """Exchange until cancelled, once a tick while there is anything to be said or held."""
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            while self._quanta:
                await self._pause()
                try:
                    if self._is_due():
                        await self.exchange()
                except RedisAway:
                    await self._clock.sleep(_AGAIN_S)

    def _is_due(self) -> bool:
        if self._unsaid or self._urgent.is_set() or self._monotonic() - self._said_at >= EASE_S:
            return True
        return any(quantum.is_pressing(self._terms.least_calls) for quantum in self._quanta.values())

    async def _pause(self) -> None:
        await until_set(self._urgent, self._clock, TICK_S)

    async def close(self) -> None:
        """Send everything home, and borrow no more. `keep` has ended."""
        self._terms = NOTHING
        with contextlib.suppress(RedisAway, TimeoutError):
            async with self._clock.timeout(_CLOSING_S):
                while self._quanta:
                    await self.exchange()
                    if not any(quantum.held or quantum.spent or quantum.back for quantum in self._quanta.values()):
                        return

    async def exchange(self) -> None:
        """Say what there is to say, if there is anything, and take in the answer. Raises `RedisAway`."""
        self._urgent.clear()
        exchange = self._unsaid or self._gather()
        if exchange is None:
            return
        self._unsaid = exchange
        sent_at = self._said_at = self._monotonic()
        try:
            reply = await self._link.run(_EXCHANGE, exchange.names, exchange.all_args)
        except RedisAway:
            self._unsaid = exchange.again()
            self._give_up(exchange)
            raise
        self._unsaid = None
        self._exchanges += 1
        observe.EXCHANGES.inc("done")
        self._hear(exchange.quanta, reply, sent_at)

    def _gather(self) -> Exchange | None:
        now = self._monotonic()
        quanta: list[Quantum] = []
        names: list[str] = []
        words: list[Word] = []
        moves: list[str] = []
        for bucket_id, quantum in list(self._quanta.items()):
            word = quantum.word(now, self._terms)
            if word is None:
                if quantum.is_idle(self._terms.least_calls):
                    del self._quanta[bucket_id]
                continue
            quanta.append(quantum)
            names += names_of(bucket_id, False)
            words.append(word)
            moves += [f"{len(quanta)} {move}" for move in self._moves.pop(bucket_id, ())]
            if len(quanta) == _AT_ONCE:
                break
        if not quanta:
            return None
        args = [self._link.inbox, next(self._numbers), round(LOAN_S * 1e6), " ".join(moves)]
        return Exchange(quanta, [*names, *[self._audit] * bool(self._audit), keys.PULSE], args, words, now)

    def _hear(self, quanta: Sequence[Quantum], reply: bytes, sent_at: float) -> None:
        _, *numbers = map(int, reply.split())
        answers = zip(numbers[0::4], numbers[1::4], numbers[2::4], numbers[3::4], strict=True)
        for quantum, (lent, left_us, level, is_wanted) in zip(quanta, answers, strict=True):
            quantum.hear(lent, left_us / 1e6, level, sent_at)
            if is_wanted:
                self._come_home(quantum)

    def _give_up(self, exchange: Exchange) -> None:
        observe.EXCHANGES.inc("away")
        if self._monotonic() - exchange.made_at >= _KEEP_TRYING_S:
            self._unsaid = None
            observe.EXCHANGES.inc("lost")
            log.warning(observe.EXCHANGE_LOST, buckets=len(exchange.quanta))

    def _recalled(self, bucket: bytes) -> None:
        quantum = self._quanta.get(bucket.removeprefix(_BUCKET).decode())
        if quantum is not None:
            self._come_home(quantum)

    def _come_home(self, quantum: Quantum) -> None:
        if quantum.recall(self._monotonic()):
            self._urgent.set()
