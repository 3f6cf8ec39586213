"""
Errors through the daemon: the class, status and body that the official SDKs raise without it.

Comparable are errors that upstream calls final, those that end nobody's wait, and those that outlast the caller's deadline: of
these all but the number of tries. Not comparable: 401 for the caller's own key (the daemon asks with its own), and a connection
that breaks (without the daemon the SDK's own class, with it a 502 or, in a stream, an `error` event).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import anthropic
import pytest

from comparison import typescript
from comparison.pair import Compare, differences
from comparison.python import observe, plain, wrong
from comparison.rows import MODEL, ask, batch, upload
from comparison.typescript import Node

STATUSES = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 408: "timeout_error", 409: "conflict_error", 413: "request_too_large",
    422: "invalid_request_error", 429: "rate_limit_error", 500: "api_error", 502: "api_error", 503: "api_error",
    504: "timeout_error", 529: "overloaded_error",
}  # fmt: skip
TRANSIENT = {"rate_limit": 429, "overloaded": 529, "api_error": 500, "unavailable": 503, "gateway_timeout": 504}

CALLS: dict[str, Callable[[Any], Any]] = {
    "messages.create": lambda sdk: sdk.messages.create(**ask("an error")),
    "messages.create as events": lambda sdk: list(sdk.messages.create(**ask("an error"), stream=True)),
    "messages.count_tokens": lambda sdk: sdk.messages.count_tokens(model=MODEL, messages=[{"role": "user", "content": "x"}]),
    "messages.batches.create": batch,
    "messages.batches.results": lambda sdk: sdk.messages.batches.results("msgbatch_1"),
    "models.list": lambda sdk: sdk.models.list(),
    "files.upload": upload,
    "files.download": lambda sdk: sdk.files.download("file_1").read(),
    "organization.users.list": lambda sdk: sdk.organization.users.list(),
    "organization.workspaces.create": lambda sdk: sdk.organization.workspaces.create(name="x"),
}

# What upstream refuses by itself.
REFUSED: dict[str, Callable[[Any], Any]] = {
    "messages.create: no such model": lambda sdk: sdk.messages.create(**ask("x") | {"model": "gpt-4"}),
    "messages.create: unknown field": lambda sdk: sdk.messages.create(**ask("x"), extra_body={"colour": "blue"}),
    "messages.create: unknown version": lambda sdk: sdk.messages.create(
        **ask("x"), extra_headers={"anthropic-version": "2000-01-01"}
    ),
    "models.retrieve: no such model": lambda sdk: sdk.models.retrieve("gpt-4"),
    "messages.batches.create: none": lambda sdk: sdk.messages.batches.create(requests=[]),
    "messages.batches.retrieve: no such batch": lambda sdk: sdk.messages.batches.retrieve("msgbatch_none"),
    "messages.batches.list: no such place": lambda sdk: sdk.messages.batches.list(after_id="msgbatch_none"),
    "messages.batches.cancel: ended": lambda sdk: sdk.messages.batches.cancel(batch(sdk).id),
    "files.upload: a name that none may have": lambda sdk: upload(sdk, name="a<b"),
    "files.retrieve_metadata: no such file": lambda sdk: sdk.files.retrieve_metadata("file_none"),
    "files.download: no such file": lambda sdk: sdk.files.download("file_none").read(),
    "organization.users.retrieve: no such user": lambda sdk: sdk.organization.users.retrieve("user_none"),
    "organization.invites.create: twice": lambda sdk: [
        sdk.organization.invites.create(email="pond@example.com", role="user") for _ in range(2)
    ],
    "skills.list: no such path": lambda sdk: sdk.skills.list(),
}

# What the daemon refuses before upstream has to, in words of its own.
REFUSED_HERE: dict[str, Callable[[Any], Any]] = {
    "messages.create: no tokens": lambda sdk: sdk.messages.create(**ask("x") | {"max_tokens": -1}),
    "messages.create: no messages": lambda sdk: sdk.messages.create(**ask("x") | {"messages": []}),
    "messages.count_tokens: no messages": lambda sdk: sdk.messages.count_tokens(model=MODEL, messages=[]),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("status", STATUSES)
def test_final(compare: Compare, status: int, name: str) -> None:
    """What upstream calls final comes through whole, after one try."""
    direct, through = compare(observe, CALLS[name], ("answers", _final(status)), is_admin=_is_admins(name))
    assert direct["said"]["status"] == status
    assert direct["said"]["body"] == _final(status)["json"]
    assert not differences(direct, through)


@pytest.mark.parametrize("status", STATUSES)
def test_final_in_typescript(compare: Compare, process: Node, status: int) -> None:
    """So it does with the TypeScript SDK."""
    calls = {name: work for name, work in CALLS.items() if not _is_admins(name)}

    def work(sdk: Any) -> dict[str, Any]:
        return {name: _raised(sdk, call) for name, call in calls.items()}

    direct, through = compare(functools.partial(typescript.observe, process), work, ("answers", _final(status)))
    assert {said["status"] for said in direct["said"].values()} == {status}
    assert not differences(direct, through)


def _raised(sdk: Any, call: Callable[[Any], Any]) -> Any:
    with pytest.raises(typescript.Wrong) as raised:
        call(sdk)
    return raised.value.told


def _final(status: int) -> dict[str, Any]:
    """Return what to order for an error after which there is no other try."""
    error = {"type": STATUSES[status], "message": f"no: {status}", "details": {"n": 1}}
    headers = {"x-should-retry": "false", "request-id": "req_1"} | ({"retry-after": "7"} if status == 429 else {})
    said = {"type": "error", "error": error, "request_id": "req_1"}
    return {"path": "/v1/*", "status": status, "headers": headers, "json": said}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(compare: Compare, name: str) -> None:
    """So does what upstream refuses by itself; only that a repeat is pointless is said besides."""
    direct, through = compare(observe, REFUSED[name], is_admin=_is_admins(name))
    assert direct["said"]["status"] in (400, 404)
    assert through["exchanged"][-1]["headers"].pop("x-should-retry") == "false"
    assert not differences(direct, through)


@pytest.mark.parametrize("name", REFUSED_HERE)
def test_refused_here(compare: Compare, name: str) -> None:
    """What the daemon refuses by itself has upstream's class, status and type, and upstream is not asked."""
    direct, through = compare(observe, REFUSED_HERE[name])
    assert direct["said"]["body"]["error"]["type"] == through["said"]["body"]["error"]["type"] == "invalid_request_error"
    assert (direct["said"]["error"], direct["said"]["status"]) == (through["said"]["error"], through["said"]["status"])
    assert through["reached"] == []


