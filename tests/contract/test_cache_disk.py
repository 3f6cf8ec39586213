"""The disk tier in trouble: it misses, mends itself or switches itself off, and never fails a call."""

import os
import pickle
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import diskcache
import pytest

from cache_samples import entry, keep, key, opened_disk, put
from headrace.cache import filter as filter_module
from headrace.cache import rows
from headrace.cache.disk import BytesDisk, Disk
from headrace.cache.selector import Selector
from headrace.clock import SystemClock

BIG = b"x" * 50_000  # a file of its own


async def fill(directory, *entries):
    async with opened_disk(directory, 10**7) as disk:
        await keep(disk, *entries)


def files(directory):
    return sorted(directory.rglob("*.val"))


async def test_survives_a_restart(tmp_path):
    """What was put before closing is there after opening, and the directory is ours alone."""
    (tmp_path / "c").mkdir(mode=0o755)
    await fill(tmp_path / "c", one := entry(1), two := entry(2, BIG))

    async with opened_disk(tmp_path / "c") as disk:
        assert await disk.get(key(1)) == one
        assert await disk.get(key(2)) == two
    assert stat.S_IMODE(os.stat(tmp_path / "c").st_mode) == 0o700


@pytest.mark.parametrize("damage", ["truncated", "emptied", "deleted", "flipped"])
async def test_damaged_file(tmp_path, damage):
    """A value file that is not what was written is a miss, and goes."""
    await fill(tmp_path / "c", entry(1, BIG), entry(2))
    (path,) = files(tmp_path / "c")
    whole = path.read_bytes()
    if damage == "deleted":
        path.unlink()
    else:
        path.write_bytes({"truncated": whole[:-1], "emptied": b"", "flipped": whole[:-1] + b"y"}[damage])

    async with opened_disk(tmp_path / "c") as disk:
        assert await disk.get(key(1)) is None
        assert await disk.get(key(2))
        assert files(tmp_path / "c") == []
        await keep(disk, entry(1, BIG))
        await disk.flush()
        assert await disk.get(key(1))


_CUT_IN_USE = """
import asyncio, os, pathlib, sys
from cache_samples import entry, keep, key, opened_disk

async def main(directory):
    async with opened_disk(directory, 10**8) as disk:
        await keep(disk, *(entry(number, b"x" * 20_000) for number in range(300)))
        await disk.flush()
        assert await disk.get(key(1))
        database = directory / "cache.db"
        await disk._on(disk._writer, lambda: disk._cache._sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())
        assert await disk.get(key(2))
        os.truncate(database, database.stat().st_size // 2)
        for number in range(300):
            await disk.get(key(number))

asyncio.run(main(pathlib.Path(sys.argv[1])))
"""


