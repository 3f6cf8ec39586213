"""
What a process is to a flight that all processes share: its leader, by a lease; one that follows; or one that finds it answered.
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field

from headrace import keys
from headrace.flight.flight import Flight, Landing
from headrace.flight.handover import Publication


@dataclass(slots=True)
class Lease:
    """
    The right to lead one flight. `token` fences it: whoever leads later has another.

    `publication` is what followers outside have been handed so far; `ticket` is where the call is parked, if it is: by us, or
    by a leader before us that is gone; `told` is what they were told last of what `holds` the call. `ending` is
    the reply to its end, once that has been sent; `is_told` says that the landing itself went with it.
    """

    fingerprint: str
    token: str
    ticket: str = ""
    told: str = ""
    flight: Flight | None = None
    is_landed: bool = False
    ending: asyncio.Future[int] | None = None
    is_told: bool = False
    publication: Publication = field(init=False)

    def __post_init__(self) -> None:
        self.publication = Publication(name_of(self.fingerprint), log_of(self.fingerprint, self.token))

    @property
    def name(self) -> str:
        return self.publication.name

    @property
    def keys(self) -> list[str]:
        """What is in Redis of the flight: itself, its audience and its log."""
        return [keys.flight(self.fingerprint), keys.audience(self.name), self.publication.log]

    @property
    def is_followed(self) -> bool:
        """Whether anybody outside has followed so far."""
        return self.publication.task is not None

    @property
    def is_ending(self) -> bool:
        """Whether its end is on its way: what is said to Redis after that would come to a flight that is over."""
        return self.ending is not None and not self.ending.done()

    @property
    def holds(self) -> str:
        """The limit that holds the call; "" if none does."""
        return self.flight.trail.stopped_by if self.flight is not None else ""

    @property
    def has_news(self) -> bool:
        """Whether another limit holds the call than followers were told, or none any more."""
        return not self.is_ending and self.holds != self.told

    def tells_events(self, landing: Landing) -> bool:
        """Whether who follows is told what was said: not if it failed before they had any of it."""
        return landing.answer is not None or self.publication.published > 0


@dataclass(frozen=True, slots=True)
class Recalled:
    """A kept entry, as the cache encoded it."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class Following:
    """Another process leads, with this token; its call is held by a limit, or is not ("")."""

    token: str
    held: str = ""


class NoLease(Exception):
    """Redis is away: nobody can say who leads, so whoever asks flies alone."""


def token_of(flight: Flight) -> str:
    """Return a token by which this process may lead."""
    # Nobody reads a token but who follows it, who learns whose call leads: it is all that a follower has of the leader at once.
    trace = flight.lead().call.trace if flight.waiting else None
    own = os.urandom(8).hex()
    return own if trace is None else f"{own}.{trace.headers()[0][1]}"


def name_of(fingerprint: str) -> str:
    """Return how a flight is called in nudges, and its audience."""
    return f"flight:{fingerprint}"


def log_of(fingerprint: str, token: str) -> str:
    """Return the key of the log of the flight that this token leads."""
    return keys.log(f"{name_of(fingerprint)}:{token}")
