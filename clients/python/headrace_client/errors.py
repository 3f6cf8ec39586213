"""
What can go wrong, sorted by what the caller can do about it.

    HeadraceError
        InvalidRequestError         change the call
        AuthenticationError         use another key
        PermissionDeniedError       ask as another caller
        NotFoundError               there is no such ticket, model or kept answer
        ConflictError               the idempotency key belongs to another call
        RateLimitError              wait for `retry_after`; without one it never fits
        DeadlineExceededError       allow more time
        UnavailableError            try again after `retry_after`
        CanceledError               the ticket was cancelled
        InternalError               a fault of the daemon's; its log has it

The daemon has retried already: of all these only UnavailableError and RateLimitError are worth another try of one's own.
`reason` is the stable word to tell them apart further, such as BUDGET_EXHAUSTED or QUEUE_FULL (docs/grpc.md has the table).
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

_DETAILS = "grpc-status-details-bin"


class HeadraceError(Exception):
    """
    A call failed.

    Attributes:
        message: for people.
        reason: the constant that says why; the name of the code where the daemon gave none.
        code: the gRPC status code.
        retry_after: seconds after which another try may do; None if the daemon does not know, or never.
        upstream_status: upstream's HTTP status if the error is upstream's, else None.
        metadata: what varies in the message.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: str,
        code: grpc.StatusCode,
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.code = code
        self.retry_after = retry_after
        self.metadata = dict(metadata or {})

    @property
    def upstream_status(self) -> int | None:
        """Upstream's HTTP status, if the error is upstream's."""
        status = self.metadata.get("upstream_status", "")
        return int(status) if status.isdigit() and status != "0" else None

    @property
    def upstream_type(self) -> str:
        """Upstream's type of error, such as "overloaded_error"; "" if the error is not upstream's."""
        return self.metadata.get("upstream_type", "")

    @property
    def request_id(self) -> str:
        """Upstream's id of the call, if known; else ""."""
        return self.metadata.get("request_id", "")

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"


class InvalidRequestError(HeadraceError):
    """The call is wrong."""


class AuthenticationError(HeadraceError):
    """The key is not known, here or upstream."""


class PermissionDeniedError(HeadraceError):
    """The caller may not do this."""


class NotFoundError(HeadraceError):
    """What was asked for is not there."""


class ConflictError(HeadraceError):
    """The call stands against an earlier one."""


class RateLimitError(HeadraceError):
    """A budget or the queue has no room."""


class DeadlineExceededError(HeadraceError):
    """The time that the caller gave is over."""


class UnavailableError(HeadraceError):
    """Upstream, the daemon or its Redis is away."""


class CanceledError(HeadraceError):
    """The call was cancelled elsewhere."""


class InternalError(HeadraceError):
    """A fault of the daemon's."""


_Code = grpc.StatusCode
_KINDS: dict[grpc.StatusCode, type[HeadraceError]] = {
    _Code.INVALID_ARGUMENT: InvalidRequestError,
    _Code.FAILED_PRECONDITION: InvalidRequestError,
    _Code.OUT_OF_RANGE: InvalidRequestError,
    _Code.UNAUTHENTICATED: AuthenticationError,
    _Code.PERMISSION_DENIED: PermissionDeniedError,
    _Code.NOT_FOUND: NotFoundError,
    _Code.ALREADY_EXISTS: ConflictError,
    _Code.ABORTED: ConflictError,
    _Code.RESOURCE_EXHAUSTED: RateLimitError,
    _Code.DEADLINE_EXCEEDED: DeadlineExceededError,
    _Code.UNAVAILABLE: UnavailableError,
    _Code.CANCELLED: CanceledError,
    _Code.INTERNAL: InternalError,
    _Code.UNKNOWN: InternalError,
    _Code.DATA_LOSS: InternalError,
}
_CODES = {code.value[0]: code for code in _Code}


def of_code(
    code: int, reason: str, message: str, metadata: Mapping[str, str], retry_after: float | None = None
) -> HeadraceError:
    """Return the error for a gRPC code in numbers, as a ticket has it."""
    known = _CODES.get(code, _Code.UNKNOWN)
    kind = _KINDS.get(known, HeadraceError)
    return kind(message, reason=reason or known.name, code=known, retry_after=retry_after, metadata=metadata)


def of_rpc(error: grpc.RpcError) -> HeadraceError:
    """Return the error for an RPC that failed, with what the details of its status say."""
    code, details = error.code(), _details(error)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    has_retry = any(detail.Unpack(retry) for detail in details)
    any(detail.Unpack(info) for detail in details)
    retry_after = retry.retry_delay.ToMicroseconds() / 1e6 if has_retry else None
    return of_code(code.value[0], info.reason, error.details() or code.name, info.metadata, retry_after)


def _details(error: grpc.RpcError) -> list[Any]:
    # Both kinds of metadata: pairs with grpc, an object of pairs with grpc.aio.
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS:
            with contextlib.suppress(DecodeError):
                return list(status_pb2.Status.FromString(value).details)
    return []
