"""What befell a call is a trace at a receiver of OTLP, whichever hosts took part in it; nothing of it is there unasked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import grpc.aio
import pytest

from conftest import until
from daemon_process import environment
from fleet import daemon_beside, simulated
from headrace.trace import Trace, begun
from headrace.v1 import api_service_pb2, messages_service_pb2
from headrace.v1.api_service_pb2_grpc import ApiServiceStub
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from otlp import Receiver, Seen, outline, receiving, tree

MODEL = "claude-sonnet-4-5"
ROOT = Path(__file__).parents[2]
LIMIT = json.dumps([{"name": "narrow", "match": {"caller": "narrow"}, "requests_per_minute": 60, "burst": "1s"}])
SETTINGS = {"LIMIT": LIMIT, "UPSTREAM__OVERLOAD_GATE": "off", "RETRY__BACKOFF": "100ms..200ms", "LOG__CALLS": "all"}
PARKED = """\
headrace call
  admission
  cache
  flight
  attempt 1
  parked
  attempt 2"""


class Stage:
    def __init__(self, simulator, daemon, receiver: Receiver, session, channel) -> None:
        self.simulator, self.daemon, self.receiver = simulator, daemon, receiver
        self.session, self.channel = session, channel

    async def http(self, text: str, trace: Trace | None = None, *, stream=False, caller="ann", **headers: str) -> str:
        """Ask over HTTP; returns where the answer came from."""
        given = dict(trace.headers()) if trace else {}
        said = {"anthropic-version": "2023-06-01", "x-headrace-caller": caller} | given | headers
        async with self.session.post(f"{self.daemon.http}/v1/messages", json=body(text, stream), headers=said) as response:
            await response.read()
            return response.headers.get("x-headrace-source", str(response.status))

    async def typed(self, text: str, trace: Trace, *, stream=False) -> str:
        kind = messages_service_pb2.StreamMessageRequest if stream else messages_service_pb2.CreateMessageRequest
        request = kind()
        request.params.model, request.params.max_tokens = MODEL, 9
        request.params.messages.add(role="user").content.text = text
        stub = MessagesServiceStub(self.channel)
        asked = (stub.StreamMessage if stream else stub.CreateMessage)(request, timeout=20, metadata=tuple(trace.headers()))
        first, *_ = [part async for part in asked] if stream else [await asked]
        return {1: "upstream", 2: "shared", 3: "cache"}.get(first.origin.source, "")

    async def raw(self, text: str, trace: Trace, *, stream=False) -> str:
        said = json.dumps(body(text, stream)).encode()
        head = api_service_pb2.CallRequestHead(method="POST", path="/v1/messages", body=said)
        for name, value in [("anthropic-version", "2023-06-01"), ("content-length", str(len(said))), *trace.headers()]:
            head.headers.add(name=name, value=value)
        first, *_ = [part async for part in ApiServiceStub(self.channel).Call(iter([api_service_pb2.CallRequest(head=head)]))]
        return {header.name: header.value for header in first.head.headers}["x-headrace-source"]

    async def told(self, trace: Trace, *calls: str) -> list[Seen]:
        """Return the spans of a trace, once its call has ended."""
        await until(lambda: self.receiver.is_told(trace.trace_id, *calls), what=f"spans: {self.receiver.of(trace.trace_id)}")
        return self.receiver.of(trace.trace_id)


def body(text: str, stream: bool) -> dict:
    return {"model": MODEL, "max_tokens": 9, "stream": stream, "messages": [{"role": "user", "content": text}]}


def new(*, is_sampled: bool = True) -> Trace:
    """A caller's own place in a trace that it has begun."""
    return begun(None, is_sampled=is_sampled)


def named(spans: list[Seen], name: str) -> Seen:
    [found] = [span for span in spans if span.name == name]
    return found


@contextlib.asynccontextmanager
async def staged(**more: str) -> AsyncIterator[Stage]:
    async with (
        receiving() as receiver,
        simulated() as simulator,
        daemon_with(receiver, simulator.url, **(SETTINGS | more)) as daemon,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        grpc.aio.insecure_channel(daemon.grpc) as channel,
    ):
        yield Stage(simulator, daemon, receiver, session, channel)


