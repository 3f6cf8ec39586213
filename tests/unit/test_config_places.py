"""Where things are: state, sockets and the key for upstream; and what is allowed there but hardly meant."""

from pathlib import Path

import pytest

from config_parts import HOME
from headrace import config


def test_state_and_runtime_directories():
    """systemd's directories come first, then the user's."""
    assert config.load(None, {"STATE_DIRECTORY": "/var/lib/headrace:/x", **HOME}).state.dir == "/var/lib/headrace"
    assert config.load(None, {"XDG_STATE_HOME": "/s", **HOME}).state.dir == "/s/headrace"
    assert config.runtime_dir({"RUNTIME_DIRECTORY": "/run/headrace", "XDG_RUNTIME_DIR": "/run/user/1"}) == Path("/run/headrace")
    assert config.runtime_dir({"XDG_RUNTIME_DIR": "/run/user/1"}) == Path("/run/user/1/headrace")
    assert config.runtime_dir(HOME) == Path("/home/ada/.local/state/headrace")
    assert config.runtime_dir(HOME, config.load(None, {"STATE_DIRECTORY": "/var/lib/h"})) == Path("/var/lib/h")


def test_sockets():
    """A relative socket lies in the runtime directory."""
    assert config.resolve("unix:headrace.sock", Path("/run/headrace")) == "unix:/run/headrace/headrace.sock"
    assert config.resolve("unix:/tmp/h.sock", Path("/run/headrace")) == "unix:/tmp/h.sock"
    assert config.resolve("127.0.0.1:7400", Path("/run/headrace")) == "127.0.0.1:7400"
    settings = config.load(None, HOME | {"HEADRACE_LISTEN__GRPC": '["unix:///run/h.sock", "[::1]:7400"]'})
    assert settings.listen.grpc == ("unix:/run/h.sock", "[::1]:7400")


@pytest.fixture
def places(tmp_path):
    """Settings whose key file is absent, and the environment that goes with them."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    environ = HOME | {"HEADRACE_UPSTREAM__API_KEY_FILE": str(tmp_path / "key"), "CREDENTIALS_DIRECTORY": str(credentials)}
    return config.load(None, environ), environ, tmp_path / "key", credentials / "anthropic_api_key"


def test_key_order(places):
    """The key comes from the settings, the key file, the environment or systemd's credential, in this order, read anew."""
    settings, environ, file, credential = places
    assert config.api_key(settings, environ) == ""
    credential.write_text("from-credential\n")
    assert config.api_key(settings, environ) == "from-credential"
    environ |= {"ANTHROPIC_API_KEY": "from-environment"}
    assert config.api_key(settings, environ) == "from-environment"
    file.write_text(" from-file\n")
    assert config.api_key(settings, environ) == "from-file"
    settings = config.load(None, environ | {"HEADRACE_UPSTREAM__API_KEY": "from-settings"})
    assert config.api_key(settings, environ) == "from-settings"


def test_bad_keys_are_passed_over(places):
    """What cannot be sent in a header is no key; the next place is asked."""
    settings, environ, file, credential = places
    credential.write_text("good")
    for bad in (b"", b"two\nlines", "schlüssel".encode(), b"\xff\xfe", b"a b"):
        file.write_bytes(bad)
        assert config.api_key(settings, environ) == "good"
        assert any(str(file) in warning for warning in config.warnings(settings, environ))


def test_no_key(places):
    """Without any key the daemon runs, and warns with all the places that were tried."""
    settings, environ, file, credential = places
    [warning] = config.warnings(settings, environ)
    assert warning.startswith("there is no key for upstream")
    assert all(place in warning for place in ("upstream.api_key", str(file), "ANTHROPIC_API_KEY", str(credential)))
    credentials = environ | {"HEADRACE_UPSTREAM__CREDENTIALS": "caller"}
    assert config.warnings(config.load(None, credentials), credentials) == []


def test_doubtful(tmp_path):
    """What is allowed but hardly meant is said."""
    (tmp_path / "key").write_text("k")
    (tmp_path / "key").chmod(0o644)
    environ = HOME | {
        "HEADRACE_UPSTREAM__API_KEY_FILE": str(tmp_path / "key"),
        "HEADRACE_UPSTREAM__BASE_URL": "http://example.com",
        "HEADRACE_LISTEN__HTTP": "0.0.0.0:7480",
        "HEADRACE_LISTEN__INSECURE": "true",
        "HEADRACE_LISTEN__GRPC": '["localhost:7400"]',
        "HEADRACE_LISTEN__SOCKET_GROUP": "nobody-has-this-group",
    }
    said = config.warnings(config.load(None, environ), environ)
    assert [warning.split(":")[0].split(" =")[0] for warning in said] == [
        "upstream.api_key_file",
        "upstream.base_url",
        "listen.insecure",
    ]