def test_cut_in_use(tmp_path):
    """A database that is cut while it is in use costs what was kept, and not the process (SIGBUS, if it were mapped)."""
    there = os.pathsep.join((str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")))
    done = subprocess.run(
        [sys.executable, "-c", _CUT_IN_USE, str(tmp_path / "c")],
        env={**os.environ, "PYTHONPATH": there}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("garbage", [b"not a database" * 1000, b"SQLite format 3\x00" + b"\xff" * 20_000])
async def test_broken_database(tmp_path, garbage):
    """A broken database is moved aside, one is kept, and the tier starts empty and works."""
    for _ in range(2):
        await fill(tmp_path / "c", entry(1))
        (tmp_path / "c" / "cache.db").write_bytes(garbage)
        (tmp_path / "c" / "cache.db-wal").unlink(missing_ok=True)

        async with opened_disk(tmp_path / "c") as disk:
            assert await disk.get(key(1)) is None
            await keep(disk, entry(2))
            await disk.flush()
            assert await disk.get(key(2))

    assert sorted(os.listdir(tmp_path)) == ["c", "c.broken"]
    assert (tmp_path / "c.broken" / "cache.db").read_bytes() == garbage


async def test_broken_in_use(tmp_path):
    """A database that breaks under way is moved aside under way."""
    await fill(tmp_path / "c", *[entry(name, b"x" * 5_000) for name in range(50)])

    async with opened_disk(tmp_path / "c") as disk:
        with (tmp_path / "c" / "cache.db").open("r+b") as database:
            database.write(b"\xff" * 200_000)
        assert [await disk.get(key(name)) for name in range(50)].count(None) > 0
        await keep(disk, entry(2))
        await disk.flush()
        await keep(disk, entry(3))
        await disk.flush()
        assert await disk.get(key(3))
        assert (await disk.stats()).errors > 0


async def test_swept_away(tmp_path):
    """A directory that somebody deletes under way is made anew."""
    async with opened_disk(tmp_path / "c") as disk:
        await keep(disk, entry(1))
        await disk.flush()
        (tmp_path / "c").rename(tmp_path / "elsewhere")

        assert await disk.get(key(1)) is None
        await keep(disk, entry(3, BIG))
        await disk.flush()
        assert await disk.get(key(3))
        assert (tmp_path / "c" / "cache.db").exists()


async def test_no_directory(tmp_path):
    """Where no directory can be made the tier is off, and everything goes on."""
    (tmp_path / "file").write_text("in the way")

    async with opened_disk(tmp_path / "file" / "c") as disk:
        await keep(disk, entry(1))
        assert await disk.get(key(1)) is None
        assert await disk.purge([Selector(all=True)]) == 0
        await disk.write_seen("1-1")
        assert await disk.read_seen() == ""
        stats = await disk.stats()
        assert (stats.on, stats.errors) == (False, 1)
        assert repr(disk) == "<Disk [off, 0 to write, 1 errors]>"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
async def test_read_only_directory(tmp_path):
    """Nor does a directory that may only be read."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c").chmod(0o500)
    tmp_path.chmod(0o500)
    try:
        async with opened_disk(tmp_path / "c") as disk:
            await keep(disk, entry(1))
            assert await disk.get(key(1)) is None
            assert not (await disk.stats()).on
    finally:
        tmp_path.chmod(0o700)


async def test_disk_full(tmp_path, monkeypatch):
    """A batch that cannot be written leaves nothing behind; the next one may succeed."""
    async with opened_disk(tmp_path / "c", 10**7) as disk:
        real = BytesDisk._write
        calls = []

        def full(self, path, chunks, mode, encoding=None):
            calls.append(path)
            if len(calls) == 2:
                raise OSError(28, "No space left on device")
            return real(self, path, chunks, mode, encoding)

        monkeypatch.setattr(BytesDisk, "_write", full)
        await keep(disk, entry(1, BIG), entry(2, BIG))
        await disk.flush()
        assert files(tmp_path / "c") == []
        assert await disk.get(key(1)) is None

        await keep(disk, entry(3, BIG))
        await disk.flush()
        assert await disk.get(key(3))
        assert (await disk.stats()).drops == 2


async def test_orphans(tmp_path):
    """Files that a kill left behind, of which the database knows nothing, go when the tier opens."""
    await fill(tmp_path / "c", entry(1, BIG))
    (orphan := tmp_path / "c" / "ab" / "cd" / "ef.val").parent.mkdir(parents=True)
    orphan.write_bytes(BIG)

    async with opened_disk(tmp_path / "c") as disk:
        assert orphan not in files(tmp_path / "c")
        assert await disk.get(key(1))


async def test_backlog(tmp_path):
    """A writer that falls behind costs entries, and no more memory than allowed."""
    async with opened_disk(tmp_path / "c", max_backlog_bytes=150_000) as disk:
        for name in range(5):
            await put(disk, entry(name, BIG))
        stats = await disk.stats()
        await disk.flush()

        assert stats.drops == 3
        assert [bool(await disk.get(key(name))) for name in range(5)] == [True, True, False, False, False]


async def test_purged_before_written(tmp_path):
    """A purge takes what has not reached the disk yet."""
    async with opened_disk(tmp_path / "c") as disk:
        await keep(disk, entry(1), entry(2))
        assert await disk.purge([Selector(fingerprint=key(1))]) == 1
        await disk.flush()

        assert await disk.get(key(1)) is None
        assert await disk.get(key(2))


async def test_purge_that_fails(tmp_path, monkeypatch):
    """What a purge could not search is not served any more, and what was moved aside goes with it."""
    async with opened_disk(tmp_path / "c") as disk:
        await keep(disk, entry(1))
        await disk.flush()

        def busy(*_):
            raise diskcache.Timeout

        monkeypatch.setattr(rows, "purge", busy)
        await disk.purge([Selector(fingerprint=key(1))])

        assert await disk.get(key(1)) is None
        assert os.listdir(tmp_path) == ["c"]
        await keep(disk, entry(2))
        await disk.flush()
        assert await disk.get(key(2))


class Trap:
    """What an attacker puts into a pickle cache."""

    sprung = False

    def __reduce__(self):
        return setattr, (Trap, "sprung", True)


async def test_pickle_is_never_opened(tmp_path):
    """A pickle that somebody planted in the database is a miss (CVE-2025-69872)."""
    await fill(tmp_path / "c", entry(1), entry(2), entry(3))
    planted = pickle.dumps(Trap())
    (tmp_path / "c" / "p.val").write_bytes(planted)
    with sqlite3.connect(tmp_path / "c" / "cache.db") as database:
        database.execute("UPDATE Cache SET mode = 4, value = ? WHERE key = ?", (planted, key(1)))
        database.execute("UPDATE Cache SET mode = 4, value = NULL, filename = 'p.val' WHERE key = ?", (key(2),))
        database.execute("UPDATE Cache SET mode = 2, value = NULL, filename = '../../etc/passwd' WHERE key = ?", (key(3),))
    database.close()

    async with opened_disk(tmp_path / "c") as disk:
        assert [await disk.get(key(name)) for name in (1, 2, 3)] == [None, None, None]
    assert not Trap.sprung


@pytest.mark.parametrize("value", [Trap(), "text", 7, None, bytearray(b"x")])
def test_pickle_is_never_made(tmp_path, value):
    """Only bytes are written, under text."""
    disk = BytesDisk(str(tmp_path))
    with pytest.raises(TypeError):
        disk.store(value, False)
    with pytest.raises(TypeError):
        disk.put(b"key")
    with pytest.raises(OSError, match="did not write"):
        disk.get(pickle.dumps("key"), False)


async def test_seen(tmp_path):
    """The note of the last purge lies beside the entries."""
    async with opened_disk(tmp_path / "c") as disk:
        assert await disk.read_seen() == ""
        await disk.write_seen("17-3")
    async with opened_disk(tmp_path / "c") as disk:
        assert await disk.read_seen() == "17-3"


async def test_unopened(tmp_path):
    """Before it is opened the tier is off."""
    disk = Disk(tmp_path / "c", 10**6, SystemClock())
    await keep(disk, entry(1))
    assert await disk.get(key(1)) is None
    await disk.close()


async def test_filter_renewed(tmp_path, monkeypatch):
    """The filter that spares the disk wears out and is made anew; what is there is found before and after."""
    monkeypatch.setattr(filter_module, "_SPARE", 20)
    async with opened_disk(tmp_path / "c", 10**7) as disk:
        for name in range(100):
            await keep(disk, entry(name % 7))
            await disk.flush()
            assert await disk.get(key(name % 7))
            assert disk._filter._added <= 35

        assert all([await disk.get(key(name)) for name in range(7)])


async def test_filter_spares(tmp_path, monkeypatch):
    """What was never put is not looked for; what was put is."""
    async with opened_disk(tmp_path / "c") as disk:
        await keep(disk, entry(1))
        await disk.flush()
        asked = []

        async def nothing(thread, work, otherwise):
            asked.append(work)
            return otherwise

        monkeypatch.setattr(disk, "_try", nothing)
        await disk.get(key(2))
        assert asked == []
        await disk.get(key(1))
        assert len(asked) == 1
        monkeypatch.undo()
