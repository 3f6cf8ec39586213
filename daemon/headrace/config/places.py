"""
Where things lie: state, sockets, Redis, and keys.

systemd says so by environment (`StateDirectory=`, `RuntimeDirectory=`, `LoadCredential=`), a desktop by the XDG variables. The
environment is always an argument, so that a test or a command can ask for another's.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit, urlunsplit

from headrace.config.kinds import is_usable_key
from headrace.config.tables import DEFAULT_KEY_FILE, DEFAULT_PEPPER_FILE, Settings
from headrace.errors import ConfigError

CREDENTIAL = "anthropic_api_key"
ADMIN_CREDENTIAL = "anthropic_admin_api_key"
PEPPER_CREDENTIAL = "key_pepper"
REDIS_CREDENTIAL = "redis_password"

_SHORTEST_PEPPER = 16
_ASSIGNED = re.compile(r"(export\s+)?[A-Z][A-Z0-9_]*\s*=")  # as in a file of environment variables


def state_dir(environ: Mapping[str, str]) -> Path:
    """Return the default of `state.dir`: systemd's, else the user's own."""
    if directory := environ.get("STATE_DIRECTORY"):
        return Path(directory.split(":")[0])
    base = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME") or Path.home(), ".local", "state")
    return Path(base, "headrace")


def runtime_dir(environ: Mapping[str, str], settings: Settings | None = None) -> Path:
    """Return where relative sockets lie: systemd's runtime directory, else the user's, else the state directory."""
    if directory := environ.get("RUNTIME_DIRECTORY"):
        return Path(directory.split(":")[0])
    if base := environ.get("XDG_RUNTIME_DIR"):
        return Path(base, "headrace")
    return Path(settings.state.dir) if settings else state_dir(environ)


def resolve(address: str, directory: Path) -> str:
    """Return the address of a gRPC endpoint with its socket's path made absolute: relative ones lie in *directory*."""
    if not address.startswith("unix:"):
        return address
    return f"unix:{directory / address.removeprefix('unix:')}"


def api_key(settings: Settings, environ: Mapping[str, str]) -> str:
    """Return upstream's key, read anew from the first place that has one; "" if none has."""
    return next((key for _, key, problem in key_sources(settings, environ) if not problem), "")


@dataclass(frozen=True, slots=True)
class Keys:
    """Upstream's keys, "" where there is none: for calls, and for the Admin API; peppers for the keys of callers."""

    api: str = field(default="", repr=False)
    admin: str = field(default="", repr=False)
    peppers: tuple[bytes, ...] = field(default=(), repr=False)


def keys(settings: Settings, environ: Mapping[str, str]) -> Keys:
    """Return all keys, read anew; raises `ConfigError` where there is to be a pepper and is none."""
    return Keys(api_key(settings, environ), admin_api_key(settings, environ), peppers(settings, environ))


def peppers(settings: Settings, environ: Mapping[str, str]) -> tuple[bytes, ...]:
    """
    Return what keys the digests of callers' keys, the newest first, one a line of its file; () for none.

    From the file or else the credential; raises `ConfigError` where there is one that cannot be read. The default need not
    be there.
    """
    path = Path(settings.auth.pepper_file)
    try:
        return _peppers(path, path.read_bytes())
    except OSError as error:
        if handed := _credential(environ, PEPPER_CREDENTIAL):
            return _peppers(path, handed)
        if isinstance(error, FileNotFoundError) and settings.auth.pepper_file == DEFAULT_PEPPER_FILE:
            return ()
        raise ConfigError(f"auth.pepper_file: {path}: cannot be read: {error.strerror}") from error


def _peppers(path: Path, content: bytes) -> tuple[bytes, ...]:
    lines = tuple(filter(None, map(bytes.strip, content.splitlines())))
    if not lines or any(len(line) < _SHORTEST_PEPPER for line in lines):
        raise ConfigError(f"auth.pepper_file: {path}: must have a secret of {_SHORTEST_PEPPER} characters or more in each line")
    return lines


def _credential(environ: Mapping[str, str], name: str) -> bytes:
    # Blank where systemd had none to hand on.
    with contextlib.suppress(OSError):
        return Path(environ["CREDENTIALS_DIRECTORY"], name).read_bytes().strip() if "CREDENTIALS_DIRECTORY" in environ else b""
    return b""


def redis_password(settings: Settings, environ: Mapping[str, str]) -> str:
    """Return what `redis.password_file` or else the credential says; "" for none. Raises `ConfigError` if it cannot be read."""
    if not (named := settings.redis.password_file):
        return _credential(environ, REDIS_CREDENTIAL).decode(errors="replace")
    try:
        password = Path(named).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise ConfigError(f"redis.password_file: {named}: {reason}") from None
    if not password or "\n" in password:
        raise ConfigError(f"redis.password_file: {named}: must be one line")
    return password


