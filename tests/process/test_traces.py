"""What befell a call is a trace at a receiver of OTLP, down to each attempt; nothing of it is there unasked."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path

import aiohttp
import pytest

from conftest import until
from daemon_process import environment
from fleet import daemon_beside, simulated
from headrace.v1 import messages_service_pb2
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub
from otlp import Receiver, outline
from traced import MODEL, SETTINGS, Stage, named, new, staged


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
    stage.simulator.faults.add("slow", path="/v1/*", text="prompt slowly", delay_s=1.5)
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
    for name in ("gen_ai_client_operation_time_per_output_chunk_seconds", "gen_ai_server_time_per_output_token_seconds"):
        assert re.search(rf"{name}_count{{{labels}}} [1-9]", said), name  # of the streams
    assert (
        re.search(rf'gen_ai_client_operation_duration_seconds_count{{error_type="529",{labels}}} 2', said)
        or 'error_type="529"' in said
    )


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
from redis.observability.providers import get_observability_instance

async def main():
    Parts(Settings(), "redis://127.0.0.1:9", Keys)
    assert get_observability_instance().get_provider_manager() is None  # by which Redis' client would record each command

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
