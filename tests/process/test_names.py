"""Every call has a name, on every answer, every error and in its line of the log, at both doors; and it says what befell it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re

import aiohttp
import grpc.aio
import pytest

from conftest import until
from fleet import daemon_beside, simulated
from headrace.v1 import api_service_pb2, messages_service_pb2
from headrace.v1.api_service_pb2_grpc import ApiServiceStub
from headrace.v1.messages_service_pb2_grpc import MessagesServiceStub

MODEL = "claude-sonnet-4-5"
LIMIT = json.dumps([
    {"name": "narrow", "match": {"caller": "narrow"}, "requests_per_minute": 60, "burst": "1s"},
    {"name": "closed", "match": {"caller": "closed"}, "requests_per_minute": 1, "burst": "60s"},
])  # fmt: skip
SETTINGS = {"LOG__CALLS": "all", "LIMIT": LIMIT, "UPSTREAM__OVERLOAD_GATE": "off", "RETRY__BACKOFF": "100ms..200ms"}
OURS = re.compile(r"hr_[0-9a-f]{26}")


class Said:
    """What came of a call: its id, its times, whether it is an answer, and upstream's id of it."""

    def __init__(self, id: str, timing: str, is_answer: bool, upstream_id: str = "") -> None:
        self.id, self.timing, self.is_answer, self.upstream_id = id, timing, is_answer, upstream_id


class Stage:
    def __init__(self, simulator, daemon, session, channel) -> None:
        self.simulator, self.daemon, self.session, self.channel = simulator, daemon, session, channel

    async def ask(self, door, text, *, stream=False, id="", caller="ann", within_s=20.0) -> Said:
        return await getattr(self, door)(text, stream=stream, id=id, caller=caller, within_s=within_s)

    async def http(self, text: str, *, stream: bool, id: str, caller: str, within_s: float) -> Said:
        headers = _headers(id, caller) | {"x-headrace-timeout-ms": str(round(within_s * 1000))}
        async with self.session.post(f"{self.daemon.http}/v1/messages", json=_body(text, stream), headers=headers) as response:
            await response.read()
            said = response.headers
            assert said["server"] == "headrace"
            is_answer, timing = response.status == 200, said.get("server-timing", "")
            tries = timing.count("attempt;")
            if not (is_answer and stream):  # how many a live stream took is not known when it begins
                assert int(said["x-headrace-attempts"]) == tries, timing
            return Said(said["x-headrace-request-id"], timing, is_answer, said["request-id"])

    async def typed(self, text: str, *, stream: bool, id: str, caller: str, within_s: float) -> Said:
        kind = messages_service_pb2.StreamMessageRequest if stream else messages_service_pb2.CreateMessageRequest
        request = kind()
        request.options.caller = caller
        request.params.model, request.params.max_tokens = MODEL, 9
        request.params.messages.add(role="user").content.text = text
        stub = MessagesServiceStub(self.channel)
        asked = (stub.StreamMessage if stream else stub.CreateMessage)(request, timeout=within_s, metadata=_given(id))
        return await _told(asked, stream)

    async def raw(self, text: str, *, stream: bool, id: str, caller: str, within_s: float) -> Said:
        body = json.dumps(_body(text, stream)).encode()
        head = api_service_pb2.CallRequestHead(method="POST", path="/v1/messages", body=body)
        for name, value in _headers(id, caller).items():
            head.headers.add(name=name, value=value)
        head.headers.add(name="content-length", value=str(len(head.body)))
        asked = ApiServiceStub(self.channel).Call(iter([api_service_pb2.CallRequest(head=head)]), timeout=within_s)
        first, *_ = [part async for part in asked]
        named = {header.name: header.value for header in first.head.headers}
        is_answer = first.head.status == 200
        return Said(named["x-headrace-request-id"], named.get("server-timing", ""), is_answer, named["request-id"])

    async def line(self, id: str) -> dict:
        """Return the line of a call, once it is there."""
        found: list[dict] = []

        def is_there() -> bool:
            found[:] = [line for line in self.lines() if line.get("id") == id and line["event"] == "call.ended"]
            return bool(found)

        await until(is_there, what=f"a line of {id}")
        [line] = found
        return line

    def lines(self) -> list[dict]:
        lines = []
        for line in self.daemon.served.log.splitlines():
            with contextlib.suppress(ValueError):
                lines.append(json.loads(line))
        return lines


