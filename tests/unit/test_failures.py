"""The table of upstream's errors, row by row, and what overrules it."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.errors import AttemptFailed, Failure
from headrace.upstream.failures import classify, classify_event, retry_after

FINAL, BROKEN, LIMITED, OVERLOADED = Failure.FINAL, Failure.BROKEN, Failure.RATE_LIMITED, Failure.OVERLOADED


YEAR_S = 366 * 86_400.0


def body(kind: str = "", message: str = "No.", **details: str) -> bytes:
    error = {"type": kind, "message": message} | ({"details": details} if details else {})
    return msgspec.json.encode({"type": "error", "error": error, "request_id": "req_1"})


@pytest.mark.parametrize(
    ("status", "failure", "kind"),
    [
        (400, FINAL, "invalid_request_error"),
        (401, FINAL, "authentication_error"),
        (402, FINAL, "billing_error"),
        (403, FINAL, "permission_error"),
        (404, FINAL, "not_found_error"),
        (408, BROKEN, "timeout_error"),
        (409, FINAL, "conflict_error"),
        (413, FINAL, "request_too_large"),
        (418, FINAL, "invalid_request_error"),
        (422, FINAL, "invalid_request_error"),
        (429, LIMITED, "rate_limit_error"),
        (499, FINAL, "invalid_request_error"),
        (500, BROKEN, "api_error"),
        (501, BROKEN, "api_error"),
        (502, BROKEN, "api_error"),
        (503, BROKEN, "api_error"),
        (504, BROKEN, "timeout_error"),
        (520, BROKEN, "api_error"),
        (529, OVERLOADED, "overloaded_error"),
    ],
)
def test_status(status: int, failure: Failure, kind: str) -> None:
    """Each status means one thing, with a body that nobody can read too; the body's own type is passed on."""
    page = b"<html>cloudflare</html>"
    failed = classify(status, {}, page)
    assert (failed.failure, failed.error.status, failed.error.type, failed.error.body) == (failure, status, kind, page)
    assert failed.error.message == f"upstream answered {status}"
    assert failed.sent
    assert classify(status, {}, body("odd_error")).error.type == "odd_error"
    assert classify(status, {}, body("odd_error")).failure is failure


@pytest.mark.parametrize(("status", "failure"), [(204, BROKEN), (301, FINAL), (307, FINAL)])
def test_no_error_status(status: int, failure: Failure) -> None:
    """A status that is neither 200 nor an error is a bad gateway to the caller."""
    failed = classify(status, {}, b"")
    assert (failed.failure, failed.error.status, failed.error.type) == (failure, 502, "api_error")


@pytest.mark.parametrize(
    ("status", "headers", "said", "failure"),
    [
        (429, {}, body("rate_limit_error", error_code="enforced_spend_limit_reached"), FINAL),
        (429, {"retry-after": "280000"}, body("rate_limit_error", error_code="contract_spend_limit_reached"), FINAL),
        (429, {"x-should-retry": "true"}, body("rate_limit_error", error_code="contract_spend_limit_reached"), FINAL),
        (
            429,
            {},
            b'{"error":{"type":"rate_limit_error","message":"m","code":"enforced_spend_limit_reached","param":null}}',
            FINAL,
        ),
        (429, {}, b'{"error":{"type":"rate_limit_error","message":"m","code":null,"param":null}}', LIMITED),
        (429, {}, body("billing_error"), FINAL),
        (429, {"retry-after": "7"}, body("rate_limit_error", error_code="ramp_limit_exceeded"), LIMITED),
        (429, {"X-Should-Retry": "false"}, body("rate_limit_error"), FINAL),
        (529, {"x-should-retry": "False "}, body("overloaded_error"), FINAL),
        (529, {"x-should-retry": "true"}, body("overloaded_error"), OVERLOADED),
        (400, {"x-should-retry": "true"}, body("invalid_request_error"), FINAL),
        (500, {}, body("overloaded_error"), OVERLOADED),
        (503, {}, body("overloaded_error"), OVERLOADED),
        (400, {}, body("overloaded_error"), FINAL),
    ],
)
def test_overruled(status: int, headers: Mapping[str, str], said: bytes, failure: Failure) -> None:
    """Spend limits, overloads in disguise and upstream's own word go before the status."""
    assert classify(status, headers, said).failure is failure


