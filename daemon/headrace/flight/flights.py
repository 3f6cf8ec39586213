"""
Flights in this process: many callers ask for one key, one task flies.

A flight belongs to everyone aboard and to nobody in particular: whoever gives up leaves the others undisturbed, and when the
last one leaves (and nobody on another host follows) the task is cancelled and stops spending. What upstream says is
appended to the flight's log, so that a late follower first replays what there is and then follows live.

A flight lands once: with an answer, with upstream's error, or with the refusal of the one who led it (its budget, its
deadline). The first two are shared. A refusal is its leader's alone; the others board again, and one of them leads.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any

import structlog

from headrace import observe
from headrace.errors import HeadraceError, RedisAway, Refusal
from headrace.model import Answer, Event, Source

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Landing:
    """
    How a flight ended: an answer or an error.

    Args:
        source: where the leader had the answer from; followers of an upstream answer say SHARED.
        attempts: upstream tries that it took.
        ticket: the ticket that it waited on, if it was parked.
    """

    answer: Answer | None = None
    error: HeadraceError | None = None
    source: Source = Source.UPSTREAM
    attempts: int = 1
    ticket: str = ""
    stored: bool = False


class Flight:
    """One call in the air: what was said so far, who waits, and how it ended."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.events: list[Event] = []
        self.is_open = False  # the first content delta is here: from now on a retry would be seen
        self.setback: HeadraceError | None = None  # the last failed attempt, while the next one is awaited
        self.source = Source.UPSTREAM  # SHARED while another process leads it
        self.attempts = 1
        self.ticket = ""
        self.request_id = ""
        self.landing: Landing | None = None
        self.waiting = 0
        self.outside: Callable[[], Awaitable[bool]] = _nobody  # does another process follow?
        self._task: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def __repr__(self) -> str:
        state = "landed" if self.landing else "open" if self.is_open else "in the air"
        return f"<Flight {self.key[:12]} [{state}, {len(self.events)} events, {self.waiting} waiting]>"

    def append(self, event: Event, *, is_content: bool) -> None:
        """Add what upstream said next."""
        self.events.append(event)
        self.is_open = self.is_open or is_content
        self.setback = None
        self.poke()

    def rewind(self, setback: HeadraceError) -> None:
        """Forget an attempt that failed before its first content: nobody has seen any of it."""
        self.events.clear()
        self.setback = setback
        self.poke()

    def land(self, landing: Landing) -> None:
        """End the flight; the first landing counts."""
        if self.landing is None:
            self.landing = landing
            self.poke()

    def poke(self) -> None:
        """Wake whoever waits for a change, to look again."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def changed(self) -> None:
        """Wait for the next event, setback or landing."""
        await self._changed.wait()

    async def landed(self) -> Landing:
        """Wait for the landing."""
        while self.landing is None:
            await self.changed()
        return self.landing

    async def replay(self) -> AsyncIterator[Event]:
        """Yield the events so far, then the rest as they come; raise the error that the flight ends in, if it does."""
        seen = 0
        while True:
            while seen < len(self.events):
                yield self.events[seen]
                seen += 1
            if self.landing is not None:
                if self.landing.error is not None:
                    raise self.landing.error
                return
            await self.changed()

    def start(self, flying: Coroutine[Any, Any, None]) -> None:
        self._task = asyncio.create_task(flying)

    def cancel(self) -> asyncio.Task[None] | None:
        if self._task is not None:
            self._task.cancel()
        return self._task


Fly = Callable[[Flight], Coroutine[Any, Any, Landing]]


class Flights:
    """The flights in the air, by key."""

    def __init__(self) -> None:
        self._by_key: dict[str, Flight] = {}
        self._checks: set[asyncio.Task[None]] = set()

    def __repr__(self) -> str:
        waiting = sum(flight.waiting for flight in self._by_key.values())
        return f"<Flights [{len(self._by_key)} in the air, {waiting} waiting]>"

    def __len__(self) -> int:
        return len(self._by_key)

    def get(self, key: str) -> Flight | None:
        """Return the flight in the air for *key*."""
        return self._by_key.get(key)

    @contextlib.contextmanager
    def board(self, key: str, fly: Fly) -> Iterator[tuple[Flight, bool]]:
        """
        Join the flight for *key*, or start one with *fly*; yields (flight, whether we lead it).

        Leaving is all it takes to give up.
        """
        flight = self._by_key.get(key)
        leads = flight is None
        if flight is None:
            flight = self._by_key[key] = Flight(key)
            flight.start(self._fly(flight, fly))
        observe.FLIGHTS.inc("led" if leads else "joined")
        flight.waiting += 1
        try:
            yield flight, leads
        finally:
            flight.waiting -= 1
            if not flight.waiting and flight.landing is None:
                self.look_after(flight)

    async def _fly(self, flight: Flight, fly: Fly) -> None:
        try:
            flight.land(await fly(flight))
        except HeadraceError as error:
            flight.land(Landing(error=error, ticket=flight.ticket))
        except asyncio.CancelledError:
            flight.land(Landing(error=Refusal("the call was cancelled")))
            raise
        except Exception as error:  # the fault is ours; whoever waits must not wait for ever
            log.exception(observe.FLIGHT_CRASHED, kind=type(error).__name__)
            flight.land(Landing(error=HeadraceError("internal error")))
        finally:
            self._forget(flight)

    def _forget(self, flight: Flight) -> None:
        if self._by_key.get(flight.key) is flight:
            del self._by_key[flight.key]

    async def aclose(self) -> None:
        """Give up whatever is still in the air, so that it leaves in good order: turns, leases, connections."""
        flying = [flight.cancel() for flight in list(self._by_key.values())]
        await asyncio.gather(*(task for task in flying if task is not None), return_exceptions=True)

    def look_after(self, flight: Flight) -> None:
        """Cancel a flight that nobody waits for any more, here or outside."""
        task = asyncio.create_task(self._look_after(flight))
        self._checks.add(task)
        task.add_done_callback(self._checks.discard)

    async def _look_after(self, flight: Flight) -> None:
        followed = False
        with contextlib.suppress(RedisAway):
            followed = flight.waiting > 0 or await flight.outside()
        if not followed and not flight.waiting and flight.landing is None:
            # Forgotten first: a caller who comes now must not board a flight that is being cancelled.
            self._forget(flight)
            flight.cancel()


async def _nobody() -> bool:
    return False
