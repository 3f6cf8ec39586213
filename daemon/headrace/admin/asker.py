"""
Who looks at the live page, and what it may: by key where keys are asked for, else by where it comes from.

Where keys are required (`auth.required`) the role of the key's caller says it (roles.py). A browser asks its user for a name
and a password, and the password is the key; whoever has the daemon's passkey needs none, over the socket, as over gRPC. Where
none is required, whoever is on this machine may: over the socket, or from
loopback. A proxy on this machine brings others, so what says that it was passed on is refused there.
"""

from __future__ import annotations

import base64
import binascii
import os
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from headrace import passkey, roles
from headrace.callers import Callers
from headrace.edge import peers
from headrace.edge.http_asks import presented_keys
from headrace.errors import NotAllowed
from headrace.model import Role

_PASSED_ON = ("forwarded", "x-forwarded-for", "x-real-ip", "via")


@dataclass(frozen=True, slots=True)
class Asker:
    """Who asks: as the log calls it, and its role."""

    by: str
    role: Role

    def may(self, method: str, path: str) -> bool:
        """Whether it may ask for this."""
        try:
            roles.of_path(method, path).check(self.role)
        except NotAllowed:
            return False
        return True


def ask(callers: Callers, headers: Mapping[str, str], transport: Any, key: str = "") -> Asker:
    """Return who asks, *key* being the daemon's passkey; raises `UnknownCaller`, `NotAllowed` and `RedisAway`."""
    peer = transport.get_extra_info("peername") if transport is not None else None
    if not isinstance(peer, tuple) and (user := passkey.who(headers.get(passkey.HEADER, ""), key)):
        return Asker(user, Role.ADMIN)
    names = peers.of_http(transport) if callers.knows_certificates else ()
    if callers.required or names:
        caller = callers.identify(callers.ours([*presented_keys(headers), *_basic(headers)], names), "")
        return Asker(caller.name, caller.role)
    if not isinstance(peer, tuple):
        return Asker(_user(transport), Role.OPERATOR)
    if not ip_address(peer[0].partition("%")[0]).is_loopback or any(name in headers for name in _PASSED_ON):
        raise NotAllowed("no key is asked for here (auth.required), so this page is for whoever is on this machine")
    return Asker("loopback", Role.OPERATOR)


def _basic(headers: Mapping[str, str]) -> list[str]:
    scheme, _, said = headers.get("authorization", "").strip().partition(" ")
    if scheme.lower() != "basic":
        return []
    try:
        text = base64.b64decode(said.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        return []
    return [text.partition(":")[2]]


def _user(transport: Any) -> str:
    # Of a socket the kernel knows whose process is at its other end.
    at = transport.get_extra_info("socket") if transport is not None else None
    if at is None or not hasattr(socket, "SO_PEERCRED"):
        return "socket"
    with socket.socket(fileno=os.dup(at.fileno())) as same:
        _, uid, _ = struct.unpack("3i", same.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    return f"uid:{uid}"
