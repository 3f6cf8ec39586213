"""
The values that travel between the parts: frozen, slotted, no I/O.

A `Call` is what a caller wants; an `Answer` is what came back, in the form in which upstream said it (one JSON message, or
the exact sequence of server-sent events). Times are Unix seconds, sizes bytes, tokens model tokens.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from enum import StrEnum


class Lane(StrEnum):
    """A class of traffic with its priority, highest first."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


class Role(StrEnum):
    """What a caller may do: an admin may also use the Admin API, by which the organisation itself is run."""

    CALLER = "caller"
    ADMIN = "admin"


class Source(StrEnum):
    """Where an answer came from; the values of `x-headrace-source`."""

    UPSTREAM = "upstream"
    SHARED = "shared"
    CACHE = "cache"
    STALE = "stale"


class Form(StrEnum):
    """How upstream said it."""

    JSON = "json"
    EVENTS = "events"


@dataclass(frozen=True, slots=True)
class CacheControl:
    """The request directives of RFC 9111 and RFC 5861 that we honour."""

    no_store: bool = False
    no_cache: bool = False
    only_if_cached: bool = False
    max_age_s: float | None = None
    stale_if_error_s: float | None = None


@dataclass(frozen=True, slots=True)
class Caller:
    """
    Who asks: its name, and what the configuration says of it.

    Args:
        timeout_s: how long its calls may take that do not say so themselves; None leaves that to `retry.max_age`.
        cache_ttl_s: how long a kept answer is good for it; None for `cache.ttl`, 0 for no cache at all.
    """

    name: str
    lane: Lane = Lane.STANDARD
    weight: int = 1
    role: Role = Role.CALLER
    timeout_s: float | None = None
    cache_ttl_s: float | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """
    What a caller wants from the API.

    Args:
        caller: who asks, and whose budget pays.
        body: the exact JSON that goes upstream (an object).
        stream: whether the caller wants events; also what `body["stream"]` says.
        model, max_tokens: from the body, for limits and estimates.
        version, betas: `anthropic-version` and `anthropic-beta`, passed on.
        headers: every other `anthropic-*` header, lower-case names, passed on.
        fingerprint: hex SHA-256 of the canonical form, its cache scope included.
        scope: the cache scope inside the fingerprint: the caller's name, or "" when shared.
        arrival: when we took it in; its place in line, kept while it is parked.
        deadline: the moment after which nobody wants the answer.
        no_keep: why an answer to this call may not be kept ("" if it may), as `Cache-Status` puts it.
        method, path, endpoint: where it goes: the path with its query, the endpoint by its name in `endpoints.py`.
        ticket: the ticket that stands for this call already, if it was submitted or has an idempotency key.
        credential: the caller's own key where `upstream.credentials = "caller"`; never stored, never shown.
    """

    caller: Caller
    body: bytes = field(repr=False)
    model: str
    max_tokens: int
    stream: bool
    version: str
    betas: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    lane: Lane
    fingerprint: str
    scope: str
    arrival: float
    deadline: float
    cache: CacheControl = field(default_factory=CacheControl)
    idempotency_key: str = ""
    no_keep: str = ""
    path: str = "/v1/messages"
    method: str = "POST"
    endpoint: str = "messages"
    ticket: str = ""
    credential: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Usage:
    """What upstream counted. `known` is False when it never said."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    known: bool = True

    @property
    def metered_input_tokens(self) -> int:
        """Input as the provider's limits count it: cache reads are free."""
        return self.input_tokens + self.cache_creation_input_tokens


@dataclass(frozen=True, slots=True)
class Event:
    """One server-sent event: its name, its data (JSON), and the exact bytes, blank line included."""

    name: str
    data: bytes
    raw: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """
    A complete, successful answer.

    Args:
        form: JSON or EVENTS.
        payload: the exact JSON body, or the exact bytes of all events.
        created: when upstream finished it.
        usage: what it cost.
        request_id: upstream's `request-id`.
        no_keep: why it may not be kept ("" if it may).
    """

    form: Form
    payload: bytes = field(repr=False)
    created: float
    usage: Usage = Usage(known=False)
    request_id: str = ""
    no_keep: str = ""


@dataclass(slots=True)
class Reply:
    """
    What the flow hands to an edge: a complete answer, or live events of one that is still being said.

    Exactly one of `answer` and `events` is set; `events` only for streaming calls, and only once the first content delta is
    there. `cache_status` is the value of the `Cache-Status` header (RFC 9211).
    """

    source: Source
    attempts: int
    age_s: float = 0.0
    ticket: str = ""
    cache_status: str = ""
    request_id: str = ""
    answer: Answer | None = None
    events: AsyncIterator[Event] | None = None
