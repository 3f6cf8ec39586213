"""Who may listen where: what does not start, what starts with a warning, and how the files of TLS go together."""

from __future__ import annotations

import itertools
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from headrace import config
from headrace.config import toml
from headrace.config.places import peppers, redis_url
from headrace.errors import ConfigError

HOME = {"HOME": "/nowhere"}
TLS = {"LISTEN__TLS_CERTIFICATE": "/c.pem", "LISTEN__TLS_KEY": "/c.key"}
CA = {"LISTEN__TLS_CLIENT_CA": "/ca.pem"}
KEYS = {"AUTH__REQUIRED": "true"}
OWN = {"UPSTREAM__CREDENTIALS": "caller"}
WHERE = {
    "loopback": ("127.0.0.1:7482", False), "six": ("[::1]:7482", False), "named": ("localhost:7482", False),
    "all": ("0.0.0.0:7482", True), "all six": ("[::]:7482", True), "mapped": ("[::ffff:10.0.0.1]:7482", True),
    "private": ("10.0.0.1:7482", True), "host": ("headrace.internal:7482", True),
}  # fmt: skip


def load(**settings: str) -> config.Settings:
    return config.load(None, HOME | {f"HEADRACE_{name}": value for name, value in settings.items()})


def problems(**settings: str) -> str:
    try:
        load(**settings)
    except ConfigError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("door", ["HTTP", "GRPC"])
@pytest.mark.parametrize("where", WHERE)
def test_open_doors(door: str, where: str) -> None:
    """Off loopback it takes keys or client certificates, and TLS; `insecure` alone opens it, and is a warning then."""
    address, is_far = WHERE[where]
    listen = {f"LISTEN__{door}": address if door == "HTTP" else f'["unix:h.sock", "{address}"]'}
    for with_tls, shown in itertools.product((False, True), ({}, KEYS, OWN, CA)):
        if shown is CA and not with_tls:
            continue
        more = listen | (TLS if with_tls else {}) | shown
        is_bad = is_far and not (with_tls and shown)
        said = problems(**more)
        assert bool(said) is is_bad, more
        assert address in said or not is_bad
        warned = [each for each in config.warnings(load(**more, LISTEN__INSECURE="true"), HOME) if "insecure" in each]
        assert [address in each for each in warned] == [True] * is_bad


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"LISTEN__TLS_KEY": "/k"}, "listen.tls_certificate"),
        ({"LISTEN__TLS_CERTIFICATE": "/c"}, "listen.tls_key"),
        (CA, "listen.tls_client_ca"),
        (TLS | {"LISTEN__TLS_CLIENTS": '{ "a.b" = "c" }'}, "listen.tls_clients"),
        (TLS | CA | {"LISTEN__TLS_CLIENTS": '{ "a b" = "c" }'}, "listen.tls_clients.'a b'"),
        (TLS | CA | {"LISTEN__TLS_CLIENTS": '{ "a.b" = "c d" }'}, "listen.tls_clients.a.b"),
        ({"LISTEN__TLS_CERTIFICATE": "c.pem", "LISTEN__TLS_KEY": "/k"}, "listen.tls_certificate"),
        ({"REDIS__URL": "redis://h:1", "REDIS__TLS_CA": "/ca"}, "redis.tls_ca"),
        ({"REDIS__TLS_CA": "/ca"}, "redis.tls_ca"),
        ({"REDIS__URL": "rediss://h:1", "REDIS__TLS_KEY": "/k"}, "redis.tls_certificate"),
    ],
)
def test_wrong(settings: dict[str, str], named: str) -> None:
    """What does not go together is said by its name."""
    assert named in problems(**settings)


def test_names_are_told_as_written() -> None:
    """A certificate's name may be any URI, and what `config show` prints can be read again."""
    names = '{ "spiffe://example.org/ns/shop" = "shop", "a.b" = "c" }'
    settings = load(**TLS, **CA, LISTEN__TLS_CLIENTS=names)
    assert settings.listen.tls_clients == {"spiffe://example.org/ns/shop": "shop", "a.b": "c"}
    assert '"spiffe://example.org/ns/shop" = "shop"' in toml.dumps(settings.redacted())


def test_redis_url() -> None:
    """The files of TLS are part of where Redis is, beside what the URL says already."""
    files = {"REDIS__TLS_CA": "/a b/ca", "REDIS__TLS_CERTIFICATE": "/c", "REDIS__TLS_KEY": "/k"}
    for url in ("rediss://u:p@h:1/0", "rediss://h:1?protocol=2"):
        said = urlsplit(redis_url(load(REDIS__URL=url, **files)))
        told = {name: values[0] for name, values in parse_qs(said.query).items()}
        assert told.items() >= {"ssl_ca_certs": "/a b/ca", "ssl_certfile": "/c", "ssl_keyfile": "/k"}.items()
        assert said.geturl().startswith(url)
    assert [redis_url(load(REDIS__URL=url)) for url in ("", "rediss://h:1", "unix:///s")] == ["", "rediss://h:1", "unix:///s"]


@pytest.mark.parametrize(
    ("url", "is_said"),
    [("redis://h:1", True), ("redis://127.0.0.1:1", False), ("rediss://h:1", False), ("unix:///s", False), ("", False)],
)
def test_plain_redis(url: str, is_said: bool) -> None:
    """A Redis of another machine in the clear is a warning."""
    assert any("unencrypted" in warning for warning in config.warnings(load(REDIS__URL=url), HOME)) is is_said


def test_peppers(tmp_path: Path) -> None:
    """From the file, line by line, the newest first; else from the credential; what is there and no good is an error."""
    file, handed = tmp_path / "pepper", tmp_path / "credentials"
    handed.mkdir()
    credential = handed / "key_pepper"
    named, environ = load(AUTH__PEPPER_FILE=str(file)), {"CREDENTIALS_DIRECTORY": str(handed)}
    assert peppers(load(), HOME) == peppers(load(), environ) == ()
    credential.write_text("\n")
    assert peppers(load(), environ) == ()
    with pytest.raises(ConfigError, match="No such file"):
        peppers(named, environ)
    credential.write_text("from the credential\n")
    assert peppers(load(), environ) == peppers(named, environ) == (b"from the credential",)
    file.write_text("the newest of the two\n\nthe older of the two\n")
    assert peppers(named, environ) == (b"the newest of the two", b"the older of the two")
    for wrong in ("", "too short", "a secret that is long enough\nshort\n"):
        file.write_text(wrong)
        with pytest.raises(ConfigError, match=r"auth\.pepper_file") as said:
            peppers(named, environ)
        assert not wrong or wrong not in str(said.value)
