"""
Where each typed RPC leads: one table of methods and paths of the API, and the requests made from it.

A request says by its fields what goes where: `id` into the path, `params` into the body, the page and everything else into the
query. So a new RPC is a row here and a proto, and no code.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from headrace import endpoints
from headrace.edge.grpc_asks import headers
from headrace.edge.grpc_params import Parted
from headrace.endpoints import Endpoint
from headrace.errors import InvalidCall
from headrace.model import Headers
from headrace.v1 import (
    chat_service_pb2,
    message_batches_service_pb2,
    messages_service_pb2,
    models_service_pb2,
    organization_service_pb2,
)

FILES: tuple[Any, ...] = (
    messages_service_pb2,
    models_service_pb2,
    message_batches_service_pb2,
    organization_service_pb2,
    chat_service_pb2,
)

_MAX_PAGE = 1000
_MAX_EXTRA = 100  # parameters
_PAGING = frozenset({"limit", "after_id", "before_id", "page"})  # a token of ours goes forward, from where the last page ended
_NOT_QUERY = frozenset({"id", "params", "options", "page_size", "page_token", "extra_query"})
# A reader of the path may take these for another path; the exchange would refuse them without naming the field.
_MISLEADING = frozenset("/\\\0")


class Shape(Enum):
    """What upstream answers with."""

    OBJECT = "a JSON object"
    PAGE = "a list, page by page"
    LINES = "a JSON object on each line"
    EVENTS = "server-sent events"


@dataclass(frozen=True)
class Route:
    """
    Where an RPC leads.

    Args:
        rpc: service and method, "ModelsService.GetModel".
        method, path: of the API; "{id}" stands for the request's.
        answer: the field of the response that takes what upstream says, or of a list its items; "" for the response itself.
        cursor: the parameter by which a list goes on.
    """

    rpc: str
    method: str
    path: str
    answer: str = ""
    shape: Shape = Shape.OBJECT
    cursor: str = "after_id"

    @property
    def service(self) -> str:
        """The service, without its package."""
        return self.rpc.partition(".")[0]

    @property
    def name(self) -> str:
        """The method's name."""
        return self.rpc.partition(".")[2]

    @property
    def is_streaming(self) -> bool:
        """Whether there are many responses."""
        return self.shape in (Shape.LINES, Shape.EVENTS)

    @functools.cached_property
    def endpoint(self) -> Endpoint:
        """How the API's endpoint is treated."""
        return endpoints.find(self.method, self.path.replace("{id}", "x"))

    @functools.cached_property
    def request(self) -> type[Message]:
        """The request's type."""
        return GetMessageClass(self._descriptor.input_type)

    @functools.cached_property
    def response(self) -> type[Message]:
        """The response's type."""
        return GetMessageClass(self._descriptor.output_type)

    @functools.cached_property
    def said(self) -> type[Message]:
        """The type that stands for what upstream says, or of a list for one of its items."""
        if not self.answer:
            return self.response
        field: Any = self.response.DESCRIPTOR.fields_by_name[self.answer]
        return GetMessageClass(field.message_type)

    @property
    def _descriptor(self) -> MethodDescriptor:
        services = {name: service for file in FILES for name, service in file.DESCRIPTOR.services_by_name.items()}
        descriptor: MethodDescriptor = services[self.service].methods_by_name[self.name]
        return descriptor


_BATCHES = "/v1/messages/batches"
_ORGANIZATION = "/v1/organizations"

