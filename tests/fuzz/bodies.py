"""Targets: what callers send as bodies, and as messages of gRPC, and what is worked out of them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import msgspec
from google.protobuf.message import Message
from tests.fuzz.inputs import ANYBODY, NOW
from tests.fuzz.target import Target

from headrace.bodies import reader
from headrace.bodies.read import Reading, read
from headrace.budget.costs import Costs
from headrace.budget.estimate import Estimator
from headrace.budget.measure import at_most, measure, surely
from headrace.budget.want import Form, Want
from headrace.cache.fingerprint import fingerprint
from headrace.edge import grpc_asks, grpc_parts, grpc_routes, grpc_tickets, grpc_usage, translate
from headrace.edge.budget_messages import read_expiry, read_figures
from headrace.edge.grpc_calls import parse
from headrace.edge.grpc_params import _take_apart
from headrace.edge.http2_hint import Hint
from headrace.endpoints import CHAT, COUNT_TOKENS, MESSAGES
from headrace.errors import InvalidCall
from headrace.model import Call, Usage
from headrace.prices import Prices
from headrace.resources.scan import Calls, Scan
from headrace.usage.tally import Who
from headrace.v1 import (
    budgets_service_pb2,
    messages_pb2,
    messages_service_pb2,
    tickets_service_pb2,
    usage_service_pb2,
)

_ESTIMATOR = Estimator()
_COSTS = Costs(Prices().cost)
_WANTS = tuple(
    Want(f"{kind}{is_ceiling}", "all", kind, Form.RATE, 1000, 1000, 0, is_ceiling=is_ceiling, cache_read_weight=0.1)
    for kind in ("input_tokens", "output_tokens", "total_tokens", "spend", "requests")
    for is_ceiling in (False, True)
)


def _body(endpoint: str):
    def feed(data: bytes) -> None:
        found = read(data, endpoint)
        said = msgspec.convert(json.loads(reader.job(endpoint.encode(), data)), Reading)
        assert replace(said, weight=None) == found
        _reckon(data, endpoint, found)

    return feed


def _reckon(data: bytes, endpoint: str, found: Reading) -> None:
    """Go on as a call does under limits of every kind."""
    print_ = fingerprint(scope="", path="/v1", version="2023-06-01", betas=(), headers=(), essence=found.essence)
    call = Call(
        caller=ANYBODY, lane="standard", model=found.model, endpoint=endpoint, arrival=NOW, deadline=NOW + 60, body=data,
        max_tokens=found.max_tokens, stream=found.stream, fingerprint=print_, scope="",
    )  # fmt: skip
    estimate = _ESTIMATOR.estimate(call, has_ceilings=True)
    for want in _WANTS:
        cost = _COSTS.reserved(want, call.model, estimate).cost
        assert 0 <= cost <= 2**63
    _COSTS.used(_WANTS, call.model, Usage(7, 3, known=False), estimate)


def measured(data: bytes) -> None:
    held = measure(data)
    assert held.size_bytes == len(data)
    assert at_most(data) >= 0 <= surely(data)


# Messages of gRPC.


def _request(cls: type[Message]):
    def feed(data: bytes) -> None:
        parted = _take_apart(cls, data, streams=False)
        if parted.body:
            read(parted.body, MESSAGES.name)  # as a call does, which refuses what is no JSON
            assert translate.write(translate.read(parted.body, messages_pb2.MessageParams))
        grpc_asks.read_ask(parted.request.options, ANYBODY, parted.body, stream=None, timeout_s=None, credential="")
        grpc_asks.headers(parted.request.options)

    return feed


def submitted(data: bytes) -> None:
    request = parse(messages_service_pb2.SubmitMessageRequest, data)
    grpc_asks.answer_timeout_s(request)


def routed(data: bytes) -> None:
    """A request of each typed RPC: the first byte says which."""
    if not data:
        return
    route = grpc_routes.ROUTES[data[0] % len(grpc_routes.ROUTES)]
    parted = _take_apart(route.request, data[1:], streams=route.is_streaming)
    grpc_routes.ask(route, parted).target.encode("ascii")
    grpc_routes.headers_of(route, parted.request)


def usage(data: bytes) -> None:
    question = grpc_usage._question(parse(usage_service_pb2.GetUsageRequest, data), NOW)
    question.check()
    question.fits(_SOMEBODY)
    question.group(_SOMEBODY)


_SOMEBODY = Who("me", "search", "claude-sonnet-4-5", "batch", "env=prod,feature=x")


def steering(data: bytes) -> None:
    request = parse(budgets_service_pb2.SetLimitRequest, data)
    read_figures(request.figures)
    read_expiry(request)


def listed(data: bytes) -> None:
    request = parse(tickets_service_pb2.ListTicketsRequest, data)
    grpc_tickets.page_size(request.page_size)
    grpc_tickets._state(request.state)


def _translated(cls: type[Message]):
    def feed(data: bytes) -> None:
        message: Any = translate.read(data, cls)
        _same(translate.write(message), data)
        assert translate.read(translate.write(cls.FromString(message.SerializeToString())), cls) == message

    return feed


def _same(said: bytes, data: bytes) -> None:
    # Numbers by how they are spelled: 1.0 may become 1, but -0 is not 0, and no digit is lost.
    assert _spelled(said) == _spelled(data), said


def _spelled(data: bytes) -> Any:
    return json.loads(data.decode("utf-8", "surrogatepass"), parse_float=_number, parse_int=_number)


def _number(said: str) -> object:
    if len(said) > 300:
        return said
    return (float(said), said.startswith("-")) if abs(float(said)) < 2**53 else said


def frames(data: bytes) -> None:
    """The frame of a large part of a request, which is read without being parsed."""
    for _, at, end, begin in grpc_parts._fields(memoryview(data), 0, len(data)):
        assert 0 <= at <= begin <= end <= len(data)


def things(data: bytes) -> None:
    """Bodies that go by, a piece at a time."""
    piece = max(64, len(data) // 32)  # each is read together with the end of the one before
    for scan in (Scan(), Calls()):
        for at in range(0, len(data), piece):
            scan.feed(data[at : at + piece])


def http2(data: bytes) -> None:
    hint = Hint(b"{}")
    for at in range(0, len(data), 64):
        hint.hear(data[at : at + 64])
        if hint.is_over:
            return


_JSON = (b'"max_tokens":', b'"messages":', b'"model":', b'"type":', b'"stream":true', b"{}", b"[]", b"[[[[", b'{"a":' * 4)
_INVALID = (InvalidCall,)

TARGETS = (
    Target("bodies.messages", _body(MESSAGES.name), _INVALID, "bodies", _JSON, weight=2),
    Target("bodies.count_tokens", _body(COUNT_TOKENS.name), _INVALID, "bodies", _JSON, weight=2),
    Target("bodies.chat", _body(CHAT.name), _INVALID, "bodies", _JSON, weight=2),
    Target("bodies.measure", measured, (), "bodies", (b"A" * 600, b'"url":"http', b'"source":')),
    Target("grpc.create", _request(messages_service_pb2.CreateMessageRequest), _INVALID, "grpc.create", weight=4),
    Target("grpc.submit", submitted, _INVALID, "grpc.create"),
    Target("grpc.routes", routed, _INVALID, "grpc.create", weight=2),
    Target("grpc.frames", frames, _INVALID, "grpc.create"),
    Target("grpc.usage", usage, _INVALID, "grpc.usage"),
    Target("grpc.budgets", steering, _INVALID, "grpc.usage"),
    Target("grpc.tickets", listed, _INVALID, "grpc.usage"),
    Target("translate.params", _translated(messages_pb2.MessageParams), (ValueError,), "bodies", _JSON, weight=4),
    Target("translate.message", _translated(messages_pb2.Message), (ValueError,), "answers", _JSON, weight=4),
    Target("http2.hint", http2),
    Target("resources.asked", things, _INVALID, "resources.asked"),
)
