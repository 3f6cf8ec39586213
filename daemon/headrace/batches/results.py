"""
What the results of a message batch say was used, line by line as they come. Pure.

The lines are JSON: of each only the model and the figures are read, which is a few microseconds, and what was said is
never made an object of ours. It is added up model by model, so however many lines there are, little is held: one line that is
not whole yet, and that only up to a bound. A line that cannot be read, or is too long, counts as one of which nobody knows
what it used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import msgspec

from headrace.model import Headers, Usage
from headrace.resources.ids import made_in, tells
from headrace.unpacking import taken
from headrace.usage.tally import OTHER

_LONGEST_LINE = 16 << 20
_MODELS = 64
_LONGEST_NAME = 100
Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**40)]


class _ByAge(msgspec.Struct):
    ephemeral_1h_input_tokens: Tokens | None = None


class _Used(msgspec.Struct):
    input_tokens: Tokens
    output_tokens: Tokens
    cache_creation_input_tokens: Tokens | None = None
    cache_read_input_tokens: Tokens | None = None
    cache_creation: _ByAge | None = None


class _Message(msgspec.Struct):
    model: str
    usage: _Used


class _Result(msgspec.Struct):
    message: _Message | None = None


class _Line(msgspec.Struct):
    result: _Result


class _Told(msgspec.Struct):
    result: msgspec.Raw


_read = msgspec.json.Decoder(_Line).decode


@dataclass(slots=True)
class Sum:
    """
    What some requests used together.

    Args:
        long_prompt: over so many tokens of input a request is priced as a long one; 0: there is no such bound.
    """

    model: str
    long_prompt: int = 0
    requests: int = 0
    input: int = 0
    output: int = 0
    written: int = 0
    written_1h: int = 0
    read: int = 0

    def add(self, said: _Used, written: int, read: int) -> None:
        """Add one."""
        self.requests += 1
        self.input += said.input_tokens
        self.output += said.output_tokens
        self.written += written
        self.read += read
        if said.cache_creation is not None:
            self.written_1h += said.cache_creation.ephemeral_1h_input_tokens or 0

    @property
    def usage(self) -> Usage:
        """All of it, as a batch's."""
        return Usage(
            self.input, self.output, self.written, self.read, cache_creation_1h_input_tokens=self.written_1h, tier="batch"
        )


@dataclass(frozen=True, slots=True)
class ResultsStats:
    """How many lines told what they used, and how many cannot be read."""

    told: int
    untold: int


class Results:
    """
    Adds up what the lines say.

    Args:
        long_prompt: returns from how many tokens of input on a request of a model is priced as a long one; 0: never.
    """

    def __init__(self, long_prompt: Callable[[str], int]) -> None:
        self._long_prompt = long_prompt
        self._short: dict[str, Sum] = {}
        self._long: dict[str, Sum] = {}
        self._line = bytearray()  # that is not whole yet
        self._is_too_long = False
        self._untold = 0
        self._things: list[str] = []

    def __repr__(self) -> str:
        stats = self.stats()
        return f"<Results [{stats.told} told, {stats.untold} cannot be read]>"

    def stats(self) -> ResultsStats:
        """Return its state now."""
        return ResultsStats(sum(each.requests for each in self.sums()), self._untold)

    def sums(self) -> list[Sum]:
        """Return what was told so far: a sum a model, long prompts apart."""
        return [each for each in (*self._short.values(), *self._long.values()) if each.requests]

    def feed(self, piece: bytes) -> None:
        """Take in the next piece."""
        first, *others = piece.split(b"\n")
        self._keep(first)
        for part in others:
            self._end_line()
            self._keep(part)

    def end(self) -> None:
        """Take in that this was all: the last line need have no end."""
        self._end_line()

    def _keep(self, part: bytes) -> None:
        if len(self._line) + len(part) > _LONGEST_LINE:
            self._is_too_long = True
            self._line.clear()
        elif not self._is_too_long:
            self._line += part

    def _end_line(self) -> None:
        if self._is_too_long:
            self._untold += 1
        elif self._line:
            self._read(self._line)
        self._line = bytearray()
        self._is_too_long = False

    def _read(self, line: bytearray) -> None:
        try:
            message = _read(line).result.message
        except (ValueError, RecursionError):  # msgspec's are ValueErrors, and so is what is no UTF-8
            self._untold += bool(line.strip())
            return
        if tells(line):
            self._things += made_in(bytes(msgspec.json.decode(line, type=_Told).result))
        if message is not None:
            self._count(message.model, message.usage)

    def things(self) -> list[str]:
        """Return the ids of things at upstream of which the lines since the last time told that they were made."""
        told, self._things = self._things, []
        return told

    def _count(self, model: str, said: _Used) -> None:
        sum_ = self._short.get(model) or self._begin(model)
        written, read = said.cache_creation_input_tokens or 0, said.cache_read_input_tokens or 0
        if sum_.long_prompt and said.input_tokens + written + read > sum_.long_prompt:
            sum_ = self._long.setdefault(sum_.model, Sum(sum_.model))
        sum_.add(said, written, read)

    def _begin(self, model: str) -> Sum:
        name = model[:_LONGEST_NAME] if len(self._short) < _MODELS else OTHER.model
        return self._short.setdefault(name, Sum(name, self._long_prompt(name)))


def readable(headers: Headers) -> Headers:
    """Return the headers of a request so that the answer comes in a way that can be read here, and that the caller takes."""
    asked = ",".join(value for name, value in headers if name == "accept-encoding")
    kept = tuple(pair for pair in headers if pair[0] != "accept-encoding")
    return (*kept, ("accept-encoding", "gzip")) if "gzip" in taken(asked) else kept
