"""The embedded Valkey: real servers, real kills."""

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import redis

from conftest import start_valkey, valkey_binary
from headrace import embedded, serverlog, sockets
from headrace.embedded import EmbeddedValkey, running_url
from headrace.errors import StartupError


@pytest.fixture
def directory(tmp_path_factory):
    """A state directory with a name short enough for a socket."""
    return tmp_path_factory.mktemp("e") / "valkey"


def wait(condition, within=10.0, what=""):
    give_up = time.monotonic() + within
    while not condition():
        assert time.monotonic() < give_up, f"not within {within} s: {what}"
        time.sleep(0.01)


def is_gone(pid):
    """Whether a process has ended (a zombie has)."""
    try:
        return "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def client(url):
    return redis.Redis.from_url(url, decode_responses=True)


DAEMON = """
import sys, time
from pathlib import Path
from headrace.embedded import EmbeddedValkey
from headrace.logs import set_up_logs
set_up_logs()
valkey = EmbeddedValkey(Path(sys.argv[1]))
valkey.start()
print(valkey.pid, valkey.url, flush=True)
time.sleep(60)
"""

# A server that does not die with its daemon, as where the tie cannot be made.
UNTIED = DAEMON.replace(
    "valkey =", "from headrace import embedded\nembedded._TIE_AND_EXEC = embedded._TIE_AND_EXEC.replace('prctl', 'x')\nvalkey ="
)


_servers = []


@pytest.fixture(autouse=True)
def _leave_nothing():
    yield
    while _servers:
        pid = _servers.pop()
        if not is_gone(pid):
            os.kill(pid, signal.SIGKILL)


def start_daemon(directory, program=DAEMON):
    """Start a stand-in for the daemon; return it, its server's pid and URL."""
    process = subprocess.Popen([sys.executable, "-c", program, str(directory)], stdout=subprocess.PIPE, text=True)
    pid, url = process.stdout.readline().split()
    _servers.append(int(pid))
    return process, int(pid), url


def kill(process):
    process.kill()
    process.wait(10)
    process.stdout.close()


def test_settings(directory):
    """It keeps what it is given, evicts nothing, listens on a private socket only, and is gone after `stop`."""
    valkey = EmbeddedValkey(directory)
    url = valkey.start()
    with client(url) as redis_:
        settings = redis_.config_get("*")
    pid = valkey.pid

    assert {name: settings[name] for name in ("appendonly", "appendfsync", "maxmemory-policy", "save", "port")} == {
        "appendonly": "yes",
        "appendfsync": "always",
        "maxmemory-policy": "noeviction",
        "save": "",
        "port": "0",
    }
    assert int(settings["maxclients"]) == 960
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert not any(path.stat().st_mode & 0o077 for path in directory.rglob("*"))
    assert running_url(directory) == url
    assert repr(valkey) == f"<EmbeddedValkey {directory} [pid {pid}, 1 starts]>"

    valkey.stop()
    assert is_gone(pid)
    assert running_url(directory) is None
    assert "[stopped" in repr(valkey)


def test_stop_and_start(directory):
    """What was written is there on the next start; `stop` twice harms nobody."""
    valkey = EmbeddedValkey(directory)
    for round_ in range(2):
        with client(valkey.start()) as redis_:
            assert redis_.incr("rounds") == round_ + 1
        valkey.stop()
        valkey.stop()


def test_dies_with_its_parent(directory):
    """kill -9 of the daemon takes the server along, and no acknowledged write is lost."""
    process, pid, url = start_daemon(directory)
    with client(url) as redis_:
        redis_.set("kept", "yes")
    kill(process)

    wait(lambda: is_gone(pid), what="the server's end")
    with EmbeddedValkey(directory) as valkey, client(valkey.url) as redis_:
        assert redis_.get("kept") == "yes"
        assert valkey.pid != pid


def test_restart_at_once(directory):
    """A daemon that starts while the last one's server is on its way out gets one that stays."""
    process, pid, url = start_daemon(directory)
    with client(url) as redis_:
        redis_.set("kept", "yes")
    kill(process)

    with EmbeddedValkey(directory) as valkey, client(valkey.url) as redis_:
        assert is_gone(pid)
        assert redis_.get("kept") == "yes"
        assert not valkey.ensure()


