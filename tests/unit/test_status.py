"""Every error has its gRPC code, one ErrorInfo, and what its caller needs for the next step."""

from __future__ import annotations

import base64
import string
import urllib.parse
from collections.abc import Callable
from typing import Any

import pytest
from google.rpc import code_pb2, error_details_pb2
from grpc import StatusCode
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace import errors
from headrace.edge import status
from headrace.errors import HeadraceError, UpstreamError

DETAILS = {
    cls.DESCRIPTOR.full_name: cls
    for cls in (
        error_details_pb2.ErrorInfo,
        error_details_pb2.RetryInfo,
        error_details_pb2.QuotaFailure,
        error_details_pb2.BadRequest,
        error_details_pb2.ResourceInfo,
    )
}
AGAIN = {"RetryInfo"}


def details_of(said: Any) -> dict[str, Any]:
    found = {}
    for packed in said.details:
        detail = DETAILS[packed.TypeName()]()
        assert packed.Unpack(detail)
        assert detail.DESCRIPTOR.name not in found
        found[detail.DESCRIPTOR.name] = detail
    return found


OURS = [
    (errors.InvalidCall("m", metadata={"field": "model"}), StatusCode.INVALID_ARGUMENT, {"BadRequest"}),
    (errors.TooLarge("m"), StatusCode.INVALID_ARGUMENT, {"BadRequest"}),
    (errors.TooSlow("m"), StatusCode.DEADLINE_EXCEEDED, set()),
    (errors.UnknownCaller("m"), StatusCode.UNAUTHENTICATED, set()),
    (errors.NotAllowed("m"), StatusCode.PERMISSION_DENIED, set()),
    (errors.BudgetExhausted("m", retry_after_s=2.5), StatusCode.RESOURCE_EXHAUSTED, {"QuotaFailure", "RetryInfo"}),
    (errors.BudgetExhausted("m"), StatusCode.RESOURCE_EXHAUSTED, {"QuotaFailure"}),
    (errors.UpstreamOverloaded("m", retry_after_s=2.5), StatusCode.UNAVAILABLE, {"RetryInfo"}),
    (errors.CallerOnHold("m", retry_after_s=2.5), StatusCode.RESOURCE_EXHAUSTED, {"QuotaFailure", "RetryInfo"}),
    (errors.CallerOnHold("m"), StatusCode.RESOURCE_EXHAUSTED, {"QuotaFailure"}),
    (errors.QueueFull("m"), StatusCode.RESOURCE_EXHAUSTED, {"QuotaFailure", "RetryInfo"}),
    (errors.DeadlinePassed("m"), StatusCode.DEADLINE_EXCEEDED, set()),
    (errors.Draining("m"), StatusCode.UNAVAILABLE, AGAIN),
    (errors.RedisAway("m"), StatusCode.UNAVAILABLE, AGAIN),
    (errors.RedisRefused("m"), StatusCode.UNAVAILABLE, set()),
    (errors.NotCached("m"), StatusCode.NOT_FOUND, {"ResourceInfo"}),
    (errors.IdempotencyConflict("m"), StatusCode.ALREADY_EXISTS, {"ResourceInfo"}),
    (errors.TicketNotFound("m", metadata={"ticket": "t1"}), StatusCode.NOT_FOUND, {"ResourceInfo"}),
    (errors.TicketLost("m", retry_after_s=1.0), StatusCode.UNAVAILABLE, {"RetryInfo"}),
    (errors.ResourceNotFound("m", metadata={"resource": "file_1"}), StatusCode.NOT_FOUND, {"ResourceInfo"}),
    (errors.LimitNotFound("m", metadata={"limit": "org"}), StatusCode.NOT_FOUND, {"ResourceInfo"}),
    (errors.OverrideNotFound("m"), StatusCode.NOT_FOUND, {"ResourceInfo"}),
    (errors.HostNotFound("m"), StatusCode.NOT_FOUND, {"ResourceInfo"}),
    (errors.CallNotFound("m"), StatusCode.NOT_FOUND, {"ResourceInfo"}),
    (errors.Canceled("m"), StatusCode.CANCELLED, set()),
    (errors.Abandoned("m"), StatusCode.CANCELLED, set()),
    (errors.BrokenStream("m", status=529), StatusCode.UNAVAILABLE, AGAIN),
]
UPSTREAMS = [
    (400, StatusCode.INVALID_ARGUMENT, {"BadRequest"}),
    (401, StatusCode.UNAUTHENTICATED, set()),
    (402, StatusCode.FAILED_PRECONDITION, set()),
    (403, StatusCode.PERMISSION_DENIED, set()),
    (404, StatusCode.NOT_FOUND, {"ResourceInfo"}),
    (408, StatusCode.UNAVAILABLE, AGAIN),
    (409, StatusCode.ABORTED, set()),
    (413, StatusCode.INVALID_ARGUMENT, {"BadRequest"}),
    (418, StatusCode.FAILED_PRECONDITION, set()),
    (429, StatusCode.RESOURCE_EXHAUSTED, {"QuotaFailure"}),
    (500, StatusCode.UNAVAILABLE, AGAIN),
    (502, StatusCode.UNAVAILABLE, AGAIN),
    (504, StatusCode.UNAVAILABLE, AGAIN),
    (529, StatusCode.UNAVAILABLE, AGAIN),
]


