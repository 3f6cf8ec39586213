"""
Inputs for decoders: samples of what is right, changed a little, by a seed. Small and fast, about 5 us an input.

A change is one of few kinds, each of which has broken decoders before: bits, bytes, words of the format in wrong places,
numbers at the edges of what types hold, pieces lost, doubled, swapped, taken of another sample, or repeated until they are deep
or long.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence

LONGEST = 64 * 1024

_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
NUMBERS = (
    b"0", b"-0", b"-1", b"1", b"0.0", b"-0.0", b"1.5", b"007", b"1e5", b"1e400", b"-1e400", b"1e-400", b"1e999999999", b"NaN",
    b"nan", b"inf", b"-inf", b"Infinity", b"2147483647", b"2147483648", b"4294967296", b"9007199254740993",
    b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"18446744073709551616", b"253402300800",
    b"1_000", b"0x10", b"9" * 30, b"9" * 400, b"9" * 4400, b"0." + b"1" * 400, "\u0663".encode(), "\u00b2".encode(),
)  # fmt: skip
WORDS = (
    b"\0", b"\n", b"\r\n", b"\n\n", b"\r", b" ", b"\t", b",", b";", b":", b"=", b"%", b"/", b"..", b"'", b'"', b"\\", b"{",
    b"}", b"[", b"]", b"{}", b"[]", b"null", b"true", b"false", b'""', b"\x7f", b"\x80", b"\xff", b"\xfe\xff", b"\xef\xbb\xbf",
    b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80", "\u2028".encode(), "\u0130".encode(), "\U0001f600".encode(), b"\\ud800",
    b"\\u0000", b'"\\ud83d"', b"\xe2\x80\xae",
)  # fmt: skip


class Mutator:
    """
    Makes inputs without end.

    Args:
        samples: of what is right.
        words: of the format, besides those that break any.
    """

    def __init__(self, samples: Sequence[bytes], words: Sequence[bytes] = (), *, seed: int = 0) -> None:
        self._samples = tuple(samples)
        self._words = (*words, *words, *WORDS)
        self._chance = random.Random(seed)
        self._changes: tuple[Callable[[bytes], bytes], ...] = (
            self._bit, self._byte, self._word, self._word, self._over, self._number, self._number, self._lose, self._double,
            self._splice, self._cut, self._swap, self._noise,
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"<Mutator [{len(self._samples)} samples]>"

    def input(self) -> bytes:
        """Return the next input, of 64 KiB at most."""
        chance = self._chance.random
        data = self._pick(self._samples)
        if chance() < 0.002:
            data = self._repeat(data)
        while True:
            data = self._pick(self._changes)(data)
            if chance() < 0.5:
                return data[:LONGEST]

    def _pick(self, among):
        return among[int(self._chance.random() * len(among))]

    def _at(self, data: bytes) -> int:
        return int(self._chance.random() * (len(data) + 1))

    def _span(self, data: bytes) -> tuple[int, int]:
        begin = self._at(data)
        return begin, begin + int(self._chance.random() ** 3 * (len(data) + 1 - begin)) + 1

    def _bit(self, data: bytes) -> bytes:
        at = self._at(data)
        if at == len(data):
            return data
        return data[:at] + bytes((data[at] ^ 1 << int(self._chance.random() * 8),)) + data[at + 1 :]

    def _byte(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + bytes((int(self._chance.random() * 256),)) + data[at + 1 :]

    def _word(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + self._pick(self._words) + data[at:]

    def _over(self, data: bytes) -> bytes:
        begin, end = self._span(data)
        return data[:begin] + self._pick(self._words) + data[end:]

    def _number(self, data: bytes) -> bytes:
        found = _NUMBER.search(data, self._at(data)) or _NUMBER.search(data)
        if found is None:
            return self._word(data)
        return data[: found.start()] + self._pick(NUMBERS) + data[found.end() :]

    def _lose(self, data: bytes) -> bytes:
        begin, end = self._span(data)
        return data[:begin] + data[end:]

    def _double(self, data: bytes) -> bytes:
        begin, end = self._span(data)
        return data[:end] + data[begin:end] + data[end:]

    def _splice(self, data: bytes) -> bytes:
        other = self._pick(self._samples)
        begin, end = self._span(other)
        at = self._at(data)
        return data[:at] + other[begin:end] + data[at:]

    def _cut(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] if self._chance.random() < 0.7 else data[at:]

    def _swap(self, data: bytes) -> bytes:
        first, second = sorted((self._at(data), self._at(data)))
        return data[second:] + data[first:second] + data[:first]

    def _noise(self, data: bytes) -> bytes:
        at = self._at(data)
        return data[:at] + self._chance.randbytes(1 + int(self._chance.random() * 8)) + data[at:]

    def _repeat(self, data: bytes) -> bytes:
        piece = self._pick(self._words) if self._chance.random() < 0.5 else data[slice(*self._span(data))] or b"["
        at = self._at(data)
        times = int(LONGEST ** self._chance.random() / len(piece)) + 1
        return data[:at] + piece * times + data[at:]
