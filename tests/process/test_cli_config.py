"""The command line: what it prints, and how it ends when something is wrong."""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from daemon_process import environment, headrace, serving
from headrace import config, keyring
from headrace.errors import StartupError


@pytest.fixture
def environ(tmp_path_factory):
    """An environment with a directory whose name is short enough for a socket."""
    return environment(tmp_path_factory.mktemp("c"), HEADRACE_LISTEN__GRPC='["unix:headrace.sock"]')


def test_help_and_version(environ):
    """Help names the commands; the version names the commit, Python and Valkey, too; help and settings need nothing heavy."""
    assert all(word in headrace("--help", environ=environ).stdout for word in ("serve", "worker", "simulate", "keys", "cache"))
    said = headrace("--version", environ=environ).stdout
    assert re.fullmatch(r"headrace \d[\w.]* \(commit [0-9a-f]{12}\)\nPython 3\.\d+\.\d+\nValkey \d+\.\d+\.\d+\n", said), said
    assert headrace("-V", environ=environ).stdout == said
    assert "--rate-529" in headrace("simulate", "--help", environ=environ | {"COLUMNS": "120"}).stdout
    heavy = (
        "import sys; from headrace import config, main, passkey; "
        "print([m for m in ('grpc', 'redis', 'aiohttp', 'structlog') if m in sys.modules])"
    )

    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_check(environ, tmp_path):
    """A right configuration is ok, with warnings if need be; a wrong one ends with 2, and says all that is wrong."""
    done = headrace("config", "check", environ=environ)
    assert (done.returncode, done.stdout) == (0, "no file, defaults and environment: ok\n")
    assert done.stderr.startswith("warning: there is no key for upstream")
    path = tmp_path / "config.toml"
    path.write_text('[cache]\ntll = "1h"\n[drain]\ntime = 30')
    for arguments, variables in ((["--config", str(path)], {}), ([], {"HEADRACE_CONFIG": str(path)})):
        done = headrace("config", "check", *arguments, environ=environ | variables)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.splitlines() == [
            f"headrace: {path}:",
            "  cache.tll: no such key; did you mean cache.ttl?",
            '  drain.time = 30: must be a duration such as "90s", "1h" or "9m30s"',
        ]


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_typo_keeps_from_starting(command, environ):
    """A typo in the configuration is one clear sentence, exit code 2 and no traceback."""
    done = headrace(command, environ=environ | {"HEADRACE_CACHE__TLL": "1h"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "headrace: the environment: cache.tll (from HEADRACE_CACHE__TLL): no such key; did you mean cache.ttl?\n"
    )


def test_worker_without_redis(environ):
    """A worker of its own cannot share a daemon's private Valkey: it needs redis.url, and says so."""
    done = headrace("worker", environ=environ)
    assert done.returncode == 2
    assert done.stderr.startswith("headrace: redis.url")
    assert len(done.stderr.splitlines()) == 1


def test_show(environ):
    """What is shown is what is in force, can be read again, and hides keys."""
    secrets = {"HEADRACE_UPSTREAM__API_KEY": "sk-ant-hunter2", "HEADRACE_REDIS__URL": "redis://ada:hunter2@db:6379"}
    done = headrace("config", "show", environ=environ | secrets | {"HEADRACE_CACHE__TTL": "2h"})
    assert done.returncode == 0
    assert "hunter2" not in done.stdout + done.stderr
    shown = tomllib.loads(done.stdout)
    assert shown["cache"]["ttl"] == "2h"
    assert shown["redis"]["url"] == "redis://ada:***@db:6379"
    assert shown.keys() == config.load(None, environ).redacted().keys()


def test_keys(environ):
    """Keys are made, listed without their secrets, and revoked, also while no daemon runs."""
    made = headrace("keys", "create", "checkout", environ=environ)
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    assert key.startswith("hr_")
    listed = headrace("keys", "list", environ=environ).stdout
    key_id, secret = key.split("_")[1:]
    assert "checkout" in listed
    assert key_id in listed
    assert secret not in listed
    assert headrace("keys", "revoke", "checkout", environ=environ).stdout == "revoked 1 key\n"
    gone = headrace("keys", "revoke", key_id, environ=environ)
    assert (gone.returncode, gone.stdout) == (3, "")
    assert key_id in gone.stderr
    odd = headrace("keys", "create", "a b", environ=environ)
    assert (odd.returncode, len(odd.stderr.splitlines())) == (1, 1)


def test_keys_of_another_user(environ, tmp_path, monkeypatch):
    """A command that would leave its files in another user's daemon's directory refuses, and says how to do it."""
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(os, "environ", environ | {"HEADRACE_STATE__DIR": str(tmp_path)})
    with pytest.raises(StartupError, match=f"{tmp_path} belongs to .*runuser -u"):
        keyring.list_keys()
    assert list(tmp_path.iterdir()) == []


def test_keys_need_redis(environ):
    """With a Redis that is away the commands say so."""
    done = headrace("keys", "list", environ=environ | {"HEADRACE_REDIS__URL": "unix:///nowhere.sock"})
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("headrace: Redis cannot be reached")


PURGED = "purged 0 entries from Redis; every daemon drops its own\n"


def test_cache_without_daemon(environ):
    """Stats come from a running daemon, and say where they looked for it; a purge needs none: daemons hear of it later."""
    done = headrace("cache", "stats", environ=environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no daemon answers on unix:" in done.stderr
    assert "headrace.sock" in done.stderr
    assert headrace("cache", "purge", "--all", environ=environ).stdout == PURGED
    assert headrace("cache", "purge", environ=environ).returncode == 2
    assert headrace("cache", "purge", "--all", "--model", "m", environ=environ).returncode == 2
    none = headrace("cache", "stats", environ=environ | {"HEADRACE_LISTEN__GRPC": "[]"})
    assert none.returncode == 2
    assert "listen.grpc" in none.stderr


def test_beside_a_daemon(environ):
    """Beside a running daemon the commands use its Valkey and its socket."""
    with serving(environ) as daemon:
        assert headrace("keys", "create", "checkout", environ=environ).stdout.startswith("hr_")
        assert "checkout" in headrace("keys", "list", environ=environ).stdout
        stats = headrace("cache", "stats", environ=environ)
        assert all(tier in stats.stdout for tier in ("memory", "disk", "redis")), stats.stderr
        assert headrace("cache", "purge", "--all", environ=environ).stdout == PURGED
        assert headrace("cache", "purge", "--model", "claude-x", environ=environ).stdout == PURGED
        assert daemon.stop() == 0


def test_acts_of_commands(environ):
    """What commands do by themselves is audited, with who did it and why; --json says what there is to say."""
    with serving(environ):
        made = json.loads(headrace("keys", "create", "ann", "--reason", "hired", "--json", environ=environ).stdout)
        assert made["key"].startswith(f"hr_{made['id']}_")
        purged = headrace("cache", "purge", "--model", "m", "--reason", "wrong", "--json", environ=environ).stdout
        assert json.loads(purged) == {"purged": 0}
        revoked = headrace("keys", "revoke", "ann", "--reason", "left", "--json", environ=environ).stdout
        assert json.loads(revoked) == {"revoked": 1}
        acts = json.loads(headrace("audit", "--json", environ=environ).stdout)
    assert [(act["what"], act["target"], act["reason"]) for act in acts] == [
        ("key.revoked", "ann", "left"), ("cache.purged", "model=m", "wrong"), ("key.created", f"ann {made['id']}", "hired"),
    ]  # fmt: skip
    assert {act["by"].partition(" ")[0] for act in acts} == {f"uid:{os.getuid()}"}
    assert made["key"] not in json.dumps(acts)


def test_key_for_the_daemon(environ):
    """Where the daemon asks for keys, so it does of the commands, but of its own user, who can read all that it has anyway."""
    environ |= {"HEADRACE_AUTH__REQUIRED": "true"}
    with serving(environ):
        assert "memory" in headrace("cache", "stats", environ=environ).stdout
        Path(environ["HEADRACE_STATE__DIR"], "operator.key").unlink()
        refused = headrace("cache", "stats", environ=environ)
        assert refused.returncode == 1
        assert "UNAUTHENTICATED" in refused.stderr
        key = headrace("keys", "create", "checkout", environ=environ).stdout.strip()
        assert "memory" in headrace("cache", "stats", environ=environ | {"HEADRACE_KEY": key}).stdout
        assert "memory" in headrace("cache", "stats", "--as-key", key, environ=environ).stdout