async def _told(asked, stream: bool) -> Said:
    try:
        if stream:
            first, *_ = [part async for part in asked]
        else:
            first = await asked
        error, origin = None, first.origin
    except grpc.aio.AioRpcError as raised:
        error, origin = raised, None
    trailers = dict(await asked.trailing_metadata() or ())
    if origin is None:
        return Said(trailers["x-headrace-request-id"], trailers.get("server-timing", ""), error is None)
    # Hits say it in their message alone.
    assert trailers.get("x-headrace-request-id", origin.headrace_request_id) == origin.headrace_request_id
    timing = trailers.get("server-timing", 'cache;desc="hit"')
    return Said(origin.headrace_request_id, timing, is_answer=True, upstream_id=origin.request_id)


def _headers(id: str, caller: str) -> dict[str, str]:
    return {"anthropic-version": "2023-06-01", "x-headrace-caller": caller} | ({"x-request-id": id} if id else {})


def _given(id: str) -> tuple[tuple[str, str], ...]:
    return (("x-request-id", id),) if id else ()


def _body(text: str, stream: bool) -> dict:
    return {"model": MODEL, "max_tokens": 9, "stream": stream, "messages": [{"role": "user", "content": text}]}


@contextlib.asynccontextmanager
async def staged(**more: str):
    async with (
        simulated() as simulator,
        daemon_beside(simulator.url, **(SETTINGS | more)) as daemon,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        grpc.aio.insecure_channel(daemon.grpc) as channel,
    ):
        yield Stage(simulator, daemon, session, channel)


async def test_names() -> None:
    """All that happens to calls, at one daemon: it takes long to start one."""
    async with staged() as stage:
        for door in ("http", "typed", "raw"):
            for stream in (False, True):
                await _answered(stage, door, stream=stream)
                await _refused(stage, door, stream=stream)
                await _retried(stage, door, stream=stream)
        await _followed(stage)
        await _held(stage)
        await _carried(stage)
        await _not_a_call(stage)
        said = stage.daemon.served.log
    assert "prompt" not in said


async def _answered(stage: Stage, door: str, *, stream: bool) -> None:
    """The name is the caller's own, or ours where it gives none or nonsense; a hit has one, too."""
    text = f"prompt {door} {stream}"
    led = await stage.ask(door, text, stream=stream, id=f"my-own.{door}:{stream}")
    assert (led.id, led.is_answer) == (f"my-own.{door}:{stream}", True)
    assert re.fullmatch(r'attempt;dur=\d+;desc="200", upstream;dur=\d+', led.timing), led.timing
    line = await stage.line(led.id)
    assert (line["caller"], line["model"], line["lane"], line["source"]) == ("ann", MODEL, "standard", "upstream")
    assert line["request_id"] == led.upstream_id
    assert line["edge"] == ("http" if door == "http" else "grpc")
    assert line["input_tokens"] > 0 < line["output_tokens"]
    [made] = line["tries"]
    assert (made["number"], made["outcome"], made["status"], made["request_id"]) == (1, "answered", 200, led.upstream_id)
    nonsense = "no good id" if door == "http" else ""
    hits = [await stage.ask(door, text, stream=stream, id=given) for given in ("", nonsense)]
    for hit in hits:
        assert OURS.fullmatch(hit.id), hit.id
        assert hit.timing == 'cache;desc="hit"'
        assert hit.upstream_id == led.upstream_id
        assert (await stage.line(hit.id))["source"] == "cache"
    assert hits[0].id != hits[1].id


async def _refused(stage: Stage, door: str, *, stream: bool) -> None:
    """An error has the name, too, whoever says it; its line says which limit it was."""
    stage.simulator.faults.add("spend_limit", path="/v1/*", text="no more")
    final = await stage.ask(door, f"prompt {door} {stream}: no more", stream=stream, id=f"final-{door}-{stream}")
    assert (final.id, final.is_answer) == (f"final-{door}-{stream}", False)
    assert re.fullmatch(r'attempt;dur=\d+;desc="429", upstream;dur=\d+', final.timing), final.timing
    line = await stage.line(final.id)
    assert (line["reason"], line["status"], [made["status"] for made in line["tries"]]) == ("UPSTREAM_ERROR", 429, [429])
    await stage.ask(door, "the one of this minute", caller="closed", within_s=2)
    ours = await stage.ask(
        door, f"prompt {door} {stream}", stream=stream, id=f"ours-{door}-{stream}", caller="closed", within_s=3
    )
    assert (ours.id, ours.is_answer) == (f"ours-{door}-{stream}", False)
    line = await stage.line(ours.id)
    assert (line["reason"], line["limit"], line.get("tries")) == ("BUDGET_EXHAUSTED", "closed", None)


