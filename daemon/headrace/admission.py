"""
May this call be served, and what exactly is it? Decided from the bytes alone.

An edge hands over an `Ask` (what it read from the wire, in the API's own terms) and gets a `Call`: parsed, checked as far as
the daemon needs it, with its fingerprint, its lane, its deadline, and the reason why its answer may not be kept, if there is
one. What only upstream can judge is left to upstream: a parameter that we have never heard of is not our business.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from headrace.aside import Aside
from headrace.bodies.read import NOTHING, Reading
from headrace.bodies.reader import Reader
from headrace.cache.fingerprint import fingerprint
from headrace.cache.keeping import Keeping
from headrace.clock import Clock
from headrace.deadline import Moments, Wait, until
from headrace.endpoints import MESSAGES, MODELS, Endpoint
from headrace.errors import InvalidCall, TooLarge
from headrace.model import CacheControl, Call, Caller, Lane

_MAX_IDEMPOTENCY_KEY = 255


@dataclass(frozen=True, slots=True)
class Ask:
    """
    What an edge read from the wire.

    Args:
        body: the JSON that is to go upstream; empty for a GET.
        stream: what the edge knows of the form; None leaves it to the body.
        lane: "" for the caller's own.
        wait: how long the caller will wait.
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
    wait: Wait = field(default_factory=Wait)
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

    def __init__(
        self, clock: Clock, keeping: Keeping, reader: Reader, *, version: str, is_shared: bool, max_age_s: float
    ) -> None:
        self._clock = clock
        self._keeping = keeping
        self._reader = reader
        self._version = version
        self._is_shared = is_shared
        self._max_age_s = max_age_s

    @property
    def aside(self) -> Aside:
        """Where large bodies are read."""
        return self._reader.aside

    def scope(self, caller: Caller, credential: str) -> str:
        """
        Return whose answers this caller may be given: its own, or everybody's ("").

        With callers' own keys upstream, only the same key shares: another may not be allowed the model.
        """
        scope = "" if self._is_shared else caller.name
        return f"{scope}#{hashlib.sha256(credential.encode(errors='surrogateescape')).hexdigest()}" if credential else scope

    async def admit(self, ask: Ask) -> Call:
        """
        Return the call, or raise `InvalidCall` or `TooLarge` saying what is wrong and what would be right.

        Only a large body is waited for, and no longer than its caller would wait.
        """
        check_size(ask.endpoint, len(ask.body))
        now = self._clock.now()
        reading = _no_body(ask) if ask.endpoint is MODELS else self._reader.read_small(ask.body, ask.endpoint.name)
        if reading is None:
            async with until(self.moments(now, ask.wait, ask.endpoint, ask.caller, is_stream=False).deadline, self._clock):
                reading = await self._reader.read(ask.body, ask.endpoint.name)
        if ask.stream is not None and ask.stream != reading.stream:
            raise InvalidCall(f"the call says stream = {ask.stream}, its body {reading.stream}", metadata={"field": "stream"})
        version = ask.version or self._version
        scope = self.scope(ask.caller, ask.credential)
        # A POST by its path alone: most calls are.
        place = ask.path if ask.method == "POST" else f"{ask.method} {ask.path}"
        betas, headers = ask.betas, ask.headers
        found = fingerprint(scope=scope, path=place, version=version, betas=betas, headers=headers, essence=reading.essence)
        moments = self.moments(now, ask.wait, ask.endpoint, ask.caller, is_stream=reading.stream)
        return Call(
            caller=ask.caller,
            body=ask.body,
            model=reading.model,
            max_tokens=reading.max_tokens,
            stream=reading.stream,
            version=version,
            betas=betas,
            headers=headers,
            lane=lane_of(ask.lane, ask.caller),
            fingerprint=found,
            scope=scope,
            arrival=now,
            deadline=moments.deadline,
            slack_s=moments.slack_s,
            ends=moments.ends,
            cache=self._keeping.wish(ask.cache, ask.caller),
            idempotency_key=_idempotency_key(ask.idempotency_key),
            no_keep=reading.no_keep,
            path=ask.path,
            method=ask.method,
            endpoint=ask.endpoint.name,
            credential=ask.credential,
        )

    def moments(self, now: float, wait: Wait, endpoint: Endpoint, caller: Caller, *, is_stream: bool) -> Moments:
        """Return until when an answer is wanted: what the caller said, else what is configured for it, else what is usual."""
        usual_s = self._max_age_s if endpoint.timeout_s is None else endpoint.timeout_s
        return wait.moments(now, usual_s=usual_s, configured_s=caller.timeout_s, is_stream=is_stream)


def check_size(endpoint: Endpoint, length: int | None) -> None:
    """Raise `TooLarge` if a body of *length* bytes is more than upstream takes."""
    if endpoint.max_body is not None and (length or 0) > endpoint.max_body:
        raise TooLarge(f"the body has {length:,} bytes; upstream takes {endpoint.max_body:,} at most")


def _no_body(ask: Ask) -> Reading:
    if ask.body:
        raise InvalidCall(f"{ask.method} {ask.path.partition('?')[0]} takes no body")
    return NOTHING


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
