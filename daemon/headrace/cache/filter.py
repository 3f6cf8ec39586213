"""
A Bloom filter of fingerprints: says for sure what a tier does not have, in a microsecond and a quarter of a megabyte.

Most calls are new, and each would cost a trip to the disk's thread (some 130 us) to learn that. Nothing can be taken out of
such a filter, so it wears out as entries come and go: then it is made anew.
"""

from __future__ import annotations

from collections.abc import Iterable

_PLACE_BITS = 21
_MASK = 2**_PLACE_BITS - 1
_SPARE = 100_000


class Filter:
    """Starts out with the given fingerprints."""

    def __init__(self, fingerprints: Iterable[str] = ()) -> None:
        self._bits = bytearray(2**_PLACE_BITS // 8)
        self._added = 0
        for fingerprint in fingerprints:
            self.add(fingerprint)
        self._enough = 2 * self._added + _SPARE

    def __repr__(self) -> str:
        return f"<Filter [{self._added} added, worn at {self._enough}]>"

    def __contains__(self, fingerprint: str) -> bool:
        """Whether it may have been added; False is certain."""
        bits = self._bits
        one, two, three = _places(fingerprint)
        return bool(bits[one >> 3] >> (one & 7) & bits[two >> 3] >> (two & 7) & bits[three >> 3] >> (three & 7) & 1)

    def add(self, fingerprint: str) -> None:
        self._added += 1
        for place in _places(fingerprint):
            self._bits[place >> 3] |= 1 << (place & 7)

    @property
    def is_worn(self) -> bool:
        return self._added > self._enough


def _places(fingerprint: str) -> tuple[int, int, int]:
    # Python keeps a string's 64-bit hash with it; three places are cut out of that.
    bits = hash(fingerprint)
    return bits & _MASK, bits >> _PLACE_BITS & _MASK, bits >> 2 * _PLACE_BITS & _MASK
