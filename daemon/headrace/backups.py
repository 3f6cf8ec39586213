"""
`headrace backup FILE` and `headrace restore FILE`: what our own Valkey holds, in one file, and back.

The file is a tar: what the server had in memory at one moment (dump.rdb), the key by which it is sealed (mac_key), and what it
is (about.json). It is as secret as the state directory. A backup may be made beside a running daemon; restoring needs that none
runs, tries the file in a server of its own first, and keeps what was there.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace import built
from headrace.errors import StartupError
from headrace.terminal import ConfigOption, load, own_directory, own_redis

if TYPE_CHECKING:
    import redis

    from headrace.config import Settings

_FORMAT = 1
_DUMP, _KEY, _ABOUT = "dump.rdb", "mac_key", "about.json"
_PATIENCE_S = 600.0
_TURN_S = 0.05

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="The backup, a tar.")]


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was read: when it was made, of how many keys; the server's memory, and the key of the seals, if any."""

    made: str
    keys: int
    dump: bytes
    key: bytes


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("backup")(backup)
    app.command("restore")(restore)


def backup(file: FileArgument, config: ConfigOption = None) -> None:
    """Write what our own Valkey holds (tickets, callers' keys, budgets, usage) into a file; the daemon may run."""
    import redis

    settings, _ = load(config)
    _require_own(settings)
    if file.exists():
        raise StartupError(f"{file} is there already; name another file")
    with own_redis(settings) as url, redis.Redis.from_url(url) as client:
        count = client.dbsize()
        with _dumped(client) as dump:
            _write(file, {_DUMP: dump.read_bytes(), **_own_key(settings)}, int(count))
    typer.echo(f"{count} keys in {file}")


def restore(file: FileArgument, config: ConfigOption = None) -> None:
    """Put a backup in the place of what our own Valkey holds; the daemon must not run. What was there is kept beside it."""
    from headrace import logs
    from headrace.lockfile import StateLock

    settings, _ = load(config)
    _require_own(settings)
    logs.set_up_logs(level=40)  # the server's comings and goings are no news here
    found, directory = _read(file), own_directory(settings)
    with StateLock(directory):
        _require_nobody(directory)
        fresh = directory / f"valkey.restoring-{os.getpid()}"
        try:
            count = _try(fresh, found.dump, file)
            kept = _swap(directory, fresh, found.key)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    typer.echo(f"{count} keys of {found.made} are restored{f'; what was there is in {kept}' if kept else ''}; start the daemon")


def _require_own(settings: Settings) -> None:
    if settings.redis.url:
        raise StartupError("redis.url: is set, so there is no Valkey of our own; back that server up by its own means")


# Making one.


@contextlib.contextmanager
def _dumped(client: redis.Redis) -> Iterator[Path]:
    """Let the server write its memory into a file beside its data, until the block ends."""
    said: Any = client.config_get("dir", "dbfilename")
    where = {_text(name): _text(value) for name, value in said.items()}
    path = Path(where["dir"], where["dbfilename"])  # nobody else's: what the server keeps is in its append-only files
    try:
        _save(client)
        yield path
    finally:
        path.unlink(missing_ok=True)


def _text(value: bytes | str) -> str:
    return os.fsdecode(value)


def _save(client: redis.Redis) -> None:
    client.bgsave(schedule=True)
    give_up = time.monotonic() + _PATIENCE_S
    facts: Any = client.info("persistence")
    while facts["rdb_bgsave_in_progress"] or facts.get("aof_rewrite_in_progress"):
        if time.monotonic() > give_up:
            raise StartupError(f"our own Valkey did not write its memory within {_PATIENCE_S:g} s")
        time.sleep(_TURN_S)
        facts = client.info("persistence")
    if facts["rdb_last_bgsave_status"] != "ok":
        raise StartupError("our own Valkey could not write its memory; is there room on the disk of state.dir?")


def _own_key(settings: Settings) -> dict[str, bytes]:
    path = Path(settings.state.dir, _KEY)
    return {_KEY: path.read_bytes()} if path.exists() else {}


def _write(file: Path, members: dict[str, bytes], count: int) -> None:
    sums = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    about = {"format": _FORMAT, "headrace": built.version(), "made": made, "keys": count, "sha256": sums}
    members = {_ABOUT: json.dumps(about, indent=2).encode(), **members}
    fresh = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as target:
            with tarfile.open(fileobj=target, mode="w") as tar:
                for name, content in members.items():
                    tar.addfile(_member(name, len(content)), io.BytesIO(content))
            target.flush()
            os.fsync(target.fileno())
        fresh.rename(file)
    except OSError as error:
        raise StartupError(f"{file}: cannot be written: {error.strerror}") from error
    finally:
        fresh.unlink(missing_ok=True)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o600, int(time.time())
    return member


# Taking one back.


def _read(file: Path) -> Backup:
    """Return what a backup holds; raises `StartupError` if it is none, or not whole."""
    try:
        with tarfile.open(file) as tar:
            members = {name: _content(tar, name) for name in (_ABOUT, _DUMP, _KEY) if name in tar.getnames()}
        about = json.loads(members.pop(_ABOUT))
        sums, made, count = dict(about["sha256"]), str(about["made"]), int(about["keys"])
    except OSError as error:
        raise StartupError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (tarfile.TarError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise StartupError(f"{file}: is no backup of headrace's, or is not whole") from error
    if about.get("format") != _FORMAT:
        raise StartupError(f"{file}: is of a newer version of headrace ({about.get('headrace')}), which this one cannot read")
    if {name: hashlib.sha256(content).hexdigest() for name, content in members.items()} != sums or _DUMP not in members:
        raise StartupError(f"{file}: has been changed since it was made, or is not whole")
    return Backup(made, count, members[_DUMP], members.get(_KEY, b""))


def _require_nobody(directory: Path) -> None:
    # A command may have started the server for a moment, and one may have outlived its daemon: it would write on, beside.
    from headrace.embedded import running_url

    if running_url(directory / "valkey"):
        raise StartupError(
            f"a server runs in {directory / 'valkey'}, though no daemon does; wait until the commands that use it have ended, "
            f"or start the daemon, which adopts it, and stop it again"
        )


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.extractfile(name)
    if member is None:
        raise KeyError(name)
    return member.read()


def _try(directory: Path, dump: bytes, file: Path) -> int:
    """Start a server on what was dumped, and return how many keys it has; raises `StartupError` if it cannot read it."""
    import redis

    from headrace import aof
    from headrace.embedded import EmbeddedValkey

    aof.begin_with(directory, dump)
    try:
        with EmbeddedValkey(directory, mends=False) as valkey, redis.Redis.from_url(valkey.url) as client:
            return int(client.dbsize())
    except StartupError as error:
        raise StartupError(f"{file}: our own Valkey cannot read it: {error}") from error


def _swap(directory: Path, fresh: Path, key: bytes) -> Path | None:
    """Put what was restored in its place, and return where what was there lies now; None if there was nothing."""
    when = time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    place, kept = directory / "valkey", directory / f"valkey.before-{when}"
    was_there = place.exists()
    if was_there:
        place.rename(kept)
        if (own := directory / _KEY).exists():
            own.rename(kept / _KEY)
    fresh.rename(place)
    if key:
        with os.fdopen(os.open(directory / _KEY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as target:
            target.write(key)
    return kept if was_there else None
