"""
Who is at the other end, as the transport knows it: the names in a client's certificate, and whether it came by a unix socket.

The configuration may map the names to callers, once TLS has verified them. They are the certificate's alternative names (URIs,
then DNS names); only one that has none at all is known by its common name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def of_grpc(context: Any) -> list[str]:
    """Return the names in the certificate of an RPC's client, [] if it showed none."""
    said: Mapping[str, Iterable[bytes]] = context.auth_context() or {}
    if "x509_subject_alternative_name" not in said:
        return _texts(said, "x509_common_name")
    return _texts(said, "peer_uri") + _texts(said, "peer_dns")


def is_local(context: Any) -> bool:
    """Whether an RPC came in at a unix socket."""
    return str(context.peer()).startswith("unix:")


def of_http(transport: Any) -> list[str]:
    """Return the names in the certificate of a connection's client, [] if it showed none."""
    said = (transport.get_extra_info("peercert") if transport is not None else None) or {}
    if "subjectAltName" not in said:
        return [value for part in said.get("subject", ()) for name, value in part if name == "commonName"]
    names: Iterable[tuple[str, str]] = said["subjectAltName"]
    return [value for wanted in ("URI", "DNS") for kind, value in names if kind == wanted]


def _texts(said: Mapping[str, Iterable[bytes]], name: str) -> list[str]:
    return [value.decode(errors="replace") for value in said.get(name, ())]