@pytest.mark.parametrize(("error", "code", "names"), OURS, ids=lambda value: type(value).__name__)
def test_ours(error: HeadraceError, code: StatusCode, names: set[str]) -> None:
    """Each of our refusals, with its reason and all that varies as metadata."""
    said = status.say(error)
    found = details_of(said)
    assert status.row(error).code is code
    assert said.code == code.value[0]
    assert set(found) == {"ErrorInfo"} | names
    assert (found["ErrorInfo"].reason, found["ErrorInfo"].domain) == (error.reason, "headrace")
    assert dict(found["ErrorInfo"].metadata).items() >= error.metadata.items()


@pytest.mark.parametrize(("http", "code", "names"), UPSTREAMS)
def test_upstream(http: int, code: StatusCode, names: set[str]) -> None:
    """Each of upstream's errors, by its HTTP status."""
    error = UpstreamError("no", status=http, type="some_error", headers=(("request-id", "req_1"),))
    found = details_of(status.say(error))
    assert status.row(error).code is code
    assert set(found) == {"ErrorInfo"} | names
    expected = {"upstream_status": str(http), "upstream_type": "some_error", "request_id": "req_1"}
    assert dict(found["ErrorInfo"].metadata) == expected


def test_every_error_has_a_row() -> None:
    """A refusal that is new to the tree must be given a code."""
    classes = {cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.Refusal)}
    known = {type(error) for error, _, _ in OURS}
    assert classes - {errors.Refusal} <= known


def test_waiting() -> None:
    """RetryInfo says how long, and upstream's own word is passed on."""
    assert (
        details_of(status.say(errors.BudgetExhausted("m", retry_after_s=2.5)))["RetryInfo"].retry_delay.ToMilliseconds() == 2500
    )
    limited = UpstreamError("m", status=429, retry_after_s=7)
    assert details_of(status.say(limited))["RetryInfo"].retry_delay.seconds == 7


def test_names() -> None:
    """The field, the limit and the ticket are named where machines look for them."""
    bad = details_of(status.say(errors.InvalidCall("m", metadata={"field": "max_tokens"})))
    assert bad["BadRequest"].field_violations[0].field == "max_tokens"
    spent = details_of(status.say(errors.BudgetExhausted("m", metadata={"limit": "org"})))
    assert spent["QuotaFailure"].violations[0].subject == "org"
    lost = details_of(status.say(errors.TicketNotFound("m", metadata={"ticket": "t1"})))
    assert lost["ResourceInfo"].resource_name == "t1"


