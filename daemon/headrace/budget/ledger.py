"""
The ledger: who has reserved what, and who comes next. This is the port; redis.py and memory.py keep it.

- *Reserve* takes the costs of all wants at once, or nothing and says how long to wait. *Settle* replaces what was reserved by
  what was used; *release* gives all of it back. All three are idempotent by hold id, and settling or releasing also closes
  the id: a reserve that arrives after it (sent again, or overtaken on the wire) takes nothing. Who asks again for what it
  was granted is told so again; but if a permit of it has lapsed meanwhile, it may be another's, and all of it is asked anew.
- Whoever must wait stands in the line of each bucket that blocks it, by rank (rank.py): whose flow has had less of its share
  stands before whose has had more, and nobody of higher rank takes from that bucket what it could have. Where there is room
  for all who stand before a call and for itself, it goes: it need not wait until those have asked. Where a bucket does not
  block it, others may pass: a call that waits for tokens holds up nobody who needs only permits. A call has one rank in all
  lines, so two can never wait for each other. While nobody waits, nobody is charged for what it takes.
- A place in line is a lease, kept by asking again, and a concurrency permit is one, renewed while its call runs. What a process
  held that was killed is free about a second later, when it has missed a beat and its connections are seen to be gone; what
  one held that fell silent, two seconds after its last word. What a living one lost while it stood still, it takes anew.
- When permits or tokens come back, the first in line are nudged, as many as now fit. Nudges may be lost. Whoever does not ask
  soon after one no longer holds up the others, nor does anybody else of its process; if it lives, it comes back with the rank
  that it had, and is charged again.
- What a rate bucket gave is never given back by an expiry.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from headrace.budget.gate import NOTHING_TOLD, Told, Verdict
from headrace.budget.want import Form, Want
from headrace.rank import Flow

HOLD_US = 3_600_000_000  # the longest call, or nearly: later its settlement gives nothing back
CLOSED_US = 60_000_000  # a closed hold is remembered until nothing that was sent before can still arrive

ANSWER_US = 600_000  # who is nudged and does not ask in this time no longer holds up the others
MOST_NUDGED = 16  # at once

# How soon to ask again unless nudged: behind somebody who could go any moment; for a permit, which comes back when it will.
BEHIND_US = 10_000
PERMIT_US = 1_000_000


@dataclass(frozen=True, slots=True)
class Granted:
    """All wants are reserved. *levels* are the whole tokens (or permits) left, want by want."""

    at_us: int
    levels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Wait:
    """
    Nothing is reserved.

    Args:
        seconds: exactly long enough, if *bucket_id* is no permits' and nobody gives anything back; for a permit a guess.
        bucket_id: the bucket that takes longest.
    """

    seconds: float
    bucket_id: str
    at_us: int
    levels: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Never:
    """A cost is over the bucket's capacity."""

    bucket_id: str


@dataclass(frozen=True, slots=True)
class Spent:
    """Upstream's spend limit for this model class is reached, for about so many seconds more."""

    bucket_id: str
    seconds: float


class Said(msgspec.Struct, frozen=True):
    """
    What upstream said with an answer, for the buckets of all.

    Args:
        most: how many tokens a bucket holds at most, by bucket id; below zero: it is so deep in debt.
        verdict, told: what it says of the model class, for its gate.
    """

    most: Mapping[str, int] = msgspec.field(default_factory=dict)
    verdict: Verdict = Verdict.UNKNOWN
    told: Told = NOTHING_TOLD


NOTHING_SAID = Said()


Reserved = Granted | Wait | Never | Spent


class HoldClosed(Exception):
    """This hold was settled or released before it was asked for; whoever asks has left."""


class Ledger(Protocol):
    """
    What the schedule needs. `waiter` names a place in line: "<inbox channel>|<number>"; with "" nobody stands in line.

    `settle` and `release` send their command when they are called, and see to it that it arrives; the future that they return
    is done when it has arrived or has failed for the first time. Look at it with `asyncio.wait`, or not at all.
    """

    def take(self, hold_id: str, wants: Sequence[Want]) -> tuple[int, ...] | None:
        """
        Take all costs from what is here, without asking anybody; or nothing.

        Returns what is left, want by want, as `Granted` has it; None: ask for them. For whoever stands in no line.
        """

    async def reserve(self, hold_id: str, wants: Sequence[Want], *, waiter: str, flow: Flow) -> Reserved:
        """Take all costs or none. Raises `RedisAway`."""

    def settle(
        self, hold_id: str, wants: Sequence[Want], actual: Mapping[str, int], said: Said = NOTHING_SAID
    ) -> asyncio.Future[Any]:
        """Replace what was reserved by *actual*, by bucket id; a bucket that is not in it keeps what was reserved."""

    def amend(self, hold_id: str, number: int, wants: Sequence[Want], actual: Mapping[str, int]) -> bool:
        """
        Replace what was reserved of some buckets by *actual* while the hold stays open, for the *number*th time.

        Returns whether that is done, or will be: then all these cost so much from now on, and settling says the rest.
        """

    def release(self, hold_id: str, wants: Sequence[Want], *, waiter: str = "") -> asyncio.Future[Any]:
        """Give everything back, and leave the lines."""

    async def renew(self, holds: Mapping[str, Sequence[Want]]) -> None:
        """
        Say that this process lives, and renew the concurrency permits of these holds; those it has lost it takes anew, above
        the capacity if it must. Raises `RedisAway`.
        """


def given_back(wants: Sequence[Want], actual: Mapping[str, int], said: Said = NOTHING_SAID) -> list[int]:
    """Return what comes back of each want when it is settled; below zero is debt. Of a gate it is the verdict."""
    return [
        said.verdict if want.form is Form.GATE else want.cost - actual[want.bucket_id] if want.bucket_id in actual else 0
        for want in wants
    ]


def put_right(wants: Sequence[Want], actual: Mapping[str, int]) -> list[int]:
    """Return what comes back of each want when it is amended; of a permit and a gate nothing does, for they are held."""
    return [0 if want.form in (Form.PERMIT, Form.GATE) else want.cost - actual.get(want.bucket_id, want.cost) for want in wants]


def all_back(wants: Sequence[Want]) -> list[int]:
    """Return what comes back of each want when it is released: all of it, and no verdict."""
    return [Verdict.UNKNOWN if want.form is Form.GATE else want.cost for want in wants]
