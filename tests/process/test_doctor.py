"""`headrace doctor` and `config check --live`: each thing that is wrong outside is one line, by its cause, with what to do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time

import pytest
import redis
from msgspec.structs import replace

from conftest import start_valkey
from daemon_process import environment, headrace, serving
from fleet import simulated
from headrace import keys
from headrace.config import load, settings_hash
from headrace.doctor.hosts import judge
from headrace.hosts import Fact
from headrace.hosts.fact import unknown
from pki import Authority
from tls_redis import door

KEY = {"HEADRACE_UPSTREAM__API_KEY": "sk-test", "HEADRACE_LISTEN__GRPC": '["127.0.0.1:0"]'}
NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def base(tmp_path):
    return environment(tmp_path, **KEY, HEADRACE_UPSTREAM__BASE_URL=NOBODY)


@pytest.fixture
def plain(tmp_path_factory):
    """A Valkey at a port, with a password."""
    directory = tmp_path_factory.mktemp("v")
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = found.getsockname()[1]
    process, url = start_valkey(directory, "--port", str(port), "--maxmemory", "100mb", "--databases", "16")
    yield port, url
    process.kill()
    process.wait()


def findings(environ, area):
    """Return the lines of an area, as (verdict, text, mend), and the exit code."""
    done = headrace("doctor", "--json", environ=environ)
    assert "Traceback" not in done.stderr, done.stderr
    return [
        (row["verdict"], row["text"], row["mend"]) for row in json.loads(done.stdout) if row["area"] == area
    ], done.returncode


UNREACHED = [
    ("redis://127.0.0.1:1/0", "the connection is refused", "Start it"),
    ("redis://nowhere.invalid:6379/0", "its host is unknown", "DNS"),
    ("redis://127.0.0.1:{port}/0", "it asks for a password, and is given none (NOAUTH)", "Give the password"),
    ("redis://:hidden-word@127.0.0.1:{port}/0", "the user or the password is wrong (WRONGPASS)", "Look at user and password"),
    ("rediss://127.0.0.1:{port}/0", "TLS: it does not speak TLS there", "rediss://"),
    ("redis://:right-word@127.0.0.1:{port}/99", "beyond those that it has", "Name a database"),
]


@pytest.mark.parametrize(("url", "cause", "mend"), UNREACHED, ids=range(len(UNREACHED)))
def test_redis_causes(base, plain, url, cause, mend):
    """Six causes are six sentences, at the address, with what to do, and without the password; the daemon says the same."""
    port, admin = plain
    with redis.Redis.from_url(admin) as client:
        client.config_set("requirepass", "right-word")
    environ = base | {"HEADRACE_REDIS__URL": url.format(port=port)}
    [(verdict, text, to_do)], code = findings(environ, "redis")
    assert (verdict, code) == ("fail", 1)
    assert cause in text
    assert mend in to_do
    assert "hidden-word" not in text
    live = headrace("config", "check", "--live", environ=environ)
    assert live.returncode == 1
    assert cause in live.stdout


async def test_plain_to_tls(base, plain, tmp_path):
    """TLS where none is spoken is one more; asked in the clear, such a server hangs up."""
    authority = Authority(tmp_path)
    async with door(plain[1], authority.server(), authority) as url:
        environ = base | {"HEADRACE_REDIS__URL": url.replace("rediss://", "redis://")}
        [(verdict, text, _)], _ = await asyncio.to_thread(findings, environ, "redis")
        assert verdict == "fail"
        assert "hung up" in text or "it speaks TLS there" in text
        untrusted = base | {"HEADRACE_REDIS__URL": url}
        [(verdict, text, mend)], _ = await asyncio.to_thread(findings, untrusted, "redis")
        assert "TLS: " in text
        assert "redis.tls_ca" in mend


def test_what_it_is(base, plain):
    """Policy, append-only file, role, clock and rights: each a line, warned of or failed."""
    port, admin = plain
    environ = base | {"HEADRACE_REDIS__URL": f"redis://127.0.0.1:{port}/0"}
    with redis.Redis.from_url(admin) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        said, _ = findings(environ, "redis")
        assert any(verdict == "warn" and "allkeys-lru" in text for verdict, text, _ in said)
        assert any(verdict == "warn" and "appendonly is off" in text for verdict, text, _ in said)
        assert any(verdict == "ok" and "answers in" in text for verdict, text, _ in said)
        assert findings(environ, "clock")[0][0][0] == "ok"
        client.config_set("maxmemory", 0)
        assert any("with a maxmemory it would evict" in text for _, text, _ in findings(environ, "redis")[0])
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("appendonly", "yes")
        assert {verdict for verdict, _, _ in findings(environ, "redis")[0]} == {"ok"}
        client.set("headrace:schema", 9)
        assert any(verdict == "fail" and "of schema 9" in text for verdict, text, _ in findings(environ, "redis")[0])
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        assert any("replica" in text for _, text, _ in findings(environ, "redis")[0])


def test_narrow_user(base, plain):
    """What the user of Redis may not do is said."""
    port, admin = plain
    with redis.Redis.from_url(admin) as client:
        client.execute_command("ACL", "SETUSER", "narrow", "on", ">word", "~headrace:*", "+@all", "-eval")
    said, code = findings(base | {"HEADRACE_REDIS__URL": f"redis://narrow:word@127.0.0.1:{port}/0"}, "redis")
    assert code == 1
    assert any(verdict == "fail" and "may not" in text and "EVAL" in text for verdict, text, _ in said)


async def test_upstream(base):
    """A right key, a wrong one, a model that is not there; and a limit of callers that nobody knows."""
    async with simulated() as simulator:
        environ = base | {
            "HEADRACE_UPSTREAM__BASE_URL": simulator.url,
            "HEADRACE_LIMIT": '[{name = "a", concurrency = 1, match = {model = "claude-opsu-*", caller = "nobody"}}]',
        }
        said, _ = await asyncio.to_thread(findings, environ, "upstream")
        assert [verdict for verdict, _, _ in said] == ["ok"]
        limits, _ = await asyncio.to_thread(findings, environ, "limits")
        assert any('"claude-opsu-*": fits none of upstream' in text for _, text, _ in limits)
        [(verdict, text, _)], code = await asyncio.to_thread(
            findings, environ | {"HEADRACE_UPSTREAM__BASE_URL": f"{simulator.url}/v1"}, "upstream"
        )
        assert (verdict, code) == ("fail", 1)
        assert "no /v1/models" in text


UPSTREAMS = [
    ("https://nowhere.invalid", "its name is not known", "DNS"),
    ("http://127.0.0.1:1", "no connection came about", "firewalls"),
    ("https://127.0.0.1:{port}", "TLS cannot be agreed on", "https"),
    ("http://127.0.0.1:{port}", "refuses our key (401)", "Replace the key"),
]


@contextlib.contextmanager
def refusing():
    """Run a server that answers 401 to everything, in the clear."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken, _ = server.accept()
                    with taken, contextlib.suppress(OSError):
                        taken.recv(65_536)
                        taken.sendall(b"HTTP/1.1 401 no\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")

        threading.Thread(target=answer, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(("url", "cause", "mend"), UPSTREAMS, ids=range(len(UPSTREAMS)))
def test_upstream_causes(base, url, cause, mend):
    """Name, network, TLS and key, each by its own name."""
    with refusing() as port:
        [(verdict, text, to_do)], code = findings(base | {"HEADRACE_UPSTREAM__BASE_URL": url.format(port=port)}, "upstream")
    assert (verdict, code) == ("fail", 1)
    assert cause in text
    assert mend in to_do


def test_proxy(base):
    """A proxy on the way is named, and if it does not answer, that is what is said."""
    environ = base | {
        "HEADRACE_UPSTREAM__PROXY": "http://ada:hidden-word@127.0.0.1:1",
        "HEADRACE_UPSTREAM__BASE_URL": "https://api.anthropic.com",
    }
    [(verdict, text, mend)], _ = findings(environ, "upstream")
    assert verdict == "fail"
    assert "the proxy on the way does not answer" in text
    assert "by http://ada:***@127.0.0.1:1" in text
    assert "upstream.proxy" in mend


async def test_beside_a_daemon(base):
    """Beside a daemon all is well: our own Valkey answers, and whoever has other limits is named."""
    async with simulated() as simulator:
        environ = base | {"HEADRACE_UPSTREAM__BASE_URL": simulator.url}

        def look():
            with serving(environ):
                return headrace("doctor", environ=environ), findings(environ, "machine")

        done, (machine, _) = await asyncio.to_thread(look)
        assert done.returncode == 0, done.stdout
        assert " fail " not in f" {done.stdout}"
        assert "Valkey 9" in done.stdout
        assert any("a daemon runs here (process" in text for _, text, _ in machine)


def test_hosts():
    """Other limits, on this host or another, and other versions, each a line."""
    own = settings_hash(load(None, {"HOME": "/"}))
    fact = Fact(instance="a-1-x", host="a", version="0.1.0", config=own)
    assert [found.verdict for found in judge([fact], own, "a")] == ["ok"]
    stale, newer = replace(fact, config="0"), replace(fact, version="0.2.0")
    worker, other = replace(stale, kind="worker"), replace(stale, host="b", instance="b-1-y")
    assert ["reload" in found.mend for found in judge([stale], own, "a")] == [True]
    assert ["restart headrace-worker" in found.mend for found in judge([worker], own, "a")] == [True]
    assert ["b-1-y has other limits" in found.text for found in judge([fact, other], own, "a")] == [True]
    assert ["0.1.0, 0.2.0" in found.text for found in judge([fact, newer], own, "a")] == [True]
    assert list(judge([unknown("old-1-z")], own, "a")) == []


@contextlib.contextmanager
def two(tmp_path_factory, valkey_url, **more):
    """Run two daemons on one Redis, the second with more said, and yield their environments; both have said what they are."""
    environs = [
        environment(tmp_path_factory.mktemp("h"), **KEY, HEADRACE_UPSTREAM__BASE_URL=NOBODY, HEADRACE_REDIS__URL=valkey_url)
        for _ in range(2)
    ]
    environs[1] |= more
    with serving(environs[0]) as first, serving(environs[1]) as second, redis.Redis.from_url(valkey_url) as client:
        give_up = time.monotonic() + 20
        while len(client.keys("headrace:host:*")) < 2:
            assert time.monotonic() < give_up
            time.sleep(0.02)
        yield environs, [first.process.pid, second.process.pid], client


def test_other_daemons(tmp_path_factory, valkey_url):
    """What real daemons say of themselves is read: as long as both have one configuration, and when they have not."""
    with two(tmp_path_factory, valkey_url) as ([one, _], _, client):
        [(verdict, text, _)], _ = findings(one, "hosts")
        assert (verdict, text.split(" (")[0]) == ("ok", "2 processes, all of one version")
        for odd in (b"nonsense", b"[]", b"{}", b'{"instance": 1}'):
            client.set(keys.host("odd-1-x"), odd)
            client.zadd(keys.HOSTS, {"odd-1-x": client.zrange(keys.HOSTS, 0, 0, withscores=True)[0][1] + 60_000_000})
            assert [verdict for verdict, _, _ in findings(one, "hosts")[0]] == ["ok"], odd
        client.delete(keys.host("odd-1-x"))
        client.lpush(keys.host("odd-1-x"), "no text at all")
        assert [verdict for verdict, _, _ in findings(one, "hosts")[0]] == ["ok"]


def test_other_limits(tmp_path_factory, valkey_url):
    """Seen from either side, the one whose limits are other than this side's is named."""
    limit = '[{name = "narrow", concurrency = 1}]'
    with two(tmp_path_factory, valkey_url, HEADRACE_LIMIT=limit) as (environs, pids, _):
        for environ, other in zip(environs, reversed(pids), strict=True):
            [(verdict, text, mend)], _ = findings(environ, "hosts")
            assert verdict == "warn"
            assert f"-{other}-" in text
            assert "other limits than this configuration has" in text
            assert mend == "systemctl reload headrace"


def test_wrong_configuration(base):
    """A configuration that cannot be read is exit code 2, as everywhere."""
    done = headrace("doctor", environ=base | {"HEADRACE_CACHE__TLL": "1h"})
    assert done.returncode == 2
    assert "cache.tll" in done.stderr
