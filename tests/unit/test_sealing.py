"""Where the key of the seal comes from."""

from __future__ import annotations

import stat

import pytest

from headrace import config
from headrace.errors import ConfigError
from headrace.seal import UNSEALED, Mac

SHARED = {"HEADRACE_REDIS__URL": "redis://db.example"}


def seal(tmp_path, **environ):
    environ = {"HEADRACE_STATE__DIR": str(tmp_path)} | environ
    return config.seal(config.load(None, environ), environ)


def warned(tmp_path, **environ):
    environ = {"HEADRACE_STATE__DIR": str(tmp_path)} | environ
    return [each for each in config.warnings(config.load(None, environ), environ) if "mac_key_file" in each]


def test_own(tmp_path):
    """Our own Valkey has a key of its own, made once, for nobody else to read."""
    one, two = seal(tmp_path), seal(tmp_path)
    assert two.open("x", one.seal("x", b"said")) == b"said"
    assert stat.S_IMODE((tmp_path / "mac_key").stat().st_mode) == 0o600
    assert not warned(tmp_path)


def test_shared(tmp_path):
    """On a shared Redis there is no seal without a key, and a warning."""
    assert seal(tmp_path, **SHARED) is UNSEALED
    assert len(warned(tmp_path, **SHARED)) == 1
    path = tmp_path / "key"
    path.write_bytes(b"k" * 32 + b"\n")
    path.chmod(0o600)
    named = SHARED | {"HEADRACE_STATE__MAC_KEY_FILE": str(path)}
    (tmp_path / "headrace_mac_key").write_bytes(b"k" * 32)
    for environ in (named, SHARED | {"CREDENTIALS_DIRECTORY": str(tmp_path)}):
        assert Mac(b"k" * 32).open("x", seal(tmp_path, **environ).seal("x", b"said")) == b"said"
        assert not warned(tmp_path, **environ)
    path.chmod(0o644)
    assert "0600" in warned(tmp_path, **named)[0]


@pytest.mark.parametrize("said", [b"", b"tiny", None], ids=range(3))
def test_unusable(tmp_path, said):
    """A key that is not there, or too short, is an error and not no seal; nor is what it holds said."""
    path = tmp_path / "key"
    if said is not None:
        path.write_bytes(said)
    with pytest.raises(ConfigError, match=r"state\.mac_key_file") as raised:
        seal(tmp_path, **SHARED, HEADRACE_STATE__MAC_KEY_FILE=str(path))
    assert "tiny" not in str(raised.value)
