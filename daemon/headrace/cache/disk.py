"""
The middle tier: entries in a directory of this host, which survive a restart.

diskcache keeps them, held to bytes: its pickles are refused on the way in and on the way out (CVE-2025-69872: whoever may
write to a pickle cache's directory runs code in its reader). Values of 32 KB and up are files that diskcache does not sync,
so each entry carries its own checksum; one that does not add up is a miss, and deleted.

SQLite blocks, so it lives on two threads: one reads, one writes. What is put is written behind, in batches, off the path of
the call; if the writer falls too far behind, new entries are not written, and counted. A database that is broken is moved
aside (one is kept to look at, until a purge) and the tier starts empty. Where even that fails, as in a read-only directory,
the tier switches itself off, and the rest of the cache goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import diskcache
import structlog

from headrace import observe
from headrace.cache import rows
from headrace.cache.entry import FOREIGN, Entry, decode, is_foreign
from headrace.cache.filter import Filter
from headrace.cache.selector import Selector
from headrace.cache.tally import Tally, TierStats, own_stats
from headrace.clock import Clock, until_set
from headrace.seal import UNSEALED, Broken, Seal

T = TypeVar("T")

_log = structlog.get_logger()

_MAX_BACKLOG_BYTES = 32 * 2**20
_BATCH = 256
_GROW_S = 0.1  # a batch that had time to grow costs a third per entry, and disturbs the loop less often
# Of 4 KiB, that SQLite keeps of its file: those by which it finds a row. The system keeps the file itself, and by itself SQLite
# would take 32 MB for what is there a second time.
_PAGES = 1024
_DATABASE = "cache.db"
_SEEN = "purges-seen"

# Troubles that pass, or that an empty database would have as well: no cause to throw the entries away.
_PASSING = ("SQLITE_BUSY", "SQLITE_LOCKED", "SQLITE_FULL", "SQLITE_NOMEM", "SQLITE_INTERRUPT")


class BytesDisk(diskcache.Disk):  # type: ignore[misc]  # the library is untyped
    """
    What diskcache may write and read: text keys and bytes. A pickle is never made, and never opened.

    `fresh_files` are the files made by the batch that is being written.
    """

    def __init__(self, directory: str, **settings: Any) -> None:
        super().__init__(directory, **settings)
        self.fresh_files: list[str] = []

    def filename(self, key: Any = diskcache.UNKNOWN, value: Any = diskcache.UNKNOWN) -> tuple[str, str]:
        name, path = super().filename(key, value)
        self.fresh_files.append(name)
        return name, path

    def put(self, key: Any) -> tuple[str, bool]:
        if type(key) is not str:
            raise TypeError("a key of the cache is text")
        return key, True

    def get(self, key: Any, raw: Any) -> str:
        if not raw or type(key) is not str:
            raise OSError("a key that we did not write")
        return key

    def store(self, value: Any, read: bool, key: Any = diskcache.UNKNOWN) -> Any:
        if type(value) is not bytes or read:
            raise TypeError("a value of the cache is bytes")
        return super().store(value, read, key)

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> bytes:
        # diskcache takes an OSError for a value that is gone: a miss.
        if mode == diskcache.core.MODE_RAW and type(value) is bytes:
            return value
        if mode == diskcache.core.MODE_BINARY and filename and ".." not in filename and not filename.startswith("/"):
            return bytes(super().fetch(mode, filename, value, False))
        raise OSError("a value that we did not write")


class Disk:
    """
    The disk tier. `open` it before use.

    Args:
        directory: made if it is not there, readable by us alone; never on a network file system.
        bound: bytes it may take.
        seal: hides what entries say; one that only signs is left out, since who may write here is us.
    """

    def __init__(
        self, directory: Path, bound: int, clock: Clock, *, max_backlog_bytes: int = _MAX_BACKLOG_BYTES, seal: Seal = UNSEALED
    ) -> None:
        self._seal: Seal = seal if seal.hides else UNSEALED
        self.bound = bound
        self._directory = directory
        self._aside = directory.with_name(f"{directory.name}.broken")
        self._clock = clock
        self._max_backlog_bytes = max_backlog_bytes
        self._cache: Any = None
        self._backlog: dict[str, tuple[Entry, bytes]] = {}
        self._backlog_bytes = 0
        self._writing: Mapping[str, tuple[Entry, bytes]] = {}
        self._writer_task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._repair = asyncio.Lock()
        self._reader = ThreadPoolExecutor(1, "headrace-disk-read")
        self._writer = ThreadPoolExecutor(1, "headrace-disk-write")
        self._filter = Filter()
        self.tally = Tally("disk")

    def __repr__(self) -> str:
        state = "on" if self._cache is not None else "off"
        return f"<Disk [{state}, {len(self._backlog)} to write, {self.tally.errors} errors]>"

    async def open(self) -> None:
        """Open the directory, moving a broken one aside; leaves the tier off if there is no way."""
        try:
            await self._start()
        except sqlite3.DatabaseError as error:
            await self._start_again(None, error)
        except (OSError, diskcache.Timeout) as error:
            self._give_up(error)

    def may_have(self, fingerprint: str) -> bool:
        """Whether it is worth a look; False is certain."""
        is_kept = self._cache is not None and fingerprint in self._filter
        return is_kept or fingerprint in self._backlog or fingerprint in self._writing

    async def get(self, fingerprint: str) -> Entry | None:
        """Return the entry, be it stale; None if there is none that is whole."""
        written_soon = self._backlog.get(fingerprint) or self._writing.get(fingerprint)
        if written_soon is not None:
            return written_soon[0]
        if self._cache is None or fingerprint not in self._filter:
            return None
        raw = await self._try(self._reader, lambda cache: self._opened(fingerprint, cache.get(fingerprint)), None)
        entry = decode(raw) if raw is not None else None
        if raw is None or (entry is not None and entry.fingerprint == fingerprint):
            return entry
        if not is_foreign(raw):
            self.tally.failed()
        await self._try(self._writer, lambda cache: cache.delete(fingerprint), False)
        return None

    # On the threads, since to encrypt takes time, too.

    def _opened(self, fingerprint: str, kept: bytes | None) -> bytes | None:
        try:
            return None if kept is None else self._seal.open(fingerprint, kept)
        except Broken:  # of before there was a key, or with one that is gone
            return FOREIGN

    def _write(self, batch: Mapping[str, tuple[Entry, bytes]], now: float, cache: Any) -> int:
        sealed = {key: (entry, self._seal.seal(key, raw)) for key, (entry, raw) in batch.items()}
        return rows.write(sealed, now, cache)

    def write_soon(self, entry: Entry, raw: bytes) -> None:
        """Have the entry written behind the call's back."""
        if self._cache is None:
            return
        self._forget_backlog(entry.fingerprint)
        if self._backlog_bytes + len(raw) > self._max_backlog_bytes or len(raw) > self.bound:
            self.tally.dropped()
            return
        self._backlog[entry.fingerprint] = (entry, raw)
        self._backlog_bytes += len(raw)
        self._filter.add(entry.fingerprint)
        if self._writer_task is None or self._writer_task.done():
            self._writer_task = asyncio.create_task(self._write_behind())

    async def purge(self, selectors: Sequence[Selector]) -> int:
        unwritten = [
            key
            for key, (entry, _) in self._backlog.items()
            if rows.means(selectors, key, entry.scope, entry.model, entry.asked)
        ]
        for fingerprint in unwritten:
            self._forget_backlog(fingerprint)
        cache = self._cache
        if cache is None:
            return len(unwritten)
        # The writer's thread takes one thing at a time, so a batch that is being written lands before it is searched.
        purged = await self._try(self._writer, partial(rows.purge, selectors), None)
        if purged is None and self._cache is cache:
            await self._start_again(cache, OSError("a purge failed"))  # what cannot be searched must not be served
        await self._on(self._writer, partial(shutil.rmtree, self._aside, ignore_errors=True))
        return len(unwritten) + (purged or 0)

    async def stats(self) -> TierStats:
        entries, volume = await self._try(self._reader, lambda cache: (len(cache), cache.volume()), (0, 0))
        return self.tally.stats(on=self._cache is not None, entries=entries, bytes=volume, bound=self.bound)

    async def held(self, scope: str) -> TierStats:
        """Return what one scope has on disk; what is about to be written is not counted."""
        entries, volume = await self._try(self._reader, partial(rows.held, scope), (0, 0))
        return own_stats(self.tally.tier, entries, volume)

    async def flush(self) -> None:
        """Wait until everything that was put is written."""
        self._hurry.set()
        while self._writer_task is not None and not self._writer_task.done():
            await asyncio.shield(self._writer_task)
        self._hurry.clear()

    async def close(self) -> None:
        await self.flush()
        await self._close(self._cache)
        self._cache = None
        self._reader.shutdown(wait=False)
        self._writer.shutdown(wait=False)

    # The last purge that was heard of is noted beside the entries it was applied to: they are lost together or not at all.

    async def read_seen(self) -> str:
        def read(_: Any) -> str:
            with contextlib.suppress(FileNotFoundError):
                return (self._directory / _SEEN).read_text(errors="replace")
            return ""

        return await self._try(self._reader, read, "")

    async def write_seen(self, stream_id: str) -> None:
        def write(_: Any) -> None:
            fresh = self._directory / f"{_SEEN}.new"
            fresh.write_text(stream_id)
            fresh.replace(self._directory / _SEEN)

        await self._try(self._writer, write, None)

    # Writing behind.

    def _forget_backlog(self, fingerprint: str) -> None:
        _, raw = self._backlog.pop(fingerprint, (None, b""))
        self._backlog_bytes -= len(raw)

    async def _write_behind(self) -> None:
        while self._backlog:
            await until_set(self._hurry, self._clock, _GROW_S)
            batch = {key: self._backlog[key] for key in list(self._backlog)[:_BATCH]}
            for fingerprint in batch:
                self._forget_backlog(fingerprint)
            self._writing = batch
            culled = await self._try(self._writer, partial(self._write, batch, self._clock.now()), None)
            self._writing = {}
            if culled is None:
                self.tally.dropped(len(batch))
            else:
                self.tally.stored(len(batch))
                self.tally.dropped(culled)
                await self._renew_filter()

    async def _renew_filter(self) -> None:
        if self._filter.is_worn:
            renewed = await self._try(self._writer, rows.index, None)
            if renewed is not None:
                for fingerprint in self._backlog:  # what came meanwhile is still here: the writer was busy with us
                    renewed.add(fingerprint)
                self._filter = renewed

    # Trouble.

    async def _on(self, thread: ThreadPoolExecutor, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, work, *args)

    async def _try(self, thread: ThreadPoolExecutor, work: Callable[[Any], T], otherwise: T) -> T:
        """Do the work on a thread; trouble with the disk or its database is counted, mended where possible, and *otherwise*."""
        cache = self._cache
        if cache is None:
            return otherwise
        try:
            return await self._on(thread, work, cache)
        except sqlite3.DatabaseError as error:
            self.tally.failed()
            if not getattr(error, "sqlite_errorname", "").startswith(_PASSING):
                await self._start_again(cache, error)
        except (OSError, diskcache.Timeout) as error:
            self.tally.failed()
            # Timeout is diskcache's word for any trouble at the start of a transaction, a vanished file among them.
            if not (self._directory / _DATABASE).exists():
                await self._start_again(cache, error)
        return otherwise

    async def _start(self) -> None:
        cache = await self._on(self._writer, self._open)
        self._filter = await self._on(self._writer, rows.index, cache)
        self._cache = cache

    async def _start_again(self, broken: Any, error: Exception) -> None:
        async with self._repair:
            if self._cache is not broken:  # somebody has, while we waited
                return
            self._cache = None
            _log.warning(observe.TIER_FAILED, tier="disk", error=type(error).__name__, action="moved aside, started empty")
            try:
                await self._close(broken)
                await self._on(self._writer, self._move_aside)
                await self._start()
            except (OSError, sqlite3.Error, diskcache.Timeout) as still:
                self._give_up(still)

    def _give_up(self, error: Exception) -> None:
        self.tally.failed()
        _log.error(observe.TIER_FAILED, tier="disk", error=type(error).__name__, action="switched off")

    def _open(self) -> Any:
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory.chmod(0o700)
        cache = diskcache.Cache(
            str(self._directory),
            timeout=1.0,
            disk=BytesDisk,
            size_limit=self.bound,
            # By age of storing: by age of use would turn every read into a write.
            eviction_policy="least-recently-stored",
            cull_limit=0,  # once a batch, by `rows.write`
            sqlite_mmap_size=0,  # a file that is mapped, and cut by somebody, ends the process with SIGBUS
            sqlite_cache_size=_PAGES,
            statistics=0,
        )
        rows.sweep(cache, self._directory)
        return cache

    def _move_aside(self) -> None:
        shutil.rmtree(self._aside, ignore_errors=True)
        with contextlib.suppress(FileNotFoundError):
            self._directory.rename(self._aside)

    async def _close(self, cache: Any) -> None:
        # A connection to SQLite is closed by the thread that opened it, and each of ours has one.
        if cache is not None:
            with contextlib.suppress(sqlite3.Error):
                await asyncio.gather(self._on(self._reader, cache.close), self._on(self._writer, cache.close))
