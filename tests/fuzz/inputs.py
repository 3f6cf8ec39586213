"""Bytes as what decoders take: texts and heads, as the servers and clients below us make them of bytes."""

from __future__ import annotations

from multidict import CIMultiDict

from headrace.heads import value_text
from headrace.model import Caller, Role

ANYBODY = Caller("anybody", labels=("env", "feature"), role=Role.ADMIN)
NOW = 1_764_000_000.0


def text(data: bytes) -> str:
    """Return a text as Python reads arguments, variables and heads: no byte is lost."""
    return data.decode("utf-8", "surrogateescape")


def pairs(data: bytes) -> list[tuple[str, str]]:
    """Return the headers that lines of "name: value" are."""
    said = (line.partition(b":") for line in data.split(b"\n") if b":" in line)
    return [(text(name.strip()) or "x", value_text(value.strip())) for name, _, value in said]


def heads(data: bytes) -> CIMultiDict[str]:
    """Return them as an HTTP server does."""
    return CIMultiDict(pairs(data))


def head_and_body(data: bytes) -> tuple[list[tuple[str, str]], bytes]:
    """Return the headers before the first blank line, and what comes after it."""
    head, _, body = data.partition(b"\n\n")
    return pairs(head), body


def finite(seconds: float | None, *, most: float = float("inf")) -> None:
    """Fail unless a time is one."""
    assert seconds is None or 0 <= seconds < float("inf"), seconds
    assert seconds is None or seconds <= most, seconds
