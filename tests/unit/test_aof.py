"""What can be read of damaged files of commands: whole commands, whole transactions, whatever is wrong in between."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from headrace import aof


def command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def taken(content: bytes, **options) -> bytes:
    return b"".join(content[start:end] for start, end in aof.readable(content, **options))


SET = [command(b"SET", b"k%d" % number, b"v" * number) for number in range(6)]
BEGIN, END = command(b"MULTI"), command(b"EXEC")


def test_whole():
    """What is whole is taken as it is, remarks and transactions included."""
    content = b"".join([command(b"SELECT", b"0"), SET[1], b"#TS:1\r\n", BEGIN, SET[2], SET[3], END, SET[4]])
    assert taken(content) == content
    assert taken(b"") == b""


def test_damage_in_the_middle():
    """What is before the damage and behind it is taken."""
    assert taken(SET[1] + b"nonsense" + SET[2] + SET[3]) == SET[1] + SET[2] + SET[3]
    assert taken(b"\0" * 50 + SET[2]) == SET[2]
    assert taken(SET[1] + SET[2][:-4]) == SET[1]
    assert taken(SET[1] + SET[2].replace(b"$2", b"$9") + SET[3]) == SET[1] + SET[3]


def test_torn_transactions():
    """One that has lost a part is left out as a whole, wherever the damage is."""
    assert taken(SET[1] + BEGIN + SET[2] + b"xx" + SET[3] + END + SET[4]) == SET[1] + SET[4]
    assert taken(SET[1] + b"xx" + SET[3] + END + SET[4]) == SET[1] + SET[4]
    assert taken(SET[1] + BEGIN + SET[2]) == SET[1]
    assert taken(SET[1] + b"xx" + SET[2] + BEGIN + SET[3] + END) == SET[1] + SET[2] + BEGIN + SET[3] + END
    assert taken(BEGIN + b"xx" + BEGIN + SET[3] + END) == BEGIN + SET[3] + END


def test_without():
    """Commands that the server does not know are left out."""
    assert taken(SET[1] + command(b"Sxt", b"a") + SET[2], without={b"SXT"}) == SET[1] + SET[2]
    assert aof.unknown_commands("Unknown command 'sxt' reading the append only file x") == {b"SXT"}


def test_base_in_force(tmp_path):
    """A newer base that the manifest does not name yet is left: what the commands say is in it, and would count twice."""
    folder = tmp_path / aof.FOLDER
    folder.mkdir()
    for number in (1, 2):
        (folder / f"appendonly.aof.{number}.base.rdb").write_bytes(b"base %d" % number)
        (folder / f"appendonly.aof.{number}.incr.aof").write_bytes(SET[number])
    names = ("1.base.rdb seq 1 type b", "1.incr.aof seq 1 type i", "2.incr.aof seq 2 type i")
    (folder / aof.MANIFEST).write_text("".join(f"file appendonly.aof.{name}\n" for name in names))
    aof.mend(tmp_path, "Bad file format")
    assert [path.read_bytes() for path in folder.glob("*.base.rdb")] == [b"base 1"]
    assert sorted(path.read_bytes() for path in folder.glob("*.incr.aof")) == [SET[1], SET[2]]
    (folder / aof.MANIFEST).unlink()  # which nobody can read: the newest there is
    aof.mend(tmp_path, "AOF MANIFEST FILE ERROR")
    assert len(list(folder.glob("*.base.rdb"))) == 1


@given(st.lists(st.sampled_from([*SET, BEGIN + SET[1] + SET[2] + END]), max_size=12), st.data())
def test_any_byte(pieces, data):
    """Whatever byte is another one: all pieces but one or two are there, in order, and what is taken is whole."""
    content = bytearray(b"".join(pieces))
    if not content:
        return
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    found = taken(bytes(content))
    assert taken(found) == found
    assert sum(map(len, pieces)) - len(found) <= 2 * max(map(len, pieces)) + 2
