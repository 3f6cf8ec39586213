"""Upstream's own address in answers, turned into ours: what a caller follows must lead back here."""

from __future__ import annotations

import re
from collections.abc import Mapping

_HOST = re.compile(r"[A-Za-z0-9.\-_\[\]:]{1,255}")


def readdressed(body: bytes, headers: Mapping[str, str], upstream_url: bytes) -> bytes:
    """Return an answer with the address by which its caller, whose headers these are, sees us; it has no key for the other."""
    host = headers.get("host", "")
    if not _HOST.fullmatch(host):
        return body
    scheme = "https" if headers.get("x-forwarded-proto", "") == "https" else "http"
    pattern = rb'("results_url"\s*:\s*")' + re.escape(upstream_url) + rb"(?=/)"
    return re.sub(pattern, lambda found: found[1] + f"{scheme}://{host}".encode(), body)
