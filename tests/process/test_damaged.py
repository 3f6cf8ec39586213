"""Damaged data of our own Valkey, in whatever place: the daemon starts, with all that can be read, and one line says so."""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time

import pytest
import redis

from headrace import aof, mending, observe
from headrace.aof import asides
from headrace.embedded import EmbeddedValkey
from headrace.errors import StartupError

KEYS = 200


def client(url):
    return redis.Redis.from_url(url, decode_responses=True)


def wait(condition, within=10.0):
    give_up = time.monotonic() + within
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


@pytest.fixture
def directory(tmp_path_factory):
    """A server's directory with some data in it, half of it in its base."""
    directory = tmp_path_factory.mktemp("d") / "valkey"
    with EmbeddedValkey(directory) as valkey, client(valkey.url) as redis_:
        for number in range(KEYS // 2):
            redis_.set(f"base{number}", "x" * 50)
        redis_.bgrewriteaof()
        wait(
            lambda: (
                not redis_.info("persistence")["aof_rewrite_in_progress"]
                and not redis_.info("persistence")["aof_rewrite_scheduled"]
            )
        )
        for number in range(KEYS // 2):
            redis_.set(f"later{number}", "x" * 50)
    return directory


@pytest.fixture
def told(monkeypatch):
    """The lines of the log that say that something was mended."""
    lines = []

    class Log:
        def __getattr__(self, level):
            return lambda event, **fields: lines.append({"event": event, "level": level, **fields})

    monkeypatch.setattr(mending, "log", Log())
    return lambda: [line for line in lines if line["event"] == observe.VALKEY_MENDED]


def part(directory, kind):
    [path] = (directory / "appendonlydir").glob(f"*.{kind}.*")
    return path


def count(directory, **options):
    with EmbeddedValkey(directory, **options) as valkey, client(valkey.url) as redis_:
        return len(redis_.keys("base*")), len(redis_.keys("later*"))


def test_middle(directory, told):
    """Bad in the middle: what is before and behind it is there, what there was lies aside."""
    path = part(directory, "incr")
    whole = path.read_bytes()
    at = len(whole) // 2
    path.write_bytes(whole[:at] + b"\0" * 100 + whole[at + 100 :])
    before = path.read_bytes()
    base, later = count(directory)
    assert base == KEYS // 2
    assert KEYS // 2 - 4 <= later < KEYS // 2
    [line] = told()
    assert line["level"] == "error"
    assert 0 < line["lost_bytes"] < 500
    assert "Bad file format" in line["reason"]
    [aside] = asides(directory)
    assert str(aside) == line["aside"]
    assert any(each.read_bytes() == before for each in aside.rglob("*.incr.aof"))
    assert count(directory) == (base, later)
    assert len(told()) == 1


def test_cut_end(directory, told):
    """Cut off at its end, as by a power failure: nothing else is lost, and it is told."""
    path = part(directory, "incr")
    path.write_bytes(path.read_bytes()[:-20])
    assert count(directory) == (KEYS // 2, KEYS // 2 - 1)
    [line] = told()
    assert "not whole" in line["reason"]
    assert asides(directory) == []


def test_other_command(directory, told):
    """A command whose name is another one: it alone is left out."""
    path = part(directory, "incr")
    path.write_bytes(path.read_bytes().replace(b"SET\r\n$6\r\nlater3", b"SXT\r\n$6\r\nlater3", 1))
    assert count(directory) == (KEYS // 2, KEYS // 2 - 1)
    assert len(told()) == 1


def test_base(directory, told):
    """A base that cannot be read stays aside; what came after it is there."""
    path = part(directory, "base")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + b"\xff" * 40 + whole[len(whole) // 2 + 40 :])
    base, later = count(directory)
    assert (base, later) == (0, KEYS // 2)
    [line] = told()
    assert line["lost_bytes"] >= len(whole)


def test_manifest(directory, told):
    """A manifest that makes no sense is written anew, and nothing is lost."""
    (directory / "appendonlydir" / "appendonly.aof.manifest").write_bytes(b"\0" * 60)
    assert count(directory) == (KEYS // 2, KEYS // 2)
    assert len(told()) >= 1


def test_nothing_left(directory, told):
    """Where nothing can be read the server begins anew, and what there was lies aside."""
    for kind in ("base", "incr"):
        part(directory, kind).write_bytes(b"nonsense\n" * 10)
    assert count(directory) == (0, 0)
    assert told()[-1]["lost_bytes"] > 0
    assert asides(directory)


def test_strictly(directory):
    """What is not to be mended is an error."""
    part(directory, "incr").write_bytes(b"nonsense\n" * 10)
    with pytest.raises(StartupError, match="Bad file format"):
        count(directory, mends=False)
    assert asides(directory) == []


def test_while_it_runs(directory, told):
    """A server that died on damaged data is started again on what can be read, and nobody waits for that."""
    with EmbeddedValkey(directory) as valkey:
        path = part(directory, "incr")
        whole = path.read_bytes()
        with open(path, "r+b") as file:
            file.seek(len(whole) // 2)
            file.write(b"\0" * 100)
        os.kill(valkey.pid, signal.SIGKILL)

        def answers():
            valkey.ensure()
            try:
                with client(valkey.url) as redis_:
                    return redis_.ping()
            except redis.exceptions.RedisError:
                return False

        wait(answers, within=30)
        with client(valkey.url) as redis_:
            assert len(redis_.keys("base*")) == KEYS // 2
            assert len(redis_.keys("later*")) >= KEYS // 2 - 4
    assert len(told()) == 1
    assert threading.active_count() < 10
    assert re.match(r"\d+", json.dumps(told()[0]["lost_bytes"]))


def test_cannot_be_mended(directory):
    """Where what can be read cannot be written, as on a full disk, all stays as it was, and it is said."""
    path = part(directory, "incr")
    path.write_bytes(b"nonsense\n" * 10)
    odd = path.with_name("appendonly.aof.9.incr.aof")  # no file, so it cannot be written anew
    odd.mkdir()
    manifest = directory / "appendonlydir" / "appendonly.aof.manifest"
    manifest.write_text(f"{manifest.read_text()}file {odd.name} seq 9 type i\n")
    before = {each.name for each in path.parent.iterdir()}
    with pytest.raises(StartupError, match="no server can be run"):
        count(directory)
    assert {each.name for each in path.parent.iterdir()} == before
    assert asides(directory) == []


def test_killed_meanwhile(directory):
    """What was written anew takes its place at the next start, if whoever wrote it was killed before it could."""
    said = "Bad file format reading the append only file"
    aof.mend(directory, said)
    (directory / "appendonlydir").rename(directory / "appendonlydir.mending")
    assert count(directory) == (KEYS // 2, KEYS // 2)
