"""The passkey: who may read it, who is let in by it, and what root's commands do not read in its place."""

from __future__ import annotations

import hmac
import os
from pathlib import Path

import pytest

from headrace import passkey


def test_made(tmp_path: Path) -> None:
    """It is its owner's alone from the first moment, whatever lies there and however open; and another at each start."""
    path, left = tmp_path / "operator.key", tmp_path / f".operator.key-{os.getpid()}"
    for each in (path, left):
        each.write_text("old")
        each.chmod(0o644)
    key = passkey.make(tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["operator.key"]
    assert passkey.read(tmp_path) == key
    assert passkey.make(tmp_path) != key
    assert passkey.read(tmp_path / "nowhere") == ""


def test_made_where_a_link_lies(tmp_path: Path) -> None:
    """A link in its place is replaced, and what it names is left alone."""
    other = tmp_path / "other"
    other.write_text("theirs")
    for name in ("operator.key", f".operator.key-{os.getpid()}"):
        (tmp_path / name).symlink_to(other)
    passkey.make(tmp_path)
    assert other.read_text() == "theirs"
    assert not (tmp_path / "operator.key").is_symlink()


def test_whoever() -> None:
    """A user is named by number, and by sudo with whoever asked; what a variable says is no text for a log."""
    assert passkey.whoever({}).startswith("uid:")
    assert passkey.whoever({"SUDO_USER": "ann\n;x"}).endswith(" (sudo by annx)")


def test_who() -> None:
    """Who presents it is let in under the name of a user; with anything else nobody is."""
    key = "0a" * 24
    assert passkey.who(passkey.said(key, "uid:0"), key) == "uid:0"
    assert passkey.who(passkey.said(key, "uid:1000 (sudo by ann)"), key) == "uid:1000 (sudo by ann)"
    for presented in ("", "uid:0", " uid:0", f"{key}", f"{key} ann", f"{key}0 uid:0", f"{key} uid:0\n", "\u00e9 uid:0"):
        assert passkey.who(presented, key) == "", presented
    assert passkey.who(" uid:0", "") == ""


def test_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """How far a guess is right is not told by how long it takes: guesses of every length are compared as a whole."""
    key, compared = "0a" * 24, []

    def watched(left: bytes, right: bytes) -> bool:
        compared.append((left, right))
        return hmac_compare(left, right)

    hmac_compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", watched)
    for guess in ("f", key[:-1], key[:-1] + "f", key):
        passkey.who(passkey.said(guess, "uid:0"), key)
    assert compared == [(guess.encode(), key.encode()) for guess in ("f", key[:-1], key[:-1] + "f", key)]


def test_read_nothing_else(tmp_path: Path) -> None:
    """In a directory of the daemon's user root's command follows no link, waits for no pipe, and presents nothing else."""
    secret, path = tmp_path / "secret", tmp_path / "operator.key"
    secret.write_text("0a" * 24)
    path.symlink_to(secret)
    assert passkey.read(tmp_path) == ""
    path.unlink()
    os.mkfifo(path)
    assert passkey.read(tmp_path) == ""
    path.unlink()
    for text in ("root:x:0:0", "0a" * 24 + "0a", "0A" * 24, ""):
        path.write_text(text)
        assert passkey.read(tmp_path) == "", text