def test_kill_of_the_server(directory):
    """kill -9 of the server while it is written to: everything acknowledged is there when `ensure` has restarted it."""
    with EmbeddedValkey(directory) as valkey:
        acknowledged = 0
        with client(valkey.url) as redis_:
            threading.Timer(0.3, os.kill, (valkey.pid, signal.SIGKILL)).start()
            try:
                while True:
                    acknowledged = redis_.incr("count")
            except redis.ConnectionError:
                pass
        wait(valkey.ensure, what="a restart")
        assert not valkey.ensure()

        valkey._wait_for_answer()
        with client(valkey.url) as redis_:
            assert int(redis_.get("count")) - acknowledged in (0, 1)
        assert valkey.starts == 2


def test_untied_server_is_adopted(directory):
    """A server that outlives its daemon is adopted, with its data, and stopped in the end."""
    process, pid, url = start_daemon(directory, UNTIED)
    with client(url) as redis_:
        redis_.set("kept", "yes")
    kill(process)

    valkey = EmbeddedValkey(directory)
    assert valkey.start() == url
    assert valkey.pid == pid
    assert valkey.starts == 0
    with client(url) as redis_:
        assert redis_.get("kept") == "yes"

    os.kill(pid, signal.SIGKILL)
    wait(valkey.ensure, what="a restart")
    valkey._wait_for_answer()
    assert valkey.pid != pid
    with client(url) as redis_:
        assert redis_.get("kept") == "yes"
    valkey.stop()
    assert is_gone(valkey.pid)


def test_adopted_server_is_set_right(directory):
    """An orphan with other settings is told ours; it leaves when we stop."""
    directory.mkdir(0o700)
    process, _ = start_valkey(directory, "--maxmemory-policy", "allkeys-lru")
    with EmbeddedValkey(directory) as valkey, client(valkey.url) as redis_:
        assert valkey.pid == process.pid
        assert redis_.config_get("maxmemory-policy", "appendonly") == {"maxmemory-policy": "noeviction", "appendonly": "yes"}
    assert process.wait(10) == 0


def test_strangers_server(directory, tmp_path):
    """A server that works in another directory is left alone."""
    directory.mkdir()
    process = subprocess.Popen(
        [valkey_binary(), "--port", "0", "--unixsocket", str(directory / "valkey.sock"), "--dir", str(tmp_path), "--save", ""],
        stdout=subprocess.DEVNULL,
    )
    wait(lambda: sockets.is_listening(directory / "valkey.sock"))

    with pytest.raises(StartupError, match="is not ours: it works in"):
        EmbeddedValkey(directory).start()

    assert process.poll() is None
    assert sockets.is_listening(directory / "valkey.sock")
    process.terminate()
    process.wait(10)


def test_silent_stranger(directory, monkeypatch):
    """Somebody who listens and says nothing is not pushed aside."""
    monkeypatch.setattr(embedded, "_PATIENCE_S", 0.2)
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.bind(str(directory / "valkey.sock"))
        stranger.listen()
        with pytest.raises(StartupError, match="does not answer"):
            EmbeddedValkey(directory).start()
        assert sockets.is_listening(directory / "valkey.sock")


def test_frozen_server(directory, monkeypatch):
    """While a server of ours lives, no second one is started on its data, even if its socket is lost."""
    process, pid, _ = start_daemon(directory, UNTIED)
    kill(process)
    (directory / "valkey.sock").unlink()
    monkeypatch.setattr(embedded, "_PATIENCE_S", 0.2)

    with pytest.raises(StartupError, match=rf"process {pid}\) holds"):
        EmbeddedValkey(directory).start()

    os.kill(pid, signal.SIGTERM)
    wait(lambda: is_gone(pid))


