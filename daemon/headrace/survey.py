"""
Asks all processes on one Redis what each knows, when somebody wants to know.

Nothing of it is kept in Redis: to write it there would cost every call, for the few who look. The question goes out on the
channel that all processes share, and each answers into the inbox of whoever asked. Who is stopped, or has left without a word,
does not answer, and is waited for no longer than a moment; how many were asked and how many answered is told.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from headrace import keys
from headrace.background import Background
from headrace.clock import Clock, until_set
from headrace.link import Link

V = TypeVar("V", bound=msgspec.Struct)

_PATIENCE_S = 0.5
_MOST_ASKED = 200  # characters of what a question says


@dataclass(frozen=True, slots=True)
class Taken(Generic[V]):
    """The views of those who answered in time, and how many were asked."""

    views: tuple[V, ...]
    asked: int


@dataclass(frozen=True, slots=True)
class SurveyStats:
    """How many questions wait for answers."""

    open: int


class _Question(Generic[V]):
    """Whose answers come in."""

    def __init__(self) -> None:
        self.views: list[V] = []
        self.asked = 0
        self.is_answered = asyncio.Event()

    def look(self) -> None:
        if self.asked and len(self.views) >= self.asked:
            self.is_answered.set()


class Survey(Generic[V]):
    """
    Asks all processes, and answers for this one; `close` it.

    Args:
        topic: of the nudges; the answers come under "<topic>-of".
        view: returns what this process knows, by what the question says ("" if it says nothing).
        kind: of what `view` returns.
    """

    def __init__(self, link: Link, clock: Clock, topic: str, view: Callable[[str], V], kind: type[V]) -> None:
        self._link = link
        self._clock = clock
        self._asks, self._answers = topic, f"{topic}-of"
        self._view = view
        self._kind = kind
        self._open: dict[str, _Question[V]] = {}
        self._background = Background(topic, clock)
        link.on(self._asks, self._asked)
        link.on(self._answers, self._answered)

    def __repr__(self) -> str:
        return f"<Survey {self._asks} [{self.stats().open} open]>"

    def stats(self) -> SurveyStats:
        """Return its state now."""
        return SurveyStats(len(self._open))

    async def take(self, about: str = "") -> Taken[V]:
        """Ask all processes; raises `RedisAway`. One that hears no nudges tells what it knows itself."""
        if not self._link.is_listening:
            return Taken((self._view(about),), 1)
        name, question = os.urandom(8).hex(), _Question[V]()
        self._open[name] = question
        try:
            said = f"{self._asks} {self._link.inbox} {name} {about[:_MOST_ASKED]}".rstrip()
            question.asked = int(await self._link.do("PUBLISH", keys.ALL, said))
            question.look()
            await until_set(question.is_answered, self._clock, _PATIENCE_S)
        finally:
            del self._open[name]
        return Taken(tuple(question.views), question.asked)

    def _asked(self, payload: bytes) -> None:
        inbox, name, *about = payload.decode().split(" ", 2)
        self._background.start(self._answer(inbox, name, "".join(about)), "answer")

    async def _answer(self, inbox: str, name: str, about: str) -> None:
        said = msgspec.json.encode(self._view(about))
        # Whoever asked waits for it but a moment, so it is not sent again.
        await asyncio.wait([self._link.do("PUBLISH", inbox, b"%s %s %s" % (self._answers.encode(), name.encode(), said))])

    def _answered(self, payload: bytes) -> None:
        name, _, said = payload.partition(b" ")
        question = self._open.get(name.decode())
        if question is not None:
            question.views.append(msgspec.json.decode(said, type=self._kind))
            question.look()

    async def close(self) -> None:
        """Answer no longer."""
        await self._background.close()
