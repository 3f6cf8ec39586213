"""
Every endpoint by every way: gRPC with types, gRPC as raw HTTP, HTTP, the Python SDK and the TypeScript SDK.

For each cell the call is made through the daemon, and the same request directly; the cell names the call if what came back is
equal, and if it is that endpoint that upstream was asked. Nothing in the table is written by hand.
"""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import anthropic
import grpc
import httpx
import httpx2
import openai

from comparison.pair import ADMIN_KEY, KEY, Pair, Side, differences
from comparison.rows import ask
from comparison.typescript import Node, Remote
from headrace.edge import translate
from headrace.v1 import api_service_pb2
from headrace.v1.api_service_pb2_grpc import ApiServiceStub

WAYS = ("gRPC, typed", "gRPC, raw", "HTTP", "Python SDK", "TypeScript SDK")
VERSION = "2026-10-21"  # of the API, as the SDKs say it
NONE = "—"  # there is no such call
NO = "no"  # there is, and it does not do what it should

_HTTP = httpx.Client(trust_env=False, verify=False)
_FORM = (
    b'--form\r\ncontent-disposition: form-data; name="file"; filename="pond.txt"\r\n'
    b"content-type: text/plain\r\n\r\nwater\r\n--form--\r\n"
)
_FILE = ("pond.txt", b"water", "text/plain")
_CHAT = {"model": "claude-sonnet-5", "max_tokens": 30, "messages": [{"role": "user", "content": "a chat"}]}
_PAGE = {"limit": 100}


@dataclass(frozen=True)
class Endpoint:
    """
    A row.

    Args:
        title: which group, and what it does.
        path: "{id}" stands for the id of what *needs* makes.
        body: the JSON of a POST; a form in bytes.
        answer: what comes: an "object", a "page" of which the items count, "events", "lines" of JSON, "bytes".
        typed: service and method, and the field of the response that has the answer.
        sdk: the method of both SDKs, and what it is given beside the id.
    """

    title: tuple[str, str]
    method: str
    path: str
    body: Any = None
    answer: str = "object"
    needs: str = ""
    typed: tuple[str, str, str] | None = None
    sdk: tuple[str, dict[str, Any]] | None = None
    is_openai: bool = False
    orders: tuple[tuple[str, Any], ...] = field(default=())

    @property
    def is_admins(self) -> bool:
        return self.path.startswith("/v1/organizations")


_BATCHES, _ORGANIZATION = "/v1/messages/batches", "/v1/organizations"
_MESSAGE, _COUNT = ask("a message"), {"model": "claude-sonnet-5", "messages": [{"role": "user", "content": "How many?"}]}
_BATCH = {"requests": [{"custom_id": "one", "params": ask("one")}]}
_INVITE = {"email": "pond@example.com", "role": "user"}
_SLOW = (("settings", {"batch_s": 600}),)


def _admin(kind: str, does: str, needs: str, sdk: str, typed: str, answer: str, body: Any = None) -> Endpoint:
    """Return a row of the Admin API."""
    group = kind.capitalize().replace("_", " ").replace("Api", "API")
    method = {"list": "GET", "get": "GET", "delete": "DELETE", "remove": "DELETE"}.get(does, "POST")
    path = f"{_ORGANIZATION}/{kind}" + ("/{id}" if needs else "") + ("/archive" if does == "archive" else "")
    given = _PAGE if does == "list" else body or {}
    call = (f"organization.{kind}.{sdk}", given) if sdk else None
    shape = "page" if does == "list" else "object"
    return Endpoint((group, does), method, path, body, shape, needs, ("OrganizationService", typed, answer), call)