def test_stale_socket(directory):
    """A socket that nobody listens on is no hindrance; a file in its place is, and stays."""
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(directory / "valkey.sock"))
    with EmbeddedValkey(directory) as valkey:
        assert valkey.starts == 1

    (directory / "valkey.sock").write_text("precious")
    with pytest.raises(StartupError, match="not a socket"):
        EmbeddedValkey(directory).start()
    assert (directory / "valkey.sock").read_text() == "precious"


def test_long_and_odd_path(tmp_path_factory, monkeypatch):
    """A directory too deep for a socket, with spaces and quotes: the socket lies elsewhere, is found, adopted, cleaned up."""
    short = tmp_path_factory.mktemp("r")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(short))
    directory = tmp_path_factory.mktemp("e") / "a b'c\"d#é%41" / ("x" * 100)
    process, pid, url = start_daemon(directory, UNTIED)
    kill(process)
    assert running_url(directory) == url

    with EmbeddedValkey(directory) as valkey:
        assert valkey.pid == pid
        with client(valkey.url) as redis_:
            redis_.set("kept", "yes")
    assert list(short.iterdir()) == []
    with EmbeddedValkey(directory) as valkey, client(valkey.url) as redis_:
        assert redis_.get("kept") == "yes"


def test_odd_short_path(directory):
    """Odd characters in a directory of ordinary length."""
    with EmbeddedValkey(directory.parent / "a b'c\"d%41") as valkey, client(valkey.url) as redis_:
        assert redis_.ping()


def test_two_daemons(directory):
    """A second daemon on the same directory is told whose it is."""
    with EmbeddedValkey(directory) as first:
        with pytest.raises(StartupError, match=f"in use by process {os.getpid()}"):
            EmbeddedValkey(directory).start()
        with client(first.url) as redis_:
            assert redis_.ping()


def test_unwritable_directory(tmp_path, monkeypatch):
    """A state directory that cannot be made or written is a clear error, with the user and the way out."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StartupError, match=r"(?s)state directory .*Not a directory \(as user \d+\).*state\.dir"):
        EmbeddedValkey(tmp_path / "file" / "state").start()
    with pytest.raises(StartupError, match=r"cannot be used"):
        EmbeddedValkey(Path("/proc/headrace")).start()


def test_no_binary(directory, monkeypatch):
    """Without any server the error says what to install."""
    monkeypatch.setattr(embedded.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(StartupError, match=r"install .* valkey-server or redis-server"):
        EmbeddedValkey(directory).start()


def test_only_from_the_main_thread(directory):
    """The tie is to the thread that starts the server: from another it would die too soon."""
    errors = []

    def start():
        try:
            EmbeddedValkey(directory).start()
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=start)
    thread.start()
    thread.join(10)
    assert "main thread" in errors[0]


def test_secrets_stay_with_us(directory, monkeypatch):
    """The server's environment holds nothing of ours; a Ctrl-C in the terminal does not reach it."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-secret")
    with EmbeddedValkey(directory) as valkey:
        assert b"sk-secret" not in Path(f"/proc/{valkey.pid}/environ").read_bytes()
        assert os.getsid(valkey.pid) == valkey.pid


def test_log(directory, monkeypatch):
    """The server's log is bounded: what it said is set aside, once, and its end is read however long it is."""
    monkeypatch.setattr(serverlog, "_MOST_BYTES", 10_000)
    valkey = EmbeddedValkey(directory)
    valkey.start()
    try:
        with open(directory / "valkey.log", "ab") as log:
            log.write(b"word \xff\n" * 5000 + b"the end\n")
        assert valkey._log.tail().splitlines()[-1] == "the end"
        assert len(valkey._log.tail().splitlines()) == 5
        assert not valkey.ensure()
        assert (directory / "valkey.log").stat().st_size == 0
        assert (directory / "valkey.log.1").stat().st_size > 10_000
        assert stat.S_IMODE((directory / "valkey.log.1").stat().st_mode) == 0o600
        os.kill(valkey.pid, signal.SIGTERM)  # it says something on leaving, at the beginning of the emptied file
        wait(lambda: valkey._process.poll() is not None)
        assert b"\0" not in (directory / "valkey.log").read_bytes()
        assert b"bye bye" in (directory / "valkey.log").read_bytes()
    finally:
        valkey.stop()
