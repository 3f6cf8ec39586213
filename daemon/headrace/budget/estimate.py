"""
What a call will probably use, learnt from what calls did use. Pure, and of bounded memory.

Input: the bytes of text times the tokens that this model's bodies had per byte, and for the sources in it (`measure.py`) the
tokens that sources of their kind had, by piece or by byte; running means, all of them. Output: `max_tokens` times the share
of it that nine in ten of this caller's calls to this model stayed under. An estimate only has to be good on average: settling
replaces it by the truth. But for what was never seen it is on the safe side: the first file of its kind may be ten times what
one would think, and a burst of them would all go by the same mistake. Where upstream has counted the input, that stands.
"""

from __future__ import annotations

import bisect
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Generic, TypeVar

from headrace.budget.measure import at_most, has_reads, longest_floor, measure, surely
from headrace.model import Call, Usage
from headrace.weight import Kind, Measure, Source

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
D = TypeVar("D")

_FIRST_TOKENS_PER_BYTE = 0.3
_FIRST_OUTPUT_SHARE = 0.5
_WEIGHT = 0.1  # of the newest call in the running mean
_SAMPLES = 64
# Of each piece whose bytes say nothing of them: an image at full size, some pages that are elsewhere.
_FIRST_TOKENS = {Kind.IMAGE: 1600, Kind.LINKED_IMAGE: 1600, Kind.LINKED_FILE: 8000}
_LEAST_FILE_TOKENS = 1600
_FIRST_TOKENS_PER_FILE_BYTE = 0.2  # a page of nothing but text, packed


@dataclass(slots=True)
class Estimate:
    """
    What a call will probably use. Nobody changes it; but one is made a call, and frozen it takes three times as long to make.

    Args:
        input_tokens: without those that upstream's prompt cache will have, which are `read_tokens`.
        input_floor: what its input surely comes to.
        most_input_tokens, most_output_tokens: what it surely does not pass; worked out only where it is asked for.
        held: what its body holds.
    """

    input_tokens: int
    output_tokens: int
    input_floor: int = 0
    read_tokens: int = 0
    most_input_tokens: int = 0
    most_output_tokens: int = 0
    held: Measure | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class EstimatorStats:
    """Of how many models, kinds of sources, and pairs of caller and model it knows something."""

    models: int
    kinds_by_model: int
    callers_by_model: int