@contextlib.asynccontextmanager
async def daemon_with(receiver: Receiver, *asked: str, host: str = "one", **settings: str):
    environ = receiver.environment | {"OTEL_RESOURCE_ATTRIBUTES": f"host.name={host}"}
    async with daemon_beside(*asked, environ=environ, **settings) as daemon:
        yield daemon


async def test_traces() -> None:
    """All kinds of calls, at one daemon: it takes long to start one."""
    async with staged() as stage:
        for door in ("http", "typed", "raw"):
            await _plain(stage, door)
        await _stream(stage)
        await _retried(stage)
        await _followed(stage)
        await _held(stage)
        await _refused(stage)
        await _carried(stage)
        await _submitted(stage)
        await _keyed(stage)
        await _not_recorded(stage)
        await _malformed(stage)
        await _exemplars(stage)
        log = stage.daemon.served.log
    assert "prompt" not in log
    assert not [span for span in stage.receiver.spans if "prompt" in str(span)]
    assert "nonsense" not in log


async def _plain(stage: Stage, door: str) -> None:
    """A call hangs under its caller's span, its attempt under the call, and upstream is told the attempt's; then a hit."""
    asked = new()
    assert await getattr(stage, door)(f"prompt {door}", asked) == "upstream"
    spans = await stage.told(asked)
    assert outline(spans) == "headrace call\n  admission\n  cache\n  flight\n  attempt 1"
    call, attempt = named(spans, "headrace call"), named(spans, "attempt 1")
    assert (call.parent, call.kind, attempt.kind) == (asked.span_id, "SERVER", "CLIENT")
    assert call.attributes["headrace.source"] == "upstream"
    assert call.attributes["headrace.edge"] == ("http" if door == "http" else "grpc")
    assert attempt.attributes["gen_ai.request.model"] == MODEL
    assert attempt.attributes["gen_ai.operation.name"] == "chat"
    assert attempt.attributes["gen_ai.provider.name"] == "anthropic"
    assert attempt.attributes["gen_ai.usage.output_tokens"] > 0
    assert attempt.attributes["http.response.status_code"] == 200
    assert attempt.attributes["headrace.upstream.request_id"]
    assert attempt.resource["service.name"] == "headrace"
    assert stage.simulator.journal.visits[-1].headers["traceparent"] == f"00-{asked.trace_id}-{attempt.span_id}-01"
    again = new()
    assert await getattr(stage, door)(f"prompt {door}", again) == "cache"
    [hit] = await stage.told(again)
    assert (hit.name, hit.parent, hit.attributes["headrace.source"]) == ("headrace call", again.span_id, "cache")
    assert hit.attributes["headrace.cache.key"] == call.attributes["headrace.cache.key"]


async def _stream(stage: Stage) -> None:
    """A stream's call lasts until its end; what upstream counted stands on its attempt."""
    for door in ("http", "typed", "raw"):
        asked = new()
        assert await getattr(stage, door)(f"prompt stream {door}", asked, stream=True) in ("upstream", "")
        spans = await stage.told(asked)
        attempt = named(spans, "attempt 1")
        assert attempt.attributes["gen_ai.request.stream"] is True
        assert attempt.attributes["gen_ai.usage.output_tokens"] > 0
        assert named(spans, "headrace call").ended_ns >= attempt.began_ns


async def _retried(stage: Stage) -> None:
    """Each attempt is a span of its own, with what came of it, and so is the time between."""
    stage.simulator.faults.add("overloaded", path="/v1/*", text="prompt twice", count=2)
    asked = new()
    assert await stage.http("prompt twice", asked) == "upstream"
    spans = await stage.told(asked, "headrace call", "attempt 1", "attempt 2", "attempt 3")
    names = [span.name for span in spans if span.name in ("parked",) or span.name.startswith("attempt")]
    assert names == ["attempt 1", "parked", "attempt 2", "parked", "attempt 3"]
    first = named(spans, "attempt 1")
    assert (first.is_error, first.attributes["error.type"], first.attributes["headrace.outcome"]) == (True, "529", "overloaded")
    assert {span.parent for span in spans if span.name != "headrace call"} == {named(spans, "headrace call").span_id}
    told = {
        visit.headers["traceparent"]
        for visit in stage.simulator.journal.visits
        if asked.trace_id in visit.headers.get("traceparent", "")
    }
    assert told == {f"00-{asked.trace_id}-{span.span_id}-01" for span in spans if span.name.startswith("attempt")}


