"""The address of a Redis that Sentinels know, and what the configuration makes of it."""

from __future__ import annotations

import pytest

from config_parts import HOME
from headrace import config
from headrace.errors import ConfigError
from headrace.sentinels import sentinels
from headrace.servers import Said, _newest


@pytest.fixture
def loaded(tmp_path):
    """What loads a configuration from its text."""

    def load(text):
        file = tmp_path / "config.toml"
        file.write_text(text)
        return config.load(file, HOME)

    return load


@pytest.mark.parametrize(
    ("url", "addresses", "name", "secrets"),
    [
        ("redis+sentinel://a:1,b:2/ours/3", (("a", 1), ("b", 2)), "ours", {"db": 3}),
        ("redis+sentinel://a/ours", (("a", 26379),), "ours", {}),
        ("redis+sentinel://[::1]:5,b/ours/0", (("::1", 5), ("b", 26379)), "ours", {}),
        ("redis+sentinel://u:p%40@a:1/ours", (("a", 1),), "ours", {"username": "u", "password": "p@"}),
        ("redis+sentinel://:p@a:1/our%20own", (("a", 1),), "our own", {"password": "p"}),
    ],
)
def test_read(url, addresses, name, secrets):
    """Hosts with or without ports, a name, a database, a user and a password."""
    named = sentinels(url)
    assert (named.addresses, named.name, named.secrets, named.options) == (addresses, name, secrets, {})


def test_tls():
    """With TLS it is for all connections, by the files that the URL names."""
    named = sentinels("rediss+sentinel://a/ours?ssl_ca_certs=/ca.pem")
    assert named.options == {"ssl": True, "ssl_ca_certs": "/ca.pem"}


@pytest.mark.parametrize("url", ["redis://a/0", "rediss://a", "unix:///a", ""])
def test_one_server(url):
    """The address of one server names no Sentinels."""
    assert sentinels(url) is None


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://a:1", "redis+sentinel:///ours", "redis+sentinel://a:1,,b:2/ours", "redis+sentinel://a:x/ours",
     "redis+sentinel://a:1/ours/first", "redis+sentinel://"],
)  # fmt: skip
def test_wrong(url, loaded):
    """What names no Sentinels, no primary or no database is an error of the configuration, which says how it is spelled."""
    with pytest.raises(ConfigError, match=r"redis\.url"):
        loaded(f'[redis]\nurl = "{url}"')


def test_newest():
    """Of several that disagree the one counts that has seen the most failovers; who says nothing counts for nothing."""
    assert _newest([None, Said(3, "old", 1), Said(4, "new", 2), Said(2, "older", 3)], "ours") == ("new", 2)
    assert Said.of([b"config-epoch", b"7"], None) is None


def test_in_the_clear(loaded):
    """Sentinels elsewhere without TLS are worth a warning, as a server is; here they are not."""

    def said(url):
        return [text for text in config.warnings(loaded(f'[redis]\nurl = "{url}"'), {}) if "unencrypted" in text]

    assert said("redis+sentinel://127.0.0.1:1,far.internal:2/ours") == [
        "redis.url: budgets, answers and tickets go to far.internal unencrypted; use rediss"
    ]
    assert not said("redis+sentinel://127.0.0.1:1,localhost:2/ours")
    assert not said("rediss+sentinel://far.internal:2/ours")


def test_replicas_of_what(loaded):
    """Replicas are waited for where there may be some."""
    with pytest.raises(ConfigError, match="wait_replicas"):
        loaded("[redis]\nwait_replicas = 1")
