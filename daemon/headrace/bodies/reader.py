"""
Where a body is read: at once if that takes a moment, else in the process beside this one.

What counts is how many values a body holds, more than its bytes: the bound below is about two milliseconds of reading.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import msgspec

from headrace.aside import Aside
from headrace.bodies.read import Reading, read

JOB = "headrace.bodies.reader:job"

_SMALL_BYTES = 8_192  # whatever is in them
_LARGEST_BYTES = 262_144  # that are read at once, if there is little in them
_MOST_OBJECTS = 400
_MOST_VALUES = 20_000


@dataclass(frozen=True, slots=True)
class ReaderStats:
    """How many bodies were read where."""

    at_once: int
    aside: int


class Reader:
    """Reads bodies."""

    def __init__(self, aside: Aside) -> None:
        self.aside = aside
        self._at_once = self._beside = 0

    def __repr__(self) -> str:
        said = self.stats()
        return f"<Reader [{said.at_once} read at once, {said.aside} aside]>"

    def stats(self) -> ReaderStats:
        """Return how many bodies were read where."""
        return ReaderStats(self._at_once, self._beside)

    def read_small(self, body: bytes, endpoint: str) -> Reading | None:
        """Return what a body asks, or None if `read` should do it; raises `InvalidCall`."""
        if not is_light(body):
            return None
        self._at_once += 1
        return read(body, endpoint)

    async def read(self, body: bytes, endpoint: str) -> Reading:
        """Return what a body asks; raises `InvalidCall`, and `TooLarge` for what cannot be read in reasonable time."""
        self._beside += 1
        return msgspec.convert(json.loads(await self.aside.run(JOB, endpoint.encode(), body)), Reading)


def is_light(body: bytes) -> bool:
    """Whether reading it takes but a moment."""
    if len(body) <= _SMALL_BYTES:
        return True
    if len(body) > _LARGEST_BYTES:
        return False
    return body.count(b"{") + body.count(b"[") <= _MOST_OBJECTS and body.count(b",") <= _MOST_VALUES


def job(endpoint: bytes, body: bytes) -> bytes:
    """Read and weigh a body, in the helper; its own JSON, in which half a character can travel, too."""
    return json.dumps(msgspec.to_builtins(read(body, endpoint.decode(), weighs=True))).encode()
