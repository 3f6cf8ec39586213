"""
What our own Valkey has written down, made readable again where a part of it is damaged. It blocks.

Valkey reads a file of commands whose end is missing, and refuses one that is bad in the middle. Then what can be read is
written anew, up to the damage and behind it, by whole commands and whole transactions; and all that there was is moved aside as
it is, so that nothing is lost that somebody might still read.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

FOLDER = "appendonlydir"
MANIFEST = "appendonly.aof.manifest"
ASIDE = "damaged-*"
_FRESH = f"{FOLDER}.mending"

_MOST_DIGITS = 20  # of a count, with its mark and end
# What the server says of data that it cannot read; of a full disk or missing rights it says something else.
_BASE = re.compile(
    r"RDB CRC|Wrong signature|Can't handle RDB|Short read or OOM|Internal error in RDB|Terminating server after rdb file"
)
_DAMAGE = re.compile(
    rf"{_BASE.pattern}|Bad file format|Unexpected end of file|[Uu]nknown command '|AOF MANIFEST FILE ERROR|AOF .* doesn't exist"
)
_UNKNOWN = re.compile(r"[Uu]nknown command '([^']*)'")


@dataclass(frozen=True, slots=True)
class Mended:
    """Where what there was lies now; how many bytes were taken over, and how many were not."""

    aside: Path
    kept: int
    lost: int


Content = bytes | mmap.mmap
Range = tuple[int, int]


def is_damage(said: str) -> bool:
    """Whether a server that ended says that it cannot read its data."""
    return bool(_DAMAGE.search(said))


def unknown_commands(said: str) -> set[bytes]:
    """Return the names, in capitals, of commands that a server said it does not know."""
    return {name.upper().encode() for name in _UNKNOWN.findall(said)}


def asides(directory: Path) -> list[Path]:
    """Return what was moved aside in a server's directory, the eldest first."""
    return sorted(directory.glob(ASIDE))


def begin_with(directory: Path, dump: bytes) -> None:
    """Let a server in this directory, which is made, begin with what another had in memory, as that one dumped it."""
    name = "appendonly.aof.1.base.rdb"
    directory.mkdir(mode=0o700)
    (directory / FOLDER).mkdir(mode=0o700)
    (directory / FOLDER / name).write_bytes(dump)
    _write_manifest(directory / FOLDER, [name], [])


def set_aside(directory: Path) -> Mended:
    """Move all that there is aside, so that the server begins with nothing."""
    shutil.rmtree(directory / _FRESH, ignore_errors=True)
    size = sum(path.stat().st_size for path in (directory / FOLDER).iterdir())
    return Mended(_move_aside(directory), 0, size)


def mend(directory: Path, said: str) -> Mended:
    """
    Write anew what can be read of what there is, and move that aside. Raises `OSError`, and then all is as it was.

    The base, the state from which the commands go on, is one piece: if it cannot be read it stays aside as a whole.

    Args:
        said: why the server ended, in its own words. Commands that it does not know are left out.
    """
    fresh = directory / _FRESH
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(mode=0o700)
    kept, lost = _write_anew(directory / FOLDER, fresh, said)
    aside = _move_aside(directory)
    finish(directory)
    return Mended(aside, kept, lost)


def finish(directory: Path) -> None:
    """Put what was written anew in its place, if what was there before has gone aside; who was killed left it at that."""
    if not (directory / FOLDER).exists() and (directory / _FRESH).exists():
        (directory / _FRESH).rename(directory / FOLDER)


def _write_anew(old: Path, fresh: Path, said: str) -> tuple[int, int]:
    """Return how many bytes were taken over, and how many were not."""
    bases, commands = _parts(old)
    base_bytes = sum((old / name).stat().st_size for name in bases)
    kept, lost = (0, base_bytes) if _BASE.search(said) else (base_bytes, 0)
    bases = [] if lost else bases
    for name in bases:
        os.link(old / name, fresh / name)  # the server never writes into it
    for name in commands:
        taken, left = _rewrite(old / name, fresh / name, unknown_commands(said))
        kept, lost = kept + taken, lost + left
    _write_manifest(fresh, bases, commands)
    return kept, lost


def _move_aside(directory: Path) -> Path:
    aside = directory / f"damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}-{os.urandom(2).hex()}"
    aside.mkdir(mode=0o700)
    (directory / FOLDER).rename(aside / FOLDER)
    return aside


