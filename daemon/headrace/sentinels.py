"""
The address of a Redis that Sentinels know: redis+sentinel://[user:password@]host:port,host:port/NAME[/DB]. Pure.

rediss+sentinel:// speaks TLS with all of them. User and password are those of the servers. servers.py asks the Sentinels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

SENTINELS = ("redis+sentinel:", "rediss+sentinel:")
"""How a URL begins that names Sentinels."""

_PORT = 26379


@dataclass(frozen=True, slots=True)
class Sentinels:
    """
    Sentinels, and what they are asked for.

    Args:
        addresses: where they are, host and port.
        name: by which they know the primary and its replicas.
        options: of every connection, to servers and to Sentinels: TLS.
        secrets: of connections to servers: database, user and password.
    """

    addresses: tuple[tuple[str, int], ...]
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    secrets: Mapping[str, Any] = field(default_factory=dict, repr=False)


def sentinels(url: str) -> Sentinels | None:
    """Return the Sentinels that a URL names; None if it names one server. Raises ValueError for what is neither."""
    if not url.startswith(SENTINELS):
        return None
    parts = urlsplit(url)
    login, _, places = parts.netloc.rpartition("@")
    name, _, number = parts.path.strip("/").partition("/")
    addresses = tuple(_address(place) for place in places.split(","))
    if not name or (number and not number.isdecimal()):
        raise ValueError("names no primary")
    user, _, password = login.partition(":")
    said = {"username": unquote(user), "password": unquote(password), "db": int(number or 0)}
    secrets = {key: value for key, value in said.items() if value}
    is_tls = parts.scheme == "rediss+sentinel"
    return Sentinels(addresses, unquote(name), dict(parse_qsl(parts.query)) | ({"ssl": True} if is_tls else {}), secrets)


def _address(place: str) -> tuple[str, int]:
    parts = urlsplit(f"//{place}")
    if not parts.hostname:
        raise ValueError("has no host")
    return parts.hostname, parts.port or _PORT
