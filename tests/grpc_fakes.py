"""A flow that answers as it is told, callers by a dict of keys, and a gRPC server around them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import grpc
import msgspec
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from headrace import answers, forms
from headrace.admission import Admission
from headrace.answers import Answers
from headrace.aside import Aside
from headrace.bodies.reader import JOB, Reader
from headrace.cache.entry import Entry
from headrace.cache.keeping import Keeping
from headrace.clock import SystemClock
from headrace.edge import grpc_kept, grpc_params, grpc_tickets
from headrace.edge.exchange import Exchange
from headrace.edge.grpc_server import GrpcServer
from headrace.edge.hits import Hit, digest
from headrace.errors import UnknownCaller
from headrace.model import Answer, Call, Caller, Event, Form, Reply, Role, Source
from headrace.outcome import Outcomes
from headrace.resources import Guard

DETAILS = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.RetryInfo,
    error_details_pb2.QuotaFailure,
    error_details_pb2.BadRequest,
    error_details_pb2.ResourceInfo,
)
MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m",
    "content": [{"type": "text", "text": "hello"}, {"type": "whatever", "x": [1, 2.5]}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 2},
}


def json_answer(message: dict[str, Any] = MESSAGE) -> Answer:
    return Answer(Form.JSON, msgspec.json.encode(message), created=time.time(), request_id="req_1")


def event(data: dict[str, Any], name: str = "") -> Event:
    return forms.make_event(name or data["type"], msgspec.json.encode(data))


def reply(answer: Answer | None = None, events: AsyncIterator[Event] | None = None) -> Reply:
    return Reply(
        Source.UPSTREAM, attempts=2, cache_status="headrace; fwd=miss", request_id="req_1", answer=answer, events=events
    )


class FakeFlow:
    """
    Answers by `respond`, and keeps complete answers for the digests it is told to remember.

    It stands for `Hits` and for `Pursuits`, too.
    """

    def __init__(self) -> None:
        self.respond: Callable[[Call], Reply | Exception] = lambda call: reply(json_answer())
        self.asked: list[Call] = []
        self.left = 0
        self._known: dict[bytes, Call] = {}
        self._kept: dict[str, Entry] = {}
        self._near: dict[tuple[bytes, bytes], bytes] = {}

    def glance(self, digest: bytes) -> Hit | None:
        call = self._known.get(digest)
        entry = self._kept.get(call.fingerprint) if call else None
        return Hit(entry, 1.5, call) if call and entry else None

    def near(self, head: bytes, body: bytes) -> Hit | None:
        return self.glance(self._near.get((head, body), b""))

    def bring_near(self, head: bytes, body: bytes, hit: Hit) -> None:
        self._near[head, body] = digest(head, body)

    def remember(self, digest: bytes, call: Call) -> None:
        self._known[digest] = call

    def sharing(self, call: Call) -> Call:
        return call

    @contextlib.asynccontextmanager
    async def answer(self, call: Call, opens_s: float | None = None) -> AsyncIterator[Reply]:
        self.asked.append(call)
        try:
            outcome = self.respond(call)
            if isinstance(outcome, Exception):
                raise outcome
            if outcome.answer is not None:
                now = time.time()
                self._kept[call.fingerprint] = Entry(
                    call.fingerprint, outcome.answer, call.scope, call.model, now, now + 60, now + 99
                )
            yield outcome
        finally:
            self.left += 1

    answer_once = answer


class FakeCallers:
    """Keys by name; without keys everybody is who they say."""

    knows_certificates = False

    def __init__(self, keys: dict[str, str] | None = None, **roles: Role) -> None:
        self.required = keys is not None
        self._keys = keys or {}
        self._roles = roles

    def ours(self, presented: list[str], certificate: Iterable[str] = ()) -> str:
        return next((key for key in presented if key in self._keys), presented[0] if presented else "")

    def identify(self, key: str, named: str) -> Caller:
        if not self.required:
            return Caller(named or "default")
        if key not in self._keys:
            raise UnknownCaller("who?")
        name = self._keys[key]
        return Caller(name, role=self._roles.get(name, Role.CALLER))


class FakeAudit:
    """Notes nothing."""

    async def note(self, what: str, target: str, **said: str) -> None:
        pass


class FakeOperated:
    """Nothing to operate."""

    audit = FakeAudit()


@contextlib.asynccontextmanager
async def serving(
    directory: Path,
    flow: Any = None,
    *,
    callers: Any = None,
    tickets: Any = None,
    letters: Any = None,
    cache: Any = None,
    is_shared: bool = False,
    **options: Any,
) -> AsyncIterator[tuple[GrpcServer, grpc.aio.Channel]]:
    """Run a server on a free port, and a channel to it."""
    options.setdefault("addresses", ("127.0.0.1:0",))
    aside = Aside((JOB, grpc_params.JOB, answers.JOB, grpc_kept.JOB, grpc_tickets.JOB))
    keeping = Keeping(3600, 86_400)
    admission = Admission(SystemClock(), keeping, Reader(aside), version="2023-06-01", is_shared=is_shared, max_age_s=570)
    flow = flow or FakeFlow()
    clock, budget = SystemClock(), lambda call: ()
    exchange = Exchange(
        clock, flow, flow, flow, None, admission, Outcomes(clock), None,  # type: ignore[arg-type]
        Guard(None, is_on=False), Answers(aside),  # type: ignore[arg-type]
        budget_headers=budget, upstream_url="http://u", opens_s=10.0,
    )  # fmt: skip
    callers = callers or FakeCallers()
    server = GrpcServer(
        exchange, flow, admission, callers, tickets, letters, cache, None, None, FakeOperated(),  # type: ignore[arg-type]
        clock=clock, budget_headers=budget, runtime_dir=directory, **options,
    )  # fmt: skip
    await server.start()
    await server.set_serving(True)
    try:
        target = server.addresses[0] if server.addresses[0].startswith("unix:") else f"127.0.0.1:{server.ports[0]}"
        async with grpc.aio.insecure_channel(target, options=(("grpc.max_receive_message_length", -1),)) as channel:
            yield server, channel
    finally:
        await server.stop()
        await aside.aclose()


def details(error: grpc.aio.AioRpcError) -> dict[str, Message]:
    """Return the details of an error's google.rpc.Status, by name."""
    status: status_pb2.Status | None = rpc_status.from_call(error)
    assert status is not None
    assert status.code == error.code().value[0]
    found: dict[str, Message] = {}
    for packed in status.details:
        cls = next(cls for cls in DETAILS if packed.Is(cls.DESCRIPTOR))
        found[cls.DESCRIPTOR.name] = cls()
        packed.Unpack(found[cls.DESCRIPTOR.name])
    return found
