"""
The keys of callers, as Redis holds them: made, listed, rotated, revoked.

A key is "hr_<id>_<secret>". The secret exists once, in the reply that makes the key; what is kept is a digest, found by the id.
With a pepper, a secret that is nowhere in Redis, the digest is keyed by it (HMAC-SHA-256): whoever has Redis alone has nothing
to compare a key with. Without one it is SHA-256, and that is no less safe against guessing, since the secret has 192 random
bits. Each record says which it is, so that old ones stay good after a pepper came, or one pepper after another.

Every change is one script, which counts changes: a daemon that missed the nudge sees by the count that there was one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from headrace import codec, keys, observe, records
from headrace.clock import Clock, SystemClock
from headrace.errors import InvalidCall
from headrace.link import Link, Script
from headrace.owner import is_name

TOPIC = "keys"
KEY_LENGTH = 64
PLAIN = "sha256"

_KEY = re.compile(r"hr_([0-9a-f]{12})_[0-9a-f]{48}")
_CHANGE = Script("headrace", "change_keys.lua")
_TRIES = 3

_Kind = TypeVar("_Kind", bound="Key")


class Key(msgspec.Struct, frozen=True, omit_defaults=True):
    """
    What anybody may know of a key. Times are Unix seconds.

    Args:
        expires: from when on it is refused; None: never.
        role: what its holder may do, in place of what the configuration says; "" leaves that.
        hashed: how its digest was made: "sha256", or "hmac-sha256:" and which pepper.
        used: when it was used last, to the minute or so; None: not that we know.
    """

    id: str
    name: str
    prefix: str
    created: float
    expires: float | None = None
    role: str = ""
    hashed: str = PLAIN
    used: float | None = None


class Record(Key, frozen=True, omit_defaults=True):
    """What Redis keeps, as JSON."""

    digest: str = ""


def is_key(key: str) -> bool:
    """Whether *key* has the shape of the keys that callers of this daemon have."""
    return _KEY.fullmatch(key) is not None


class Hashing:
    """
    How digests of keys are made.

    Args:
        peppers: secrets, the newest first: it is the one for new keys. None: digests are plain.
    """

    def __init__(self, peppers: Sequence[bytes] = ()) -> None:
        self._peppers = {f"hmac-sha256:{_pepper_id(pepper)}": pepper for pepper in peppers}

    def __repr__(self) -> str:
        return f"<Hashing [{self.newest}, {len(self._peppers)} peppers]>"

    @property
    def newest(self) -> str:
        """How new keys are hashed."""
        return next(iter(self._peppers), PLAIN)

    def digests(self, key: str) -> Mapping[str, bytes]:
        """Return the digest of a key in each of the ways that there are."""
        text = key.encode()
        keyed = {name: hmac.digest(pepper, text, "sha256") for name, pepper in self._peppers.items()}
        return {PLAIN: hashlib.sha256(text).digest()} | keyed

    def read(self, key: str) -> tuple[str, Mapping[str, bytes]]:
        """Return a key's id and digests; ("", {}) for what is none."""
        shape = _KEY.fullmatch(key)
        return (shape[1], self.digests(key)) if shape else ("", {})


def _pepper_id(pepper: bytes) -> str:
    # Says which pepper it was, and nothing of it: a pepper has no fewer bits than a key.
    return hmac.digest(pepper, b"headrace: which pepper", "sha256").hex()[:8]


