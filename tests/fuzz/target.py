"""
One decoder, and what it may do with any bytes: return, or raise what its contract names, in a moment.

A target's function turns bytes into what the decoder takes, calls it, and looks at what came: where there is an inverse, that
it is one. Whatever it raises beside the allowed errors is a finding, and so is an input that takes the processor over 50 ms.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.mutate import Mutator

CORPUS = Path(__file__).parent / "corpus"
SLOW_S = 0.05


@dataclass(frozen=True)
class Target:
    """
    A decoder.

    Args:
        name: what it reads.
        feed: gives it an input; raises AssertionError if what came of it is wrong.
        allowed: what it may raise.
        corpus: the file with its samples; "" for one of its name.
        words: of its format.
        weight: by so much fewer inputs in the short form.
    """

    name: str
    feed: Callable[[bytes], Any]
    allowed: tuple[type[BaseException], ...] = ()
    corpus: str = ""
    words: tuple[bytes, ...] = ()
    weight: int = 1

    def samples(self) -> list[bytes]:
        """Return what the corpus has for it."""
        return read_corpus(self.corpus or self.name)

    def broken_by(self, data: bytes) -> BaseException | None:
        """Return what an input makes it raise that it may not, or None."""
        try:
            self.feed(data)
        except self.allowed:
            return None
        except (Exception, RecursionError) as error:
            return error
        return None

    def seconds(self, data: bytes) -> float:
        """Return how long the processor takes over an input, the least of three."""
        return min(self._seconds(data) for _ in range(3))

    def _seconds(self, data: bytes) -> float:
        began = time.thread_time()
        self.broken_by(data)
        return time.thread_time() - began


def read_corpus(name: str) -> list[bytes]:
    """Return the samples of a file: one a line, spelled as Python spells bytes."""
    return [ast.literal_eval(line) for line in (CORPUS / f"{name}.txt").read_text(encoding="ascii").splitlines()]


@dataclass
class Findings:
    """What came of a run: how many inputs, how many of them were read, the slowest, and what broke it, one of each kind."""

    inputs: int = 0
    read: int = 0
    slowest_s: float = 0.0
    slowest: bytes = b""
    took_s: float = 0.0
    broken: dict[str, tuple[bytes, BaseException | None]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<Findings [{self.inputs} inputs, {self.read} read, {len(self.broken)} kinds of trouble]>"


def run(target: Target, inputs: Iterable[bytes]) -> Findings:
    """Give a target all these inputs."""
    found, feed, allowed, clock = Findings(), target.feed, target.allowed, time.perf_counter
    began = last = clock()
    for data in inputs:
        found.inputs += 1
        try:
            feed(data)
            found.read += 1
        except allowed:
            pass
        except (Exception, RecursionError) as error:
            _keep(found, _kind(error), data, error)
        now = clock()
        if now - last > found.slowest_s:
            _note_slow(target, found, data, now - last)
            now = clock()
        last = now
    found.took_s = clock() - began
    return found


def mutated(target: Target, count: int, seed: int) -> Iterable[bytes]:
    """Yield *count* inputs, the same ones for a seed."""
    make = Mutator(target.samples(), target.words, seed=seed).input
    for _ in range(count):
        yield make()


def _note_slow(target: Target, found: Findings, data: bytes, seconds: float) -> None:
    # A busy machine is slow, too: what counts is the processor's own time, and that again and again.
    if seconds > SLOW_S / 5:
        seconds = target.seconds(data)
    if seconds > found.slowest_s:
        found.slowest_s, found.slowest = seconds, data
    if seconds > SLOW_S:
        _keep(found, "slow", data, None)


def _keep(found: Findings, kind: str, data: bytes, error: BaseException | None) -> None:
    known = found.broken.get(kind)
    if known is None or len(data) < len(known[0]):
        found.broken[kind] = data, error


def _kind(error: BaseException) -> str:
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}" if at else ""
    return f"{type(error).__name__} at {where}"