async def _retried(stage: Stage, door: str, *, stream: bool) -> None:
    """Each try can be told, also those that were made for its ticket, with what came between."""
    stage.simulator.faults.add("overloaded", path="/v1/*", text=f"twice {door} {stream}", count=2)
    said = await stage.ask(door, f"prompt twice {door} {stream}", stream=stream)
    assert OURS.fullmatch(said.id)
    timing = re.sub(r"dur=\d+", "t", said.timing)
    if stream and door != "typed":  # a head goes out when a stream begins, which may be before others' tries are heard of
        assert timing.startswith('attempt;t;desc="529"')
    else:
        assert timing == 'attempt;t;desc="529", parked;t, attempt;t;desc="529", parked;t, attempt;t;desc="200", upstream;t'
    line = await stage.line(said.id)
    assert [(made["number"], made["status"], made["outcome"]) for made in line["tries"]] == [
        (1, 529, "overloaded"), (2, 529, "overloaded"), (3, 200, "answered"),
    ]  # fmt: skip
    assert line["ticket"].startswith("tkt_")
    assert line["attempts"] == 3


async def _followed(stage: Stage) -> None:
    """Who follows a flight has a name of its own, and the flight's tries."""
    stage.simulator.faults.add("slow", path="/v1/*", text="slowly", delay_s=1.0)
    names = [f"shared-{n}" for n in range(4)]
    doors = ("http", "typed", "http", "typed")
    said = await asyncio.gather(
        *(stage.ask(door, "prompt slowly", id=name, stream=False) for door, name in zip(doors, names, strict=True))
    )
    assert [each.id for each in said] == names
    lines = [await stage.line(name) for name in names]
    assert sorted(line["source"] for line in lines) == ["shared", "shared", "shared", "upstream"]
    assert len({line["tries"][0]["request_id"] for line in lines}) == 1


async def _held(stage: Stage) -> None:
    """What a call waited for is told with the limit's name, and how long."""
    calls = [stage.ask("http", f"prompt held {n}", caller="narrow", id=f"held-{n}", within_s=60) for n in range(4)]
    said = await asyncio.gather(*calls)
    waited = [each for each in said if 'desc="narrow"' in each.timing]
    assert len(waited) >= 2, [each.timing for each in said]
    line = await stage.line(waited[-1].id)
    assert line["limit"] == "narrow"
    assert line["waits_ms"]["narrow"] > 100
    assert line["tries"][0]["held_by"] == "narrow"


async def _carried(stage: Stage) -> None:
    """A call that is only carried has a name like all others."""
    url = f"{stage.daemon.http}/v1/messages/batches"
    async with stage.session.get(url, headers=_headers("carried", "ann")) as response:
        assert response.headers["x-headrace-request-id"] == "carried"
        assert response.headers["server-timing"].startswith("attempt;dur=")
    line = await stage.line("carried")
    assert [made["status"] for made in line["tries"]] == [200]


async def _not_a_call(stage: Stage) -> None:
    """What never becomes a call has a name, so that whoever met it can ask about it."""
    async with stage.session.post(f"{stage.daemon.http}/v1/messages", data=b"{", headers=_headers("bad-1", "ann")) as response:
        assert (response.status, response.headers["x-headrace-request-id"]) == (400, "bad-1")
    assert (await stage.line("bad-1"))["reason"] == "INVALID_CALL"
    async with stage.session.get(f"{stage.daemon.http}/nowhere", headers=_headers("bad-2", "ann")) as response:
        assert (response.status, response.headers["x-headrace-request-id"]) == (404, "bad-2")
    nothing = messages_service_pb2.CreateMessageRequest()
    wrong = MessagesServiceStub(stage.channel).CreateMessage(nothing, metadata=_given("bad-3"))
    with pytest.raises(grpc.aio.AioRpcError):
        await wrong
    assert dict(await wrong.trailing_metadata())["x-headrace-request-id"] == "bad-3"
    assert (await stage.line("bad-3"))["reason"] == "INVALID_CALL"


async def test_slow_alone() -> None:
    """By default only slow calls have a line, whichever way they end; and what is refused at once has none."""
    async with staged(LOG__CALLS="slow", LOG__SLOW="500ms") as stage:
        stage.simulator.faults.add("slow", path="/v1/*", text="slowly", delay_s=0.7)
        await stage.ask("http", "quick", id="quick")
        await stage.ask("http", "quick", id="hit")
        await stage.ask("typed", "slowly", id="slow")
        line = await stage.line("slow")
        assert line["ms"] >= 500
        assert not [each for each in stage.lines() if each.get("id") in ("quick", "hit") and each["event"] == "call.ended"]
