"""
The seal of what lies in Redis: whose key it is, and where that comes from.

Daemons that share a Redis share a key, from `state.mac_key_file` or a systemd credential; without one there is no seal, and who
may write to that Redis may put words into answers. Our own Valkey is nobody else's, and its key is made and kept beside it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from headrace.config.tables import Settings
from headrace.errors import ConfigError
from headrace.seal import MIN_KEY_BYTES, UNSEALED, Mac, Seal

CREDENTIAL = "headrace_mac_key"
_OWN_KEY = "mac_key"


def seal(settings: Settings, environ: Mapping[str, str]) -> Seal:
    """Return the seal; raises `ConfigError` if there is a key that cannot be read, or is too short."""
    path = key_file(settings, environ)
    if path is not None:
        return _of(path)
    if settings.redis.url:
        return UNSEALED
    return _of(_own_key(Path(settings.state.dir)))


def key_file(settings: Settings, environ: Mapping[str, str]) -> Path | None:
    """Return the file of the key that all daemons share, if there is one."""
    if settings.state.mac_key_file:
        return Path(settings.state.mac_key_file)
    credential = Path(environ.get("CREDENTIALS_DIRECTORY") or "/nonexistent", CREDENTIAL)
    return credential if credential.exists() else None


def _of(path: Path) -> Seal:
    try:
        return Mac(path.read_bytes().strip())
    except OSError as error:
        raise ConfigError(f"state.mac_key_file: {path}: {error.strerror}") from error
    except ValueError:
        raise ConfigError(f"state.mac_key_file: {path}: has less than {MIN_KEY_BYTES} bytes; use 32 random ones") from None


def _own_key(directory: Path) -> Path:
    path = directory / _OWN_KEY
    if not path.exists():
        fresh = directory / f".{_OWN_KEY}-{os.getpid()}"
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(os.urandom(32).hex().encode())
        fresh.rename(path)
    return path
