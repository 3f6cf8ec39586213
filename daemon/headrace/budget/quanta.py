"""
The arithmetic of one quantum: what this process holds of one bucket, and what it has to say of it. Pure; exchange.lua is the
other side.

What is promised. Let a bucket's *lent* be what Redis believes this process to hold; it has left the level when it was lent, and
the level's room is the capacity less what is lent. Here

    held + spent = lent

because `take` moves from held to spent, and what goes home leaves held before it is said. So at every moment
level + held <= capacity over all processes, and no window of any length grants more than `capacity + rate x length`, whoever
grants. A loan ends here, on a clock that only goes forward, before it ends in Redis; so a process that dies or stands still
loses what it holds, and nobody invents it anew. (Only if Redis's own clock jumps ahead by more than a loan has left, what is
still held of it may be granted on top, within the second that the loan lasts here.)

How much is held follows the demand: what was granted lately in `AHEAD_S`, while calls come so often that borrowing saves
commands, and nothing for a while after somebody had to wait.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from headrace.budget.want import Want

TICK_S = 0.05  # so often there is an exchange, if there is something to say that cannot wait
EASE_S = 0.2  # what can wait is said so often
LOAN_S = 1.0
MARGIN_S = 0.25  # so much earlier a loan ends here than in Redis: clocks go at their own pace
AHEAD_S = 0.4  # eight ticks: of what comes in a burst, or while this process was held up, most is here already
LEAST_CALLS = 15.0  # a second; an exchange each tick costs less than asking for each call from about ten on
QUIET_S = 0.5

_SMOOTH_S = 0.25
_ENOUGH = 0.8  # who holds this part of what it aims at asks for nothing


@dataclass(frozen=True, slots=True)
class Terms:
    """How much may be borrowed: the part of a bucket's capacity, and from how many calls a second on."""

    at_most: float = 0.1
    least_calls: float = LEAST_CALLS


NOTHING = Terms(0.0, math.inf)


@dataclass(frozen=True, slots=True)
class Word:
    """What is told of a quantum in one exchange, in tokens; exchange.lua has the meaning of each."""

    spent: int
    back: int
    home: int
    kept: int
    asked: int
    most: int
    ceiling: int | None = None

    @property
    def later(self) -> Word:
        """The same without what upstream said: that is no longer so."""
        return self if self.ceiling is None else replace(self, ceiling=None)