def with_password(url: str, password: str) -> str:
    """Return the URL of a Redis with this password in it; raises ValueError if it has one already."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    if ":" in user:
        raise ValueError("has a password")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}"))


def redis_url(settings: Settings) -> str:
    """Return the configured Redis with how TLS is spoken to it, as every connection takes it; "" for our own Valkey."""
    redis = settings.redis
    files = {"ssl_ca_certs": redis.tls_ca, "ssl_certfile": redis.tls_certificate, "ssl_keyfile": redis.tls_key}
    options = urlencode({name: path for name, path in files.items() if path})
    return f"{redis.url}{'&' if '?' in redis.url else '?'}{options}" if options else str(redis.url)


def admin_api_key(settings: Settings, environ: Mapping[str, str]) -> str:
    """Return the key for the Admin API, read anew from the first place that has one; "" if none has."""
    return next((key for _, key, problem in admin_key_sources(settings, environ) if not problem), "")


def admin_key_sources(settings: Settings, environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield the places of the admin key in their order, as `key_sources` does."""
    yield _judged("upstream.admin_api_key", settings.upstream.admin_api_key)
    if path := settings.upstream.admin_api_key_file:
        yield _read_key(Path(path))
    if directory := environ.get("CREDENTIALS_DIRECTORY"):
        yield _read_key(Path(directory, ADMIN_CREDENTIAL))


def key_sources(settings: Settings, environ: Mapping[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yield the places of upstream's key in their order: (place, key, what is wrong with it)."""
    yield _judged("upstream.api_key", settings.upstream.api_key)
    yield _read_key(Path(settings.upstream.api_key_file))
    yield _judged("ANTHROPIC_API_KEY", environ.get("ANTHROPIC_API_KEY", ""))
    if directory := environ.get("CREDENTIALS_DIRECTORY"):
        yield _read_key(Path(directory, CREDENTIAL))


def require_named_key(settings: Settings, environ: Mapping[str, str]) -> None:
    """Raise `ConfigError` where the file of upstream's key is named in the settings, gives none, and there is no other."""
    if settings.upstream.credentials == "caller" or is_default_key_file(settings) or api_key(settings, environ):
        return
    place, _, problem = list(key_sources(settings, environ))[1]
    raise ConfigError(f"upstream.api_key_file: {place}: {problem}, and no other place has a key")


def is_default_key_file(settings: Settings) -> bool:
    """Whether the key file is merely the default, which need not be there."""
    return settings.upstream.api_key_file == DEFAULT_KEY_FILE


def environments_proxy(base_url: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """
    Return the variable and the value by which the environment names a proxy on the way to *base_url*; "" twice for none.

    `HTTPS_PROXY` or `HTTP_PROXY` by the URL's scheme, else `ALL_PROXY`, unless `NO_PROXY` names the host. In either case of
    letters, the lower one first, as other programs read them; a web server's `HTTP_PROXY` is a header of some request's.
    """
    parts = urlsplit(base_url)
    if _is_spared(parts.hostname or "", _variable(environ, "no_proxy")[1]):
        return "", ""
    for name in (f"{parts.scheme}_proxy", "all_proxy"):
        variable, value = _variable(environ, name)
        if value and not (variable == "HTTP_PROXY" and "REQUEST_METHOD" in environ):
            return variable, value if "://" in value else f"http://{value}"
    return "", ""


def _variable(environ: Mapping[str, str], name: str) -> tuple[str, str]:
    return next(((spelled, environ[spelled]) for spelled in (name, name.upper()) if environ.get(spelled)), ("", ""))


def _is_spared(host: str, spared: str) -> bool:
    # Names with all that ends in them, addresses, networks ("10.0.0.0/8"), or "*" for everything; a port counts for nothing.
    for entry in (entry.strip().lower() for entry in spared.split(",")):
        name = entry.lstrip(".").removeprefix("*.")
        if entry == "*" or (name and (host == name or host.endswith(f".{name}") or _is_in(host, name))):
            return True
        if name.count(":") == 1 and host == name.partition(":")[0]:
            return True
    return False


def _is_in(host: str, network: str) -> bool:
    try:
        return ip_address(host) in ip_network(network, strict=False)
    except ValueError:
        return False


def _read_key(path: Path) -> tuple[str, str, str]:
    try:
        return _judged(str(path), path.read_text(encoding="utf-8"))
    except OSError as error:
        return str(path), "", error.strerror or "cannot be read"
    except UnicodeDecodeError:
        return str(path), "", "is not text"


def _judged(place: str, text: str) -> tuple[str, str, str]:
    key = text.strip()
    if not key:
        return place, key, "is empty"
    if _ASSIGNED.match(key):
        return place, key, "has NAME= in front of the key"
    return place, key, "" if is_usable_key(key) else "is not one line of printable ASCII"
