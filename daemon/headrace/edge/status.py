"""
Errors as gRPC says them: one table, and the only place that knows gRPC codes.

An error is a google.rpc.Status with an ErrorInfo (reason, domain "headrace", and as metadata everything that varies in the
message), and with what the caller needs for its next step: RetryInfo if waiting helps, QuotaFailure, BadRequest, ResourceInfo.
The text is the status's own; details name the field, the limit, the resource, and say it no second time. All of it fits into
an RPC's trailers. What is not ours to explain is INTERNAL and says nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from google.rpc import error_details_pb2, status_pb2
from grpc import StatusCode

from headrace import errors
from headrace.edge import grpc_ids, trailers
from headrace.errors import HeadraceError, UpstreamError
from headrace.trail import TICKET_HEADER

DOMAIN = "headrace"
DETAILS_KEY = "grpc-status-details-bin"

_LONGEST_S = 366 * 86_400.0  # of a wait that is told; more is none, and passes what a duration holds
_RETRY_S = 1.0  # where waiting helps and nobody knows how long

Known = dict[str, str]  # what an error's metadata says, bounded
Detail = Callable[[HeadraceError, Known], Any]  # makes a message of google.rpc


@dataclass(frozen=True, slots=True)
class Row:
    """What an error is in gRPC. `helps` says that waiting does, even if nobody knows how long."""

    code: StatusCode
    details: tuple[Detail, ...] = ()
    helps: bool = False


def _bad_request(error: HeadraceError, known: Known) -> Any:
    violation = error_details_pb2.BadRequest.FieldViolation(field=known.get("field", "params"), reason=error.reason)
    return error_details_pb2.BadRequest(field_violations=[violation])


def _quota(error: HeadraceError, known: Known) -> Any:
    named = known.get("limit") or known.get("bucket") or known.get("caller")
    subject = named or ("upstream" if isinstance(error, UpstreamError) else DOMAIN)
    return error_details_pb2.QuotaFailure(violations=[error_details_pb2.QuotaFailure.Violation(subject=subject)])


def _resource(type: str) -> Detail:
    return lambda error, known: error_details_pb2.ResourceInfo(resource_type=type, resource_name=known.get(type, ""))


_INVALID = Row(StatusCode.INVALID_ARGUMENT, (_bad_request,))
_EXHAUSTED = Row(StatusCode.RESOURCE_EXHAUSTED, (_quota,))
_AWAY = Row(StatusCode.UNAVAILABLE, helps=True)

_TABLE: dict[type[HeadraceError], Row] = {
    errors.InvalidCall: _INVALID,
    errors.TooLarge: _INVALID,
    errors.TooSlow: Row(StatusCode.DEADLINE_EXCEEDED),
    errors.UnknownCaller: Row(StatusCode.UNAUTHENTICATED),
    errors.NotAllowed: Row(StatusCode.PERMISSION_DENIED),
    errors.BudgetExhausted: _EXHAUSTED,  # without a time it never fits: no RetryInfo
    errors.UpstreamOverloaded: _AWAY,
    errors.CallerOnHold: _EXHAUSTED,
    errors.QueueFull: Row(StatusCode.RESOURCE_EXHAUSTED, (_quota,), helps=True),
    errors.DeadlinePassed: Row(StatusCode.DEADLINE_EXCEEDED),
    errors.Draining: _AWAY,
    errors.RedisAway: _AWAY,
    errors.RedisRefused: Row(StatusCode.UNAVAILABLE),
    errors.NotCached: Row(StatusCode.NOT_FOUND, (_resource("answer"),)),
    errors.IdempotencyConflict: Row(StatusCode.ALREADY_EXISTS, (_resource("idempotency_key"),)),
    errors.TicketNotFound: Row(StatusCode.NOT_FOUND, (_resource("ticket"),)),
    errors.TicketLost: _AWAY,
    errors.ResourceNotFound: Row(StatusCode.NOT_FOUND, (_resource("resource"),)),
    errors.LimitNotFound: Row(StatusCode.NOT_FOUND, (_resource("limit"),)),
    errors.OverrideNotFound: Row(StatusCode.NOT_FOUND, (_resource("override"),)),
    errors.HostNotFound: Row(StatusCode.NOT_FOUND, (_resource("host"),)),
    errors.CallNotFound: Row(StatusCode.NOT_FOUND, (_resource("call"),)),
    errors.Canceled: Row(StatusCode.CANCELLED),
    errors.Abandoned: Row(StatusCode.CANCELLED),
    errors.BrokenStream: _AWAY,
}
_UPSTREAM: dict[int, Row] = {
    400: _INVALID,
    401: Row(StatusCode.UNAUTHENTICATED),
    403: Row(StatusCode.PERMISSION_DENIED),
    404: Row(StatusCode.NOT_FOUND, (_resource("upstream"),)),
    408: _AWAY,
    409: Row(StatusCode.ABORTED),
    413: _INVALID,
    422: _INVALID,
    429: _EXHAUSTED,
}
_UPSTREAM_REFUSES = Row(StatusCode.FAILED_PRECONDITION)  # billing and whatever else a repeat cannot mend
_INTERNAL = Row(StatusCode.INTERNAL)


def row(error: Exception) -> Row:
    """Return what an error is in gRPC."""
    known = _TABLE.get(type(error))  # type: ignore[arg-type]  # what is none of ours has no row there
    if known is None and isinstance(error, UpstreamError):
        known = _UPSTREAM.get(error.status, _AWAY if error.status >= 500 else _UPSTREAM_REFUSES)
    return known or _INTERNAL


def say(error: Exception) -> status_pb2.Status:
    """Return the status for any error."""
    known = row(error)
    code: int = known.code.value[0]
    if known is _INTERNAL or not isinstance(error, HeadraceError):
        info = error_details_pb2.ErrorInfo(reason=HeadraceError.reason, domain=DOMAIN)
        return _status(code, "internal error", [info])
    said = trailers.bounded(_metadata(error))
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=said)
    details = [info, *[detail(error, said) for detail in known.details]]
    if error.retry_after_s is not None or known.helps:
        details.append(_retry_info(_RETRY_S if error.retry_after_s is None else error.retry_after_s))
    return _status(code, error.message, details)


async def abort(context: Any, error: Exception) -> None:
    """
    End an RPC with what the error says; never returns.

    From then on the error knows no more where it was raised. grpcio keeps an exception of its own with the call, which holds
    all who are on the way here, and so the call, in a circle: what they know is there until Python looks for circles, minutes
    later. A traceback knows every body that was refused.
    """
    status = say(error)
    _forget_ways(error)
    await context.abort(row(error).code, status.message, _trailers(context, error, status))


def _forget_ways(error: BaseException | None) -> None:
    seen: set[int] = set()  # `raise X from X` is a circle
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


async def conclude(context: Any, error: Exception) -> None:
    """
    Say with what an RPC ends whose handler returns now, and takes many messages and gives many.

    Unlike `abort` it raises nothing: an exception that grpcio keeps holds the call, and all that came with it, in a circle.
    """
    status = say(error)
    context.set_code(row(error).code)
    context.set_details(status.message)
    context.set_trailing_metadata(_trailers(context, error, status))


def _trailers(context: Any, error: Exception, status: status_pb2.Status) -> tuple[tuple[str, str | bytes], ...]:
    trail = error.trail if isinstance(error, HeadraceError) else None
    ticket = ((TICKET_HEADER, trail.ticket),) if trail is not None and trail.ticket else ()
    return (DETAILS_KEY, status.SerializeToString()), *ticket, *grpc_ids.trailers(context, trail)


def _status(code: int, message: str, details: list[Any]) -> status_pb2.Status:
    status = status_pb2.Status(code=code)
    for detail in details:
        status.details.add().Pack(detail)
    status.message = trailers.fit(message, status.ByteSize())
    return status


def _retry_info(seconds: float) -> Any:
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromNanoseconds(round(max(0.0, min(seconds, _LONGEST_S)) * 1_000_000) * 1000)
    return info


def _metadata(error: HeadraceError) -> dict[str, str]:
    if not isinstance(error, UpstreamError):
        return error.metadata
    said = {"upstream_status": str(error.status), "upstream_type": error.type}
    if request_id := dict(error.headers).get("request-id"):
        said["request_id"] = request_id
    return said | error.metadata
