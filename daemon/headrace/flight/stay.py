"""
A caller's stay in flights, one after the other, as a context: what it holds, one place in a flight, is given back at its end.

A class, since a generator with its context costs three times as much, and every call comes this way.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from headrace.flight.flight import Member
from headrace.flight.flights import Flights
from headrace.model import Reply


class Stay:
    """
    A context that yields a reply; it is good for as long as the context is open.

    Args:
        find: finds the reply, and says by `hold` and `let_go` which place it has in which flight.
    """

    __slots__ = ("_find", "_flights", "_held")

    def __init__(self, flights: Flights, find: Callable[[Stay], Awaitable[Reply]]) -> None:
        self._flights, self._find = flights, find
        self._held: Member | None = None

    def __repr__(self) -> str:
        return f"<Stay {self._held!r}>"

    async def __aenter__(self) -> Reply:
        try:
            return await self._find(self)
        except BaseException:
            self.let_go()
            raise

    async def __aexit__(self, *_: object) -> None:
        self.let_go()

    def hold(self, member: Member) -> Member:
        """Take a place; it is given back by `let_go`, or when the context is left."""
        self._held = member
        return member

    def let_go(self) -> None:
        """Give the place back, if there is one."""
        if self._held is not None:
            held, self._held = self._held, None
            self._flights.leave(held)
