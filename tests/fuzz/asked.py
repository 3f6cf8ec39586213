"""Targets: what is asked beside calls: services, the live page, traces, certificates, bodies that go by."""

from __future__ import annotations

import contextlib
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from google.protobuf.message import Message
from multidict import CIMultiDict
from tests.fuzz.inputs import ANYBODY, NOW, heads, pairs, text
from tests.fuzz.target import Target

from headrace import audit, globs, passkey, roles, trace
from headrace.admin import page
from headrace.admin.acts import _reason, _seconds
from headrace.admin.asker import _basic
from headrace.admin.rows import Shown, Summary
from headrace.admin.views import CALL, VIEWS, asked_of
from headrace.edge import grpc_letters, grpc_tickets, peers
from headrace.edge.budget_messages import read_expiry
from headrace.edge.grpc_calls import parse
from headrace.edge.reflection import V1, _Pool
from headrace.errors import InvalidCall, NotAllowed
from headrace.labels import labels_of
from headrace.resources.ids import asked_by
from headrace.resources.places import place_of
from headrace.resources.scan import scan_of
from headrace.retry import pages
from headrace.trail import id_of
from headrace.v1 import budgets_service_pb2 as budgets
from headrace.v1 import cache_service_pb2, letters_service_pb2, operator_service_pb2, tickets_service_pb2


def traced(data: bytes) -> None:
    """Where a call is in a trace, by headers and by metadata: what is said onward is read as the same."""
    said = pairs(data)
    for found in (trace.of_headers(CIMultiDict(said)), trace.of_pairs(said)):
        if found is not None:
            assert trace.of_headers(CIMultiDict(found.headers())) == found
            assert msgspec.json.decode(msgspec.json.encode(found), type=trace.Trace) == found
            trace.begun(found, is_sampled=True).headers()
    id_of(dict(said).get("x-request-id"))


def page_token(data: bytes) -> None:
    """The token of a page of tickets or letters, and of one of acts."""
    token = data.decode()
    audit._is_place(token)
    place = pages.place(token, "ListTickets")
    assert not token or pages.place(place.token, "ListTickets") == place


def _seen(cls: type[Message], data: bytes) -> None:
    request: Any = parse(cls, data)
    for name in ("caller", "model", "host"):
        if hasattr(request, name):
            globs.check(getattr(request, name), name)
    if hasattr(request, "page_size"):
        assert 0 < grpc_tickets.page_size(request.page_size) <= 1000
    if hasattr(request, "page_token"):
        pages.place(request.page_token, "this")
    if hasattr(request, "reason"):
        audit.check(request.reason)
    if hasattr(request, "since_time"):
        wanted = grpc_tickets.wanted(request)
        round(wanted.since * 1e6), round((wanted.until or 0.0) * 1e6)
    if hasattr(request, "answer_timeout"):
        seconds = grpc_letters.lasts_s(request)
        assert seconds is None or 0 < seconds <= 86_400
    if hasattr(request, "WhichOneof") and any(each.name == "expiry" for each in request.DESCRIPTOR.oneofs):
        read_expiry(request)
    if hasattr(request, "labels"):
        labels_of(request.labels.items(), ANYBODY)


_ASKS = tuple(
    getattr(file, name)
    for file in (operator_service_pb2, letters_service_pb2, tickets_service_pb2, budgets, cache_service_pb2)
    for name in sorted(file.DESCRIPTOR.message_types_by_name)
    if name.endswith("Request") and name != "SetLimitRequest"
)


def service(data: bytes) -> None:
    """A request of each service for operators and of those for tickets and letters: the first byte says which."""
    if data:
        _seen(_ASKS[data[0] % len(_ASKS)], data[1:])


_POOL = _Pool(("headrace.v1.OperatorService", V1))


