"""
Seals: what is written to a shared Redis, and who wrote it.

Redis may be shared with programs and people who must not be able to put words into upstream's mouth. Whatever is answered from
there, or asked for what lies there, is sealed as it leaves and opened as it comes back, each for the one place where it
belongs: what was moved from another place is as wrong as what was changed. A seal is the only way out and in for kept entries,
for what tickets hold, and for the logs of flights; so whoever wants them encrypted, too, makes another seal of the same two
methods.
"""

from __future__ import annotations

import hmac
from hashlib import blake2b
from typing import Protocol

MIN_KEY_BYTES = 16


class Broken(ValueError):
    """Not sealed by us for this place."""


class Seal(Protocol):
    """
    How bytes leave and come back; *place* says where they belong, and is part of what is sealed.

    `hides` says whether who sees what lies there cannot read it: then the disk's entries are sealed, too.
    """

    hides: bool

    def seal(self, place: str, said: bytes) -> bytes:
        """Return the bytes as they are to lie there."""

    def open(self, place: str, sealed: bytes) -> bytes:
        """Return what was sealed; raises `Broken`."""


class Unsealed:
    """No seal: whoever may write to Redis is trusted."""

    hides = False

    def __repr__(self) -> str:
        return "<Unsealed>"

    def seal(self, place: str, said: bytes) -> bytes:
        return said

    def open(self, place: str, sealed: bytes) -> bytes:
        return sealed


class Mac:
    """
    A message authentication code before the bytes, which stay readable: `magic | 16 bytes of keyed BLAKE2b | what was said`.

    Args:
        key: a secret of all daemons on one Redis; `MIN_KEY_BYTES` at least.
    """

    hides = False

    _MAGIC = b"HRm1"
    _CODE_BYTES = 16

    def __init__(self, key: bytes) -> None:
        if len(key) < MIN_KEY_BYTES:
            raise ValueError(f"the key of a seal has {MIN_KEY_BYTES} bytes at least")
        self._key = blake2b(key).digest()  # which is as long as BLAKE2b takes one, however long this is

    def __repr__(self) -> str:
        return "<Mac>"

    def seal(self, place: str, said: bytes) -> bytes:
        return b"".join((self._MAGIC, self._code(place, said), said))

    def open(self, place: str, sealed: bytes) -> bytes:
        begin = len(self._MAGIC) + self._CODE_BYTES
        said = sealed[begin:]
        if sealed[: len(self._MAGIC)] != self._MAGIC or len(sealed) < begin:
            raise Broken("not sealed")
        if not hmac.compare_digest(sealed[len(self._MAGIC) : begin], self._code(place, said)):
            raise Broken("sealed by another, or for another place")
        return said

    def _code(self, place: str, said: bytes) -> bytes:
        code = blake2b(place.encode(errors="replace") + b"\0", digest_size=self._CODE_BYTES, key=self._key)
        code.update(said)
        return code.digest()


UNSEALED = Unsealed()
