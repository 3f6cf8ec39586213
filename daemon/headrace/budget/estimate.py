"""
What a call will probably use, learnt from what calls did use. Pure, and of bounded memory.

Input: the bytes of the body times the tokens that this model's bodies had per byte (a running mean); images and documents in
base64 count as a constant each, since their bytes say nothing of their tokens. Output: `max_tokens` times the share of it that
nine in ten of this caller's calls to this model stayed under. An estimate only has to be good on average: settling
replaces it by the truth.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

from headrace.model import Call, Usage

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

_FIRST_TOKENS_PER_BYTE = 0.3
_FIRST_OUTPUT_SHARE = 0.5
_WEIGHT = 0.1  # of the newest call in the running mean
_SAMPLES = 64
_SOURCE_TOKENS = 1600  # of an image at full size, or of a page
# No text that a model reads has more bytes to a token, JSON's escapes and quotes included.
_MOST_BYTES_PER_TOKEN = 16
_BASE64 = re.compile(rb'"data"\s*:\s*"[A-Za-z0-9+/=\\]{64,}"')


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a call will probably use; `input_floor` is what its input surely comes to."""

    input_tokens: int
    output_tokens: int
    input_floor: int = 0


class Estimator:
    """
    Estimates calls, and learns from what they used.

    Args:
        models: how many models, and how many pairs of caller and model, are remembered; the least recently seen goes.
    """

    def __init__(self, *, models: int = 1024) -> None:
        self._tokens_per_byte: _Recent[str, float] = _Recent(models)
        self._outputs: _Recent[tuple[str, str], _Shares] = _Recent(models)

    def __repr__(self) -> str:
        return f"<Estimator [{len(self._tokens_per_byte)} models, {len(self._outputs)} callers x models]>"

    def estimate(self, call: Call) -> Estimate:
        """Return what a call will probably use."""
        text_bytes, sources = measure(call.body)
        tokens_per_byte = self._tokens_per_byte.get(call.model, _FIRST_TOKENS_PER_BYTE)
        share = self._outputs.get((call.caller.name, call.model), _UNKNOWN).high
        floor = 0 if b'"cache_control"' in call.body else text_bytes // _MOST_BYTES_PER_TOKEN  # cache reads are free
        return Estimate(
            input_tokens=max(1, floor, round(text_bytes * tokens_per_byte) + sources * _SOURCE_TOKENS),
            output_tokens=max(1, min(call.max_tokens, round(call.max_tokens * share))),
            input_floor=floor,
        )

    def learn(self, call: Call, usage: Usage) -> None:
        """Take in what a call used."""
        if not usage.known:
            return
        text_bytes, sources = measure(call.body)
        if text_bytes and not sources:
            seen = usage.metered_input_tokens / text_bytes
            before = self._tokens_per_byte.get(call.model, seen)
            self._tokens_per_byte.put(call.model, before + _WEIGHT * (seen - before))
        key = call.caller.name, call.model
        shares = self._outputs.get(key, _UNKNOWN)
        self._outputs.put(key, shares.and_one_of(usage.output_tokens / max(1, call.max_tokens)))


def measure(body: bytes) -> tuple[int, int]:
    """Return how many bytes of a body are text, and how many base64 sources it holds."""
    if b'"base64"' not in body:
        return len(body), 0
    lengths = [found.end() - found.start() for found in _BASE64.finditer(body)]
    return len(body) - sum(lengths), len(lengths)


@dataclass(frozen=True, slots=True)
class _Shares:
    """The latest shares of `max_tokens` that calls used, and the value that nine in ten of them stay under."""

    latest: tuple[float, ...] = ()
    high: float = _FIRST_OUTPUT_SHARE

    def and_one_of(self, share: float) -> _Shares:
        latest = (*self.latest[1 - _SAMPLES :], share)
        return _Shares(latest, sorted(latest)[len(latest) * 9 // 10])


_UNKNOWN = _Shares()


class _Recent(Generic[K, V]):
    """A mapping that forgets the least recently used."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._items: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: K, default: V) -> V:
        if key not in self._items:
            return default
        self._items.move_to_end(key)
        return self._items[key]

    def put(self, key: K, value: V) -> None:
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > self._bound:
            self._items.popitem(last=False)