def reflected(data: bytes) -> None:
    """A symbol or a file that reflection is asked for."""
    name = data.decode()
    for ask in (_POOL.FindFileContainingSymbol, _POOL.FindFileByName, _POOL.FindMessageTypeByName):
        with contextlib.suppress(KeyError):
            ask(name)


_SUMMARY = Summary(at=NOW, hosts=1, heard=1, redis_ms=None, troubles=[], flights=0, waiting=0, parked=0)


def view(data: bytes) -> None:
    """A view of the live page, by its name and query: what is asked is shown in the page, and is no markup there."""
    name, _, query = data.decode().partition("?")
    roles.of_path("GET", f"/admin/{name}")
    params = dict(parse_qsl(query, keep_blank_values=True))
    for known in (*VIEWS, CALL):
        asked = asked_of(known, params)
        if name.startswith(known):
            shown = Shown(view=known, summary=_SUMMARY, rows=[], more={"asked": asked.said})
            assert "<script>alert" not in page.whole(shown, asked, by="x", may_act=True)


def act(data: bytes) -> None:
    """The body of an act."""
    said = msgspec.json.decode(data)
    if isinstance(said, dict):
        assert len(_reason(said)) <= audit.MOST_REASON
        seconds = _seconds(said)
        assert seconds is None or seconds > 0


def presented(data: bytes) -> None:
    """What a browser sends as a password, and what shows a passkey."""
    assert all(isinstance(each, str) for each in _basic(heads(data)))
    assert passkey.who(text(data), "0" * 48) == "" or data.startswith(b"0" * 48)


class _Context:
    """What gRPC says of a connection: the names in its certificate, a line each."""

    def __init__(self, said: dict[str, list[bytes]]) -> None:
        self._said = said

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._said


def certificate(data: bytes) -> None:
    """The names in a client's certificate."""
    kinds = ("peer_uri", "peer_dns", "x509_common_name", "x509_subject_alternative_name")
    lines = data.split(b"\n")
    said = {kind: [line[1:] for line in lines if line[:1] == b"%d" % number] for number, kind in enumerate(kinds)}
    for name in peers.of_grpc(_Context({kind: values for kind, values in said.items() if values})):
        name.encode()


def carried(data: bytes) -> None:
    """A body that goes by, of the type on the first line, by the path on the second: in pieces it names no less."""
    kind, _, rest = data.partition(b"\n")
    target, _, body = rest.partition(b"\n")
    path, _, query = text(target).partition("?")
    asked_by(place_of(path).below, query)
    found = []
    for step in (len(body) or 1, max(61, len(body) // 32)):  # in small ones their seams would be all it costs
        scan = scan_of(text(kind), is_of_calls=len(kind) % 2 == 0)
        named = [thing for at in range(0, len(body), step) for thing in scan.feed(body[at : at + step])] + scan.end()
        found.append(set(named))
    assert found[0] <= found[1]  # of a word that is too long for an id the end may look like one


_INVALID = (InvalidCall,)
_NO_TEXT = (InvalidCall, UnicodeDecodeError)

TARGETS = (
    Target("traces.place", traced, (), "traces.place", (b"traceparent: 00-", b"tracestate: ", b"-01")),
    Target("pages.token", page_token, _NO_TEXT),
    Target("grpc.services", service, _INVALID, weight=2),
    Target("grpc.reflection", reflected, (UnicodeDecodeError,)),
    Target(
        "admin.view", view, _NO_TEXT, "admin.view", (b"tickets?state=", b"usage?month=", b"&caller=", b"%3Cscript%3E"), weight=8
    ),
    Target("admin.act", act, (InvalidCall, ValueError, RecursionError)),
    Target("admin.presented", presented, (NotAllowed,), "admin.presented", (b"authorization: Basic ",)),
    Target("tls.names", certificate, (), "tls.names", (b"\n0", b"\n1", b"\n2")),
    Target(
        "resources.carried", carried, _INVALID, "resources.carried", (b"multipart/form-data; boundary=", b"--x\r\n", b"file_")
    ),
)
