"""A backup has all that our own Valkey holds, and nothing else is put back: keys, tickets, budgets, beside a running daemon."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path

import grpc
import pytest
import redis

from daemon_process import environment, headrace, serving
from fleet import addresses
from headrace.embedded import EmbeddedValkey
from headrace.v1 import content_pb2, messages_pb2, messages_service_pb2, tickets_pb2, tickets_service_pb2
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from headrace.v1.tickets_service_pb2_grpc import TicketsServiceStub

NOBODY = "http://127.0.0.1:1"


@pytest.fixture
def environ(tmp_path_factory):
    """A daemon's environment; its directory is there."""
    directory = tmp_path_factory.mktemp("b")
    return environment(
        directory, HEADRACE_UPSTREAM__BASE_URL=NOBODY, HEADRACE_UPSTREAM__API_KEY="k", HEADRACE_LISTEN__GRPC='["127.0.0.1:0"]'
    )


def submit(served):
    said = messages_pb2.InputMessage(role="user", content=content_pb2.Content(text="hi"))
    params = messages_pb2.MessageParams(model="claude-haiku-4-5", max_tokens=5, messages=[said])
    with grpc.insecure_channel(addresses(served)[-2]) as channel:
        asked = messages_service_pb2.SubmitMessageRequest(params=params)
        return MessagesServiceStub(channel).SubmitMessage(asked, timeout=10).ticket.id


def state(served, ticket):
    with grpc.insecure_channel(addresses(served)[-2]) as channel:
        return TicketsServiceStub(channel).GetTicket(tickets_service_pb2.GetTicketRequest(id=ticket), timeout=10).ticket.state


def test_there_and_back(environ, tmp_path):
    """What was there when the backup was made is there again; what came after it is kept beside it."""
    file = tmp_path / "kept.tar"
    with serving(environ) as served:
        headrace("keys", "create", "before", environ=environ)
        ticket = submit(served)
        done = headrace("backup", str(file), environ=environ)
        assert done.returncode == 0, done.stderr
        assert f"keys in {file}" in done.stdout
        headrace("keys", "create", "after", environ=environ)
        refused = headrace("restore", str(file), environ=environ)
        assert refused.returncode == 1
        assert f"in use by process {served.process.pid}" in refused.stderr
        assert state(served, ticket) in (tickets_pb2.TICKET_STATE_QUEUED, tickets_pb2.TICKET_STATE_RUNNING)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert headrace("backup", str(file), environ=environ).returncode == 1  # it is there already
    done = headrace("restore", str(file), environ=environ)
    assert done.returncode == 0, done.stderr
    assert "are restored; what was there is in" in done.stdout
    with serving(environ) as served:
        keys = headrace("keys", "list", environ=environ).stdout
        assert "before" in keys
        assert "after" not in keys
        # It is sealed by the key that came along, so it is still a ticket.
        assert state(served, ticket) in (tickets_pb2.TICKET_STATE_QUEUED, tickets_pb2.TICKET_STATE_RUNNING)
        assert served.stop() == 0
    assert "valkey.mended" not in served.log


def test_server_alone(environ, tmp_path):
    """A server that runs without its daemon, as for a command, keeps what it has: nothing is put in its place."""
    file, directory = tmp_path / "kept.tar", Path(environ["HEADRACE_STATE__DIR"])
    headrace("keys", "create", "before", environ=environ)
    assert headrace("backup", str(file), environ=environ).returncode == 0
    with EmbeddedValkey(directory / "valkey") as valkey, redis.Redis.from_url(valkey.url) as client:
        done = headrace("restore", str(file), environ=environ)
        assert done.returncode == 1
        assert "a server runs in" in done.stderr
        assert client.dbsize() > 0
        assert list(directory.glob("valkey.*")) == []
    assert headrace("restore", str(file), environ=environ).returncode == 0


def test_elsewhere(environ, tmp_path, tmp_path_factory):
    """A backup made without a daemon goes to a machine that has nothing yet."""
    file = tmp_path / "kept.tar"
    headrace("keys", "create", "checkout", environ=environ)
    assert headrace("backup", str(file), environ=environ).returncode == 0
    other = environ | {"HEADRACE_STATE__DIR": str(tmp_path_factory.mktemp("o"))}
    done = headrace("restore", str(file), environ=other)
    assert done.returncode == 0, done.stderr
    assert "what was there" not in done.stdout
    assert "checkout" in headrace("keys", "list", environ=other).stdout


def broken(kind, file):
    content = bytearray(file.read_bytes())
    if kind == "flipped":
        content[content.index(b"REDIS" if b"REDIS" in content else b"VALKEY") + 40] ^= 0xFF
    elif kind == "cut":
        del content[600:]
    elif kind == "other":
        content[:] = b"something else"
    file.write_bytes(content)
    if kind == "none":
        file.unlink()


@pytest.mark.parametrize("kind", ["flipped", "cut", "other", "none"])
def test_checked(kind, environ, tmp_path):
    """What is no whole backup is refused in one sentence, and changes nothing."""
    file = tmp_path / "kept.tar"
    headrace("keys", "create", "checkout", environ=environ)
    headrace("backup", str(file), environ=environ)
    broken(kind, file)
    before = sorted(os.listdir(environ["HEADRACE_STATE__DIR"]))
    done = headrace("restore", str(file), environ=environ)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert str(file) in done.stderr
    assert sorted(os.listdir(environ["HEADRACE_STATE__DIR"])) == before
    assert "checkout" in headrace("keys", "list", environ=environ).stdout


def test_unreadable_dump(environ, tmp_path):
    """So is one whose sums are right and that the server cannot read."""
    from headrace import backups

    file = tmp_path / "kept.tar"
    backups._write(file, {"dump.rdb": b"REDIS0011nonsense"}, 1)
    with tarfile.open(file) as tar:
        assert tar.getnames() == ["about.json", "dump.rdb"]
    done = headrace("restore", str(file), environ=environ)
    assert done.returncode == 1
    assert "cannot read it" in done.stderr
    assert not [name for name in os.listdir(environ["HEADRACE_STATE__DIR"]) if "restoring" in name]


def test_with_a_redis(environ, tmp_path, valkey_url):
    """Where a Redis is configured there is nothing of ours to back up."""
    done = headrace("backup", str(tmp_path / "kept.tar"), environ=environ | {"HEADRACE_REDIS__URL": valkey_url})
    assert done.returncode == 1
    assert "redis.url: is set" in done.stderr
    with redis.Redis.from_url(valkey_url) as client:
        assert client.dbsize() == 0
