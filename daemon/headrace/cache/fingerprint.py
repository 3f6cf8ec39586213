"""
The fingerprint: which calls deserve one answer.

SHA-256 over everything that can change the answer: the whole body less the two fields known to change nothing, every
header less the few known to change nothing. Never a list of fields that count: a new parameter of the API must split the
cache from the day it appears, without a release of ours.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from headrace.endpoints import MESSAGES
from headrace.errors import InvalidCall

FORMAT = 1  # change it whenever the bytes below change: old entries are then simply not found

# At the top level of the body. `stream` is the form of the answer, `metadata` (a user id, for abuse reports) is not shown
# to the model.
_HARMLESS_FIELDS = frozenset({"stream", "metadata"})
# Elsewhere the form is part of the answer: a chat's stream cannot be made of its whole, nor the other way round.
_HARMLESS_ELSEWHERE: frozenset[str] = frozenset()

HARMLESS_HEADERS = frozenset({"anthropic-dangerous-direct-browser-access"})  # a browser's word to the API's CORS check


def fingerprint(
    *,
    scope: str,
    path: str,
    version: str,
    betas: Iterable[str],
    headers: Iterable[tuple[str, str]],
    body: Mapping[str, Any],
    endpoint: str = MESSAGES.name,
) -> str:
    """
    Return the hex SHA-256 of the call's canonical form.

    Args:
        scope: the cache scope: equal calls of two scopes never meet.
        path: the endpoint, query included.
        version, betas: `anthropic-version`; `anthropic-beta` split up (order and repeats do not matter).
        headers: the other headers that go upstream.
        body: the parsed JSON.
        endpoint: by its name.
    """
    named = ((name.lower(), value) for name, value in headers)
    counted = sorted(list(pair) for pair in named if pair[0] not in HARMLESS_HEADERS)
    head = [FORMAT, scope, path, version, sorted(set(betas)), counted]
    harmless = _HARMLESS_FIELDS if endpoint == MESSAGES.name else _HARMLESS_ELSEWHERE
    essence = {name: value for name, value in body.items() if name not in harmless}
    # Compact JSON holds no line break, so one between the two texts keeps them apart.
    return hashlib.sha256(canonical(head) + b"\n" + canonical(essence)).hexdigest()


def canonical(value: Any) -> bytes:
    """
    Return one JSON text for all equal values, and different texts for different ones.

    msgspec is tried first, being ten times as fast. It refuses lone surrogates, and it writes NaN and infinities (which the
    standard library's reader lets through) as null: where either may be in play, the standard library writes them apart.
    """
    try:
        text = msgspec.json.encode(value, order="sorted")
        if b"null" not in text:
            return text
    except (UnicodeEncodeError, OverflowError):
        pass
    except RecursionError:
        raise InvalidCall("the body is nested too deeply") from None
    return _canonical_slow(value)


def _canonical_slow(value: Any) -> bytes:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
    except RecursionError:
        raise InvalidCall("the body is nested too deeply") from None
