"""
Who asks: callers by key (where auth is required), by the name in their client certificate, or by the name they give.

How keys are made and kept, keystore.py says. Every daemon holds all digests in memory, so that the hot path asks nobody, and
goes on with what it knows while Redis is away, for ten seconds: then a key may have been revoked for as long, and none is
taken until Redis is heard again. It loads them anew on a nudge (keys were made or revoked), when the link comes back, and now
and then; and since nudges may be lost, it asks Redis all the time how many changes there were and how many keys there are: two
numbers, one write a host, and a revoked key is refused everywhere within a second. Whom a certificate's name stands for, the
configuration says.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import hmac
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import structlog

from headrace import keys, observe, records
from headrace.clock import Clock, SystemClock, until_set
from headrace.errors import InvalidCall, RedisAway, UnknownCaller
from headrace.keystore import KEY_LENGTH, TOPIC, Hashing, Key, KeyStore, Record, is_key, read_all
from headrace.link import Link, Script
from headrace.model import Caller, Role
from headrace.owner import is_name

__all__ = ["Callers", "CallersStats", "Certified", "Key", "KeyStore", "is_key"]

_log = structlog.get_logger()

DEFAULT_NAME = "default"

_MEMO_SIZE = 4096
STALE_S = 10.0  # keys of which nothing was heard for so long are good no more
_POLL_S = 0.7
_TELL_S = 60.0
_NOTE_USES = Script("headrace", "note_uses.lua")


class Certified(str):
    """A caller's name that its client certificate vouches for. It stands where a key would."""

    __slots__ = ()


class _Known(NamedTuple):
    # A key, as the hot path needs it.
    id: str
    name: str
    digest: bytes
    hashed: str
    expires: float
    role: Role | None


@dataclass(frozen=True, slots=True)
class CallersStats:
    """
    How many callers are configured, and how many names of certificates; how many keys are known, None before they were loaded;
    whether one is required.
    """

    configured: int
    certificates: int
    keys: int | None
    required: bool