@pytest.mark.parametrize(
    "name", ["messages.create", "messages.create as events", "models.list", "organization.workspaces.create"]
)
@pytest.mark.parametrize("kind", TRANSIENT)
def test_lasting(compare: Compare, kind: str, name: str) -> None:
    """What outlasts the caller's deadline is said as it was, however often it was met."""
    fault = {"kind": kind, "path": "*", "retry_after_s": [9, 9]}
    direct, through = compare(
        observe, CALLS[name], ("faults", fault), is_admin=_is_admins(name), **{"x-headrace-timeout-ms": "300"}
    )
    assert direct["said"]["status"] == TRANSIENT[kind]
    assert through["exchanged"][0]["headers"].pop("x-should-retry") == "false"
    assert through["reached"][0] == direct["reached"][0]
    assert not differences(_less_tries(direct), _less_tries(through))


@pytest.mark.parametrize("deltas", [1, 3])
@pytest.mark.parametrize("kind", ["overloaded_error", "api_error"])
def test_in_a_stream(compare: Compare, kind: str, deltas: int) -> None:
    """An error in the midst of a stream comes after the same events."""
    fault = {"kind": "stream_error", "error_type": kind, "after_deltas": deltas}
    direct, through = compare(observe, _events_then_error, ("faults", fault))
    assert len(direct["said"]["events"]) > deltas
    assert direct["said"]["then"]["body"]["error"]["type"] == kind
    assert not differences(direct, through)


def _events_then_error(sdk: anthropic.Anthropic) -> dict[str, Any]:
    events: list[Any] = []
    try:
        events.extend(plain(event) for event in sdk.messages.create(**ask("half"), stream=True))
    except anthropic.APIError as error:
        return {"events": events, "then": wrong(error)}
    return {"events": events}


def _is_admins(name: str) -> bool:
    return name.startswith("organization.")


def _less_tries(seen: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in seen.items() if name != "reached"}
