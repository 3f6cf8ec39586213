"""
The seal of what lies in Redis: whose key it is, and where that comes from.

Daemons that share a Redis share a key, from `state.mac_key_file` or a systemd credential; without one there is no seal, and who
may write to that Redis may put words into answers. Our own Valkey is nobody else's, and its key is made and kept beside it.

Where a key to encrypt with is given, by `state.encryption_key_file` or a credential, the seal hides, too, on disk as well.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from headrace.cipher import Cipher
from headrace.config.tables import Settings
from headrace.errors import ConfigError
from headrace.seal import MIN_KEY_BYTES, UNSEALED, Mac, Seal

CREDENTIAL = "headrace_mac_key"
ENCRYPTION_CREDENTIAL = "headrace_encryption_key"
OWN_KEY = "mac_key"
_BLANK_BYTES = 1  # what systemd hands on where there is no such file: an end of line


def seal(settings: Settings, environ: Mapping[str, str]) -> Seal:
    """Return the seal; raises `ConfigError` if there is a key that cannot be read, or is too short."""
    signed = _signed(settings, environ)
    path = encryption_key_file(settings, environ)
    if path is None:
        return signed
    return _encrypted(path, None if signed is UNSEALED else signed)


def check(settings: Settings, environ: Mapping[str, str]) -> None:
    """Raise `ConfigError` as `seal` does; of our own Valkey's key, which is made at the first start, nothing is asked."""
    if (path := key_file(settings, environ)) is not None:
        _of(path)
    if (path := encryption_key_file(settings, environ)) is not None:
        _encrypted(path, None)


def key_file(settings: Settings, environ: Mapping[str, str]) -> Path | None:
    """Return the file of the key that all daemons share, if there is one."""
    return _named(settings.state.mac_key_file, environ, CREDENTIAL)


def encryption_key_file(settings: Settings, environ: Mapping[str, str]) -> Path | None:
    """Return the file of the keys to encrypt with, if there is one."""
    return _named(settings.state.encryption_key_file, environ, ENCRYPTION_CREDENTIAL)


def _named(path: str, environ: Mapping[str, str], credential: str) -> Path | None:
    if path:
        return Path(path)
    handed = Path(environ.get("CREDENTIALS_DIRECTORY") or "/nonexistent", credential)
    return handed if handed.exists() and handed.stat().st_size > _BLANK_BYTES else None


def _signed(settings: Settings, environ: Mapping[str, str]) -> Seal:
    path = key_file(settings, environ)
    if path is not None:
        return _of(path)
    return UNSEALED if settings.redis.url else _of(_own_key(Path(settings.state.dir)))


def _encrypted(path: Path, before: Seal | None) -> Seal:
    try:
        return Cipher(path.read_bytes().split(), before)  # a key a line
    except OSError as error:
        raise ConfigError(f"state.encryption_key_file: {path}: {error.strerror}") from error
    except ValueError:
        wanted = f"must have a key of {MIN_KEY_BYTES} characters or more in each line, the newest first; best 32 random bytes"
        raise ConfigError(f"state.encryption_key_file: {path}: {wanted} in base64") from None


def _of(path: Path) -> Seal:
    try:
        return Mac(path.read_bytes().strip())
    except OSError as error:
        raise ConfigError(f"state.mac_key_file: {path}: {error.strerror}") from error
    except ValueError:
        raise ConfigError(f"state.mac_key_file: {path}: has less than {MIN_KEY_BYTES} bytes; use 32 random ones") from None


def _own_key(directory: Path) -> Path:
    path = directory / OWN_KEY
    if not path.exists():
        fresh = directory / f".{OWN_KEY}-{os.getpid()}"
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(os.urandom(32).hex().encode())
        fresh.rename(path)
    return path
