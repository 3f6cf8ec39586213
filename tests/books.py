"""
The books of a few buckets, kept beside Redis from what was said on the wire: how much there can be at most, in the bucket and
with all who have borrowed of it, together. The arithmetic is `headrace.budget.bucket`; loans are what is added here.

A grant takes, wherever it is made; what is lent only moves. What comes back counts from the moment at which Redis takes it in,
once. A loan that ends by Redis's clock is lost, with what was left of it. If that clock has jumped ahead, its borrower does not
know yet, and may grant what is left *on top*, for as long as the loan lasts by its own.

Time is Redis's own. When it goes back, a bucket keeps the moment up to which it was counted, and nothing flows in until that
has come again. For the windows time is how far that clock has gone forward in all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import redis

from headrace import keys
from headrace.budget import ledger
from headrace.budget.bucket import UNITS, Bucket, Window
from headrace.budget.want import Form, Want
from windows import worst_window

REMEMBERED_US = 90_000_000  # so long Redis knows an exchange by its number; only if its clock jumps that far is one done twice


@dataclass
class Loan:
    """What is left of a loan (tokens), and when it ends by Redis's clock."""

    left: int
    until_us: int


class Account:
    """One bucket: the most that can be there, and what was granted and came back, for `windows`."""

    def __init__(self, want: Want, now_us: int) -> None:
        self.want = want
        self.unit = UNITS if want.form is Form.RATE else 1
        self.spec: Bucket | Window = Window(want.capacity, want.ends_us)
        if want.form is Form.RATE:
            capacity = want.capacity * UNITS
            self.spec = Bucket(want.rate_per_minute, capacity, capacity, now_us)
        self.capacity, self.raised = want.capacity, 0
        self.loans: dict[str, Loan] = {}
        self.moves: list[tuple[int, int]] = []

    def __repr__(self) -> str:
        return f"<Account {self.want.bucket_id} [{self.spec.level / self.unit:.3f} at most, {self.loans}]>"

    @property
    def lent(self) -> int:
        """What is left of all loans (tokens)."""
        return sum(loan.left for loan in self.loans.values())

    def flow(self, now_us: int) -> None:
        """Let in what has come by now, and end the loans that have ended, each in its time."""
        for inbox, loan in sorted(self.loans.items(), key=lambda item: item[1].until_us):
            if loan.until_us <= now_us:
                self.spec.flow(loan.until_us)
                self.spec.take(loan.left * self.unit)
                del self.loans[inbox]
        self.spec.flow(now_us)

    def go_back(self, now_us: int, client: redis.Redis) -> None:
        """Redis's clock goes back to *now_us*; what it had not counted yet will flow in later."""
        if isinstance(self.spec, Bucket):
            self.spec.at_us = max(now_us, int(client.hget(keys.bucket(self.want.bucket_id), "at") or 0))

    def grant(self, tokens: int, passed_us: int) -> None:
        self.spec.take(tokens * self.unit)
        self.moves.append((passed_us, tokens))

    def give_back(self, tokens: int, passed_us: int) -> None:
        self.spec.give_back(tokens * self.unit)
        if tokens > 0:
            self.moves.append((passed_us, -tokens))

    def change(self, capacity: int) -> None:
        """The limit has another capacity; a bucket that was full is full again at once, and whoever has more keeps it."""
        more, self.capacity = max(0, capacity - self.capacity), capacity
        self.raised += more
        self.spec.capacity = max(self.spec.capacity, capacity * self.unit)
        self.spec.give_back(more * self.unit)

    def check(self, client: redis.Redis, is_blurred: bool) -> None:
        """In Redis and with the borrowers together there is no more than there can be; and of a window, no less."""
        level, used = client.hmget(keys.bucket(self.want.bucket_id), "level", "used")
        there = self.capacity * self.unit if level is None else int(level)
        if self.want.form is Form.WINDOW:
            there = self.want.capacity - int(used or 0)
            assert is_blurred or there + self.lent >= self.spec.level, f"lost: {there} in Redis, {self}"
        assert there + self.lent * self.unit <= self.spec.level, f"{there / self.unit} in Redis, {self}"
        assert not self.want.is_ceiling or self.spec.level >= self.lent * self.unit, f"debt where there can be none: {self}"

    def check_windows(self) -> None:
        """No window of any length was granted more than its promise."""
        if self.want.form is Form.WINDOW:
            assert sum(tokens for _, tokens in self.moves) <= self.want.capacity
        elif self.moves:
            capacity = self.want.capacity + self.raised
            assert worst_window(self.moves, rate_per_minute=self.want.rate_per_minute, capacity=capacity).is_kept