class Estimator:
    """
    Estimates calls, and learns from what they used.

    Args:
        models: how many models, and how many pairs of caller and model, are remembered; the least recently seen goes.
    """

    def __init__(self, *, models: int = 1024) -> None:
        self._models: _Recent[str, _Bytes] = _Recent(models)
        self._per_source: _Recent[tuple[str, Kind], float] = _Recent(models)  # tokens of a piece, or of a byte of a file
        self._outputs: _Recent[tuple[str, str], _Shares] = _Recent(models)

    def __repr__(self) -> str:
        said = self.stats()
        return f"<Estimator [{said.models} models, {said.callers_by_model} callers x models]>"

    def stats(self) -> EstimatorStats:
        """Return how much it has learnt."""
        return EstimatorStats(
            sum(a_byte.tokens is not None for a_byte in self._models), len(self._per_source), len(self._outputs)
        )

    def estimate(self, call: Call, *, has_ceilings: bool = False, counted: int | None = None, room: float = 0.0) -> Estimate:
        """
        Return what a call will probably use, and with *has_ceilings* also what it surely does not pass.

        *counted* is its input as upstream counted it, which does not know what its prompt cache has. *room* is how much the
        smallest bucket of input holds: whether the input surely comes to less than that is not looked at where it plainly does.
        """
        body, caller, model, weight = call.body, call.owner.text, call.model, call.weight
        held = measure(body) if weight is None else weight.held
        most = 0 if not has_ceilings else at_most(body) if weight is None else weight.most_tokens
        likely = self.expect(caller, model, held, call.max_tokens, floor=0, most=most, has_ceilings=has_ceilings)
        if counted is None and longest_floor(body) <= min(room, likely.input_tokens):
            return likely
        likely.input_floor = surely(body) if weight is None else weight.least_tokens
        likely.input_tokens = max(likely.input_floor, likely.input_tokens)
        if counted is None:
            return likely
        return _counted(likely, counted, has_reads=has_reads(body) if weight is None else weight.has_reads)

    def expect(
        self, caller: str, model: str, held: Measure, max_tokens: int, *, floor: int, most: int, has_ceilings: bool
    ) -> Estimate:
        """Return the same of a call of which no more is known than this."""
        a_byte, share = self._models.get(model, _UNSEEN), self._outputs.get((caller, model), _UNKNOWN).high
        tokens = a_byte.tokens_of(held)
        if held.sources:
            tokens += self._source_tokens(model, held.sources)
        return Estimate(
            input_tokens=max(1, floor, round(tokens)),
            output_tokens=max(1, min(max_tokens, round(max_tokens * share))),
            input_floor=floor,
            read_tokens=round(held.size_bytes * (a_byte.reads or 0.0)),
            most_input_tokens=most,
            most_output_tokens=max_tokens if has_ceilings else 0,
            held=held,
        )

    def _source_tokens(self, model: str, sources: Iterable[Source]) -> float:
        return sum(self._tokens_of(model, source) for source in sources)

    def _tokens_of(self, model: str, source: Source) -> float:
        rate = self._per_source.get((model, source.kind), 0.0)
        if source.kind in _FIRST_TOKENS:
            return rate or _FIRST_TOKENS[source.kind]
        return rate * source.size_bytes or max(_LEAST_FILE_TOKENS, source.size_bytes * _FIRST_TOKENS_PER_FILE_BYTE)

    def learn(self, call: Call, usage: Usage, held: Measure | None = None) -> None:
        """Take in what a call used; *held* is what its body holds, if it was measured before."""
        self.take_in(call.owner.text, call.model, held or measure(call.body), call.max_tokens, usage)

    def take_in(self, caller: str, model: str, held: Measure, max_tokens: int, usage: Usage) -> None:
        """Take in the same of a call of which no more is known than this."""
        if not usage.known:
            return
        a_byte = self._models.of(model, _Bytes)
        if held.sources:
            self._learn_sources(model, held, usage.metered_input_tokens - a_byte.tokens_of(held))
        elif held.text_bytes:
            a_byte.tokens = _mean(a_byte.tokens, usage.metered_input_tokens / held.text_bytes)
        if size := held.size_bytes:
            a_byte.reads = _mean(a_byte.reads, usage.cache_read_input_tokens / size)
        self._outputs.of((caller, model), _Shares).add(usage.output_tokens / max(1, max_tokens))

    def _learn_sources(self, model: str, held: Measure, tokens: float) -> None:
        # What is not the text's is the sources', each kind's in the proportion of what was expected of it.
        ratio = max(1.0, tokens) / self._source_tokens(model, held.sources)
        for kind in {source.kind for source in held.sources}:
            those = [source for source in held.sources if source.kind is kind]
            units = len(those) if kind in _FIRST_TOKENS else sum(source.size_bytes for source in those)
            seen = ratio * self._source_tokens(model, those) / units
            self._per_source.put((model, kind), _mean(self._per_source.get((model, kind), None), seen))


def _counted(likely: Estimate, tokens: int, *, has_reads: bool) -> Estimate:
    read = min(tokens, likely.read_tokens) if has_reads else 0
    return replace(likely, input_tokens=max(1, likely.input_floor, tokens - read), read_tokens=read)


def _mean(before: float | None, seen: float) -> float:
    return seen if before is None else before + _WEIGHT * (seen - before)


class _Bytes:
    """What a byte of one model's bodies comes to, of text in tokens, of all in tokens read; None: it was not seen yet."""

    __slots__ = ("reads", "tokens")

    def __init__(self) -> None:
        self.tokens: float | None = None
        self.reads: float | None = None

    def tokens_of(self, held: Measure) -> float:
        return held.text_bytes * (_FIRST_TOKENS_PER_BYTE if self.tokens is None else self.tokens)


class _Shares:
    """The latest shares of `max_tokens` that calls used, and the value that nine in ten of them stay under."""

    __slots__ = ("_latest", "_sorted", "high")

    def __init__(self) -> None:
        self.high = _FIRST_OUTPUT_SHARE
        self._latest: deque[float] = deque()
        self._sorted: list[float] = []

    def add(self, share: float) -> None:
        if len(self._latest) == _SAMPLES:
            del self._sorted[bisect.bisect_left(self._sorted, self._latest.popleft())]
        self._latest.append(share)
        bisect.insort(self._sorted, share)
        self.high = self._sorted[len(self._sorted) * 9 // 10]


_UNSEEN, _UNKNOWN = _Bytes(), _Shares()


class _Recent(Generic[K, V]):
    """A mapping that forgets the least recently used."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._items: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[V]:
        return iter(self._items.values())

    def get(self, key: K, default: D) -> V | D:
        if key not in self._items:
            return default
        self._items.move_to_end(key)
        return self._items[key]

    def of(self, key: K, make: Callable[[], V]) -> V:
        value = self._items.get(key)
        if value is None:
            value = make()
        self.put(key, value)
        return value

    def put(self, key: K, value: V) -> None:
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > self._bound:
            self._items.popitem(last=False)
