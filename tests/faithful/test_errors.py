"""docs/errors.md has every error, each as the code has it."""

from __future__ import annotations

import json

import pytest
from grpc import StatusCode

from faithful.page import OTHERS, OURS, PAGE, UPSTREAMS
from headrace import errors
from headrace.edge import http_errors, status
from headrace.errors import Failure, HeadraceError
from headrace.upstream import failures

AGAIN = {Failure.FINAL: "no", Failure.BROKEN: "up to max_attempts"}
AGAIN |= dict.fromkeys((Failure.RATE_LIMITED, Failure.OVERLOADED), "until the deadline")
SAID_BY_UPSTREAM = {errors.UpstreamError, errors.OutOfTime, errors.BrokenStream}


def our_errors() -> dict[str, type[HeadraceError]]:
    """Every error that is said, by its reason; not what upstream says."""
    kinds = {value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, HeadraceError)}
    never_said = {errors.Refusal, errors.AttemptFailed}
    return {kind.reason: kind for kind in kinds - never_said - SAID_BY_UPSTREAM}


def spoken(error: Exception) -> list[str]:
    """An error as the cells HTTP, gRPC, details and x-should-retry have it."""
    http, said = http_errors.say(error, "req"), status.say(error)
    kind = json.loads(http.body)["error"]["type"]
    named = {packed.TypeName().rpartition(".")[2] for packed in said.details} - {"ErrorInfo"}
    order = ["BadRequest", "QuotaFailure", "ResourceInfo", "RetryInfo"]
    code = next(code for code in StatusCode if code.value[0] == said.code)
    should_retry = dict(http.headers).get("x-should-retry", "")
    return [f"{http.status} `{kind}`", code.name, ", ".join(name for name in order if name in named), should_retry]


@pytest.mark.parametrize("row", OURS, ids=lambda row: row[0])
def test_our_row(row: list[str]) -> None:
    """Each row of ours is what both edges say."""
    reason, _, wait = row[0].replace("`", "").partition(", ")
    error = our_errors()[reason]("no", retry_after_s=2.0 if wait else None)
    assert row[1:5] == spoken(error)
    http = dict(http_errors.say(error, "req").headers)
    assert http.get("retry-after") == ("2" if wait else None)


@pytest.mark.parametrize("row", UPSTREAMS, ids=lambda row: row[0])
def test_upstream_row(row: list[str]) -> None:
    """Each row of upstream's is what both edges say, and how often it is tried."""
    number = OTHERS.get(row[0]) or int(row[0])
    failed = failures.classify(number, {}, b"")
    http, code, named, should_retry = spoken(failed.error)
    assert [f"{row[0]} {row[1]}".replace(row[0], str(number)), *row[3:]] == [http, code, named]
    assert (row[2], should_retry) == (AGAIN[failed.failure], "false")


def test_all_rows() -> None:
    """No error is without its row, and none has two but where a wait makes the difference."""
    said = [row[0].replace("`", "") for row in OURS]
    assert {reason.partition(",")[0] for reason in said} == our_errors().keys()
    assert len(set(said)) == len(said)
    assert {int(row[0]) for row in UPSTREAMS if row[0] not in OTHERS} == failures._TABLE.keys() | {500, 502, 503}
    for kind in SAID_BY_UPSTREAM:
        assert f"`{kind.reason}`" in PAGE


def test_waits() -> None:
    """A wait is said by whatever has one: waiting rows are those that the code gives a length, or knows to help."""
    named = {row[0].partition("`,")[0].strip("`") for row in OURS if "RetryInfo" in row[3]}
    assert named == {
        "BUDGET_EXHAUSTED",
        "UPSTREAM_OVERLOADED",
        "CALLER_ON_HOLD",
        "QUEUE_FULL",
        "DRAINING",
        "REDIS_AWAY",
        "TICKET_LOST",
    }
    for row in OURS:
        assert ("RetryInfo" in row[3]) == ("with a wait" in row[0]), row
