"""
Who asks: callers by key (where auth is required) or by the name they give (where it is not), and the store of their keys.

A key is "hr_<id>_<secret>". Redis holds its SHA-256, found by the id; the secret itself exists once, in the reply of
`KeyStore.create`. The digest needs no salt and no slow hash: the secret has 192 random bits, nothing to guess.

Every daemon holds all digests in memory, so that the hot path asks nobody, and goes on with what it knows while Redis is away,
for ten seconds: then a key may have been revoked for as long, and none is taken until all are loaded anew. It loads them anew
on a nudge (keys were made or revoked), when the link comes back, and every few seconds, since nudges may be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import msgspec
import structlog

from headrace import keys, observe, records
from headrace.clock import Clock, SystemClock
from headrace.errors import InvalidCall, RedisAway, UnknownCaller
from headrace.link import Link
from headrace.model import Caller, Role

_log = structlog.get_logger()

DEFAULT_NAME = "default"
TOPIC = "keys"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_KEY = re.compile(r"hr_([0-9a-f]{12})_[0-9a-f]{48}")
_MEMO_SIZE = 4096
STALE_S = 10.0  # keys that could not be loaded for so long are good no more
_AGAIN_S = 1.0

_Kind = TypeVar("_Kind", bound="Key")


class Key(msgspec.Struct, frozen=True):
    """What anybody may know of a key. `created` is in Unix seconds."""

    id: str
    name: str
    prefix: str
    created: float


class _Record(Key, frozen=True):
    # What Redis keeps, as JSON.
    digest: str


def is_name(name: str) -> bool:
    """Whether *name* can be a caller's: 1 to 64 letters, digits, dots, underscores, hyphens."""
    return _NAME.fullmatch(name) is not None


def is_key(key: str) -> bool:
    """Whether *key* has the shape of the keys that callers of this daemon have."""
    return _KEY.fullmatch(key) is not None


@dataclass(frozen=True, slots=True)
class CallersStats:
    """How many callers are configured; how many keys are known, None before they were loaded; whether one is required."""

    configured: int
    keys: int | None
    required: bool


class Callers:
    """
    The callers of this daemon. Run `keep_fresh` as a task.

    Args:
        configured: what the configuration says of callers, by name; others get the defaults.
        required: whether a caller must present a key.
        default_role: everybody's where no key is asked for, whatever name they give themselves.
    """

    def __init__(
        self,
        configured: Mapping[str, Caller],
        *,
        required: bool,
        link: Link,
        clock: Clock | None = None,
        refresh_s: float = 5.0,
        default_role: Role = Role.CALLER,
    ) -> None:
        self._link = link
        self._clock = clock or SystemClock()
        self._refresh_s = refresh_s
        self._keys: dict[str, tuple[str, bytes]] | None = None
        self._loaded_at = 0.0
        self._is_stale = False
        self._stale = asyncio.Event()
        # The work a key costs, remembered for keys seen before. It says nothing about whether the key is good: that is
        # looked up every time, so a revoked key is refused from the moment we hear of it.
        self._read = functools.lru_cache(_MEMO_SIZE)(_id_and_digest)
        link.on(TOPIC, lambda _: self._stale.set())
        link.on_connect(self._note_connect)
        self.reload(configured, required=required, default_role=default_role)

    def __repr__(self) -> str:
        stats = self.stats()
        loaded = "not loaded" if stats.keys is None else f"{stats.keys} keys"
        return f"<Callers [{stats.configured} configured, {loaded}{', required' if stats.required else ''}]>"

    def stats(self) -> CallersStats:
        """Return its state now."""
        return CallersStats(len(self._configured), None if self._keys is None else len(self._keys), self.required)

    def reload(self, configured: Mapping[str, Caller], *, required: bool, default_role: Role = Role.CALLER) -> None:
        """Go on with a new configuration."""
        # A name that anybody can give is worth no role; one that comes with a key has its own.
        self._configured = {
            name: caller if required else replace(caller, role=default_role) for name, caller in configured.items()
        }
        everybodys = Role.CALLER if required else default_role
        self._others = functools.lru_cache(_MEMO_SIZE)(functools.partial(_by_default, role=everybodys))
        self.required = required
        self._stale.set()

    def identify(self, key: str, named: str) -> Caller:
        """
        Say who asks; no I/O.

        Args:
            key: the key that was presented, "" for none. Ignored unless keys are required.
            named: who the caller says it is, "" for nothing. Ignored if keys are required.
        """
        return self._caller(self._owner(key) if self.required else named or DEFAULT_NAME)

    @property
    def trouble(self) -> str:
        """Why no key is taken, in a line; "" if they are."""
        if not self.required or (self._keys is not None and not self._is_old()):
            return ""
        return "callers' keys cannot be loaded" if self._keys is not None else "callers' keys have not been loaded yet"

    def _is_old(self) -> bool:
        # Nobody knows whether a key was revoked meanwhile.
        return self._clock.now() - self._loaded_at > STALE_S

    def ours(self, presented: Sequence[str]) -> str:
        """Return the one of several presented keys that is known here; else one that looks as if it were; else any, or ""."""
        return next(filter(self._is_known, presented), "") or next(filter(is_key, presented), "") or next(iter(presented), "")

    def _is_known(self, key: str) -> bool:
        key_id, digest = self._read(key)
        name, expected = (self._keys or {}).get(key_id, ("", b""))
        return hmac.compare_digest(expected, digest) and bool(name)

    def _caller(self, name: str) -> Caller:
        return self._configured.get(name) or self._others(name)

    def _owner(self, key: str) -> str:
        if not key:
            raise UnknownCaller("A key is required: send one in x-api-key or as Authorization: Bearer.")
        key_id, digest = self._read(key)
        if self._keys is None and key_id:
            raise RedisAway("The keys of callers have not been loaded yet.", retry_after_s=1.0)
        if self._is_old() and key_id:
            self._note_stale()
            raise RedisAway("The keys of callers could not be loaded of late.", retry_after_s=1.0)
        name, expected = (self._keys or {}).get(key_id, ("", b""))
        if not hmac.compare_digest(expected, digest) or not name:
            raise UnknownCaller("The key is not known here, or was revoked.")
        return name

    def _note_stale(self) -> None:
        if not self._is_stale:
            self._is_stale = True
            _log.error(observe.KEYS_STALE)

    async def load(self) -> None:
        """Load all keys; raises `RedisAway`."""
        found = await _read_all(self._link, _Record)
        loaded = {record.id: (record.name, bytes.fromhex(record.digest)) for record in found}
        if loaded != self._keys:
            self._read.cache_clear()  # holds keys in the clear: no longer than they are of use
        self._keys, self._loaded_at = loaded, self._clock.now()
        if self._is_stale:
            self._is_stale = False
            _log.info(observe.KEYS_BACK)

    async def keep_fresh(self) -> None:
        """Load the keys on every nudge and every few seconds, until cancelled."""
        while True:
            self._stale.clear()
            if self.required:
                with contextlib.suppress(RedisAway):
                    await self.load()
                if self._keys is not None and self._is_old():
                    self._note_stale()
            with contextlib.suppress(TimeoutError):
                # wait_for may swallow a cancellation
                async with self._clock.timeout(_AGAIN_S if self._is_stale else self._refresh_s):
                    await self._stale.wait()

    async def _note_connect(self) -> None:
        self._stale.set()