ENDPOINTS = (
    Endpoint(("Messages", "create"), "POST", "/v1/messages", _MESSAGE, typed=("MessagesService", "CreateMessage", "message"),
             sdk=("messages.create", _MESSAGE)),
    Endpoint(("Messages", "stream"), "POST", "/v1/messages", _MESSAGE | {"stream": True}, "events",
             typed=("MessagesService", "StreamMessage", "event"), sdk=("messages.create", _MESSAGE | {"stream": True})),
    Endpoint(("Messages", "count tokens"), "POST", "/v1/messages/count_tokens", _COUNT,
             typed=("MessagesService", "CountTokens", ""), sdk=("messages.count_tokens", _COUNT)),
    Endpoint(("Models", "list"), "GET", "/v1/models", answer="page", typed=("ModelsService", "ListModels", "models"),
             sdk=("models.list", _PAGE)),
    Endpoint(("Models", "get"), "GET", "/v1/models/{id}", needs="model", typed=("ModelsService", "GetModel", "model"),
             sdk=("models.retrieve", {})),
    Endpoint(("Message Batches", "create"), "POST", _BATCHES, _BATCH,
             typed=("MessageBatchesService", "CreateMessageBatch", "message_batch"), sdk=("messages.batches.create", _BATCH)),
    Endpoint(("Message Batches", "list"), "GET", _BATCHES, answer="page", needs="batch",
             typed=("MessageBatchesService", "ListMessageBatches", "message_batches"), sdk=("messages.batches.list", _PAGE)),
    Endpoint(("Message Batches", "get"), "GET", f"{_BATCHES}/{{id}}", needs="batch",
             typed=("MessageBatchesService", "GetMessageBatch", "message_batch"), sdk=("messages.batches.retrieve", {})),
    Endpoint(("Message Batches", "cancel"), "POST", f"{_BATCHES}/{{id}}/cancel", needs="batch", orders=_SLOW,
             typed=("MessageBatchesService", "CancelMessageBatch", "message_batch"), sdk=("messages.batches.cancel", {})),
    Endpoint(("Message Batches", "delete"), "DELETE", f"{_BATCHES}/{{id}}", needs="batch",
             typed=("MessageBatchesService", "DeleteMessageBatch", "deleted_message_batch"),
             sdk=("messages.batches.delete", {})),
    Endpoint(("Message Batches", "results"), "GET", f"{_BATCHES}/{{id}}/results", answer="lines", needs="batch",
             typed=("MessageBatchesService", "StreamMessageBatchResults", "response"), sdk=("messages.batches.results", {})),
    Endpoint(("Files", "upload"), "POST", "/v1/files", _FORM, sdk=("files.upload", {"file": _FILE})),
    Endpoint(("Files", "list"), "GET", "/v1/files", answer="page", needs="file", sdk=("files.list", _PAGE)),
    Endpoint(("Files", "get metadata"), "GET", "/v1/files/{id}", needs="file", sdk=("files.retrieve_metadata", {})),
    Endpoint(("Files", "download"), "GET", "/v1/files/{id}/content", answer="bytes", needs="file", sdk=("files.download", {})),
    Endpoint(("Files", "delete"), "DELETE", "/v1/files/{id}", needs="file", sdk=("files.delete", {})),
    Endpoint(("Chat completions", "create"), "POST", "/v1/chat/completions", _CHAT, is_openai=True,
             typed=("ChatService", "CreateChatCompletion", "completion"), sdk=("chat.completions.create", _CHAT)),
    Endpoint(("Chat completions", "stream"), "POST", "/v1/chat/completions", _CHAT | {"stream": True}, "events", is_openai=True,
             typed=("ChatService", "StreamChatCompletion", "chunk"), sdk=("chat.completions.create", _CHAT | {"stream": True})),
    _admin("api_keys", "list", "", "list", "ListApiKeys", "api_keys"),
    _admin("api_keys", "create", "", "", "CreateApiKey", "api_key", {"name": "sluice"}),
    _admin("api_keys", "get", "api_key", "retrieve", "GetApiKey", "api_key"),
    _admin("api_keys", "update", "api_key", "update", "UpdateApiKey", "api_key", {"status": "inactive"}),
    _admin("workspaces", "list", "", "list", "ListWorkspaces", "workspaces"),
    _admin("workspaces", "create", "", "create", "CreateWorkspace", "workspace", {"name": "Weir"}),
    _admin("workspaces", "get", "workspace", "retrieve", "GetWorkspace", "workspace"),
    _admin("workspaces", "update", "workspace", "update", "UpdateWorkspace", "workspace", {"name": "Old mill"}),
    _admin("workspaces", "archive", "workspace", "archive", "ArchiveWorkspace", "workspace"),
    _admin("users", "list", "", "list", "ListUsers", "users"),
    _admin("users", "get", "user", "retrieve", "GetUser", "user"),
    _admin("users", "update", "user", "update", "UpdateUser", "user", {"role": "billing"}),
    _admin("users", "remove", "user", "remove", "RemoveUser", "removed_user"),
    _admin("invites", "list", "", "list", "ListInvites", "invites"),
    _admin("invites", "create", "", "create", "CreateInvite", "invite", _INVITE),
    _admin("invites", "get", "invite", "retrieve", "GetInvite", "invite"),
    _admin("invites", "delete", "invite", "delete", "DeleteInvite", "deleted_invite"),
    _admin("rate_limits", "list", "", "list", "GetRateLimits", "rate_limits"),
)  # fmt: skip


Call = Callable[[str, str], Iterable[Any]]  # takes an id and a caller, and yields what was said


