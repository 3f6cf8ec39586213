"""
What a call went through, step by step: the tries at upstream that were made for it, and what held it before each.

A flight has one trail, and each of its members' calls follows it; so has a request that is only carried. Nobody needs it to
answer the call: metrics, logs and `Server-Timing` are made of it when the call ends, whichever way that is.

And a call's id: ours, or the one by which its caller knows it, where that is well-formed.
"""

from __future__ import annotations

import itertools
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator

import msgspec

from headrace.trace import Trace

ID_HEADER = "x-headrace-request-id"
GIVEN_HEADER = "x-request-id"
TIMING_HEADER = "server-timing"
TICKET_HEADER = "x-headrace-ticket"

# What is waited for beside limits, which have names of their own.
SLOTS, HOLD, LEARNING = "slots", "hold", "learning"

MAX_ID = 120  # characters
_is_id = re.compile(rf"[A-Za-z0-9._:+/=@-]{{1,{MAX_ID}}}").fullmatch
_LEAST_S = 0.001  # shorter waits are none
_MOST_SHOWN, _LONGEST = 8, 40  # tries in a header, the last ones; characters of a name

HERE = f"{socket.gethostname()}-{os.getpid()}"
"""This process, as people know it: its host and its number."""

# This process's own part, and a number: an id need not be a secret, and every hit has one.
_PROCESS = f"hr_{os.urandom(8).hex()}"
_numbers = itertools.count(1)


def new_id() -> str:
    """Return an id for one more call: 29 characters, no two alike, whichever process made them."""
    return id_of(None)


def id_of(given: str | None) -> str:
    """Return the id of a call for which its caller gave one, or did not: an id of ours takes the place of nonsense."""
    return given if given and _is_id(given) else f"{_PROCESS}{next(_numbers):010x}"


