"""What both clients say to the daemon: keywords into messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from headrace_client import forms
from headrace_client.v1 import (
    cache_service_pb2,
    messages_pb2,
    messages_service_pb2,
    options_pb2,
    tickets_pb2,
    tickets_service_pb2,
    usage_service_pb2,
)

_LANES = {
    "interactive": options_pb2.LANE_INTERACTIVE,
    "standard": options_pb2.LANE_STANDARD,
    "batch": options_pb2.LANE_BATCH,
}
_GRANULARITIES = {
    "": usage_service_pb2.USAGE_GRANULARITY_UNSPECIFIED,
    "minute": usage_service_pb2.USAGE_GRANULARITY_MINUTE,
    "day": usage_service_pb2.USAGE_GRANULARITY_DAY,
    "month": usage_service_pb2.USAGE_GRANULARITY_MONTH,
}
_FLAGS = {"no-store": "no_store", "no-cache": "no_cache", "only-if-cached": "only_if_cached"}
_PAGE = 200  # tickets in one response
_SPANS = {"max-age": "max_age", "stale-if-error": "stale_if_error"}


class Unset:
    """Says that an argument was not given, where None means something."""


UNSET = Unset()
Timeout = float | None | Unset
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Defaults:
    """What every call of a client has, unless it says otherwise."""

    caller: str = ""
    api_key: str = ""
    lane: str = ""
    timeout_s: float | None = 600.0
    anthropic_version: str = ""
    betas: Sequence[str] = field(default_factory=tuple)
    labels: Labels = field(default_factory=dict)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of every RPC."""
        return (("x-api-key", self.api_key),) if self.api_key else ()

    def seconds(self, timeout: float | Unset | None) -> float | None:
        """Return how long an RPC may take; None for as long as it takes."""
        return self.timeout_s if isinstance(timeout, Unset) else timeout

    def own(self, lane: str, labels: Labels | None) -> Defaults:
        """Return them with what one call says of its own: its lane, and labels beside those of the client."""
        return replace(self, lane=lane or self.lane, labels={**self.labels, **(labels or {})})

    @property
    def who(self) -> options_pb2.CallOptions:
        """The options of a call for which only the caller counts."""
        return options_pb2.CallOptions(caller=self.caller)


@dataclass(frozen=True)
class Call:
    """A call to the Messages API as keywords gave it: what to ask, and how to treat it."""

    params: messages_pb2.MessageParams
    options: options_pb2.CallOptions

    @property
    def create(self) -> messages_service_pb2.CreateMessageRequest:
        """The request for one answer whole."""
        return messages_service_pb2.CreateMessageRequest(params=self.params, options=self.options)

    @property
    def stream(self) -> messages_service_pb2.StreamMessageRequest:
        """The request for its events."""
        return messages_service_pb2.StreamMessageRequest(params=self.params, options=self.options)

    def submit(self, answer_timeout: float | None) -> messages_service_pb2.SubmitMessageRequest:
        """The request for a ticket."""
        request = messages_service_pb2.SubmitMessageRequest(params=self.params, options=self.options)
        if answer_timeout is not None:
            request.answer_timeout.FromNanoseconds(round(answer_timeout * 1e9))
        return request


def read_call(defaults: Defaults, keywords: Mapping[str, Any]) -> Call:
    """
    Return the call that keywords ask for: ours, and every other is a parameter of the API's.

    `cache_control` is ours as a str, in HTTP's terms, and the API's (its prompt cache) as a mapping.
    """
    params = dict(keywords)
    defaults = defaults.own(params.pop("lane", None) or "", params.pop("labels", None))
    ours: dict[str, Any] = {"anthropic_version": defaults.anthropic_version, "betas": defaults.betas}
    for name in ("idempotency_key", "anthropic_version", "betas", "anthropic_headers"):
        if params.get(name) is not None:
            ours[name] = params[name]
        params.pop(name, None)
    if "stream" in params:
        raise TypeError("`stream` is a method of its own: messages.stream(...)")
    if isinstance(params.get("cache_control"), str):
        ours["cache_control"] = params.pop("cache_control")
    return Call(forms.from_dict(messages_pb2.MessageParams, params), _options(defaults, ours))


def _options(defaults: Defaults, said: Mapping[str, Any]) -> options_pb2.CallOptions:
    lane = defaults.lane
    options = options_pb2.CallOptions(
        caller=defaults.caller,
        lane=_LANES.get(lane, options_pb2.LANE_UNSPECIFIED),
        lane_name="" if lane in _LANES else lane,
        labels=defaults.labels,
        idempotency_key=said.get("idempotency_key", ""),
        anthropic_version=said["anthropic_version"],
        anthropic_betas=said["betas"],
        anthropic_headers=said.get("anthropic_headers", {}),
    )
    if directives := said.get("cache_control", ""):
        options.cache_control.CopyFrom(cache_control(directives))
    return options


def cache_control(directives: str) -> options_pb2.CacheControl:
    """Return what a `Cache-Control` says, such as "max-age=600, stale-if-error=60"; ValueError if it says anything else."""
    said = options_pb2.CacheControl()
    for directive in directives.split(","):
        name, _, value = directive.strip().partition("=")
        if name in _FLAGS and not value:
            setattr(said, _FLAGS[name], True)
        elif name in _SPANS and value.isdigit():
            getattr(said, _SPANS[name]).FromSeconds(int(value))
        else:
            raise ValueError(f"cache_control: {directive.strip()!r} is no directive that the daemon knows")
    return said


def ticket_state(name: str) -> tickets_pb2.TicketState.ValueType:
    """Return a ticket's state by its word; "" means any."""
    return tickets_pb2.TicketState.Value(f"TICKET_STATE_{(name or 'unspecified').upper()}")


def list_tickets(defaults: Defaults, state: str, page_token: str) -> tickets_service_pb2.ListTicketsRequest:
    """Return the request for a page of tickets."""
    return tickets_service_pb2.ListTicketsRequest(
        page_size=_PAGE, page_token=page_token, state=ticket_state(state), options=defaults.who
    )


def purge_cache(key: str, caller: str | None, model: str, all: bool) -> cache_service_pb2.PurgeCacheRequest:
    """Return the request to remove answers; TypeError unless exactly one thing says which."""
    given = {"key": key or None, "caller": caller, "model": model or None, "all": all or None}
    chosen: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if len(chosen) != 1:
        raise TypeError("name exactly one of key, caller, model and all")
    return cache_service_pb2.PurgeCacheRequest(**chosen)


def get_usage(
    since: datetime | None, until: datetime | None, by: Sequence[str], per: str, only: Mapping[str, Any]
) -> usage_service_pb2.GetUsageRequest:
    """Return the request for what was used; ValueError for what is no span or pattern that there is."""
    if per not in _GRANULARITIES:
        raise ValueError(f"per: {per!r} is none of minute, day, month")
    request = usage_service_pb2.GetUsageRequest(**only, group_by=by, granularity=_GRANULARITIES[per])
    if since is not None:
        request.since_time.FromDatetime(since)
    if until is not None:
        request.until_time.FromDatetime(until)
    return request