class Cells:
    """Makes the calls. *node* may be missing: then nothing is said of the TypeScript SDK."""

    def __init__(self, both: Pair, node: Node | None) -> None:
        self._both = both
        self._node = node
        self._channel = grpc.insecure_channel(both.through.grpc)
        self.why: dict[str, str] = {}  # what is behind a "no"

    def close(self) -> None:
        self._channel.close()

    def ways(self, endpoint: Endpoint) -> Iterator[tuple[str, str, Call | None]]:
        """Yield each way: its name, that of the call, and the call; None if there is none."""
        typed, (name, _) = endpoint.typed, endpoint.sdk or ("", {})
        side = self._both.through
        yield WAYS[0], f"`{typed[1]}`" if typed else NONE, (lambda *to: self._typed(endpoint, *to)) if typed else None
        yield WAYS[1], "yes", lambda *to: self._raw(endpoint, *to)
        yield WAYS[2], "yes", lambda *to: http(side, endpoint, *to)
        yield WAYS[3], f"`{name}`" if name else NONE, (lambda *to: python(side, endpoint, *to)) if name else None
        if self._node:
            spelled = "`" + "".join(_camel(name)) + "`"
            yield WAYS[4], spelled if name else NONE, (lambda *to: self._typescript(endpoint, *to)) if name else None

    def fill(self, endpoint: Endpoint) -> dict[str, str]:
        """Return the cells of one row."""
        return {way: name if call is None else self._try(endpoint, way, name, call) for way, name, call in self.ways(endpoint)}

    def _try(self, endpoint: Endpoint, way: str, name: str, call: Call) -> str:
        caller = "".join(letter if letter.isalnum() else "-" for letter in f"{way}-{'-'.join(endpoint.title)}")[:64]
        direct, through = self._both
        try:
            wanted = direct.normal(_audible(way, http(direct, endpoint, prepared(direct, endpoint), caller)))
            here = prepared(through, endpoint)
            before = len(through.journal())
            # A typed answer has upstream's own addresses, as its proto says: there is no port of ours that they could lead to.
            said_by = through.itself() if way == WAYS[0] else through
            came = said_by.normal(list(call(here, caller)))
            wrong = differences(wanted, came) + differences(_asked(endpoint, here), _reached(through.journal()[before:]))
        except Exception as error:  # whatever it is, the cell is a "no", and the reason is said
            wrong = [repr(error)]
        if wrong:
            self.why[f"{' '.join(endpoint.title)}, {way}"] = "; ".join(wrong)[:1000]
        return NO if wrong else name

    # gRPC

    def _typed(self, endpoint: Endpoint, id: str, caller: str) -> Iterator[Any]:
        assert endpoint.typed
        service, method, answer = endpoint.typed
        module = _snake(service)
        types = importlib.import_module(f"headrace.v1.{module}_pb2")
        stub = getattr(importlib.import_module(f"headrace.v1.{module}_pb2_grpc"), f"{service}Stub")(self._channel)
        request = getattr(types, f"{method}Request")()
        request.options.caller = caller
        request.options.anthropic_version = VERSION
        if "{id}" in endpoint.path:
            request.id = id
        if endpoint.body is not None:
            asked = {name: value for name, value in endpoint.body.items() if name != "stream"}
            request.params.CopyFrom(translate.read(json.dumps(asked).encode(), type(request.params)))
        if endpoint.answer == "page":
            request.page_size = _PAGE["limit"]
        said = getattr(stub, method)(request, timeout=20)
        for response in said if endpoint.answer in ("events", "lines") else [said]:
            parts = getattr(response, answer) if answer else response
            for part in parts if endpoint.answer == "page" else [parts]:
                yield json.loads(translate.write(part))

    def _raw(self, endpoint: Endpoint, id: str, caller: str) -> Iterator[Any]:
        target, headers, content = _request(endpoint, id, caller)
        path, _, query = target.partition("?")
        head = api_service_pb2.CallRequestHead(method=endpoint.method, path=path, query=query, body=content)
        # Addresses in answers begin as the caller says that they should.
        for name, value in (headers | {"host": self._both.through.url.removeprefix("http://")}).items():
            head.headers.add(name=name, value=value)
        first, *rest = ApiServiceStub(self._channel).Call(iter([api_service_pb2.CallRequest(head=head)]), timeout=20)
        yield from _read(endpoint, first.head.status, b"".join(part.chunk for part in rest))

    def _typescript(self, endpoint: Endpoint, id: str, caller: str) -> Iterator[Any]:
        assert self._node
        assert endpoint.sdk
        side = self._both.through
        if endpoint.is_openai:
            side = Side(side.name, f"{side.url}/v1", side.upstream)
        sdk = "openai" if endpoint.is_openai else "anthropic"
        method, params = endpoint.sdk
        api = Remote(self._node, side, caller, [], is_admin=endpoint.is_admins, sdk=sdk)
        for name in method.split("."):
            api = getattr(api, name)
        said = api(*([id] if "{id}" in endpoint.path else []), **params)
        yield from said if endpoint.answer in ("events", "lines", "page") else [said]