@pytest.mark.parametrize("error", [ValueError("a prompt"), HeadraceError("a prompt"), KeyError("a prompt")])
def test_internal(error: Exception) -> None:
    """What is not ours to explain says nothing of itself."""
    said = status.say(error)
    assert (said.code, said.message) == (code_pb2.INTERNAL, "internal error")
    assert "prompt" not in str(said)
    assert set(details_of(said)) == {"ErrorInfo"}


TEXTS = st.text(st.characters(codec=None), max_size=3000) | st.text("水🌊é%\n\ud83d", min_size=300, max_size=6000)
ERRORS = st.sampled_from(
    [
        lambda text, known: errors.InvalidCall(text, metadata=known),
        lambda text, known: errors.IdempotencyConflict(text, metadata=known),
        lambda text, known: errors.BudgetExhausted(text, metadata=known, retry_after_s=3),
        lambda text, known: UpstreamError(text, status=404, type=text, headers=(("request-id", text),), metadata=known),
        lambda text, known: UpstreamError(text, status=429, type="t", retry_after_s=1e6, metadata=known),
    ]
)
NAMES = st.sampled_from(["field", "limit", "bucket", "ticket", "answer", "idempotency_key", *map(str, range(20))])


def wire_bytes(said: Any) -> int:
    """What a status takes as trailers, by gRPC's own rules, with 32 bytes a field."""
    message = urllib.parse.quote(said.message, safe=string.punctuation.replace("%", "") + " ")
    details = base64.b64encode(said.SerializeToString())
    named = {"grpc-status": str(said.code), "grpc-message": message, status.DETAILS_KEY: details}
    own = {":status": "200", "content-type": "application/grpc", "grpc-accept-encoding": "identity, deflate, gzip"}
    return sum(len(name) + len(value) + 32 for name, value in (named | own).items())


@given(ERRORS, TEXTS, st.dictionaries(NAMES, TEXTS, max_size=20))
@settings(deadline=None)
def test_fits(make: Callable[..., HeadraceError], text: str, known: dict[str, str]) -> None:
    """Whatever an error says, it fits into 8 KiB of trailers, with its code and every detail."""
    error = make(text, known)
    said = status.say(error)
    assert wire_bytes(said) <= 8192
    assert len(details_of(said)) == 1 + len(status.row(error).details) + (error.retry_after_s is not None)
    whole = text.encode(errors="replace").decode()
    assert said.message == whole or (said.message.endswith("...") and whole.startswith(said.message[:-3]))


@pytest.mark.parametrize("letter", ["水", "🌊", "é", "%", "x", "\n"])
def test_room_is_used(letter: str) -> None:
    """A text is cut no shorter than it must be, and one that fits is whole."""
    said = status.say(errors.InvalidCall(letter * 10_000))
    assert 8192 - 1880 < wire_bytes(said) <= 8192 - 1408  # the rest is for the call's id, its times and its ticket
    assert said.message.strip(letter) == "..."
    assert status.say(errors.InvalidCall(letter * 340)).message == letter * 340


@pytest.mark.parametrize(
    "error", [*(error for error, _, _ in OURS), UpstreamError("m", status=404), UpstreamError("m", status=429)]
)
def test_said_once(error: HeadraceError) -> None:
    """The text is the status's own; no detail repeats it."""
    error.message = "these very words"
    said = status.say(error)
    assert said.message == "these very words"
    assert all(b"these very words" not in packed.value for packed in said.details)


def test_halves() -> None:
    """Half a surrogate pair, in a text or in metadata, does no harm."""
    said = status.say(errors.InvalidCall("\ud83d!", metadata={"field": "\udc80"}))
    assert (said.message, details_of(said)["BadRequest"].field_violations[0].field) == ("?!", "?")


def test_circles() -> None:
    """An error that is its own cause, by itself or by others, forgets where it was, and is done with that."""
    one, other = errors.InvalidCall("one"), errors.InvalidCall("other")
    for error, cause in ((one, other), (other, one)):
        with pytest.raises(errors.InvalidCall):
            raise error from cause
    status._forget_ways(one)
    assert one.__traceback__ is other.__traceback__ is None
    itself = errors.InvalidCall("itself")
    itself.__cause__ = itself
    status._forget_ways(itself)
