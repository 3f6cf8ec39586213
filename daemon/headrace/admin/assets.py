"""What the page needs beside itself: its style, its script, its icon. Nothing comes from elsewhere."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

_KINDS = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class Asset:
    """Its bytes, and its content-type."""

    body: bytes
    kind: str


@functools.cache
def _read(name: str) -> Asset:
    return Asset(resources.files(__package__).joinpath(name).read_bytes(), _KINDS[name])


def find(name: str) -> Asset | None:
    """Return one by its name; None if there is none."""
    return _read(name) if name in _KINDS else None