def http(side: Side, endpoint: Endpoint, id: str, caller: str) -> Iterator[Any]:
    """Make the call in plain HTTP, and yield what was said."""
    target, headers, content = _request(endpoint, id, caller)
    response = _HTTP.request(endpoint.method, side.url + target, headers=headers, content=content)
    yield from _read(endpoint, response.status_code, response.content)


def python(side: Side, endpoint: Endpoint, id: str, caller: str) -> Iterator[Any]:
    """Make the call with the Python SDK, and yield what was said, as far as upstream said it."""
    assert endpoint.sdk
    method, params = endpoint.sdk
    headers = {"x-headrace-caller": caller}
    with httpx2.Client(trust_env=False, verify=False) as transport:
        client: Any
        if endpoint.is_openai:
            client = openai.OpenAI(api_key=KEY, base_url=f"{side.url}/v1", http_client=transport, default_headers=headers)
        else:
            client = anthropic.Anthropic(api_key=KEY, base_url=side.url, http_client=transport, default_headers=headers)
        for name in method.split("."):
            client = getattr(client, name)
        said = client(*([id] if "{id}" in endpoint.path else []), **params)
        for part in said if endpoint.answer in ("events", "lines", "page") else [said]:
            yield hashlib.sha256(part.read()).hexdigest() if endpoint.answer == "bytes" else _less_unset(part)


def prepared(side: Side, endpoint: Endpoint) -> str:
    """Bring a simulator to where the call can be made, and return the id that it needs."""
    side.order("reset")
    for what, value in endpoint.orders:
        side.order(what, value)
    make, find = _MAKE.get(endpoint.needs, (None, None))
    if endpoint.needs == "model":
        return "claude-sonnet-5"
    if make:
        return next(iter(http(side.itself(), make, "", "")))["id"]
    return next(item["id"] for item in http(side.itself(), find, "", "") if item.get("role") != "admin") if find else ""


def _find(method: str, path: str) -> Endpoint:
    return next(each for each in ENDPOINTS if (each.method, each.path) == (method, path))


# How what is needed comes to be: it is made, or found.
_MAKE: dict[str, tuple[Endpoint | None, Endpoint | None]] = {
    "batch": (_find("POST", _BATCHES), None),
    "file": (_find("POST", "/v1/files"), None),
    "api_key": (None, _find("GET", f"{_ORGANIZATION}/api_keys")),
    "workspace": (None, _find("GET", f"{_ORGANIZATION}/workspaces")),
    "user": (None, _find("GET", f"{_ORGANIZATION}/users")),
    "invite": (None, _find("GET", f"{_ORGANIZATION}/invites")),
}


def _request(endpoint: Endpoint, id: str, caller: str) -> tuple[str, dict[str, str], bytes]:
    headers = {
        "x-api-key": ADMIN_KEY if endpoint.is_admins else KEY,
        "anthropic-version": VERSION,
        "x-headrace-caller": caller or "tests",
    }
    target = endpoint.path.replace("{id}", id) + ("?limit=100" if endpoint.answer == "page" else "")
    if isinstance(endpoint.body, bytes):
        return target, headers | {"content-type": "multipart/form-data; boundary=form"}, endpoint.body
    if endpoint.body is None:
        return target, headers, b""
    return target, headers | {"content-type": "application/json"}, json.dumps(endpoint.body).encode()


def _read(endpoint: Endpoint, status: int, raw: bytes) -> Iterator[Any]:
    assert status == 200, f"{status}: {raw[:200]!r}"
    match endpoint.answer:
        case "bytes":
            yield hashlib.sha256(raw).hexdigest()
        case "object":
            yield json.loads(raw)
        case "page":
            yield from json.loads(raw)["data"]
        case "lines":
            yield from (json.loads(line) for line in raw.splitlines() if line)
        case "events":
            lines = (line.removeprefix(b"data: ") for line in raw.splitlines() if line.startswith(b"data: "))
            yield from (json.loads(line) for line in lines if line != b"[DONE]")


def _audible(way: str, said: Iterable[Any]) -> list[Any]:
    """Return what is to be heard: the SDKs keep pings to themselves."""
    return [part for part in said if not (way.endswith("SDK") and part == {"type": "ping"})]


def _less_unset(said: Any) -> Any:
    # What the SDK adds of itself, members that upstream left out, is not what was said.
    return said.model_dump(mode="json", exclude_unset=True, warnings=False)


def _asked(endpoint: Endpoint, id: str) -> list[str]:
    return [f"{endpoint.method} {endpoint.path.replace('{id}', id)} 200"]


def _reached(visits: list[dict[str, Any]]) -> list[str]:
    # The last: for the results of a batch the SDKs ask first where they are.
    return [f"{visit['method']} {visit['path']} {visit['status']}" for visit in visits][-1:]


def _camel(name: str) -> Iterator[str]:
    first, *rest = name.split("_")
    yield first
    yield from (part[:1].upper() + part[1:] for part in rest)


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