@pytest.mark.parametrize(
    ("kind", "failure", "status"),
    [
        ("overloaded_error", OVERLOADED, 529),
        ("rate_limit_error", LIMITED, 429),
        ("api_error", BROKEN, 500),
        ("timeout_error", BROKEN, 504),
        ("invalid_request_error", FINAL, 400),
        ("authentication_error", FINAL, 401),
        ("request_too_large", FINAL, 413),
        ("not_yet_invented_error", BROKEN, 500),
        ("", BROKEN, 500),
    ],
)
def test_in_stream(kind: str, failure: Failure, status: int) -> None:
    """An error event means what the same error means as a status; its data is the body."""
    data = body(kind)
    failed = classify_event(data, {"content-type": "text/event-stream", "request-id": "req_1"})
    assert (failed.failure, failed.error.status, failed.error.body) == (failure, status, data)
    assert dict(failed.error.headers) == {"content-type": "application/json", "request-id": "req_1"}


def test_passed_on() -> None:
    """The caller is told upstream's words and ids, and nothing of the connection."""
    headers = {
        "Request-Id": "req_1", "Retry-After": "3", "Content-Type": "application/json", "Set-Cookie": "secret",
        "anthropic-ratelimit-requests-remaining": "0", "cf-ray": "1", "x-should-retry": "true", "connection": "close",
    }  # fmt: skip
    error = classify(429, headers, body("rate_limit_error", "Slow down.", error_code="ramp_limit_exceeded")).error
    assert (error.message, error.retry_after_s) == ("Slow down.", 3.0)
    assert error.metadata == {
        "status": "429", "type": "rate_limit_error", "error_code": "ramp_limit_exceeded", "request_id": "req_1",
    }  # fmt: skip
    assert {name for name, _ in error.headers} == {
        "request-id", "retry-after", "content-type", "anthropic-ratelimit-requests-remaining", "x-should-retry",
    }  # fmt: skip


def test_long_message() -> None:
    """A message that would burst gRPC's trailers is cut; the body is not."""
    said = body("api_error", "x" * 100_000)
    error = classify(500, {}, said).error
    assert len(error.message) == 1000
    assert error.body == said


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "5"}, 5.0),
        ({"retry-after": "0.25"}, 0.25),
        ({"retry-after-ms": "1500", "retry-after": "9"}, 9.0),
        ({"retry-after-ms": "9500", "retry-after": "2"}, 9.5),
        ({"retry-after": "2, 30, 5"}, 30.0),
        ((("retry-after", "2"), ("Retry-After", "30"), ("retry-after", "5")), 30.0),
        (
            (
                ("retry-after", "40"),
                ("retry-after", "Mon, 01 Mar 2027 00:00:30 GMT"),
                ("date", "Mon, 01 Mar 2027 00:00:00 GMT"),
            ),
            40.0,
        ),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "0"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": "Mon, 01 Mar 2027 00:00:30 GMT", "date": "Mon, 01 Mar 2027 00:00:00 GMT"}, 30.0),
        ({"retry-after": "Mon, 01 Mar 2027 00:00:30 GMT", "date": "Mon, 01 Mar 2027 00:01:00 GMT"}, None),
        ({"retry-after": "Fri, 01 Jan 2100 00:00:30 GMT", "date": "Fri, 99 Jan 2100"}, YEAR_S),
        ({"retry-after": "1e300"}, YEAR_S),
        ({"retry-after-ms": "1" + "0" * 400}, YEAR_S),
        ({"retry-after": "Mon, 01 Mar 2004 00:00:30 GMT"}, None),
    ],
)
def test_retry_after(headers: Mapping[str, str], seconds: float | None) -> None:
    """`retry-after` is read in each of its three spellings, a date by upstream's clock; what makes no sense is not said."""
    assert retry_after(headers) == seconds


def test_one_wait() -> None:
    """Of several waits the caller is told the longest only: SDKs obey one of them, and it need not be that."""
    said = (("retry-after-ms", "300"), ("retry-after", "2"), ("retry-after", "30"), ("request-id", "r"))
    assert classify(429, said, b"").error.headers == (("retry-after", "30"), ("request-id", "r"))


names = st.sampled_from(["retry-after", "Retry-After", "retry-after-ms", "date", "x-should-retry", "request-id"]) | st.text()
values = (
    st.text() | st.floats().map(str) | st.integers().map(str) | st.sampled_from(["Mon, 01 Mar 99999 00:00:30 GMT", "1e999"])
)
json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["type", "error", "details", "error_code", "message"]), inner)
    ),
)
bodies = st.binary() | json.map(msgspec.json.encode) | st.just(b"[" * 200_000) | st.just(b'{"error":' * 50_000)


@given(st.integers(100, 999), st.dictionaries(names, values), bodies)
def test_anything(status: int, headers: Mapping[str, str], said: bytes) -> None:
    """Whatever upstream says, it is classified, its bytes are kept, and a wait is a wait."""
    for failed in (classify(status, headers, said), classify_event(said, headers)):
        assert isinstance(failed, AttemptFailed)
        assert failed.error.body == said
        assert failed.error.status >= 400
        assert failed.retry_after_s is None or 0 < failed.retry_after_s < float("inf")
