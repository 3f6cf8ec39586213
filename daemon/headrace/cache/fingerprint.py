"""
The fingerprint: which calls deserve one answer.

SHA-256 over everything that can change the answer: the whole body less the two fields known to change nothing, every
header less the few known to change nothing. Never a list of fields that count: a new parameter of the API must split the
cache from the day it appears, without a release of ours. Names are sorted where their order says nothing (`shapes.py`), and
count in their order everywhere else.

It is made in two steps, since a large body is read in another process: `essence` of the body, then `fingerprint` of that and
of all that is not the body.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from headrace.cache.shapes import ordered, shape_of
from headrace.endpoints import CHAT, MESSAGES
from headrace.errors import InvalidCall
from headrace.model import Headers

FORMAT = 2  # change it whenever the bytes below change: old entries are then simply not found

# At the top level of the body. `stream` is the form of the answer, `metadata` (a user id, for abuse reports) is not shown
# to the model.
_HARMLESS_FIELDS = frozenset({"stream", "metadata"})

HARMLESS_HEADERS = frozenset({"anthropic-dangerous-direct-browser-access"})  # a browser's word to the API's CORS check


def fingerprint(
    *, scope: str, path: str, version: str, betas: Iterable[str], headers: Iterable[tuple[str, str]], essence: bytes
) -> str:
    """
    Return the hex SHA-256 of the call's canonical form.

    Args:
        scope: the cache scope: equal calls of two scopes never meet.
        path: the endpoint, query included.
        version, betas: `anthropic-version`; `anthropic-beta` split up (order and repeats do not matter).
        headers: the other headers that go upstream.
        essence: of the body.
    """
    # Compact JSON holds no line break, so one between the two keeps them apart.
    return hashlib.sha256(_head(scope, path, version, tuple(betas), tuple(headers)) + b"\n" + essence).hexdigest()


@functools.lru_cache(512)
def _head(scope: str, path: str, version: str, betas: tuple[str, ...], headers: Headers) -> bytes:
    named = [[name.lower(), value] for name, value in headers]
    counted = sorted([pair for pair in named if pair[0] not in HARMLESS_HEADERS])
    return canonical([FORMAT, scope, path, version, sorted(set(betas)), counted])


def essence(body: Mapping[str, Any], endpoint: str = MESSAGES.name, *, is_finite: bool = False) -> bytes:
    """
    Return the SHA-256 of what counts of a body; `InvalidCall` if it is nested past reason.

    Args:
        body: the parsed JSON.
        endpoint: by its name.
        is_finite: whether all numbers in it surely are; see `canonical`.
    """
    counted = {name: value for name, value in body.items() if counts(name, value, endpoint)}
    return hashlib.sha256(canonical(ordered(counted, shape_of(endpoint)), is_finite=is_finite)).digest()


def counts(name: str, value: Any, endpoint: str) -> bool:
    """Whether a field of a body can change the answer."""
    if endpoint == MESSAGES.name:
        return name not in _HARMLESS_FIELDS
    # Elsewhere the form is part of the answer: a chat's stream cannot be made of its whole, nor the other way round. In the
    # chat dialect null means that a field was not said, and no stream is asked for by saying nothing, too.
    return endpoint != CHAT.name or not (value is None or (name == "stream" and value is False))


def canonical(value: Any, *, is_finite: bool = False) -> bytes:
    """
    Return one JSON text for all equal values, and different texts for different ones; the order of names counts.

    msgspec is tried first, being ten times as fast. It refuses lone surrogates, and it writes NaN and infinities (which the
    standard library's reader lets through) as null: where they may be in play, the standard library writes them apart.
    """
    try:
        text = msgspec.json.encode(value)
        if is_finite or b"null" not in text:
            return text
    except (UnicodeEncodeError, OverflowError):
        pass
    except RecursionError:
        raise InvalidCall("the body is nested too deeply") from None
    return spelled_slow(value)


def spelled_slow(value: Any) -> bytes:
    """Return the text for a value that msgspec cannot spell, or would spell like another; see `canonical`."""
    try:
        return json.dumps(value, separators=(",", ":")).encode()
    except RecursionError:
        raise InvalidCall("the body is nested too deeply") from None
