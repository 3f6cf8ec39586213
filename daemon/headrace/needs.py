"""
What a daemon needs of its machine before it can serve: one list, gone through by `serve` and by `config check` alike.

So the two cannot disagree: `serve` goes no further than the first need that is not met, and a check names all of them. To see
whether one is met leaves nothing behind, since a check may be run by another user than the daemon's, and beside a daemon.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from headrace import embedded, owned, sockets
from headrace.certificates import Certificates
from headrace.clock import SystemClock
from headrace.config import Settings, keys, places, redis_url, resolve, runtime_dir, sealing
from headrace.config.kinds import split_address
from headrace.errors import ConfigError, StartupError
from headrace.lockfile import is_locked

Need = Callable[[], object]  # raises ConfigError or StartupError

_UNIX = "unix:"


def meet(settings: Settings, environ: Mapping[str, str]) -> None:
    """Raise `ConfigError` or `StartupError` for the first need that is not met."""
    for need in _needs(settings, environ):
        need()


def meet_as_worker(settings: Settings, environ: Mapping[str, str]) -> None:
    """The same for what a worker needs."""
    for need in _shared_needs(settings, environ):
        need()
    _worker_port(settings)


def unmet(settings: Settings, environ: Mapping[str, str]) -> list[ConfigError | StartupError]:
    """Return an error for each need that is not met."""
    return [error for need in _needs(settings, environ) if (error := _error_of(need)) is not None]


def _error_of(need: Need) -> ConfigError | StartupError | None:
    try:
        need()
    except (ConfigError, StartupError) as error:
        return error
    return None


def _needs(settings: Settings, environ: Mapping[str, str]) -> Iterator[Need]:
    yield from _shared_needs(settings, environ)
    yield lambda: _certificates(settings)
    yield lambda: writable(Path(settings.state.dir), "state.dir")
    yield lambda: owned.require_whole(Path(settings.state.dir))
    if not settings.redis.url:
        yield embedded.find_binary
    yield from (_door(text, settings, environ) for text in settings.listen.grpc)
    yield lambda: _port(settings.listen.http, "listen.http", settings)


def _shared_needs(settings: Settings, environ: Mapping[str, str]) -> Iterator[Need]:
    yield lambda: keys(settings, environ)
    yield lambda: places.require_named_key(settings, environ)
    yield lambda: sealing.check(settings, environ)
    yield lambda: _redis_options(settings)


def _worker_port(settings: Settings) -> None:
    if address := settings.worker.listen:
        _port(address, "worker.listen", settings)


def _redis_options(settings: Settings) -> None:
    if not (url := redis_url(settings)):
        return
    from redis.exceptions import RedisError

    from headrace import servers

    try:
        servers.pool(url).make_connection()  # type: ignore[no-untyped-call]  # the library's own gap; it connects to nobody
    except (TypeError, ValueError, RedisError):
        options = ", ".join(sorted({part.partition("=")[0] for part in urlsplit(url).query.split("&")}))
        raise ConfigError(f"redis.url: an option in it is not known, or its value is no good ({options})") from None


def _certificates(settings: Settings) -> None:
    listen = settings.listen
    if listen.tls_certificate:
        Certificates(listen.tls_certificate, listen.tls_key, listen.tls_client_ca, SystemClock())


def writable(directory: Path, key: str) -> None:
    """Raise `StartupError` unless a file can be made in the directory, which is made and removed again where there is none."""
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = directory / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise StartupError(
            f"{key}: cannot write to {directory}: {error.strerror}; make it writable for this user, or name another"
        ) from error
    finally:
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


# Doors.


def _door(text: str, settings: Settings, environ: Mapping[str, str]) -> Need:
    if text.startswith(_UNIX):
        return lambda: _socket(text, settings, environ)
    return lambda: _port(text, "listen.grpc", settings)


def _socket(text: str, settings: Settings, environ: Mapping[str, str]) -> None:
    runtime = runtime_dir(environ, settings)
    path = Path(resolve(text.replace("unix://", _UNIX, 1), runtime).removeprefix(_UNIX))
    sockets.check_length(path)
    if path.parent != runtime and not path.parent.is_dir():
        # Only what is ours to make is made: of a path in full a part may be a slip.
        raise StartupError(f"listen.grpc: {text}: there is no directory {path.parent}; make it, or name another")
    sockets.check_group(settings.listen.socket_group)
    if path.parent != Path(settings.state.dir):  # of which it is said already
        writable(path.parent, "listen.grpc")


def _port(address: str, key: str, settings: Settings) -> None:
    """Raise `StartupError` unless the address can be listened on; one in use is the daemon's that has the state directory."""
    host, port = split_address(address)
    problem = port_problem(host, port)
    if problem is None or (problem.errno == errno.EADDRINUSE and is_locked(Path(settings.state.dir) / "headrace.lock")):
        return
    raise StartupError(f"{key}: cannot listen on {address}: {problem.strerror or problem}") from problem


def port_problem(host: str, port: int) -> OSError | None:
    """Return why a port cannot be listened on, None if it can; of a name with many addresses one is enough."""
    problem: OSError | None = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        return error
    for family, kind, _, _, address in found:
        try:
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
            return None
        except OSError as error:
            problem = error
    return problem
