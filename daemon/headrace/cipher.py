"""
The seal that also hides: AES-256-GCM, for whoever may read Redis or the disk and is not to read prompts and answers.

`magic | 4 bytes that name the key | 24 random bytes | ciphertext and tag`, the place being authenticated with it. Half of the
random bytes derive a key for this message alone, the other half are its nonce: so a key is good for as many messages as
anybody will ever write, where plain GCM is for four thousand million.

Keys rotate: the first seals, all of them open. What was merely signed before there was a key is opened as well, so that nobody
loses a ticket by switching this on; what nobody signed is not.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from headrace.seal import MIN_KEY_BYTES, Broken, Seal

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_MAGIC = b"HRx1"
_ID_BYTES = 4
_SALT_BYTES = 12
_NONCE_BYTES = 12
_SALT_AT = len(_MAGIC) + _ID_BYTES
_NONCE_AT = _SALT_AT + _SALT_BYTES
_SAID_AT = _NONCE_AT + _NONCE_BYTES


class Cipher:
    """
    Encrypts, and opens what is encrypted with any of its keys.

    Args:
        keys: secrets of all daemons on one Redis, `MIN_KEY_BYTES` at least each; the first seals.
        before: opens what was sealed when there were no keys; None where that is not to be believed.
    """

    hides = True

    def __init__(self, keys: Sequence[bytes], before: Seal | None = None) -> None:
        if not keys or any(len(key) < MIN_KEY_BYTES for key in keys):
            raise ValueError(f"the key of a seal has {MIN_KEY_BYTES} bytes at least")
        # Imported where it is used: it takes a while, and most do without.
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        self._aes, self._wrong = AESGCM, InvalidTag
        self._keys = {_id(key): blake2b(key, person=b"headrace key").digest() for key in keys}
        self._first = _id(keys[0])
        self._before = before

    def __repr__(self) -> str:
        return f"<Cipher [{len(self._keys)} keys]>"

    def seal(self, place: str, said: bytes) -> bytes:
        """Return the bytes as they are to lie there."""
        head = b"".join((_MAGIC, self._first, os.urandom(_SALT_BYTES + _NONCE_BYTES)))
        return head + self._of(head).encrypt(head[_NONCE_AT:], said, _bound(head, place))

    def open(self, place: str, sealed: bytes) -> bytes:
        """Return what was sealed; raises `Broken`."""
        if not sealed.startswith(_MAGIC):
            if self._before is None:
                raise Broken("not encrypted")
            return self._before.open(place, sealed)
        head = sealed[:_SAID_AT]
        if len(head) < _SAID_AT or head[len(_MAGIC) : _SALT_AT] not in self._keys:
            raise Broken("encrypted with a key that is not ours")
        try:
            return self._of(head).decrypt(head[_NONCE_AT:], sealed[_SAID_AT:], _bound(head, place))
        except self._wrong:
            raise Broken("encrypted by another, or for another place") from None

    def _of(self, head: bytes) -> AESGCM:
        key = self._keys[head[len(_MAGIC) : _SALT_AT]]
        return self._aes(blake2b(head[_SALT_AT:_NONCE_AT], key=key, digest_size=32).digest())


def _id(key: bytes) -> bytes:
    return blake2b(key, digest_size=_ID_BYTES, person=b"headrace key id").digest()


def _bound(head: bytes, place: str) -> bytes:
    return head + place.encode(errors="replace")
