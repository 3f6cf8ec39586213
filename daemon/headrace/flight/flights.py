"""
The flights in the air in this process, by key (flight.py says what one is).

When the last member leaves (and nobody on another host follows) the flight's task is cancelled and stops spending.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any

import structlog

from headrace import observe
from headrace.allowance import Allowance
from headrace.background import Background
from headrace.errors import HeadraceError, RedisAway, Refusal
from headrace.flight.flight import Flight, Landing, Member
from headrace.flight.untaken import Untaken
from headrace.model import Call

log = structlog.get_logger()

Fly = Callable[[Flight], Coroutine[Any, Any, Landing]]


@dataclass(frozen=True, slots=True)
class FlightStats:
    """The flights in the air in this process, and their members."""

    in_the_air: int
    waiting: int


class Flights:
    """
    The flights in the air, by key.

    Args:
        untaken: bounds what lies here of those that have landed.
    """

    def __init__(self, untaken: Untaken | None = None) -> None:
        self._by_key: dict[str, Flight] = {}
        self._outlived: set[Flight] = set()  # their answers are out, Redis has yet to hear of it, and others have their keys
        self._allowance = Allowance()  # of those that tell their members what was said before
        self._untaken = untaken or Untaken()
        self._background = Background("flights")

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Flights [{stats.in_the_air} in the air, {stats.waiting} waiting]>"

    def stats(self) -> FlightStats:
        """Return how many there are, and how many wait for them."""
        return FlightStats(len(self._by_key), sum(flight.waiting for flight in self._by_key.values()))

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: str) -> Flight | None:
        """Return the flight in the air for *key*."""
        return self._by_key.get(key)

    def sharing(self, call: Call) -> Call:
        """
        Return the call with the very bytes of the one that leads its flight, if there is one and they are equal.

        So a crowd of equal calls holds one body between them; whoever asks must let go of the call that it had.
        """
        flight = self._by_key.get(call.fingerprint)
        leader = flight.leader if flight is not None else None
        if leader is None or leader.call.body != call.body:
            return call
        return replace(call, body=leader.call.body)

    @contextlib.contextmanager
    def join(self, key: str, call: Call, fly: Fly, *, is_live: bool = False) -> Iterator[Member]:
        """
        Join the flight for *key*, or start one with *fly*. Leaving the context is all it takes to give up.

        A caller leaves a flight that has landed before it joins the next: what it holds is one place, never several.
        """
        member = self.enter(key, call, fly, is_live=is_live)
        try:
            yield member
        finally:
            self.leave(member)

    def enter(self, key: str, call: Call, fly: Fly, *, is_live: bool = False) -> Member:
        """Join as `join` does, without a context: `leave` must follow."""
        flight = self._by_key.get(key)
        if flight is not None and flight.is_over:
            # Who comes now, and was not given what is kept, may not have that answer: it is of before this call.
            self._outlived.add(flight)
            flight = None
        observe.FLIGHTS.inc("led" if flight is None else "joined")
        if flight is None:
            flight = self._by_key[key] = Flight(key, self._allowance, self._untaken)
            flight.start(self._fly(flight, fly))
        member = Member(flight, call, is_live)
        flight.enter(member)
        return member

    def leave(self, member: Member) -> None:
        """Give a place up; a flight that nobody waits for any more is given up with it."""
        flight = member.flight
        flight.leave(member)
        if not flight.waiting and flight.landing is None:
            self.look_after(flight)

    async def _fly(self, flight: Flight, fly: Fly) -> None:
        try:
            flight.land(await fly(flight))
        except HeadraceError as error:
            flight.land(Landing(error=error, ticket=flight.ticket))
        except asyncio.CancelledError as error:
            flight.land(Landing(error=Refusal("the call was cancelled")))
            # The task keeps it, with all the frames that it has passed, which know the flight and so the task: garbage that
            # is found only by a collection so large that it would hold the loop. Thousands who leave together leave none.
            raise error.with_traceback(None)  # noqa: B904
        except Exception as error:  # the fault is ours; whoever waits must not wait for ever
            log.exception(observe.FLIGHT_CRASHED, kind=type(error).__name__)
            flight.land(Landing(error=HeadraceError("internal error")))
        finally:
            flight.over()
            self._forget(flight)

    def _forget(self, flight: Flight) -> None:
        if self._by_key.get(flight.key) is flight:
            del self._by_key[flight.key]
        self._outlived.discard(flight)

    async def finish(self) -> None:
        """Wait until upstream has answered what it is being asked here; not for flights that wait in the queue."""
        while asked := [flight for flight in self._flying() if flight.is_asking]:
            await asyncio.wait([flight.task for flight in asked if flight.task is not None])

    async def aclose(self) -> None:
        """Give up whatever is still in the air, so that it leaves in good order: turns, leases, connections."""
        flying = [flight.cancel() for flight in self._flying()]
        await asyncio.gather(*(task for task in flying if task is not None), return_exceptions=True)

    def _flying(self) -> list[Flight]:
        return [*self._by_key.values(), *self._outlived]

    def look_after(self, flight: Flight) -> None:
        """Cancel a flight that nobody waits for any more, here or outside."""
        self._background.start(self._look_after(flight), "look_after")

    async def _look_after(self, flight: Flight) -> None:
        followed = False
        with contextlib.suppress(RedisAway):
            followed = flight.waiting > 0 or await flight.outside()
        if not followed and not flight.waiting and flight.landing is None:
            # Forgotten first: a caller who comes now must not join a flight that is being cancelled.
            self._forget(flight)
            flight.cancel()
