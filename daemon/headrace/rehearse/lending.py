"""
Borrowing in a rehearsal: what each daemon holds of the buckets in advance, to grant from without asking anybody.

What a daemon holds, aims at and says is budget/quanta.py; this is the other side of an exchange, and when there is one. Nothing
is lost on the way here and no daemon dies, so loans never lapse. Exchanges and recalls take no time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from headrace.budget.bucket import UNITS, Bucket
from headrace.budget.quanta import LOAN_S, TICK_S, Quantum, Terms, Word
from headrace.budget.want import Want
from headrace.rehearse.lines import Line

_TICK_US = round(TICK_S * 1e6)
_SOON_US = 10_000  # exchanges of one daemon are so far apart at least


def lend(line: Line, borrower: int, word: Word, now_us: int) -> int:
    """Do what a borrower's word says, and return how much is lent to it now; nothing more while somebody waits."""
    bucket, loan = line.bucket, line.loans.get(borrower, 0)
    if bucket is None:
        raise AssertionError("permits are not lent")
    bucket.flow(now_us)
    unspent = max(0, loan - word.spent)
    kept = min(word.kept, unspent)
    home = min(word.home, unspent - kept)
    _set_lent(line, line.lent + kept - loan)
    bucket.give_back((home + word.back) * line.unit)
    more = 0 if line.places else max(0, min(word.asked, word.most - kept, bucket.level // line.unit // 2))
    bucket.take(more * line.unit)
    _set_lent(line, line.lent + more)
    line.loans[borrower] = kept + more
    if not line.loans[borrower]:
        del line.loans[borrower]
    return kept + more


def _set_lent(line: Line, tokens: int) -> None:
    # A bucket's room is what is not lent, so that level and loans are never more than the capacity.
    line.lent = tokens
    if isinstance(line.bucket, Bucket):
        line.bucket.capacity = (line.want.capacity - tokens) * UNITS


class Borrower:
    """
    What one daemon holds.

    Args:
        number: the daemon's.
        alarm: told when the next exchange is due (us).
        came_home: told of a line to which something came back.
    """

    def __init__(self, number: int, terms: Terms, alarm: Callable[[int], None], came_home: Callable[[Line], None]) -> None:
        self._number, self._terms, self._alarm, self._came_home = number, terms, alarm, came_home
        self._quanta: dict[str, tuple[Quantum, Line]] = {}
        self._due_us = self._said_us = 0
        self.grants = self.exchanges = 0

    def __repr__(self) -> str:
        return f"<Borrower {self._number} [{len(self._quanta)} buckets, {self.grants} grants, {self.exchanges} exchanges]>"

    def take(self, wants: Sequence[Want], lines: Sequence[Line], now_us: int) -> bool:
        """Grant a call from what is held, if all of it is."""
        quanta = [self._quantum(line, now_us) for line in lines]
        for quantum, want in zip(quanta, wants, strict=True):
            quantum.note(want.cost)
        fits = all(quantum.fits(want.cost, now_us / 1e6) for quantum, want in zip(quanta, wants, strict=True))
        if fits:
            for quantum, want in zip(quanta, wants, strict=True):
                quantum.take(want.cost)
            self.grants += 1
        self._expect(now_us + _TICK_US if fits else max(now_us, self._said_us + _SOON_US))
        return fits

    def put_back(self, lines: Sequence[Line], back: Sequence[int], now_us: int) -> None:
        """A call that was granted here gives so much back, line by line."""
        for line, tokens in zip(lines, back, strict=True):
            if tokens:
                self._quantum(line, now_us).put_back(tokens)
        self._expect(now_us + _TICK_US)

    def recall(self, line: Line, now_us: int) -> None:
        """Somebody waits: send everything home that is held of a bucket."""
        held = self._quanta.get(line.want.bucket_id)
        if held is not None and held[0].recall(now_us / 1e6):
            self._say(*held, now_us)

    def exchange(self, now_us: int) -> None:
        """Say what there is to say, at the moment that `alarm` was told."""
        if now_us < self._due_us or not self._due_us:
            return
        self._due_us, self._said_us = 0, now_us
        is_going_on = False
        for bucket_id, (quantum, line) in list(self._quanta.items()):
            is_going_on |= self._say(quantum, line, now_us)
            if quantum.is_idle(self._terms.least_calls):
                del self._quanta[bucket_id]
        if is_going_on:
            self._expect(now_us + _TICK_US)

    def _say(self, quantum: Quantum, line: Line, now_us: int) -> bool:
        """Exchange one quantum's word; return whether there was one."""
        word = quantum.word(now_us / 1e6, self._terms)
        if word is None:
            return quantum.held > 0
        self.exchanges += 1
        lent = lend(line, self._number, word, now_us)
        bucket = line.bucket
        level = (bucket.level if bucket is not None else 0) // line.unit + line.lent
        quantum.hear(lent, LOAN_S, level, now_us / 1e6)
        self._came_home(line)
        return True

    def _quantum(self, line: Line, now_us: int) -> Quantum:
        held = self._quanta.get(line.want.bucket_id)
        if held is None:
            held = self._quanta[line.want.bucket_id] = Quantum(line.want, now_us / 1e6), line
        return held[0]

    def _expect(self, at_us: int) -> None:
        if not self._due_us or at_us < self._due_us:
            self._due_us = at_us
            self._alarm(at_us)
