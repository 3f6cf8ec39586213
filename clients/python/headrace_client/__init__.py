"""
Talks to a Headrace daemon over gRPC.

    Headrace, AsyncHeadrace      the clients: messages, tickets, models, batches, cache, usage
    Answer, Ticket               what they return: the protos, with what one asks of them daily
    HeadraceError and its kin    what they raise (`errors`)
    forms                        Anthropic's JSON <-> the typed messages
    v1                           the generated messages and stubs, for calls of one's own
    httpx_transport, httpx2_transport    put the official SDKs on the daemon's socket
"""

from headrace_client.aio import AsyncHeadrace, AsyncMessageStream
from headrace_client.answers import Answer, Ticket
from headrace_client.client import Headrace, MessageStream
from headrace_client.errors import (
    AuthenticationError,
    CanceledError,
    ConflictError,
    DeadlineExceededError,
    HeadraceError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    UnavailableError,
)

__all__ = [
    "Answer",
    "AsyncHeadrace",
    "AsyncMessageStream",
    "AuthenticationError",
    "CanceledError",
    "ConflictError",
    "DeadlineExceededError",
    "Headrace",
    "HeadraceError",
    "InternalError",
    "InvalidRequestError",
    "MessageStream",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitError",
    "Ticket",
    "UnavailableError",
]
