"""What is encrypted can be read with any of the keys, for its place, and by nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_parts import HOME
from headrace import config
from headrace.cipher import Cipher
from headrace.errors import ConfigError
from headrace.seal import UNSEALED, Broken, Mac

OLD, NEW = b"old key, of 32 bytes or so, here", b"new key, of 32 bytes or so, here"
CIPHER = Cipher([OLD])


@given(st.binary(max_size=300), st.text(max_size=30))
def test_round(said: bytes, place: str) -> None:
    """It comes back as it was, from something in which it does not stand, and which is never the same twice."""
    sealed = CIPHER.seal(place, said)
    assert CIPHER.open(place, sealed) == said
    assert len(said) < 4 or said not in sealed
    assert sealed != CIPHER.seal(place, said)


@given(st.binary(max_size=60), st.integers(0, 10**6), st.integers(1, 255))
def test_a_bit(said: bytes, where: int, how: int) -> None:
    """Whatever bit is changed, of the envelope too, it cannot be opened."""
    sealed = bytearray(CIPHER.seal("here", said))
    sealed[where % len(sealed)] ^= how
    with pytest.raises(Broken):
        CIPHER.open("here", bytes(sealed))


@given(st.binary(max_size=60))
def test_rubbish(sealed: bytes) -> None:
    """What is none of ours cannot be opened."""
    for rubbish in (sealed, b"HRx1" + sealed, CIPHER.seal("here", b"")[: len(sealed) % 48]):
        with pytest.raises(Broken):
            CIPHER.open("here", rubbish)


def test_elsewhere() -> None:
    """It is for its place."""
    with pytest.raises(Broken):
        CIPHER.open("ticket:2", CIPHER.seal("ticket:1", b"said"))


def test_rotation() -> None:
    """The first key seals and all of them open, so that a new one can be told to all before any seals with it."""
    told, turned, done = Cipher([OLD, NEW]), Cipher([NEW, OLD]), Cipher([NEW])
    for cipher in (CIPHER, told, turned):
        assert turned.open("here", cipher.seal("here", b"said")) == b"said"
        assert told.open("here", cipher.seal("here", b"said")) == b"said"
    assert done.open("here", turned.seal("here", b"said")) == b"said"
    with pytest.raises(Broken):
        done.open("here", told.seal("here", b"said"))
    assert repr(turned) == "<Cipher [2 keys]>"


def test_switched_on() -> None:
    """What was signed before there was a key can still be read; what nobody signed cannot."""
    mac = Mac(OLD)
    cipher = Cipher([NEW], before=mac)
    assert cipher.open("here", mac.seal("here", b"said")) == b"said"
    for other in (UNSEALED, Mac(NEW)):
        with pytest.raises(Broken):
            cipher.open("here", other.seal("here", b"said"))
    assert (cipher.hides, mac.hides) == (True, False)


@pytest.mark.parametrize("keys", [[], [b"short"], [OLD, b"short"]])
def test_short(keys: list[bytes]) -> None:
    """Keys have a length."""
    with pytest.raises(ValueError, match="16 bytes"):
        Cipher(keys)


# Where the keys come from.


def seal_of(tmp_path, **environ):
    environ = HOME | {"HEADRACE_STATE__DIR": str(tmp_path)} | environ
    return config.seal(config.load(None, environ), environ)


def test_sources(tmp_path) -> None:
    """A file, or a credential; a blank one, as systemd hands on where there is none, is none."""
    path = tmp_path / "headrace_encryption_key"
    path.write_bytes(NEW.hex().encode() + b"\n" + OLD.hex().encode() + b"\n")
    sealed = Cipher([OLD.hex().encode()]).seal("x", b"said")
    for environ in ({"HEADRACE_STATE__ENCRYPTION_KEY_FILE": str(path)}, {"CREDENTIALS_DIRECTORY": str(tmp_path)}):
        assert seal_of(tmp_path, **environ).open("x", sealed) == b"said"
        assert seal_of(tmp_path, HEADRACE_REDIS__URL="redis://db.example", **environ).open("x", sealed) == b"said"
    path.write_text("\n")
    assert isinstance(seal_of(tmp_path, CREDENTIALS_DIRECTORY=str(tmp_path)), Mac)


@pytest.mark.parametrize("said", [b"", b"tiny", OLD.hex().encode() + b"\ntiny", None], ids=range(4))
def test_unusable(tmp_path, said) -> None:
    """Keys that are not there, or too short, are an error and not none; nor is what they are said."""
    path = tmp_path / "key"
    if said is not None:
        path.write_bytes(said)
    with pytest.raises(ConfigError, match=r"state\.encryption_key_file") as raised:
        seal_of(tmp_path, HEADRACE_STATE__ENCRYPTION_KEY_FILE=str(path))
    assert "tiny" not in str(raised.value)