class Try(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """
    One try at upstream.

    Args:
        number: which of the call's it is, from 1.
        status: upstream's; of a failure that had none, what its caller is told (502, 504); 0 of one that was given up.
        outcome: "answered", "abandoned", or why it failed (errors.Failure).
        began: when it was sent, in Unix seconds; took_s until its end.
        waited_s: for its turn before it.
        held_by: what it waited for longest: a limit's name, "slots", "hold" or "learning"; "" if it did not wait.
        request_id: upstream's.
        host: which process made it, as `HERE` has it; "" if that is not known.
        span: its span's id; "" where there are none.
    """

    number: int
    status: int
    outcome: str
    began: float
    took_s: float
    waited_s: float = 0.0
    held_by: str = ""
    request_id: str = ""
    host: str = ""
    span: str = ""


class Trail:
    """The tries and the waits of one call or flight, and those of the flights that it follows."""

    __slots__ = ("_followed", "_going", "_led_by", "_told", "_tries", "_waits", "holding", "steps", "ticket")

    def __init__(self) -> None:
        self._going: float | None = None
        self.holding: Callable[[], Iterable[tuple[str, float]]] = tuple
        """What holds it at the moment, and for how long (s) by now: a caller may leave while it waits."""
        self._tries: list[Try] = []
        self._waits: list[tuple[str, float]] = []
        self._followed: tuple[Trail, ...] = ()
        self._led_by: Trace | None = None
        self._told = ""
        self.ticket = ""
        """That its caller may know of, once it waits for it no more: errors name it."""
        self.steps: list[tuple[str, float, float]] = []
        """What was done before anybody was asked: its name, from when until when (Unix seconds)."""

    def __repr__(self) -> str:
        return f"<Trail [{len(self.tries)} tries]>"

    @property
    def tries(self) -> tuple[Try, ...]:
        """All tries, in the order in which they were begun."""
        if len(self._followed) == 1 and not self._tries:
            return self._followed[0].tries
        if not self._followed and len(self._tries) < 2:  # as of nearly all flights
            return tuple(self._tries)
        return tuple(sorted(self._each(), key=lambda made: made.began))

    def _each(self) -> Iterator[Try]:
        yield from self._tries
        for other in self._followed:
            yield from other.tries

    @property
    def waits(self) -> dict[str, float]:
        """How long what held it, in seconds; a limit's name, "slots", "hold" or "learning"."""
        if len(self._followed) == 1 and not self._waits and self.holding is tuple:  # a call's, which follows its flight
            return self._followed[0].waits
        held: dict[str, float] = {}
        for what, seconds in itertools.chain(self._waits, self.holding(), *(other.waits.items() for other in self._followed)):
            held[what] = held.get(what, 0.0) + seconds
        return held

    @property
    def stopped_by(self) -> str:
        """The limit that holds a call, or held it last, of which nothing has gone upstream; "" if it was not that."""
        if self.going is not None or self.tries:
            return ""
        last = next(reversed(self.waits), "") or self.told
        return "" if last in (SLOTS, HOLD, LEARNING) else last

    @property
    def going(self) -> float | None:
        """When the try that is not over yet was sent, in Unix seconds; None if there is none."""
        if self._going is not None:
            return self._going
        for other in self._followed:
            if (sent := other.going) is not None:
                return sent
        return None

    @going.setter
    def going(self, sent: float) -> None:
        self._going = sent

    @property
    def led_by(self) -> Trace | None:
        """Where the call is in its trace for which upstream was asked last; None if nobody knows."""
        if self._led_by is not None:
            return self._led_by
        for other in self._followed:
            if (known := other.led_by) is not None:
                return known
        return None

    @led_by.setter
    def led_by(self, call: Trace | None) -> None:
        self._led_by = call

    @property
    def told(self) -> str:
        """The limit that holds it elsewhere, by the word of the process where it waits; "" of none."""
        return self._told or next((known for other in self._followed if (known := other.told)), "")

    def hear(self, limit: str) -> None:
        """Note which limit holds it elsewhere; "" of none."""
        self._told = limit

    def follow(self, other: Trail) -> None:
        """Have what another trail has, and will have."""
        if other is not self and other not in self._followed:
            self._followed += (other,)

    def add(self, made: Try) -> None:
        """Note a try; one that is known already is no other."""
        self._going = None
        if not any((made.number, made.began) == (known.number, known.began) for known in self._tries):
            self._tries.append(made)

    def heard(self, made: Try) -> None:
        """Note a try that was made for it elsewhere, and the wait before it, of which nothing was noted here."""
        if any((made.number, made.began) == (known.number, known.began) for known in self.tries):
            return
        self.add(made)
        if made.held_by and made.waited_s >= _LEAST_S:
            self._waits.append((made.held_by, made.waited_s))

    def waited(self, held: Iterable[tuple[str, float]]) -> None:
        """Note what held it for how long (s), now that it is over."""
        self.holding = tuple
        self._waits += [(what, seconds) for what, seconds in held if seconds >= _LEAST_S]


def timing(trail: Trail | None, now: float = 0.0) -> str:
    """
    Return what a trail says in `Server-Timing` (milliseconds): waits by what held it, tries by status, their sum; "" of none.

    A try that goes on has been answered so far; *now* is in Unix seconds.
    """
    if trail is None:
        return ""
    tries = trail.tries
    if trail.going is not None:
        tries += (Try(0, 200, "answered", trail.going, max(0.0, now - trail.going)),)
    said = [_metric("wait", seconds, what) for what, seconds in list(trail.waits.items())[:_MOST_SHOWN]]
    before = tries[-_MOST_SHOWN - 1] if len(tries) > _MOST_SHOWN else None
    for made in tries[-_MOST_SHOWN:]:
        if before is not None and (parked_s := made.began - made.waited_s - before.began - before.took_s) >= _LEAST_S:
            said.append(_metric("parked", parked_s))
        said.append(_metric("attempt", made.took_s, str(made.status or made.outcome)))
        before = made
    if tries:
        said.append(_metric("upstream", sum(made.took_s for made in tries)))
    return ", ".join(said)


def _metric(name: str, seconds: float, what: str = "") -> str:
    about = f';desc="{what[:_LONGEST]}"' if what else ""
    return f"{name};dur={seconds * 1000:.0f}{about}"