ROUTES = (
    Route("MessagesService.CountTokens", "POST", "/v1/messages/count_tokens"),
    Route("ModelsService.ListModels", "GET", "/v1/models", "models", Shape.PAGE),
    Route("ModelsService.GetModel", "GET", "/v1/models/{id}", "model"),
    Route("MessageBatchesService.CreateMessageBatch", "POST", _BATCHES, "message_batch"),
    Route("MessageBatchesService.GetMessageBatch", "GET", f"{_BATCHES}/{{id}}", "message_batch"),
    Route("MessageBatchesService.ListMessageBatches", "GET", _BATCHES, "message_batches", Shape.PAGE),
    Route("MessageBatchesService.CancelMessageBatch", "POST", f"{_BATCHES}/{{id}}/cancel", "message_batch"),
    Route("MessageBatchesService.DeleteMessageBatch", "DELETE", f"{_BATCHES}/{{id}}", "deleted_message_batch"),
    Route("MessageBatchesService.StreamMessageBatchResults", "GET", f"{_BATCHES}/{{id}}/results", "response", Shape.LINES),
    Route("OrganizationService.ListApiKeys", "GET", f"{_ORGANIZATION}/api_keys", "api_keys", Shape.PAGE),
    Route("OrganizationService.CreateApiKey", "POST", f"{_ORGANIZATION}/api_keys", "api_key"),
    Route("OrganizationService.GetApiKey", "GET", f"{_ORGANIZATION}/api_keys/{{id}}", "api_key"),
    Route("OrganizationService.UpdateApiKey", "POST", f"{_ORGANIZATION}/api_keys/{{id}}", "api_key"),
    Route("OrganizationService.ListWorkspaces", "GET", f"{_ORGANIZATION}/workspaces", "workspaces", Shape.PAGE),
    Route("OrganizationService.CreateWorkspace", "POST", f"{_ORGANIZATION}/workspaces", "workspace"),
    Route("OrganizationService.GetWorkspace", "GET", f"{_ORGANIZATION}/workspaces/{{id}}", "workspace"),
    Route("OrganizationService.UpdateWorkspace", "POST", f"{_ORGANIZATION}/workspaces/{{id}}", "workspace"),
    Route("OrganizationService.ArchiveWorkspace", "POST", f"{_ORGANIZATION}/workspaces/{{id}}/archive", "workspace"),
    Route("OrganizationService.ListUsers", "GET", f"{_ORGANIZATION}/users", "users", Shape.PAGE),
    Route("OrganizationService.GetUser", "GET", f"{_ORGANIZATION}/users/{{id}}", "user"),
    Route("OrganizationService.UpdateUser", "POST", f"{_ORGANIZATION}/users/{{id}}", "user"),
    Route("OrganizationService.RemoveUser", "DELETE", f"{_ORGANIZATION}/users/{{id}}", "removed_user"),
    Route("OrganizationService.ListInvites", "GET", f"{_ORGANIZATION}/invites", "invites", Shape.PAGE),
    Route("OrganizationService.CreateInvite", "POST", f"{_ORGANIZATION}/invites", "invite"),
    Route("OrganizationService.GetInvite", "GET", f"{_ORGANIZATION}/invites/{{id}}", "invite"),
    Route("OrganizationService.DeleteInvite", "DELETE", f"{_ORGANIZATION}/invites/{{id}}", "deleted_invite"),
    Route("OrganizationService.GetRateLimits", "GET", f"{_ORGANIZATION}/rate_limits", "rate_limits", Shape.PAGE, "page"),
    Route("ChatService.CreateChatCompletion", "POST", "/v1/chat/completions", "completion"),
    Route("ChatService.StreamChatCompletion", "POST", "/v1/chat/completions", "chunk", Shape.EVENTS),
)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request comes to in HTTP, its headers apart."""

    target: str
    body: bytes


def ask(route: Route, parted: Parted) -> Asked:
    """Return what a request asks for; raises `InvalidCall`, naming the field, for what makes no sense."""
    request = parted.request
    path = route.path.replace("{id}", _segment(request.id)) if "{id}" in route.path else route.path
    query = urlencode(list(_query(route, request)), quote_via=quote, safe="")
    if request.options.idempotency_key and not route.endpoint.is_kept:
        raise _invalid("options.idempotency_key", f"there are none for {route.name}: upstream would do it twice")
    # An answer in the other form could not be read.
    if parted.body and parted.is_stream != route.is_streaming:
        raise _invalid("params.stream", f"must be {str(route.is_streaming).lower()} or left out in {route.name}")
    return Asked(f"{path}?{query}" if query else path, parted.body)


def headers_of(route: Route, request: Any) -> Headers:
    """Return the headers of a request that is carried; raises `InvalidCall` for options that make no sense."""
    # Without a body, too: else the transport would call nothing a stream of octets.
    content = (("content-type", "application/json"),) if route.method == "POST" else ()
    return headers(request.options) + content


def _segment(id: str) -> str:
    if not id:
        raise _invalid("id", "is missing")
    if id in (".", "..") or not _MISLEADING.isdisjoint(id):
        raise _invalid("id", f"{id[:100]!r} can be no part of a path")
    return quote(id, safe="")


def _query(route: Route, request: Any) -> Iterator[tuple[str, str]]:
    if route.shape is not Shape.PAGE:
        return
    typed = [*_page(route, request), *_filters(request)]
    yield from typed
    yield from _extra(request.extra_query, {name for name, _ in typed} | _PAGING)


def _page(route: Route, request: Any) -> Iterator[tuple[str, str]]:
    if request.page_size < 0:
        raise _invalid("page_size", f"must be 0 or more, not {request.page_size}")
    if request.page_size:
        yield "limit", str(min(request.page_size, _MAX_PAGE))
    if request.page_token:
        yield route.cursor, request.page_token


def _filters(request: Message) -> Iterator[tuple[str, str]]:
    for field, value in request.ListFields():
        if field.name in _NOT_QUERY:
            continue
        if field.is_repeated:  # as the official SDKs say it
            yield from ((f"{field.name}[]", item) for item in value)
        else:
            yield field.name, str(value).lower() if isinstance(value, bool) else value


def _extra(text: str, taken: set[str]) -> list[tuple[str, str]]:
    if not text:
        return []
    try:
        pairs = parse_qsl(text, keep_blank_values=True, strict_parsing=True, errors="strict", max_num_fields=_MAX_EXTRA)
    except ValueError:
        raise _invalid("extra_query", "must be up to 100 parameters as a URL has them: a=b&c=d") from None
    if again := taken.intersection(name for name, _ in pairs):
        raise _invalid("extra_query", f"{min(again)!r} belongs into a field")
    return pairs


def _invalid(field: str, why: str) -> InvalidCall:
    return InvalidCall(f"{field}: {why}", metadata={"field": field})
