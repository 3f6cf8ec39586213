"""
May this call be served, and what exactly is it? Decided from the bytes alone, without I/O.

An edge hands over an `Ask` (what it read from the wire, in the API's own terms) and gets a `Call`: parsed, checked as far as
the daemon needs it, with its fingerprint, its lane, its deadline, and the reason why its answer may not be kept, if there is
one. What only upstream can judge is left to upstream: a parameter that we have never heard of is not our business.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from headrace.cache.fingerprint import fingerprint
from headrace.cache.policy import no_keep_call
from headrace.clock import Clock
from headrace.endpoints import CHAT, COUNT_TOKENS, MESSAGES, MODELS, Endpoint
from headrace.errors import InvalidCall, TooLarge
from headrace.model import CacheControl, Call, Caller, Lane

_MAX_IDEMPOTENCY_KEY = 255
_LONGEST_S = 86_400.0  # a deadline later than this is as good as this
_UNSAID_MAX_TOKENS = 4096  # what a chat without a bound is taken to use at most, until it is settled


@dataclass(frozen=True, slots=True)
class Ask:
    """
    What an edge read from the wire.

    Args:
        body: the JSON that is to go upstream; empty for a GET.
        stream: what the edge knows of the form; None leaves it to the body.
        lane: "" for the caller's own.
        timeout_s: how long the caller will wait; None if it did not say.
        headers: other `anthropic-*` headers, lower-case names.
        method, path, endpoint: where it is to go: the path with its query.
        credential: "x-api-key:..." or "bearer:..." where callers' own keys go upstream.
    """

    caller: Caller
    body: bytes = field(repr=False)
    stream: bool | None = None
    version: str = ""
    betas: tuple[str, ...] = ()
    headers: tuple[tuple[str, str], ...] = ()
    lane: str = ""
    timeout_s: float | None = None
    cache: CacheControl = field(default_factory=CacheControl)
    idempotency_key: str = ""
    path: str = "/v1/messages"
    method: str = "POST"
    endpoint: Endpoint = MESSAGES
    credential: str = field(default="", repr=False)


class Admission:
    """
    Turns asks into calls.

    Args:
        version: the `anthropic-version` of a caller who names none.
        is_shared: whether callers share answers (`cache.scope = "shared"`).
        max_age_s: the deadline of a call that came without one.
    """

    def __init__(self, clock: Clock, *, version: str, is_shared: bool, max_age_s: float) -> None:
        self._clock = clock
        self._version = version
        self._is_shared = is_shared
        self._max_age_s = max_age_s

    def scope(self, caller: Caller, credential: str) -> str:
        """
        Return whose answers this caller may be given: its own, or everybody's ("").

        With callers' own keys upstream, only the same key shares: another may not be allowed the model.
        """
        scope = "" if self._is_shared else caller.name
        return f"{scope}#{hashlib.sha256(credential.encode(errors='surrogateescape')).hexdigest()}" if credential else scope

    def admit(self, ask: Ask) -> Call:
        """Return the call, or raise `InvalidCall` or `TooLarge` saying what is wrong and what would be right."""
        check_size(ask.endpoint, len(ask.body))
        body = _parse(ask.body) if ask.endpoint is not MODELS else _no_body(ask)
        model, max_tokens = _CHECKS[ask.endpoint.name](body)
        stream = _stream(body, ask.stream)
        version = ask.version or self._version
        scope = self.scope(ask.caller, ask.credential)
        # A POST by its path alone: most calls are, and what was kept before there were others stays good.
        place = ask.path if ask.method == "POST" else f"{ask.method} {ask.path}"
        betas, headers, endpoint = ask.betas, ask.headers, ask.endpoint.name
        found = fingerprint(
            scope=scope, path=place, version=version, betas=betas, headers=headers, body=body, endpoint=endpoint
        )
        now = self._clock.now()
        return Call(
            caller=ask.caller,
            body=ask.body,
            model=model,
            max_tokens=max_tokens,
            stream=stream,
            version=version,
            betas=betas,
            headers=headers,
            lane=lane_of(ask.lane, ask.caller),
            fingerprint=found,
            scope=scope,
            arrival=now,
            deadline=self.deadline(now, ask.timeout_s, ask.endpoint, ask.caller),
            cache=_wish(ask.cache, ask.caller),
            idempotency_key=_idempotency_key(ask.idempotency_key),
            no_keep=no_keep_call(body),
            path=ask.path,
            method=ask.method,
            endpoint=endpoint,
            credential=ask.credential,
        )

    def deadline(self, now: float, timeout_s: float | None, endpoint: Endpoint, caller: Caller) -> float:
        """
        Return until when an answer is wanted.

        What the call says counts, else what is configured for its caller, else the endpoint's own time, else `retry.max_age`.
        """
        timeout_s = caller.timeout_s if timeout_s is None else timeout_s
        if timeout_s is not None:
            return now + min(timeout_s, _LONGEST_S)
        return now + (self._max_age_s if endpoint.timeout_s is None else endpoint.timeout_s)


def _wish(asked: CacheControl, caller: Caller) -> CacheControl:
    # What is configured for a caller can only be tightened by what its call says.
    ttl_s = caller.cache_ttl_s
    if ttl_s is None:
        return asked
    bound_s = ttl_s if asked.max_age_s is None else min(ttl_s, asked.max_age_s)
    return replace(asked, no_store=asked.no_store or ttl_s == 0, max_age_s=bound_s)


def check_size(endpoint: Endpoint, length: int | None) -> None:
    """Raise `TooLarge` if a body of *length* bytes is more than upstream takes."""
    if endpoint.max_body is not None and (length or 0) > endpoint.max_body:
        raise TooLarge(f"the body has {length:,} bytes; upstream takes {endpoint.max_body:,} at most")


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        body = _decode(raw)
        _refuse_doubles(raw, body)
    except RecursionError as error:
        raise InvalidCall("the body is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise InvalidCall(f"the body is not valid UTF-8 at byte {error.start}") from error
    except msgspec.DecodeError as error:
        raise InvalidCall(f"the body is not valid JSON: {error}") from error
    if not isinstance(body, dict):
        raise InvalidCall(f"the body must be a JSON object, not {_kind(body)}")
    return body


def _decode(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        # Lone surrogates and numbers past the range of a double are JSON all the same, and upstream's to judge.
        try:
            return json.loads(raw, parse_constant=_refuse)
        except ValueError:
            raise error from None


def _refuse_doubles(raw: bytes, body: Any) -> None:
    # Of a name that comes twice in one object some readers take the first, some the last. If upstream read another call than
    # the one we meter and keep, its answer would be kept for calls that never asked for it. A glance first: with nothing
    # said twice, both texts hold as many names.
    with contextlib.suppress(UnicodeEncodeError, msgspec.DecodeError):
        if msgspec.json.format(raw, indent=-1).count(b'":') == msgspec.json.encode(body).count(b'":'):
            return
    json.loads(raw, object_pairs_hook=_no_doubles)


def _no_doubles(pairs: list[tuple[str, Any]]) -> None:
    if len({name for name, _ in pairs}) < len(pairs):
        raise InvalidCall("the body names a field twice in one object: nobody can say which of the two counts")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _no_body(ask: Ask) -> dict[str, Any]:
    if ask.body:
        raise InvalidCall(f"{ask.method} {ask.path.partition('?')[0]} takes no body")
    return {}


# What each endpoint must say, as far as the daemon needs it: the model, and how many tokens the answer may have.


def _check_message(body: Mapping[str, Any]) -> tuple[str, int]:
    max_tokens = body.get("max_tokens")
    model = _model(body)
    if not _is_count(max_tokens):
        raise _field_error("max_tokens", "an integer, 0 or more", body)
    _check_conversation(body)
    return model, int(max_tokens)  # type: ignore[arg-type]


def _check_count(body: Mapping[str, Any]) -> tuple[str, int]:
    model = _model(body)
    _check_conversation(body)
    return model, 0


def _check_chat(body: Mapping[str, Any]) -> tuple[str, int]:
    model = _model(body)
    _check_conversation(body)
    said = [body[name] for name in ("max_completion_tokens", "max_tokens") if _is_count(body.get(name))]
    return model, said[0] if said else _UNSAID_MAX_TOKENS


def _check_nothing(body: Mapping[str, Any]) -> tuple[str, int]:
    return "", 0


_CHECKS = {
    MESSAGES.name: _check_message,
    COUNT_TOKENS.name: _check_count,
    CHAT.name: _check_chat,
    MODELS.name: _check_nothing,
}


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise _field_error("model", 'a model name, such as "claude-sonnet-4-5"', body)
    return model


def _check_conversation(body: Mapping[str, Any]) -> None:
    if not isinstance(body.get("messages"), list) or not body["messages"]:
        raise _field_error("messages", "a list with at least one message", body)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _stream(body: Mapping[str, Any], known: bool | None) -> bool:
    stream = body.get("stream", False)
    if not isinstance(stream, bool):
        raise _field_error("stream", "true or false", body)
    if known is not None and known != stream:
        raise InvalidCall(f"the call says stream = {known}, its body {stream}", metadata={"field": "stream"})
    return stream


def lane_of(asked: str, caller: Caller) -> Lane:
    """Return the lane that a call asks for, or its caller's own."""
    if not asked:
        return caller.lane
    try:
        return Lane(asked.lower())
    except ValueError as error:
        raise InvalidCall(
            f"there is no lane {asked[:32]!r}; there are interactive, standard and batch", metadata={"field": "lane"}
        ) from error


def _idempotency_key(key: str) -> str:
    if len(key) > _MAX_IDEMPOTENCY_KEY:
        raise InvalidCall(
            f"the idempotency key has {len(key)} characters; {_MAX_IDEMPOTENCY_KEY} is the most",
            metadata={"field": "idempotency_key"},
        )
    if any("\ud800" <= character <= "\udfff" for character in key):
        raise InvalidCall("the idempotency key is not valid UTF-8", metadata={"field": "idempotency_key"})
    return key


def _field_error(name: str, right: str, body: Mapping[str, Any]) -> InvalidCall:
    found = "and is missing" if name not in body else "and is empty" if body[name] == [] else f"not {_kind(body[name])}"
    return InvalidCall(f"{name}: must be {right}, {found}", metadata={"field": name})


def _kind(value: object) -> str:
    # Its kind only: the value may be a prompt.
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean", int: "a number", float: "a number"}
    return names.get(type(value), "null")
