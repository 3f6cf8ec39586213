"""The passkey in the installed program: commands of root's find it, and it is in nothing that anybody else may look at."""

from __future__ import annotations

import json
import signal
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from daemon_process import Served, environment, headrace, serving
from fleet import addresses

COMMANDS = (
    "top --once",
    "top hosts --json",
    "status",
    "hosts",
    "limits",
    "tickets list",
    "audit",
    "drain nowhere",
    "explain hr_1",
    "config show",
    "doctor",
)
# What the daemon's libraries would tell of all that they see.
DEBUG = {"GRPC_TRACE": "all", "GRPC_VERBOSITY": "debug", "PYTHONASYNCIODEBUG": "1"}


@pytest.fixture
def served(tmp_path: Path, valkey_url: str) -> Iterator[Served]:
    """A daemon that asks for keys, at a unix socket and at a port."""
    more = {"HEADRACE_UPSTREAM__API_KEY": "k", "HEADRACE_REDIS__URL": valkey_url, "HEADRACE_AUTH__REQUIRED": "true", **DEBUG}
    more["HEADRACE_LISTEN__ADMIN"] = '["127.0.0.1:0", "unix:admin.sock"]'
    with serving(environment(tmp_path, **more)) as running:
        yield running


def key_of(served: Served) -> str:
    return Path(served.environ["HEADRACE_STATE__DIR"], "operator.key").read_text().strip()


def test_nowhere_to_be_seen(served: Served, valkey_url: str) -> None:
    """It is in no output of commands, no log, metric, argument or variable of a process, no file but its own, not in Redis."""
    key = key_of(served)
    environ = {name: value for name, value in served.environ.items() if name not in DEBUG}
    outputs = {}
    for command in COMMANDS:
        done = headrace(*command.split(), environ=environ)
        assert "UNAUTHENTICATED" not in done.stderr, command
        assert not command.startswith("top") or done.returncode == 0, done.stderr
        outputs[command] = done.stdout + done.stderr
    served.process.send_signal(signal.SIGUSR1)
    served.wait(lambda: "state.shown" in served.log)
    outputs["metrics"] = metrics(served)
    outputs["a process"] = "".join(processes(served.process.pid))
    for path in Path(served.environ["HEADRACE_STATE__DIR"]).rglob("*"):
        if path.is_file() and path.name != "operator.key":
            outputs[str(path)] = path.read_bytes().decode("latin-1")
    with redis.Redis.from_url(valkey_url) as client:
        outputs["Redis"] = "".join(client.dump(name).decode("latin-1") + str(name) for name in client.scan_iter())
        assert outputs["Redis"] != ""
    served.stop()
    outputs["log"] = served.log
    assert [where for where, text in outputs.items() if key in text] == []


def metrics(served: Served) -> str:
    with urllib.request.urlopen(f"{addresses(served)[-1]}/metrics", timeout=20) as page:
        return str(page.read().decode())


def processes(pid: int) -> Iterator[str]:
    yield Path(f"/proc/{pid}/cmdline").read_text() + Path(f"/proc/{pid}/environ").read_text()
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from processes(int(child))


def test_over_sockets_alone(served: Served, tmp_path: Path) -> None:
    """A command that knows a port first asks at the socket; one that knows ports alone shows it to none, and is a stranger."""
    *_, port, _ = addresses(served)
    both = {**served.environ, "HEADRACE_LISTEN__GRPC": json.dumps([port, "unix:headrace.sock"])}
    assert headrace("hosts", environ=both).returncode == 0
    # Whoever has taken the port of a daemon that is down would be shown whatever is sent there.
    refused = headrace("hosts", environ={**served.environ, "HEADRACE_LISTEN__GRPC": json.dumps([port])})
    assert refused.returncode == 1
    assert "UNAUTHENTICATED" in refused.stderr
