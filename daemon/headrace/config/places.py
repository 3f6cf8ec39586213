"""
Where things lie: state, sockets, and upstream's key.

systemd says so by environment (`StateDirectory=`, `RuntimeDirectory=`, `LoadCredential=`), a desktop by the XDG variables. The
environment is always an argument, so that a test or a command can ask for another's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace.config.kinds import is_usable_key
from headrace.config.tables import DEFAULT_KEY_FILE, Settings

CREDENTIAL = "anthropic_api_key"
ADMIN_CREDENTIAL = "anthropic_admin_api_key"


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
    """Upstream's keys, "" where there is none: for calls, and for the Admin API."""

    api: str = field(default="", repr=False)
    admin: str = field(default="", repr=False)


def keys(settings: Settings, environ: Mapping[str, str]) -> Keys:
    """Return upstream's keys, read anew."""
    return Keys(api_key(settings, environ), admin_api_key(settings, environ))


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


def is_default_key_file(settings: Settings) -> bool:
    """Whether the key file is merely the default, which need not be there."""
    return settings.upstream.api_key_file == DEFAULT_KEY_FILE


def _read_key(path: Path) -> tuple[str, str, str]:
    try:
        return _judged(str(path), path.read_text(encoding="utf-8"))
    except OSError as error:
        return str(path), "", error.strerror or "cannot be read"
    except UnicodeDecodeError:
        return str(path), "", "is not text"


def _judged(place: str, text: str) -> tuple[str, str, str]:
    key = text.strip()
    problem = "is empty" if not key else "" if is_usable_key(key) else "is not one line of printable ASCII"
    return place, key, problem
