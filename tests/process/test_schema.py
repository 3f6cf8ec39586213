"""The mark of a Redis says which version of our records lies there; two versions apart a daemon refuses, in a sentence."""

from __future__ import annotations

import pytest
import redis

from daemon_process import HEADRACE, environment, headrace, serving
from headrace import schema


@pytest.fixture
def environ(tmp_path_factory, valkey_url):
    directory = tmp_path_factory.mktemp("s")
    return environment(directory, HEADRACE_REDIS__URL=valkey_url, HEADRACE_UPSTREAM__API_KEY="k")


def test_which():
    """One version apart is fine, in both directions; what is no mark of ours says nothing."""
    for mark in (
        None,
        b"",
        b"nonsense",
        b"-1",
        *(b"%d" % (schema.SCHEMA + apart) for apart in (-1, 0, 1) if schema.SCHEMA + apart >= 0),
    ):
        assert schema.problem(mark) == "", mark
    assert "install a newer headrace" in schema.problem(b"%d" % (schema.SCHEMA + 2))
    assert "install a newer headrace" in schema.problem(b"9" * 5000)


def test_mark(environ, valkey_url):
    """A new Redis is marked; a mark is raised, and never lowered."""
    with redis.Redis.from_url(valkey_url) as client:
        for found, left in ((None, schema.SCHEMA), (schema.SCHEMA - 1, schema.SCHEMA), (schema.SCHEMA + 1, schema.SCHEMA + 1)):
            if found is not None:
                client.set("headrace:schema", found)
            with serving(environ):
                assert client.get("headrace:schema") == b"%d" % left
                assert client.ttl("headrace:schema") == -1


@pytest.mark.parametrize("command", ["serve", "worker"])
def test_too_new(command, environ, valkey_url):
    """Neither a daemon nor a worker starts on what it cannot read, and it writes nothing there."""
    with redis.Redis.from_url(valkey_url) as client:
        client.set("headrace:schema", schema.SCHEMA + 2)
        done = headrace(command, environ=environ)
        assert done.returncode == 1
        assert f"its records are of schema {schema.SCHEMA + 2}, and this headrace knows {schema.SCHEMA}" in done.stderr
        assert "Traceback" not in done.stderr
        assert client.keys() == [b"headrace:schema"]


def test_foreign(environ, valkey_url):
    """What somebody put there that is no mark stops nobody."""
    with redis.Redis.from_url(valkey_url) as client:
        client.lpush("headrace:schema", "x")
        with serving(environ, [HEADRACE, "serve"]) as served:
            assert served.stop() == 0
