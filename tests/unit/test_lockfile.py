"""Locks: one holder, known by its pid, gone with it."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.errors import StartupError
from headrace.lockfile import AddressLock, LockStats, StateLock

HOLDER = """
import sys, time
from pathlib import Path
from headrace.lockfile import LockStats, StateLock
StateLock(Path(sys.argv[1])).acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_second_holder(tmp_path):
    """The second is told the place, the file, the pid and what to do; after a release it gets the lock."""
    first, second = StateLock(tmp_path), StateLock(tmp_path)
    first.acquire()

    with pytest.raises(StartupError) as refused:
        second.acquire()
    for part in (str(tmp_path), str(tmp_path / "headrace.lock"), f"process {os.getpid()}", "state.dir"):
        assert part in str(refused.value)
    assert not second.is_held

    first.release()
    first.release()
    with second:
        assert second.is_held
        assert second.stats() == LockStats(is_held=True)
        assert repr(second) == f"<StateLock {tmp_path / 'headrace.lock'} [held]>"
    assert (tmp_path / "headrace.lock").exists()


def test_dead_holder(tmp_path):
    """A holder that was killed holds nothing."""
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StartupError, match=f"in use by process {holder.pid} "):
            StateLock(tmp_path).acquire()
        holder.kill()
        holder.wait(10)

    with StateLock(tmp_path):
        assert (tmp_path / "headrace.lock").read_text() == f"{os.getpid()}\n"


def test_directory_is_made(tmp_path):
    """The directory is made, for its owner only, and so is the file."""
    with StateLock(tmp_path / "a"):
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "a" / "headrace.lock").stat().st_mode) == 0o600


def test_impossible_place(tmp_path):
    """A place where no file can be is a clear error, and a symbolic link is not followed."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match=r"cannot be used: .*Not a directory"):
        StateLock(tmp_path / "file").acquire()

    (tmp_path / "headrace.lock").symlink_to(tmp_path / "file")
    with pytest.raises(StartupError, match="cannot be used"):
        StateLock(tmp_path).acquire()
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("127.0.0.1:7400", "/run/x/127.0.0.1_7400.lock"),
        ("[::1]:7400", "/run/x/___1__7400.lock"),
        ("unix:/run/y/headrace.sock", "/run/y/headrace.sock.lock"),
        ("unix:///run/y/headrace.sock", "/run/y/headrace.sock.lock"),
    ],
)
def test_where_an_addresss_lock_lies(address, path):
    """A socket's lock lies beside it, a TCP address's in the common directory."""
    assert AddressLock(address, Path("/run/x")).path == Path(path)


def test_address_in_use(tmp_path):
    """A second daemon on the same address hears of the first; on another it does not."""
    taken = r"the address 127\.0\.0\.1:7400 is in use by process \d+.*\[listen\]"
    with (
        AddressLock("127.0.0.1:7400", tmp_path),
        AddressLock("127.0.0.1:7401", tmp_path),
        pytest.raises(StartupError, match=taken),
    ):
        AddressLock("127.0.0.1:7400", tmp_path).acquire()