class Books:
    """All accounts, by the keys of their buckets. `hear` is told each script with its reply, `grant_here` what needed none."""

    def __init__(self, wants: Sequence[Want], now_us: int) -> None:
        self.accounts = {keys.bucket(want.bucket_id): Account(want, now_us) for want in wants}
        self.now_us, self.passed_us = now_us, 0
        self.is_blurred = False  # the clock has jumped ahead so lately that a borrower may not know of its loan's end
        self.was_blurred = False
        self.granted: dict[str, int] = {}  # what Redis has granted and nobody has closed, and how far the clock had gone then
        self.closed: set[str] = set()
        self.told: Counter[tuple[str, str]] = Counter()  # what each borrower has given back so far, by bucket
        self.done: dict[tuple[str, int], int] = {}  # exchanges, and how far the clock had gone then

    def turn(self, now_us: int, client: redis.Redis) -> None:
        """Redis's clock is about to show this time."""
        for account in self.accounts.values():
            if now_us < self.now_us:
                account.go_back(now_us, client)
            account.flow(now_us)
        self.passed_us += max(0, now_us - self.now_us)
        self.now_us = now_us

    def hear(self, name: str, names: Sequence[str], args: Sequence[object], reply: object, unsaid: Mapping[str, int]) -> None:
        """Take in one script and its reply; *unsaid* is what its borrower has granted since it wrote its last exchange."""
        if name == "reserve.lua":
            self._reserved(names, args, reply)
        elif name == "settle.lua":
            self._closed(names, args, reply)
        elif name == "exchange.lua":
            self._exchanged(names, args, reply, unsaid)

    def _reserved(self, names, args, reply) -> None:
        hold = args[0]
        if reply[0] == b"wait" and self.granted.pop(hold, None) is not None:  # its permit has lapsed: it begins anew
            for account, words in self._each(names[1::3], args[3], 4):
                account.give_back(int(words[3]), self.passed_us)
        if reply[0] != b"granted" or hold in self.granted:
            return
        assert hold not in self.closed, f"{hold} was granted after its end"
        self.granted[hold] = self.passed_us
        for account, words in self._each(names[1::3], args[3], 4):
            account.grant(int(words[3]), self.passed_us)
            assert account.spec.level >= account.lent * account.unit, f"granted without cover: {account}"

    def _closed(self, names, args, reply) -> None:
        hold = args[0]
        granted_at_us = self.granted.pop(hold, None)
        is_known = granted_at_us is not None and self.passed_us - granted_at_us < ledger.HOLD_US
        assert (reply[0] == 1) <= (granted_at_us is not None), f"{hold} was closed twice"
        assert is_known <= (reply[0] == 1), f"{hold} is not remembered"
        self.closed.add(hold)
        for account, words in self._each(names[1::3], args[3], 5):
            back = int(words[3])
            if reply[0]:
                account.give_back(back if reply[0] == 1 else min(0, back), self.passed_us)

    def _exchanged(self, names, args, reply, unsaid) -> None:
        inbox, number = args[0], args[1]
        is_new = (inbox, number) not in self.done
        is_forgotten = self.passed_us - self.done.setdefault((inbox, number), self.passed_us) >= REMEMBERED_US
        figures = list(map(int, reply.split()))[1:]
        for at, (account, words) in enumerate(self._each(names[0::3], args[4], 10)):
            lent, left_us = figures[4 * at], figures[4 * at + 1]
            if is_new:
                self.told[inbox, account.want.bucket_id] += int(words[4])
            if is_new or is_forgotten:
                account.give_back(int(words[4]), self.passed_us)
            account.loans.pop(inbox, None)
            if lent:
                left = max(0, lent - unsaid.get(account.want.bucket_id, 0))
                account.loans[inbox] = Loan(left, self.now_us + left_us)

    def _each(self, names, text, size):
        words = text.split()
        for at, name in enumerate(names[: len(words) // size]):
            if name in self.accounts:
                yield self.accounts[name], words[at * size : (at + 1) * size]

    def grant_here(self, inbox: str, wants: Sequence[Want]) -> None:
        """A borrower has granted by itself."""
        for want in wants:
            account = self.accounts[keys.bucket(want.bucket_id)]
            loan = account.loans.get(inbox)
            if loan is None or loan.left < want.cost:
                assert self.is_blurred, f"{want.cost} granted of nothing: {account}"
                continue
            loan.left -= want.cost
            account.grant(want.cost, self.passed_us)

    def check(self, client: redis.Redis) -> None:
        for account in self.accounts.values():
            account.check(client, self.was_blurred)
