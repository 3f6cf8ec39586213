"""What an HTTP request asks: headers into an `Ask`, and into the digest by which a repeat is known without parsing it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

from headrace.admission import Ask
from headrace.cache.control import parse_cache_control
from headrace.callers import is_key
from headrace.endpoints import Endpoint
from headrace.errors import InvalidCall
from headrace.model import CacheControl, Caller

# Known to say nothing about the call itself.
_NOT_PASSED_ON = frozenset({"anthropic-version", "anthropic-beta", "anthropic-dangerous-direct-browser-access"})
_COUNTS = ("anthropic-", "cache-control", "x-headrace-lane")  # the lane for the budget that is shown
_MAX_DIGITS = 12


def presented_keys(headers: Mapping[str, str]) -> list[str]:
    """Return every key that a caller presents, in `x-api-key` or as a bearer token, in this order; [] for none."""
    return [key for _, key in _presented(headers)]


def credential(headers: Mapping[str, str]) -> str:
    """Return the caller's own key in the form in which it is to go upstream. A key of ours is none: it stays here."""
    return next((f"{scheme}:{key}" for scheme, key in _presented(headers) if not is_key(key)), "")


def _presented(headers: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for key in _all(headers, "x-api-key"):
        if key.strip():
            yield "x-api-key", key.strip()
    for value in _all(headers, "authorization"):
        scheme, _, token = value.strip().partition(" ")
        if scheme.lower() == "bearer" and token.strip():
            yield "bearer", token.strip()


def digest(scope: str, method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """
    Return the hash of all that decides the answer: scope, method, path and query, the headers that count, and the raw body.

    Lengths keep the parts apart: no two different requests run together.
    """
    counted = [f"{name}:{value}" for name, value in headers.items() if name.lower().startswith(_COUNTS)]
    head = "\n".join((scope, method, target, *sorted(counted)))
    state = hashlib.sha256(b"%d:" % len(head))
    state.update(head.encode("utf-8", "surrogateescape"))
    state.update(body)
    return state.digest()


def read_ask(
    caller: Caller,
    headers: Mapping[str, str],
    body: bytes,
    *,
    method: str,
    path: str,
    endpoint: Endpoint,
    credential: str,
    within_s: float | None,
) -> Ask:
    """Return what the request asks; raises `InvalidCall` for a header that makes no sense."""
    return Ask(
        caller=caller,
        body=body,
        version=headers.get("anthropic-version", ""),
        betas=_betas(headers),
        headers=tuple(
            (name.lower(), value)
            for name, value in headers.items()
            if name.lower().startswith("anthropic-") and name.lower() not in _NOT_PASSED_ON
        ),
        lane=headers.get("x-headrace-lane", ""),
        timeout_s=timeout_s(headers, within_s),
        cache=cache_control(headers),
        idempotency_key=headers.get("idempotency-key", ""),
        path=path,
        method=method,
        endpoint=endpoint,
        credential=credential,
    )


def cache_control(headers: Mapping[str, str]) -> CacheControl:
    """Return what the request says to caches."""
    if "cache-control" not in headers:
        return CacheControl()
    return parse_cache_control(", ".join(_all(headers, "cache-control")))


def _betas(headers: Mapping[str, str]) -> tuple[str, ...]:
    parts = (part.strip() for value in _all(headers, "anthropic-beta") for part in value.split(","))
    return tuple(beta for beta in parts if beta)


def _all(headers: Mapping[str, str], name: str) -> list[str]:
    # A header that is a list may come once with commas, or several times.
    values: list[str] = headers.getall(name, []) if hasattr(headers, "getall") else [headers.get(name, "")]
    return values


def timeout_s(headers: Mapping[str, str], within_s: float | None = None) -> float | None:
    """Return how long the caller will wait: the shortest of what its headers and its RPC say; None if nobody does."""
    asked = [] if within_s is None else [within_s]
    if (given := headers.get("x-headrace-timeout-ms")) is not None:
        if not given.isdecimal() or len(given) > _MAX_DIGITS:
            raise InvalidCall(f"x-headrace-timeout-ms: must be a whole number of milliseconds, not {given[:32]!r}")
        asked.append(int(given) / 1000)
    # What the official SDKs will wait; other values than seconds ("NOT_GIVEN") mean that they did not say.
    stainless = headers.get("x-stainless-timeout", "")
    if stainless.replace(".", "", 1).isdecimal() and len(stainless) <= _MAX_DIGITS:
        # TypeScript's and Go's round down to whole seconds, 0 included: they wait longer than they say.
        asked.append(float(stainless) + (0 if "." in stainless else 1))
    return min(asked, default=None)


def has_own_clock(headers: Mapping[str, str]) -> bool:
    """Whether the caller's library gives up by itself when the time is over, as the official SDKs do."""
    return "x-stainless-timeout" in headers and "x-headrace-timeout-ms" not in headers
