"""Targets: what lies in files and what other processes say: keys, backups, append-only files, acts, tries, marks, nudges."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from tests.fuzz.inputs import NOW, text
from tests.fuzz.target import Target

from headrace import aof, audit, backups, schema, seal, trails
from headrace.admin.reporter import News
from headrace.admin.rows import Shown
from headrace.batches import counted
from headrace.budget.want import Form
from headrace.budgets import board
from headrace.budgets.board import Seen, View
from headrace.cipher import Cipher
from headrace.config import places, sealing
from headrace.edge import operator_messages
from headrace.errors import ConfigError, StartupError
from headrace.hosts import drains
from headrace.sentinels import sentinels
from headrace.top.client import _ROWS


class _File(type(Path())):  # type: ignore[misc]
    """A file that is only what it holds."""

    held = b""

    def read_bytes(self) -> bytes:
        return self.held

    def read_text(self, *_: object, **__: object) -> str:
        return self.held.decode()


_FILE = _File("/nowhere/key")


def key_file(data: bytes) -> None:
    """A file with upstream's key, with peppers, with keys that seal and encrypt; or what systemd hands on of them."""
    _FILE.held = data
    _, key, problem = places._read_key(_FILE)
    assert problem or key.isprintable()
    with contextlib.suppress(ConfigError):
        assert all(len(pepper) >= 16 for pepper in places._peppers(_FILE, data))
    for read in (sealing._of, lambda path: sealing._encrypted(path, None)):
        with contextlib.suppress(ConfigError):
            made = read(_FILE)
            assert made.open("a", made.seal("a", b"said")) == b"said"


_CIPHER = Cipher([b"k" * 32, b"l" * 32], seal.Mac(b"m" * 32))


def encrypted(data: bytes) -> None:
    """What lies where what is encrypted should."""
    assert _CIPHER.open("a", _CIPHER.seal("a", data)) == data
    for raw in (data, _CIPHER.seal("b", data), _CIPHER.seal("a", b"said")[: len(data) % 60] + data):
        with contextlib.suppress(seal.Broken):
            _CIPHER.open("a", raw)
            raise AssertionError("opened what was not sealed here")


class _Tar(io.BytesIO):
    """A backup in memory, where one reads a file."""

    strerror = ""


@contextlib.contextmanager
def _opened(data: bytes) -> Iterator[None]:
    real = tarfile.open
    backups.tarfile.open = lambda file: real(fileobj=io.BytesIO(data))  # type: ignore[assignment, attr-defined]
    try:
        yield
    finally:
        backups.tarfile.open = real  # type: ignore[attr-defined]


def backup(data: bytes) -> None:
    """A backup; and one whose about.json is this."""
    for raw in (data, _tar({"about.json": data, "dump.rdb": b"x"})):
        with _opened(raw), contextlib.suppress(StartupError):
            backups._read(Path("/nowhere/backup"))


def _tar(members: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in members.items():
            tar.addfile(backups._member(name, len(content)), io.BytesIO(content))
    return made.getvalue()


_AT_ONCE = 1 << 14  # bytes of a file, which is read before anything is served


def append_only(data: bytes) -> None:
    """A damaged file of commands: what is taken over of it is whole, in order, and is taken over as it is the next time."""
    data = data[:_AT_ONCE]
    said = data.decode(errors="replace")  # as serverlog.py reads it
    aof.is_damage(said)
    aof.unknown_commands(said)
    ranges, last = list(aof.readable(data)), 0
    for begin, end in ranges:
        assert last <= begin < end <= len(data)
        last = end
    kept = b"".join(data[begin:end] for begin, end in ranges)
    assert sum(end - begin for begin, end in aof.readable(kept)) == len(kept)


def done(data: bytes) -> None:
    """An act as Redis has it: its place in the stream on the first line."""
    place, _, said = data.partition(b"\n")
    act = audit._read(place, [b"act", said])
    if act is not None:
        operator_messages.act(act).SerializeToString()


class _Unlinked(trails.Trails):
    def __init__(self) -> None:
        self._seal = seal.UNSEALED


_TRAILS = _Unlinked()


_MOST_TRIES = 1000  # of one ticket: `retry.max_attempts` bounds them


def tried(data: bytes) -> None:
    """The tries of a ticket, one a line."""
    made = _TRAILS._read("t1", data.split(b"\n")[:_MOST_TRIES])
    operator_messages.phases(tuple(made), began=NOW, took_s=5.0)


def mark(data: bytes) -> None:
    """What marks a schema, and a process that was taken out of service."""
    schema.problem(data)
    found = drains._read(data)
    assert found is not None
    msgspec.json.encode(found)


def maker(data: bytes) -> None:
    """Who made a batch, as Redis has it."""
    made = counted._maker(data)
    assert made is None or made.owner is not None


_SEEN = tuple(
    Seen(id=f"org:{form}", limit="org", kind="requests", form=form, capacity=1000, rate_per_minute=1000, ends_us=int(NOW * 1e6))
    for form in (Form.RATE, Form.WINDOW)
)


def level(data: bytes) -> None:
    """What is in a bucket: a field a line."""
    said = dict(line.partition(b"=")[::2] for line in data.split(b"\n"))
    for seen in _SEEN:
        found = board._level_or_none(seen, said, int(NOW * 1e6))
        assert found.left >= 0
        operator_messages._stamp(found.full_at or 0.0)


def told(data: bytes) -> None:
    """What another process says of itself, and of what it saw of buckets."""
    for kind in (News, View):
        with contextlib.suppress(ValueError):
            found: Any = msgspec.json.decode(data, type=kind)
            if kind is View:
                board.merge([found, found])


def shown(data: bytes) -> None:
    """A view as `headrace top` is told it."""
    found = msgspec.convert(json.loads(data), Shown)
    for row in found.rows:
        msgspec.convert(row, _ROWS[found.view])


def named_sentinels(data: bytes) -> None:
    """The address of a Redis that Sentinels know."""
    found = sentinels("redis+sentinel://" + text(data))
    assert found is not None
    assert all(0 <= port < 65_536 for _, port in found.addresses)


TARGETS = (
    Target("keys.file", key_file, (), "keys.file", (b"sk-ant-", b"\nexport KEY=")),
    Target("cipher", encrypted, (), "cache.entry", weight=2),
    Target("backups", backup, (), "backups", (b'"sha256":', b'"format":1'), weight=40),
    Target("aof", append_only, (), "aof", (b"*1\r\n$4\r\nEXEC\r\n", b"*1\r\n$5\r\nMULTI\r\n", b"\r\n", b"$3\r\nSET")),
    Target("audit.act", done),
    Target("tickets.tries", tried),
    Target("marks", mark),
    Target("batches.maker", maker),
    Target("budgets.level", level),
    Target("surveys", told),
    Target("top.view", shown, (ValueError, KeyError, RecursionError)),
    Target("redis.sentinels", named_sentinels, (ValueError,)),
)