class KeyStore:
    """The keys of all callers, in Redis. Every method raises `RedisAway` when it cannot be reached."""

    def __init__(self, link: Link, clock: Clock | None = None, hashing: Hashing | None = None) -> None:
        self._link = link
        self._clock = clock or SystemClock()
        self._hashing = hashing or Hashing()

    async def create(self, name: str, *, lasts_s: float | None = None, role: str = "") -> str:
        """Make a key for the caller *name* and return it. Nobody can see it a second time."""
        if not is_name(name):
            raise InvalidCall(f"{name!r} is no caller's name: 1 to 64 letters, digits, dots, underscores or hyphens.")
        key, record = self._make(name, lasts_s, role)
        await self._change((record.id, b"", _encode(record)))
        return key

    async def rotate(self, key_id: str, *, overlap_s: float, lasts_s: float | None = None) -> str | None:
        """
        Make a key in the place of another, and return it; None if there is no such key, or it has expired.

        The old one is good for *overlap_s* yet, and no longer than it was. The new one has its caller and role, and lasts as
        long as the old one was to unless *lasts_s* says otherwise.
        """
        for _ in range(_TRIES):  # somebody else may change it just now
            was = await self._link.do("HGET", keys.KEYS, key_id)
            old = read(key_id.encode(), was, Record) if was else None
            now = self._clock.now()
            if old is None or (old.expires is not None and old.expires <= now):
                return None
            if lasts_s is None and old.expires is not None:
                lasts_s = old.expires - old.created
            key, new = self._make(old.name, lasts_s, old.role)
            ends = now + overlap_s if old.expires is None else min(old.expires, now + overlap_s)
            ended = _encode(msgspec.structs.replace(old, expires=ends))
            if await self._change((key_id, was, ended), (new.id, b"", _encode(new))):
                return key
        return None

    async def list(self) -> list[Key]:
        """Return what is kept of all keys, by name and age."""
        used = await records.or_nothing("key use", keys.KEYS_USED, self._link.do("HGETALL", keys.KEYS_USED)) or {}
        moments = {key_id.decode(errors="replace"): _moment(at) for key_id, at in used.items()}
        kept = [msgspec.structs.replace(key, used=moments.get(key.id)) for key in await read_all(self._link, Key)]
        return sorted(kept, key=lambda key: (key.name, key.created, key.id))

    async def revoke(self, target: str) -> int:
        """Revoke the key with the id *target*, or else all keys of the caller of that name; return how many."""
        # By its id one goes that cannot be read, too.
        is_id = await self._link.do("HEXISTS", keys.KEYS, target)
        doomed = [target] if is_id else [key.id for key in await self.list() if key.name == target]
        if doomed:
            await self._change(*((key_id, b"", b"") for key_id in doomed))
        return len(doomed)

    def _make(self, name: str, lasts_s: float | None, role: str) -> tuple[str, Record]:
        key_id, now = secrets.token_hex(6), self._clock.now()
        text = f"hr_{key_id}_{secrets.token_hex(24)}"
        hashed = self._hashing.newest
        record = Record(
            id=key_id, name=name, prefix=f"hr_{key_id}", created=now, expires=None if lasts_s is None else now + lasts_s,
            role=role, hashed=hashed, digest=self._hashing.digests(text)[hashed].hex(),
        )  # fmt: skip
        return text, record

    async def _change(self, *changes: tuple[str, bytes, bytes]) -> bool:
        names = [keys.KEYS, keys.KEYS_USED, keys.KEYS_VERSION]
        is_done = await self._link.run(_CHANGE, names, [word for change in changes for word in change])
        await self._link.tell_all(TOPIC)
        return bool(is_done)


def _encode(record: Record) -> bytes:
    return msgspec.json.encode(record)


def _moment(text: Any) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


async def read_all(link: Link, kind: type[_Kind]) -> list[_Kind]:
    """Return all records that can be read; raises `RedisAway`."""
    found: dict[bytes, bytes] = await link.do("HGETALL", keys.KEYS)
    kept = (read(key_id, value, kind) for key_id, value in found.items())
    return [record for record in kept if record is not None]


def read(key_id: bytes, value: bytes, kind: type[_Kind]) -> _Kind | None:
    """
    Return one key's record; None if it cannot be read, as a newer version may write it.

    That one locks out its own key and not everybody's.
    """
    try:
        record = codec.decode(value, kind)
        # A record under another's id would outlive the revocation of that id.
        if record.id.encode() != key_id or not is_name(record.name):
            raise ValueError("is not this key's")
        if isinstance(record, Record) and len(bytes.fromhex(record.digest)) != hashlib.sha256().digest_size:
            raise ValueError("is no digest")
    except ValueError:
        records.unreadable("key", value, observe.KEY_UNREADABLE)
        return None
    return record