class Callers:
    """
    The callers of this daemon. Run `keep_fresh` as a task.

    Args:
        configured: what the configuration says of callers, by name; others get the defaults.
        required: whether a caller must present a key, or a certificate that stands for it.
        refresh_s: how often all keys are loaded, whatever is heard.
        poll_s: how often Redis is asked whether they have changed.
        default_role: everybody's where no key is asked for, whatever name they give themselves.
        certificates: a name in a client certificate -> the caller that it stands for.
        hashing: how digests of keys are made.
    """

    def __init__(
        self,
        configured: Mapping[str, Caller],
        *,
        required: bool,
        link: Link,
        clock: Clock | None = None,
        refresh_s: float = 60.0,
        poll_s: float = _POLL_S,
        default_role: Role = Role.CALLER,
        certificates: Mapping[str, str] | None = None,
        hashing: Hashing | None = None,
    ) -> None:
        self._link = link
        self._clock = clock or SystemClock()
        self._refresh_s = refresh_s
        self._poll_s = poll_s
        self._keys: dict[str, _Known] | None = None
        self._version: tuple[bytes | None, int] | None = None  # as `_count` has it
        self._load_at = self._tell_at = self._as_of = -math.inf
        self._is_shut = False
        self._used: set[str] = set()
        self._stale = asyncio.Event()
        link.on(TOPIC, lambda _: self._stale.set())
        link.on_connect(self._note_connect)
        self.reload(configured, required=required, default_role=default_role, certificates=certificates, hashing=hashing)

    def __repr__(self) -> str:
        stats = self.stats()
        loaded = "not loaded" if stats.keys is None else f"{stats.keys} keys"
        return f"<Callers [{stats.configured} configured, {loaded}{', required' if stats.required else ''}]>"

    def stats(self) -> CallersStats:
        """Return its state now."""
        known = None if self._keys is None else len(self._keys)
        return CallersStats(len(self._configured), len(self._certificates), known, self.required)

    def reload(
        self,
        configured: Mapping[str, Caller],
        *,
        required: bool,
        default_role: Role = Role.CALLER,
        certificates: Mapping[str, str] | None = None,
        hashing: Hashing | None = None,
    ) -> None:
        """Go on with a new configuration."""
        self._proven = dict(configured)
        # A name that anybody can give is worth no role; one that comes with a key or a certificate has its own.
        self._configured = {
            name: caller if required else replace(caller, role=default_role) for name, caller in configured.items()
        }
        everybodys = Role.CALLER if required else default_role
        self._others = functools.lru_cache(_MEMO_SIZE)(functools.partial(_by_default, role=everybodys))
        self._certificates = dict(certificates or {})
        self.knows_certificates = bool(certificates)
        self._hashing = hashing or Hashing()
        # What a presented key is, remembered until we hear of other keys: so a revoked one is refused from that moment on.
        self._remembered = functools.lru_cache(_MEMO_SIZE)(self._look_up)
        self.required = required
        self._stale.set()

    def identify(self, key: str, named: str) -> Caller:
        """
        Say who asks; no I/O.

        Args:
            key: the key that was presented, or what `ours` found, "" for none. Ignored unless keys are required.
            named: who the caller says it is, "" for nothing. Ignored if keys are required, or a certificate says it.
        """
        if type(key) is Certified:
            return self._proven.get(key) or _others(str(key))
        if self.required:
            return self._owner(key)
        name = named or DEFAULT_NAME
        return self._configured.get(name) or self._others(name)

    def named(self, name: str) -> Caller:
        """Return the caller of a name as the configuration has it, whoever asks; raises `InvalidCall` for what is no name."""
        return self._configured.get(name) or self._others(name or DEFAULT_NAME)

    @property
    def trouble(self) -> str:
        """Why no key is taken, in a line; "" if they are."""
        if not self.required or (self._keys is not None and not self._is_old()):
            return ""
        return "callers' keys cannot be loaded" if self._keys is not None else "callers' keys have not been loaded yet"

    def _is_old(self) -> bool:
        # Nobody knows whether a key was revoked meanwhile.
        return self._clock.now() - self._as_of > STALE_S

    def ours(self, presented: Sequence[str], certificate: Iterable[str] = ()) -> str:
        """
        Return what says who asks: of several presented keys the one that is known here; else one that looks as if it were,
        which is then refused; else the caller that a name in its certificate stands for; else any key, or "".
        """
        if self.required and (key := next(filter(self._is_good, presented), "") or next(filter(is_key, presented), "")):
            return key
        name = next((self._certificates[each] for each in certificate if each in self._certificates), "")
        return Certified(name) if name else next(iter(presented), "")

    def _is_good(self, key: str) -> bool:
        found = self._find(key)
        return found is not None and self._clock.now() < found.expires

    def _find(self, key: str) -> _Known | None:
        return self._remembered(key) if len(key) == KEY_LENGTH else None  # a stranger's may have 64 KiB

    def _look_up(self, key: str) -> _Known | None:
        key_id, digests = self._hashing.read(key)
        known = (self._keys or {}).get(key_id)
        is_right = known is not None and hmac.compare_digest(known.digest, digests.get(known.hashed, b""))
        return known if is_right else None

    def _owner(self, key: str) -> Caller:
        if not key:
            raise UnknownCaller("A key is required: send one in x-api-key or as Authorization: Bearer.")
        if self._keys is None and is_key(key):
            raise RedisAway("The keys of callers have not been loaded yet.", retry_after_s=1.0)
        if self._is_old() and is_key(key):
            self._shut()
            raise RedisAway("The keys of callers could not be loaded of late.", retry_after_s=1.0)
        known = self._find(key)
        if known is None:
            raise UnknownCaller("The key is not known here, or was revoked.")
        if known.expires <= self._clock.now():
            raise UnknownCaller("The key has expired.")
        self._used.add(known.id)
        caller = self._configured.get(known.name) or self._others(known.name)
        return caller if known.role is None else _with_role(caller, known.role)

    async def load(self) -> None:
        """Load all keys; raises `RedisAway`."""
        now = self._clock.now()
        loaded = {record.id: _known(record) for record in await read_all(self._link, Record)}
        for hashed in {known.hashed for known in loaded.values()} - self._hashing.digests("").keys():
            _note_pepper(hashed)
        if loaded != self._keys:
            self._keys = loaded
            self._remembered.cache_clear()  # it holds keys in the clear, too: no longer than they are of use
        self._note_fresh(now)

    def _note_fresh(self, as_of: float) -> None:
        self._as_of = as_of
        if self._is_shut and not self._is_old():
            self._is_shut = False
            _log.info(observe.KEYS_BACK)

    def _shut(self) -> None:
        if not self._is_shut:
            self._is_shut = True
            _log.error(observe.KEYS_STALE)

    async def keep_fresh(self) -> None:
        """Keep the keys as Redis has them, and tell it which were used, until cancelled."""
        while True:
            if self._stale.is_set():
                self._stale.clear()
                self._load_at = -math.inf
            if self.required:
                with contextlib.suppress(RedisAway):
                    await self._refresh()
                    await self._tell_uses()
                if self._keys is not None and self._is_old():
                    self._shut()
            await until_set(self._stale, self._clock, self._poll_s if self.required else self._refresh_s)

    async def _refresh(self) -> None:
        # The count before the keys: a change between the two is seen the next time.
        now = self._clock.now()
        version = await self._count()
        if version != self._version or now >= self._load_at:
            await self.load()
            self._version, self._load_at = version, now + self._refresh_s
        self._note_fresh(now)

    async def _count(self) -> tuple[bytes | None, int]:
        # How many changes there were, and how many keys there are: who takes one out by hand counts nothing, and where there
        # are no keys but something else, none can be loaded. Both are asked in one write.
        changes = records.or_nothing("key count", keys.KEYS_VERSION, self._link.do("GET", keys.KEYS_VERSION))
        counted, there = await asyncio.gather(changes, self._link.do("HLEN", keys.KEYS))
        return counted, int(there)

    async def _tell_uses(self) -> None:
        now = self._clock.now()
        if not self._used or now < self._tell_at:
            return
        used, self._used, self._tell_at = self._used, set(), now + _TELL_S
        await self._link.run(_NOTE_USES, [keys.KEYS, keys.KEYS_USED], [int(now), *used])

    async def _note_connect(self) -> None:
        self._stale.set()


def _known(record: Record) -> _Known:
    expires = math.inf if record.expires is None else record.expires
    return _Known(record.id, record.name, bytes.fromhex(record.digest), record.hashed, expires, _role(record.role))


def _role(name: str) -> Role | None:
    # One that only a newer version knows gives the least.
    return None if not name else Role(name) if name in set(Role) else Role.CALLER


@functools.lru_cache(_MEMO_SIZE)
def _with_role(caller: Caller, role: Role) -> Caller:
    return replace(caller, role=role)


@functools.lru_cache(_MEMO_SIZE)
def _others(name: str) -> Caller:
    return Caller(name)


def _by_default(name: str, role: Role) -> Caller:
    if not is_name(name):
        raise InvalidCall("A caller's name has 1 to 64 letters, digits, dots, underscores or hyphens.")
    return Caller(name, role=role)


@functools.lru_cache(_MEMO_SIZE)
def _note_pepper(hashed: str) -> None:
    # Once: all keys are loaded now and then.
    _log.warning(observe.KEY_PEPPER_UNKNOWN, hashed=hashed)
