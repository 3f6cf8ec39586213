"""
The values that travel between the parts: frozen (values.py), slotted, no I/O.

A `Call` is what a caller wants; an `Answer` is what came back, in the form in which upstream said it (one JSON message, or
the exact sequence of server-sent events). Times are Unix seconds, sizes bytes, tokens model tokens.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeVar

from headrace.disconnect import OnDisconnect
from headrace.owner import Owner
from headrace.trace import Trace
from headrace.trail import Trail
from headrace.values import quick
from headrace.weight import Weight

R = TypeVar("R")

Labels = tuple[tuple[str, str], ...]
"""What a caller says its call is for, by name, sorted: (("env", "prod"), ("feature", "search"))."""

Headers = tuple[tuple[str, str], ...]
"""Headers of HTTP in their order, their values as heads.py has them; a name may come again."""


class Lane(StrEnum):
    """The classes of traffic that there always are, highest first; the configuration may name others."""

    INTERACTIVE = "interactive"
    STANDARD = "standard"
    BATCH = "batch"


class Role(StrEnum):
    """
    What a caller may do beside calling, each all that those before it may (roles.py): an observer may see what all callers do,
    of usage and the like; an operator may steer limits and callers; an admin may use the Admin API, by which the organisation
    itself is run, and whatever callers have at upstream.
    """

    CALLER = "caller"
    OBSERVER = "observer"
    OPERATOR = "operator"
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


@quick(frozen=True, slots=True)
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
        lane: the one that its calls go in that name none.
        ceiling: a lane of which none of its calls goes in a better one; "" for no such bound.
        timeout_s: how long its calls may take that do not say so themselves; None leaves that to `retry.max_age`.
        cache_ttl_s: how long a kept answer is good for it; None for `cache.ttl`, 0 for no cache at all.
        team, workspace: whose it is, for limits and usage; "" for nobody's.
        labels: the names of the labels that its calls may bear.
    """

    name: str
    lane: str = Lane.STANDARD
    weight: int = 1
    role: Role = Role.CALLER
    timeout_s: float | None = None
    cache_ttl_s: float | None = None
    team: str = ""
    workspace: str = ""
    labels: tuple[str, ...] = ()
    ceiling: str = ""


@quick(frozen=True, slots=True, kw_only=True)
class Errand:
    """
    What schedule, limits and upstream need to know of any request, whether its answer is kept or it is only carried.

    Args:
        caller: who asks, and whose budget pays.
        lane: the class of traffic it goes in.
        model: as the body names it; "" where the body is not read.
        method, path, endpoint: where it goes: the path with its query, the endpoint by its name in `endpoints.py`.
        version: `anthropic-version`, passed on.
        arrival: when we took it in; kept while it is parked.
        deadline: the moment by which the answer must have begun (a stream's first content) or be whole (all else).
        slack_s: by so much earlier than the deadline the caller may give up: see `begin_by`.
        ends: the moment by which the whole must be done, a stream's end included; None: a stream that has begun takes its time.
        credential: the caller's own key where `upstream.credentials = "caller"`; never stored, never shown.
        labels: what the call is for, as its caller says.
        id: how it is called in headers, logs and traces.
        trail: what it goes through; None where nobody follows it.
        trace: where it is in its caller's trace, or in one of ours; None where there is none.
    """

    caller: Caller
    lane: str
    model: str = ""
    method: str = "POST"
    path: str = "/v1/messages"
    endpoint: str = "messages"
    version: str = ""
    arrival: float
    deadline: float
    slack_s: float = 0.0
    ends: float | None = None
    credential: str = field(default="", repr=False)
    labels: Labels = ()
    id: str = field(default="", compare=False)
    trail: Trail | None = field(default_factory=Trail, compare=False, repr=False)
    trace: Trace | None = field(default=None, compare=False, repr=False)

    @property
    def owner(self) -> Owner:
        """Whose it is, and whatever comes of it."""
        return Owner.of(self.caller.name, self.credential)

    @property
    def begin_by(self) -> float:
        """
        The moment past which no attempt is begun, and no wait is planned.

        A caller with a clock of its own gives up without hearing anything. So whatever there is to say (upstream's last word,
        a budget's no) is said while it still listens, and only a call that is at upstream by then goes on to the deadline.
        """
        return self.deadline - self.slack_s