async def _followed(stage: Stage) -> None:
    """Who is answered with others has a flight that links to the call that led it, and no attempts."""
    stage.simulator.faults.add("slow", path="/v1/*", text="prompt slowly", delay_s=1.0)
    asked = [new() for _ in range(3)]
    await asyncio.gather(*(stage.http("prompt slowly", each) for each in asked))
    spans = [await stage.told(each) for each in asked]
    [led] = [each for each in spans if named(each, "headrace call").attributes["headrace.source"] == "upstream"]
    leader = named(led, "headrace call").span_id
    assert named(led, "flight").links == ()
    for followed in spans:
        if followed is not led:
            assert named(followed, "flight").links == (leader,)
            assert named(followed, "flight").attributes["headrace.flight.part"] == "followed"
            assert not [span for span in followed if span.name.startswith(("attempt", "wait"))]


async def _held(stage: Stage) -> None:
    """What a call waited for is a span with the limit's name, before its attempt."""
    asked = [new() for _ in range(3)]
    await asyncio.gather(*(stage.http(f"prompt held {n}", each, caller="narrow") for n, each in enumerate(asked)))
    spans = [await stage.told(each, "headrace call", "attempt 1") for each in asked]
    waits = [span for each in spans for span in each if span.name == "wait"]
    assert waits
    assert {span.attributes["headrace.limit"] for span in waits} == {"narrow"}
    for each in spans:
        assert all(span.ended_ns <= named(each, "attempt 1").began_ns + 1_000_000 for span in each if span.name == "wait")


async def _refused(stage: Stage) -> None:
    """An error is one on the call's span, with its reason."""
    stage.simulator.faults.add("spend_limit", path="/v1/*", text="prompt no more")
    asked = new()
    await stage.http("prompt no more", asked)
    spans = await stage.told(asked)
    call = named(spans, "headrace call")
    assert (call.is_error, call.attributes["error.type"], call.attributes["http.response.status_code"]) == (
        True,
        "UPSTREAM_ERROR",
        429,
    )
    assert named(spans, "attempt 1").attributes["error.type"] == "429"


async def _carried(stage: Stage) -> None:
    """So has a call that is only carried."""
    asked = new()
    headers = dict(asked.headers()) | {"anthropic-version": "2023-06-01"}
    async with stage.session.get(f"{stage.daemon.http}/v1/messages/batches", headers=headers) as response:
        await response.read()
    spans = await stage.told(asked)
    assert outline(spans) == "headrace call\n  attempt 1"
    attempt = named(spans, "attempt 1")
    assert stage.simulator.journal.visits[-1].headers["traceparent"] == f"00-{asked.trace_id}-{attempt.span_id}-01"


async def _submitted(stage: Stage) -> None:
    """A submitted call hangs under the span of who submitted it, until its ticket has ended."""
    asked = new()
    request = messages_service_pb2.SubmitMessageRequest()
    request.params.model, request.params.max_tokens = MODEL, 9
    request.params.messages.add(role="user").content.text = "prompt submitted"
    reply = await MessagesServiceStub(stage.channel).SubmitMessage(request, metadata=tuple(asked.headers()))
    spans = await stage.told(asked)
    call, attempt = named(spans, "headrace call"), named(spans, "attempt 1")
    assert (call.parent, call.attributes["headrace.edge"]) == (asked.span_id, "queue")
    assert attempt.parent == call.span_id
    assert call.attributes["headrace.ticket"] == attempt.attributes["headrace.ticket"] == reply.ticket.id


async def _keyed(stage: Stage) -> None:
    """So has a call with an idempotency key, whose answer is a ticket's."""
    asked = new()
    assert await stage.http("prompt keyed", asked, **{"idempotency-key": "once"}) == "upstream"
    spans = await stage.told(asked)
    assert named(spans, "attempt 1").parent == named(spans, "headrace call").span_id


