"""
Where new connections wait while there is trouble: they are taken in, but not listened to before it is their turn.

A connection may bring a thousand calls at one go, each of which takes 16 KB until the loop has had 0.3 ms for it, and if it is
cut, its client comes again with as many. So while there is a flood, those that come are let speak by turns: some, and the next
when what those have said has been heard. After calls in vain it is one at a time; as long as there are none, each lot is twice
as large as the last. Nobody is sent away, and who was there before goes on. A crowd that comes at one go is taken for a flood
before it is heard: the loop would not hear the first of it before all had spoken. Who says nothing needs no turn: the kernel
counts what fell, and thousands of silent connections are no line to stand in.

Nothing of grpcio's can wait like that. But the kernel can be told to let what comes over a socket fall (a filter that every
connection has from the socket where it came in). Its client says it again by itself, as if it had been lost on the way.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass

from headrace.edge.tcp_lines import Line

_TROUBLE_S = 1.0  # after the last word of trouble: whoever was cut is back by then
_RECENT_S = 2.0
_NOISY = 100  # calls in vain since the last step: the loop had little time for anything else
_LASTS = 5  # steps on end that are noisy: a client that ends, and all that it asked, is one or two
_STEP = 50  # that are made deaf before the loop may go on
_MANY = 200  # that come in one step: before the loop has heard the first of them, all would have brought their calls
_CONNECTION = 10  # calls: what a connection costs that is there for one
_MUCH_BYTES, _LOUD_BYTES = 32_000_000, 4_000_000  # that those who are new have brought, and those of one turn
_SPEAK_S = 1.0  # in which those whose turn it is say something: TCP says again what was lost, later each time
_HEARD_S = 0.12  # after which the loop has heard the first of it, unless it is busy
_TURN_S = 0.5  # however noisy it is, others have a turn then
_MOST_AT_ONCE, _CROWD_AT_ONCE = 64, 8


@dataclass(frozen=True, slots=True)
class PorchStats:
    """Whether new connections have to wait, how many do, and how many have their turn together."""

    is_shut: bool
    waiting: int
    at_once: int


class Porch:
    """
    Decides who is listened to. Each step is some hundredths of a second after the last.

    `is_shut` says whether those that come now have to wait.

    Args:
        shut: has connections that come from now on wait, or not (any more).
        now: the loop's clock.
    """

    def __init__(self, shut: Callable[[bool], None], *, now: Callable[[], float]) -> None:
        self._shut, self._now = shut, now
        self._recent: dict[Line, float] = {}  # those that are new, and since when
        self._waiting: dict[tuple[str, bool], dict[Line, None]] = {}  # by address, and whether they have spoken before
        self._silent: dict[Line, float] = {}  # those that wait, too, and have tried to say nothing; and since when
        self._lot: list[Line] = []  # those whose turn it is, and that have not spoken
        self._before: dict[Line, int] = {}  # those of the last turn, and what each had said until then
        self._turned_at = self._spoken_at = -_SPEAK_S
        self._at_once = 1
        self._noise, self._noisy_steps, self._was_noisy = 0, 0, False
        self._troubled_at = -_TROUBLE_S
        self.is_shut = False
        shut(False)

    def __repr__(self) -> str:
        state = "shut" if self.is_shut else "open"
        return f"<Porch [{state}, {self.stats().waiting} wait]>"

    def stats(self) -> PorchStats:
        """Return how it stands."""
        return PorchStats(self.is_shut, sum(map(len, self._waiting.values())), self._at_once)

    def note_vain(self, *, is_first: bool) -> None:
        """Take note of a call that is to be refused, or was left unheard, the first of its connection or not."""
        self._noise += _CONNECTION if is_first else 1

    def note_crowd(self) -> None:
        """Take note that as many messages are on their way for long as there may be."""
        self._noise += _NOISY + 1
        self.trouble()

    def trouble(self) -> None:
        """Take note of a flood. It began with those that came last: they wait like those that come now."""
        self._troubled_at = self._now()
        if not self.is_shut:
            self.is_shut = self._was_noisy = True
            self._at_once = 1
            self._shut(True)
            recent = [line for line, at in self._recent.items() if self._now() - at < _RECENT_S]
            for line in recent:
                line.deafen()
            self._waiting.clear()  # they are among those
            self._silent.clear()
            self._wait(recent)

    def _wait(self, lines: Iterable[Line]) -> None:
        now = self._now()
        for line in lines:
            if line.received or line.knocks:
                self._waiting.setdefault((line.peer[0], line.received > 0), {})[line] = None
            else:
                self._silent[line] = now

    def see(self, new: Sequence[Line], there: Container[Line]) -> None:
        """Take note of connections that are new, and of all that there are."""
        for _ in self.seeing(new, there):
            pass

    def seeing(self, new: Sequence[Line], there: Container[Line]) -> Iterator[None]:
        """Do the same in steps: thousands come at one go, and for each the system is asked some times."""
        now = self._now()
        self._recent = {line: at for line, at in self._recent.items() if now - at < _RECENT_S}
        if len(new) > _MANY and not self.is_shut:
            self.trouble()
            self._at_once, self._was_noisy = _CROWD_AT_ONCE, False  # nothing is known against them
        self._recent |= dict.fromkeys(new, now)
        if self.is_shut:
            for number, line in enumerate(new, 1):  # it may have come in before
                line.deafen()
                line.look()  # who has spoken does not stand before those who have not
                if not number % _STEP:
                    yield
        left = {who: {line: None for line in lines if line in there} for who, lines in self._waiting.items()}
        self._waiting = {who: lines for who, lines in left.items() if lines}
        self._wait(new)
        self._hear_knocking(there)

    def _hear_knocking(self, there: Container[Line]) -> None:
        # The latest are looked at, for they have most to say; all others when all connections are.
        for line in itertools.islice(reversed(self._silent), _MANY):
            line.look()
        self._wait(line for line in list(self._silent) if line.knocks)
        self._silent = {line: at for line, at in self._silent.items() if line in there and not line.knocks}

    def step(self) -> list[Line]:
        """Return those whose turn it is now, to be listened to from now on."""
        now = self._now()
        is_in_vain, self._noise = self._noise > _NOISY, 0
        self._noisy_steps = self._noisy_steps + 1 if is_in_vain else 0
        lasts = is_in_vain if self.is_shut else self._noisy_steps >= _LASTS
        if lasts or (not self.is_shut and self._brought() > _MUCH_BYTES):
            self.trouble()
        is_noisy = is_in_vain or self._is_loud()
        self._was_noisy |= is_noisy
        last = next(reversed(self._silent.values()), self._troubled_at)  # who may be about to speak
        if self.is_shut and not self._waiting and now - max(last, self._troubled_at) > _TROUBLE_S:
            self.is_shut = False
            self._shut(False)
        if not self.is_shut:
            return self._next() + self._some_silent()
        if self._speaks(now) or not self._waiting or (is_noisy and now - self._turned_at < _TURN_S):
            return []
        self._at_once = max(1, self._at_once // 4) if self._was_noisy else min(2 * self._at_once, _MOST_AT_ONCE)
        self._was_noisy, self._turned_at = False, now
        self._lot = self._next(self._at_once)
        self._before = {line: line.received for line in self._lot}
        return self._lot

    def _brought(self) -> int:
        # By those that are new, beside the one that brought most; calls that the loop has not taken hold 64 KB of it each.
        brought = [line.received for line in self._recent]
        return sum(brought) - max(brought, default=0)

    def _is_loud(self) -> bool:
        return sum(line.received - before for line, before in self._before.items()) > _LOUD_BYTES

    def _speaks(self, now: float) -> bool:
        # Whether the last lot has not all spoken, or what it said may not have been heard yet.
        if self._lot:
            self._lot = [line for line in self._lot if line.look() and not line.received]
            self._spoken_at = now
        return now < min(self._spoken_at + _HEARD_S, self._turned_at + _SPEAK_S)

    def _some_silent(self) -> list[Line]:
        some = list(itertools.islice(self._silent, _MANY))
        for line in some:
            del self._silent[line]
        return some

    def _next(self, count: float = math.inf) -> list[Line]:
        # Addresses by turns, and the connections from each in the order in which they came; those that have not spoken yet and
        # those that have by turns, too: else who comes stands behind a thousand that were there a moment before.
        turns: list[Line] = []
        while self._waiting and len(turns) < count:
            who = next(iter(self._waiting))
            lines = self._waiting.pop(who)
            turns.append(line := next(iter(lines)))
            del lines[line]
            if lines:
                self._waiting[who] = lines
        return turns
