"""What a process keeps to itself: modes of files, core dumps, and what it says when it dies."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from daemon_process import environment, serving

SECRET = "sk-ant-CRASHMARK"


@pytest.fixture
def directory(tmp_path_factory):
    """A state directory with a name short enough for a socket."""
    return tmp_path_factory.mktemp("g")


def open_to_others(directory):
    """What under the directory anybody but its owner may touch, sockets excepted."""
    found = [path for path in directory.rglob("*") if not path.is_socket() and not path.is_symlink()]
    assert {"cache.db", "cache.db-wal", "cache.db-shm", "headrace.lock", "valkey.log"} <= {path.name for path in found}
    return {str(path.relative_to(directory)): oct(path.stat().st_mode) for path in found if path.stat().st_mode & 0o077}


COMMAND = [
    sys.executable, "-c",
    "import os, resource; os.umask(0); hard = resource.getrlimit(resource.RLIMIT_CORE)[1]; "
    "resource.setrlimit(resource.RLIMIT_CORE, (hard, hard)); from headrace.main import run; import sys; "
    "sys.argv = ['headrace', 'serve']; run()",
]  # fmt: skip


def test_files_and_dumps(directory):
    """Whatever the umask and the limits are that a daemon is started with: its files are its own, and no core is written."""
    with serving(environment(directory), COMMAND) as daemon:
        assert open_to_others(directory) == {}
        children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()
        assert children
        for pid in (daemon.process.pid, *children):
            (limit,) = [line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "core file" in line]
            assert limit.split()[4:6] == ["0", "0"]


def test_old_files_are_mended(directory):
    """What an earlier version left open is closed at the start; what is not ours, and links, are left alone."""
    environ = environment(directory)
    with serving(environ):
        pass
    ours, foreign, link = directory / "cache" / "ab" / "x.val", directory / "notes.txt", directory / "cache" / "link"
    ours.parent.mkdir(mode=0o755)
    for path in (ours, foreign):
        path.touch()
        path.chmod(0o644)
    link.symlink_to(foreign)
    directory.chmod(0o777)
    (directory / "cache" / "cache.db").chmod(0o666)
    with serving(environ) as daemon:
        assert open_to_others(directory).keys() == {"notes.txt"}
        assert stat.S_IMODE(foreign.stat().st_mode) == 0o644
        assert stat.S_IMODE(directory.stat().st_mode) == 0o755
        assert "state.modes_mended" in daemon.log


DYING = f"""
import os, resource, sys, threading, warnings
from headrace import guard, logs
logs.set_up_logs(console=False)
guard.close_up()

class Odd:
    def __del__(self):
        raise ValueError("{SECRET}")

def fail():
    raise ValueError("{SECRET}") from KeyError("{SECRET}")

warnings.warn("{SECRET}")
Odd()
thread = threading.Thread(target=fail)
thread.start()
thread.join()
assert not {{"GRPC_TRACE", "SSLKEYLOGFILE"}} & os.environ.keys()
import ctypes
assert ctypes.CDLL(None).prctl(3) == 0
fail()
"""


def test_dying_words():
    """What nobody caught is told by its kind and place, in threads, finalisers and warnings too; its text is not."""
    environ = {**os.environ, "GRPC_TRACE": "all", "SSLKEYLOGFILE": "/nonexistent/log", "PYTHONWARNINGS": "always"}
    done = subprocess.run([sys.executable, "-c", DYING], env=environ, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 1
    assert done.stderr.count('"daemon.crashed"') == 3
    assert done.stderr.count("ValueError") == 3
    assert SECRET not in done.stderr + done.stdout