async def _not_recorded(stage: Stage) -> None:
    """A trace that its caller does not record is not recorded here either, and still goes on to upstream."""
    asked = new(is_sampled=False)
    assert await stage.http("prompt unrecorded", asked, tracestate="some=state") == "upstream"
    said = stage.simulator.journal.visits[-1].headers
    assert re.fullmatch(rf"00-{asked.trace_id}-(?!{asked.span_id})[0-9a-f]{{16}}-00", said["traceparent"])
    assert said["tracestate"] == "some=state"
    marker = new()
    await stage.http("prompt unrecorded", marker)
    await stage.told(marker)
    assert stage.receiver.of(asked.trace_id) == []


async def _malformed(stage: Stage) -> None:
    """Nonsense is as if it had not come: a trace of its own begins."""
    before = len(stage.receiver.spans)
    assert await stage.http("prompt malformed", traceparent="00-nonsense", tracestate="nonsense") == "upstream"
    await until(lambda: any(span.name == "headrace call" for span in stage.receiver.spans[before:]))
    call = named(stage.receiver.spans[before:], "headrace call")
    assert call.parent == ""
    said = stage.simulator.journal.visits[-1].headers
    assert said["traceparent"].startswith(f"00-{call.trace_id}-")
    assert "tracestate" not in said


async def _exemplars(stage: Stage) -> None:
    """Who asks for OpenMetrics gets exemplars: from a slow bucket to a trace of it; others get what they got before."""
    from prometheus_client.openmetrics.parser import text_string_to_metric_families

    asked = new()
    await stage.http("prompt for metrics", asked)
    known = {span.trace_id for span in stage.receiver.spans} | {asked.trace_id}
    accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"
    found: dict[str, set[str]] = {}

    async def is_there() -> bool:  # the page is up to a second old
        async with stage.session.get(f"{stage.daemon.http}/metrics", headers={"accept": accept}) as response:
            assert response.headers["content-type"].startswith("application/openmetrics-text")
            for family in text_string_to_metric_families(await response.text()):
                marks = {sample.exemplar.labels["trace_id"] for sample in family.samples if sample.exemplar}
                if marks:
                    found[family.name] = marks
        return any(asked.trace_id in marks for marks in found.values())

    await until(is_there, what=f"an exemplar of {asked.trace_id}: {found}")
    for name in (
        "headrace_call_seconds", "headrace_first_content_seconds", "headrace_wait_seconds", "headrace_turn_wait_seconds",
        "headrace_upstream_seconds", "gen_ai_client_operation_duration_seconds",
    ):  # fmt: skip
        assert found[name] <= known
    async with stage.session.get(f"{stage.daemon.http}/metrics") as response:
        assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        said = await response.text()
    assert "trace_id" not in said
    labels = f'gen_ai_operation_name="chat",gen_ai_provider_name="anthropic",gen_ai_request_model="{MODEL}"'
    assert re.search(rf'gen_ai_client_token_usage_bucket{{{labels},gen_ai_token_type="output",le="16.0"}} [1-9]', said), said
    assert (
        re.search(rf'gen_ai_client_operation_duration_seconds_count{{error_type="529",{labels}}} 2', said)
        or 'error_type="529"' in said
    )


async def test_over_two_hosts(valkey_url: str) -> None:
    """A call that is parked on one host and answered from another is one tree, as docs/traces.md shows it."""
    async with contextlib.AsyncExitStack() as stack:
        enter = stack.enter_async_context
        receiver, simulator = await enter(receiving()), await enter(simulated())
        simulator.faults.add("overloaded", path="/v1/*", text="prompt", count=1, retry_after_s=4)
        one = await enter(daemon_with(receiver, simulator.url, valkey_url, host="one", **SETTINGS))
        two = await enter(daemon_with(receiver, simulator.url, valkey_url, host="two", **SETTINGS))
        session = await enter(aiohttp.ClientSession())
        stage, asked = Stage(simulator, one, receiver, session, None), new()
        asking = asyncio.create_task(stage.http("prompt", asked))
        await until(lambda: "call.parked" in one.served.log)
        # The next attempt is due in some seconds: the host that has parked it stands still meanwhile.
        one.served.process.send_signal(signal.SIGSTOP)
        try:
            await until(lambda: len(simulator.journal.visits) == 2, within=30)
        finally:
            one.served.process.send_signal(signal.SIGCONT)
        assert await asking == "upstream"
        spans = await stage.told(asked, "headrace call", "attempt 1", "attempt 2")
        await _followed_elsewhere(stage, Stage(simulator, two, receiver, session, None))
    print(tree(spans))
    assert outline(spans) == PARKED
    assert named(spans, "headrace call").resource["host.name"] == "one"
    assert named(spans, "attempt 2").resource["host.name"] == "two"
    assert [visit.headers["traceparent"].split("-")[2] for visit in list(simulator.journal.visits)[:2]] == [
        named(spans, "attempt 1").span_id, named(spans, "attempt 2").span_id,
    ]  # fmt: skip
    example = re.search(r"```\n(headrace call .*?)\n```", (ROOT / "docs/traces.md").read_text(), re.S)
    assert example is not None
    assert "\n".join(re.split(r"(?<=\S)  +", line)[0] for line in example[1].splitlines()) == PARKED


