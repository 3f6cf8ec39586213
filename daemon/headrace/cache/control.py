"""
The `Cache-Control` of a call, as RFC 9111 and RFC 5861 say it.

Unknown directives are ignored, and of one that is named twice the first counts. A number that cannot be read is 0: the caller
wanted a bound, and the tightest is the one that cannot hurt it.
"""

from __future__ import annotations

import re

from headrace.model import CacheControl

# A list member: a comma inside a quoted string does not end it. An open quote takes the rest.
_MEMBER = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+', re.DOTALL)
_MOST_S = 2**31  # what RFC 9111 (1.2.2) has a cache assume for anything greater


def parse_cache_control(value: str) -> CacheControl:
    """Read the directives we honour; never fails."""
    given: dict[str, str] = {}
    for member in _MEMBER.findall(value):
        name, _, argument = member.partition("=")
        given.setdefault(name.strip().lower(), argument.strip().strip('"'))
    return CacheControl(
        no_store="no-store" in given,
        no_cache="no-cache" in given,
        only_if_cached="only-if-cached" in given,
        max_age_s=_seconds(given.get("max-age")),
        stale_if_error_s=_seconds(given.get("stale-if-error")),
    )


def _seconds(argument: str | None) -> float | None:
    if argument is None:
        return None
    if not (argument.isascii() and argument.isdigit()):
        return 0.0
    digits = argument.lstrip("0") or "0"
    return float(min(int(digits), _MOST_S) if len(digits) <= 10 else _MOST_S)