class Quantum:
    """
    What is held of one bucket. Moments are seconds of a clock that only goes forward.

    `held` may be granted until `until`, `spent` was granted since the last word, `back` is what settling gave back (below zero:
    took in addition) and the bucket has not been told; `ceiling` is how much it holds at most, as upstream has said meanwhile;
    `level` is what was left in the bucket and of all that is lent of it when last heard, `lent` what was held then. `want` is a
    want of the bucket, at whatever cost. What `is_over` borrows no more: the bucket has other figures now.
    """

    __slots__ = (
        "_calls", "_since", "_tokens", "back", "calls_pace", "ceiling", "cost", "held", "is_over", "lent", "level",
        "pace", "quiet_until", "spent", "until", "want",
    )  # fmt: skip

    def __init__(self, want: Want, now: float) -> None:
        self.want = want
        self.is_over = False
        self.ceiling: int | None = None
        self.held = self.lent = self.spent = self.back = self.level = 0
        self.until = self.quiet_until = -math.inf
        self.calls_pace = self.pace = self.cost = 0.0  # calls and tokens a second; tokens a call
        self._since, self._calls, self._tokens = now, 0, 0

    def __repr__(self) -> str:
        return f"<Quantum [{self.held} held, {self.spent} spent, {self.back} back]>"

    # Granting.

    def note(self, cost: int) -> None:
        """Take in that a call wants so much, wherever it is granted."""
        self._calls += 1
        self._tokens += cost

    def fits(self, cost: int, now: float) -> bool:
        """Whether so much may be granted from here."""
        return cost <= self.held and now < self.until

    def is_lent(self, now: float) -> bool:
        """Whether a loan runs, even if all of it is spent, and nobody has recalled it."""
        return self.quiet_until <= now < self.until

    def take(self, cost: int) -> None:
        """Grant; the caller has seen that it fits."""
        self.held -= cost
        self.spent += cost

    def put_back(self, tokens: int) -> None:
        """Take in what a call gives back (below zero: took in addition); the bucket is told, and may lend it anew."""
        self.back += tokens

    def bound(self, ceiling: int) -> None:
        """Take in that the bucket holds so many tokens at most, as upstream says; of several ceilings the lowest holds."""
        self.ceiling = ceiling if self.ceiling is None else min(self.ceiling, ceiling)

    @property
    def left(self) -> int:
        """What is left in the bucket and of all that is lent of it, as far as is known here."""
        return self.level - self.spent + self.back

    # Talking.

    def is_pressing(self, least_calls: float) -> bool:
        """Whether something is to be said now: half of the loan is gone or owed, nothing was lent, or there is a ceiling."""
        if self.ceiling is not None:
            return True
        if self.held + min(self.back, 0) > self.lent / 2:
            return False
        return bool(self.spent or self.back) or self.calls_pace >= least_calls

    def word(self, now: float, terms: Terms) -> Word | None:
        """Return what is to be said now, or None; what goes home is held no longer, what is said is said once."""
        self._fold(now)
        most = int(self.want.capacity * terms.at_most)
        aim = self._aim(now, most, terms.least_calls)
        home = self._surplus(now, aim)
        self.held -= home
        asked = aim - self.held if self.held < aim * _ENOUGH else 0
        is_ending = self.held > 0 and self.until - now < LOAN_S / 2
        if not (self.spent or self.back or home or asked or is_ending) and self.ceiling is None:
            return None
        word = Word(self.spent, self.back, home, self.held, asked, most, self.ceiling)
        self.level = self.left
        self.spent = self.back = 0
        self.ceiling = None
        return word

    def hear(self, lent: int, left_s: float, level: int, sent_at: float) -> None:
        """Take in the answer to a word: what is lent to us and for how long from the moment at which it was said."""
        self.held = self.lent = max(0, lent - self.spent)
        self.until = sent_at + left_s - MARGIN_S
        self.level = level

    def recall(self, now: float) -> bool:
        """Somebody waits: borrow nothing for a while; return whether there is something to send home."""
        self.quiet_until = now + QUIET_S
        return self.held > 0

    def is_idle(self, least_calls: float) -> bool:
        """Whether it may be forgotten."""
        if self.held or self.spent or self.back or self.ceiling is not None:
            return False
        return self.is_over or (not self._calls and self.calls_pace <= least_calls / 4)

    def is_of(self, want: Want) -> bool:
        """Whether a want is of this bucket as it was when this began, at the same rate and capacity."""
        own = self.want
        return own.capacity == want.capacity and own.rate_per_minute == want.rate_per_minute and own.ends_us == want.ends_us

    def _fold(self, now: float) -> None:
        span = now - self._since
        if span < TICK_S / 2:
            return
        share = min(1.0, span / _SMOOTH_S)
        self.calls_pace += (self._calls / span - self.calls_pace) * share
        pace = self._tokens / span
        self.pace = max(pace, self.pace + (pace - self.pace) * share)
        if self._calls:
            self.cost = self._tokens / self._calls
        self._since, self._calls, self._tokens = now, 0, 0

    def _aim(self, now: float, most: int, least_calls: float) -> int:
        # Once borrowing, half as many calls will do: else it would begin and end again and again.
        if self.is_over or now < self.quiet_until or self.calls_pace < (least_calls / 2 if self.held else least_calls):
            return 0
        aim = min(math.ceil(self.pace * AHEAD_S), most)
        return aim if aim >= self.cost else 0

    def _surplus(self, now: float, aim: int) -> int:
        if now >= self.until:
            return self.held
        return self.held - aim if self.held > 2 * aim else 0