async def _followed_elsewhere(*stages: Stage) -> None:
    """Who follows a flight on another host has a link to the call that leads it there."""
    simulator = stages[0].simulator
    simulator.faults.clear()
    simulator.faults.add("slow", path="/v1/*", text="slowly", delay_s=1.0)
    for stream in (False, True):
        asked = [new() for _ in stages]
        asks = zip(stages, asked, strict=True)
        await asyncio.gather(*(stage.http(f"slowly {stream}", each, stream=stream) for stage, each in asks))
        spans = [await stage.told(each) for stage, each in zip(stages, asked, strict=True)]
        by_part = {named(each, "flight").attributes["headrace.flight.part"]: each for each in spans}
        assert set(by_part) == {"led", "followed"}
        assert named(by_part["followed"], "flight").links == (named(by_part["led"], "headrace call").span_id,)
        assert [span.name for span in by_part["followed"] if span.name.startswith("attempt")] == []


async def test_off() -> None:
    """Without a receiver nothing of OpenTelemetry is imported, no span is made, and what a caller says goes on as it came."""
    async with simulated() as simulator, daemon_beside(simulator.url, **SETTINGS) as daemon, aiohttp.ClientSession() as session:
        stage, asked = Stage(simulator, daemon, Receiver(), session, None), new()
        assert await stage.http("prompt off", asked, tracestate="some=state") == "upstream"
        said = simulator.journal.visits[-1].headers
        assert (said["traceparent"], said["tracestate"]) == (asked.headers()[0][1], "some=state")
        for given in ({}, {"traceparent": "00-nonsense", "tracestate": "some=state"}):
            assert await stage.http(f"prompt off {len(given)}", **given) == "upstream"
            assert not {"traceparent", "tracestate"} & set(simulator.journal.visits[-1].headers)
        headers = {"traceparent": "00-nonsense", "anthropic-version": "2023-06-01"}
        async with session.get(f"{daemon.http}/v1/messages/batches", headers=headers) as response:
            await response.read()
        assert "traceparent" not in simulator.journal.visits[-1].headers
        assert "nonsense" not in daemon.served.log


_PARTS = """
import asyncio, sys
from importlib.abc import MetaPathFinder

class Missing(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(name)

if "missing" in sys.argv:
    sys.meta_path.insert(0, Missing())

from headrace.config import Keys, Settings
from headrace.wiring import Parts

async def main():
    Parts(Settings(), "redis://127.0.0.1:9", Keys)

asyncio.run(main())
print(*(name for name in ("opentelemetry.sdk.trace", "opentelemetry.exporter", "requests") if name in sys.modules))
"""


@pytest.mark.parametrize(
    ("environ", "extra", "imported", "said"),
    [
        ({}, "there", "", ""),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
            "there",
            "opentelemetry.sdk.trace opentelemetry.exporter requests",
            "traces.on",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}, "missing", "", "headrace[otel]"),
    ],
)
async def test_imports(tmp_path: Path, environ: dict[str, str], extra: str, imported: str, said: str) -> None:
    """A daemon's parts import the SDK where a receiver is named, and nowhere else; where they cannot, they say why."""
    named = environment(tmp_path, **environ)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _PARTS, extra, env=named, stdout=-1, stderr=-1)
    printed, error = await process.communicate()
    assert process.returncode == 0, error.decode()
    *log, last = printed.decode().splitlines()
    assert last == imported
    assert said in "\n".join(log) + error.decode()
    assert said or not log
