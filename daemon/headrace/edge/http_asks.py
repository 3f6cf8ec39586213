"""What an HTTP request asks: headers into an `Ask`, and into the key that its caller presents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from headrace import disconnect
from headrace.admission import Ask
from headrace.cache.control import parse_cache_control
from headrace.callers import is_key
from headrace.deadline import Wait
from headrace.endpoints import Endpoint
from headrace.errors import InvalidCall
from headrace.labels import HEADER, labels_of_header
from headrace.model import CacheControl, Caller, Labels
from headrace.trace import Trace

# Known to say nothing about the call itself.
_NOT_PASSED_ON = frozenset({"anthropic-version", "anthropic-beta", "anthropic-dangerous-direct-browser-access"})
_MAX_LIST = 8_192  # characters of a header that is taken apart here, all its values together


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


def read_ask(
    caller: Caller,
    headers: Mapping[str, str],
    body: bytes,
    *,
    method: str,
    path: str,
    endpoint: Endpoint,
    credential: str,
    wait: Wait,
    id: str = "",
    trace: Trace | None = None,
) -> Ask:
    """Return what the request asks; raises `InvalidCall` for a header that makes no sense."""
    return Ask(
        caller=caller,
        body=body,
        stream=None,  # the body says it
        version=headers.get("anthropic-version", ""),
        betas=_betas(headers),
        headers=tuple(
            (name.lower(), value)
            for name, value in headers.items()
            if name.lower().startswith("anthropic-") and name.lower() not in _NOT_PASSED_ON
        ),
        lane=headers.get("x-headrace-lane", ""),
        labels=labels(headers, caller),
        wait=wait,
        cache=cache_control(headers),
        idempotency_key=headers.get("idempotency-key", ""),
        on_disconnect=headers.get(disconnect.HEADER, ""),
        path=path,
        method=method,
        endpoint=endpoint,
        credential=credential,
        id=id,
        trace=trace,
    )


def labels(headers: Mapping[str, str], caller: Caller) -> Labels:
    """Return the labels of a request; raises `InvalidCall` for those that its caller may not send."""
    return labels_of_header(_listed(headers, HEADER), caller) if HEADER in headers else ()


def cache_control(headers: Mapping[str, str]) -> CacheControl:
    """Return what the request says to caches."""
    if "cache-control" not in headers:
        return CacheControl()
    return parse_cache_control(_listed(headers, "cache-control"))


def _betas(headers: Mapping[str, str]) -> tuple[str, ...]:
    parts = (part.strip() for part in _listed(headers, "anthropic-beta").split(","))
    return tuple(beta for beta in parts if beta)


def _listed(headers: Mapping[str, str], name: str) -> str:
    values = _all(headers, name)
    if sum(map(len, values)) > _MAX_LIST:
        raise InvalidCall(f"{name}: has more than {_MAX_LIST:,} characters", metadata={"field": name})
    return ", ".join(values)


def _all(headers: Mapping[str, str], name: str) -> list[str]:
    # A header that is a list may come once with commas, or several times.
    values: list[str] = headers.getall(name, []) if hasattr(headers, "getall") else [headers.get(name, "")]
    return values