def _parts(folder: Path) -> tuple[list[str], list[str]]:
    """Return the name of the base, if there is one, and those of the files of commands after it, in order."""
    found = sorted((int(match[1]), match[2], path.name) for path in folder.iterdir() if (match := _PART.search(path.name)))
    listed = _listed(folder)
    bases = [name for _, kind, name in found if kind == "base"]
    # A newer one may be there that is not in force yet: it has what the files of commands say already.
    base = ([name for name in bases if name in listed] or bases)[-1:]
    return base, [name for _, kind, name in found if kind == "incr" and (not listed or name in listed)]


_PART = re.compile(r"\.(\d+)\.(base|incr)\.(?:rdb|aof)\Z")


def _listed(folder: Path) -> set[str]:
    # Files that the server would have removed next are there, too, and must not be read once more.
    try:
        lines = (folder / MANIFEST).read_text(errors="replace").splitlines()
    except OSError:
        return set()
    return {words[1] for line in lines if len(words := line.split()) == 6 and words[0] == "file" and words[5] in ("b", "i")}


def _write_manifest(folder: Path, bases: list[str], commands: list[str]) -> None:
    lines = [f"file {name} seq {_number(name)} type b\n" for name in bases]
    lines += [f"file {name} seq {_number(name)} type i\n" for name in commands]
    (folder / MANIFEST).write_text("".join(lines))


def _number(name: str) -> int:
    found = _PART.search(name)
    return int(found[1]) if found else 0


# Commands.


def _rewrite(source: Path, target: Path, without: Collection[bytes]) -> tuple[int, int]:
    """Write what can be read of a file of commands into another, and return how many bytes that is, and how many it is not."""
    kept, size = 0, source.stat().st_size
    with open(source, "rb") as whole, open(target, "wb") as file:
        content = mmap.mmap(whole.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
        for start, end in readable(content, without=without):
            file.write(content[start:end])
            kept += end - start
    shutil.copymode(source, target)
    return kept, size - kept


def readable(content: Content, *, without: Collection[bytes] = ()) -> Iterator[Range]:
    """Yield the ranges of whole commands, and of transactions as a whole: one that has lost a part is left out."""
    begun: int | None = None  # where a transaction begins
    doubtful: list[Range] = []  # behind a damage: they may be the rest of a transaction
    is_behind, at = False, 0
    while at < len(content):
        found = _command(content, at)
        if found is None or found[1] in without:
            begun, is_behind = None, True
            at = found[0] if found else _next(content, at + 1)
            continue
        end, name = found
        if begun is not None:
            if name == b"EXEC":
                yield begun, end
                begun = None
        elif name == b"MULTI":
            yield from doubtful
            begun, doubtful, is_behind = at, [], False
        elif name == b"EXEC":
            doubtful, is_behind = [], False
        elif is_behind:
            doubtful.append((at, end))
        else:
            yield at, end
        at = end
    yield from doubtful


def _command(content: Content, at: int) -> tuple[int, bytes] | None:
    """Return where the command that begins here ends, and its name in capitals; None if it cannot be read."""
    if content[at : at + 1] == b"#":  # a remark
        end = content.find(b"\r\n", at)
        return (end + 2, b"#") if end >= 0 else None
    head = _count(content, at, b"*")
    if head is None or head[0] < 1:
        return None
    count, at = head
    name = b""
    for number in range(count):
        argument = _count(content, at, b"$")
        if argument is None:
            return None
        size, start = argument
        at = start + size + 2
        if content[at - 2 : at] != b"\r\n":
            return None
        if number == 0:
            name = content[start : start + size].upper()
    return at, name


def _count(content: Content, at: int, mark: bytes) -> tuple[int, int] | None:
    """Return the number behind a mark, and where the line behind it begins."""
    end = content.find(b"\r\n", at, at + _MOST_DIGITS)
    digits = content[at + 1 : end]
    if content[at : at + 1] != mark or end < 0 or not digits.isdigit():
        return None
    return int(digits), end + 2


def _next(content: Content, at: int) -> int:
    """Return where the next command begins that can be read, and one behind it, too; the end if there is none."""
    while (at := content.find(b"*", at)) >= 0:
        found = _command(content, at)
        if found and (found[0] == len(content) or _command(content, found[0])):
            return at
        at += 1
    return len(content)
