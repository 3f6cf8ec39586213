"""Globs that callers send: short ones, for to make sense of a long one takes long, and everybody else waits meanwhile."""

from __future__ import annotations

from headrace.errors import InvalidCall

LONGEST = 300  # characters; no name that one is held against has so many


def check(glob: str, field: str) -> None:
    """Raise `InvalidCall` for one that is too long."""
    if len(glob) > LONGEST:
        raise InvalidCall(f"{field}: has {len(glob):,} characters; a glob may have {LONGEST}", metadata={"field": field})