def _by_default(name: str, role: Role) -> Caller:
    if not is_name(name):
        raise InvalidCall("A caller's name has 1 to 64 letters, digits, dots, underscores or hyphens.")
    return Caller(name, role=role)


def _id_and_digest(key: str) -> tuple[str, bytes]:
    shape = _KEY.fullmatch(key)
    return (shape[1], hashlib.sha256(key.encode()).digest()) if shape else ("", b"")


async def _read_all(link: Link, kind: type[_Kind]) -> list[_Kind]:
    found: dict[bytes, bytes] = await link.do("HGETALL", keys.KEYS)
    read = (_read(key_id, value, kind) for key_id, value in found.items())
    return [record for record in read if record is not None]


def _read(key_id: bytes, value: bytes, kind: type[_Kind]) -> _Kind | None:
    # One record that cannot be read, as a newer version may write it, locks out its own key and not everybody's.
    try:
        record = msgspec.json.decode(value, type=kind)
        # A record under another's id would outlive the revocation of that id.
        if record.id.encode() != key_id or not is_name(record.name):
            raise ValueError("not this key's")
        if isinstance(record, _Record) and len(bytes.fromhex(record.digest)) != hashlib.sha256().digest_size:
            raise ValueError("no digest")
    except (msgspec.MsgspecError, ValueError):
        records.unreadable("key", value, observe.KEY_UNREADABLE)
        return None
    return record


class KeyStore:
    """The keys of all callers, in Redis. Every method raises `RedisAway` when it cannot be reached."""

    def __init__(self, link: Link, clock: Clock | None = None) -> None:
        self._link = link
        self._clock = clock or SystemClock()

    async def create(self, name: str) -> str:
        """Make a key for the caller *name* and return it. Nobody can see it a second time."""
        if not is_name(name):
            raise InvalidCall(f"{name!r} is no caller's name: 1 to 64 letters, digits, dots, underscores or hyphens.")
        key_id, secret = secrets.token_hex(6), secrets.token_hex(24)
        text = f"hr_{key_id}_{secret}"
        digest = hashlib.sha256(text.encode()).hexdigest()
        record = _Record(id=key_id, name=name, digest=digest, prefix=f"hr_{key_id}", created=self._clock.now())
        await self._link.do("HSET", keys.KEYS, key_id, msgspec.json.encode(record))
        await self._link.tell_all(TOPIC)
        return text

    async def list(self) -> list[Key]:
        """Return what is kept of all keys, by name and age."""
        return sorted(await _read_all(self._link, Key), key=lambda key: (key.name, key.created, key.id))

    async def revoke(self, target: str) -> int:
        """Revoke the key with the id *target*, or else all keys of the caller of that name; return how many."""
        # By its id one goes that cannot be read, too.
        gone: int = await self._link.do("HDEL", keys.KEYS, target)
        if not gone and (doomed := [key.id for key in await self.list() if key.name == target]):
            gone = await self._link.do("HDEL", keys.KEYS, *doomed)
        if gone:
            await self._link.tell_all(TOPIC)
        return gone