@quick(frozen=True, slots=True, kw_only=True)
class Call(Errand):
    """
    A request whose answer may be kept and shared: what a caller wants from the API.

    Args:
        body: the exact JSON that goes upstream (an object).
        stream: whether the caller wants events; also what `body["stream"]` says.
        max_tokens: from the body, for estimates.
        betas: `anthropic-beta`, passed on.
        headers: every other `anthropic-*` header, lower-case names, passed on.
        fingerprint: hex SHA-256 of the canonical form, its cache scope included.
        scope: the cache scope inside the fingerprint: the caller's name, or "" when shared.
        no_keep: why an answer to this call may not be kept ("" if it may), as `Cache-Status` puts it.
        on_disconnect: what becomes of it if its RPC ends before it has an answer.
        ticket: the ticket that stands for this call already, if it was submitted or goes on without its caller.
        weight: what its body holds, where that was found out when it was read: of large ones.
    """

    body: bytes = field(repr=False)
    max_tokens: int
    stream: bool
    betas: tuple[str, ...] = ()
    headers: Headers = ()
    fingerprint: str
    scope: str
    cache: CacheControl = field(default_factory=CacheControl)
    idempotency_key: str = ""
    on_disconnect: OnDisconnect = OnDisconnect.USUAL
    no_keep: str = ""
    ticket: str = ""
    weight: Weight | None = field(default=None, compare=False, repr=False)

    @property
    def goes_on(self) -> bool:
        """Whether it goes on if its RPC ends before it has an answer."""
        return self.on_disconnect.goes_on(has_key=bool(self.idempotency_key))

    @property
    def has_ticket(self) -> bool:
        """Whether it has a ticket from the beginning, since it may go on, or be sought again."""
        return bool(self.idempotency_key) or self.goes_on


@quick(frozen=True, slots=True)
class Usage:
    """
    What upstream counted. `known` is False when it never said.

    Args:
        cache_creation_1h_input_tokens: those of `cache_creation_input_tokens` that its prompt cache keeps for an hour.
        tier: the service tier it was done in, as upstream names it ("priority", "batch"); "fast" for fast mode, "" as usual.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    known: bool = True
    cache_creation_1h_input_tokens: int = 0
    tier: str = ""

    @property
    def metered_input_tokens(self) -> int:
        """Input as the provider's limits count it: cache reads are free."""
        return self.input_tokens + self.cache_creation_input_tokens


UNTOLD = Usage(known=False)
"""Upstream has said nothing."""


@quick(frozen=True, slots=True)
class Event:
    """One server-sent event: its name, its data (JSON), and the exact bytes, blank line included."""

    name: str
    data: bytes
    raw: bytes


@quick(frozen=True, slots=True)
class Answer:
    """
    A complete, successful answer.

    Args:
        form: JSON or EVENTS.
        payload: the exact JSON body, or the exact bytes of all events.
        created: when upstream finished it.
        usage: what it cost.
        request_id: upstream's `request-id`.
        no_keep: why it was not kept, as `Cache-Status` puts it; "" if it was, or if nobody has decided yet.
        is_kept: whether it went into the cache.
        headers: what else upstream said, lower-case names: the headers that are as true of a copy (upstream/remarks.py).
    """

    form: Form
    payload: bytes = field(repr=False)
    created: float
    usage: Usage = Usage(known=False)
    request_id: str = ""
    no_keep: str = ""
    is_kept: bool = False
    headers: Headers = ()

    def decided(self, no_keep: str) -> Answer:
        """Return the answer, now that somebody has decided why it is not kept, or, by "", that it is."""
        return Answer(self.form, self.payload, self.created, self.usage, self.request_id, no_keep, not no_keep, self.headers)


@dataclass(slots=True)
class Reply:
    """
    What the flow hands to an edge: a complete answer, or live events of one that is still being said.

    Exactly one of `answer` and `events` is set; `events` only for streaming calls, and only once the first content delta is
    there. `cache_status` is the value of the `Cache-Status` header (RFC 9211), `headers` what else upstream said. `waited_s` is
    how long the call waited for turns, `came_at` when there was something to say (Unix seconds); `whole` returns what a live
    stream was in the end, once it has ended. `is_early` says that the stream is opened before there is anything to say: then
    its events begin with signs of life, and where it came from is known at its first content.
    """

    source: Source
    attempts: int
    age_s: float = 0.0
    ticket: str = ""
    cache_status: str = ""
    request_id: str = ""
    waited_s: float = 0.0
    is_early: bool = False
    came_at: float = 0.0
    headers: Headers = ()
    answer: Answer | None = None
    events: AsyncIterator[Event] | None = None
    whole: Callable[[], Answer | None] | None = None
    renditions: dict[str, Any] = field(default_factory=dict, repr=False)

    def rendition(self, name: str, make: Callable[[Answer], R]) -> R:
        """Return the whole answer in one of the forms in which doors say it; made once for all who share the answer."""
        if self.answer is None:
            raise RuntimeError("a reply has an answer or events")
        if name not in self.renditions:
            self.renditions[name] = make(self.answer)
        made: R = self.renditions[name]
        return made

    def learn(self, came: Reply) -> None:
        """Take over from the reply that came after all where the answer is from; for a stream that was opened early."""
        self.source, self.attempts, self.ticket = came.source, came.attempts, came.ticket
        self.age_s, self.waited_s, self.request_id = came.age_s, came.waited_s, came.request_id
        self.came_at, self.whole = came.came_at, came.whole if came.answer is None else lambda: came.answer

    def usage(self) -> Usage | None:
        """Return what upstream counted for the answer, if it is whole by now."""
        answer = self.answer or (self.whole() if self.whole is not None else None)
        return answer.usage if answer is not None else None
