"""The simulator over real HTTP: with the official SDK, with plain HTTP, and with everything going wrong."""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anthropic
import msgspec
import pytest

from conftest import until
from headrace.errors import StartupError
from headrace.simulator import Options, Simulator, fingerprint, start

KEY = {"x-api-key": "sk-test", "anthropic-version": "2026-10-21"}


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """An instant simulator with no limits."""
    async with await start(Options.instant()) as running:
        yield running


@pytest.fixture
async def web() -> AsyncIterator[aiohttp.ClientSession]:
    """A plain HTTP client."""
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def sdk(simulator: Simulator) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The official SDK, without its own retries."""
    async with anthropic.AsyncAnthropic(api_key="sk-test", base_url=simulator.url, max_retries=0) as client:
        yield client


def call(prompt: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {"model": "claude-sonnet-5", "max_tokens": 200, "messages": [{"role": "user", "content": prompt}], **fields}


async def post(web: aiohttp.ClientSession, simulator: Simulator, body: Any, **headers: str) -> tuple[int, Any, dict[str, str]]:
    """Send a call, a value or raw bytes; an empty header is one that is not sent."""
    sent = {name: value for name, value in (KEY | {k.replace("_", "-"): v for k, v in headers.items()}).items() if value}
    raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
    async with web.post(simulator.url + "/v1/messages", data=raw, headers=sent) as response:
        text = await response.read()
        is_json = response.content_type == "application/json"
        return (
            response.status,
            msgspec.json.decode(text) if is_json else text,
            {k.lower(): v for k, v in response.headers.items()},
        )


async def control(web: aiohttp.ClientSession, simulator: Simulator, method: str, path: str, body: Any = None) -> Any:
    data = None if body is None else msgspec.json.encode(body)
    async with web.request(method, f"{simulator.url}/_simulator/{path}", data=data) as response:
        return msgspec.json.decode(await response.read()) | {"status": response.status}


# The official SDK


async def test_sdk_create(simulator: Simulator, sdk: anthropic.AsyncAnthropic) -> None:
    """A message is what the SDK expects, and no two have the same id."""
    first, second = [await sdk.messages.create(**call()) for _ in range(2)]
    assert first.content[0].type == "text"
    assert first.content[0].text.startswith('You said: "Hello". ')
    assert first.content == second.content
    assert first.id != second.id
    assert first.id.startswith("msg_01")
    assert first.usage.input_tokens == 2
    assert simulator.counts.outcomes["answered"] == 2


async def test_sdk_stream(sdk: anthropic.AsyncAnthropic) -> None:
    """A stream adds up to the message that is answered without it."""
    whole = await sdk.messages.create(**call())
    async with sdk.messages.stream(**call()) as stream:
        said = [text async for text in stream.text_stream]
        final = await stream.get_final_message()
    assert len(said) > 5
    assert final.content[0].text == "".join(said) == whole.content[0].text  # type: ignore[union-attr]
    assert final.usage.output_tokens == whole.usage.output_tokens
    assert final.stop_reason == "end_turn"


async def test_sdk_tool_and_thinking(sdk: anthropic.AsyncAnthropic) -> None:
    """Thinking and a tool's input stream, and the SDK puts them together."""
    tools = [{"name": "find", "input_schema": {"type": "object", "properties": {"q": {"type": "string"}}}}]
    asked = call("Please use the tool", tools=tools, thinking={"type": "adaptive"})
    async with sdk.messages.stream(**asked) as stream:
        final = await stream.get_final_message()
    thought, used = final.content
    assert thought.type == "thinking"
    assert thought.signature
    assert used.type == "tool_use"
    assert used.input == {"q": "Please use the tool"}
    assert final.stop_reason == "tool_use"


@pytest.mark.parametrize(
    ("kind", "error"),
    [
        ("rate_limit", anthropic.RateLimitError),
        ("spend_limit", anthropic.RateLimitError),
        ("overloaded", anthropic.InternalServerError),
        ("api_error", anthropic.InternalServerError),
        ("reset", anthropic.APIConnectionError),
        ("half_json", anthropic.APIConnectionError),
    ],
)
async def test_sdk_errors(simulator: Simulator, sdk: anthropic.AsyncAnthropic, kind: str, error: type[Exception]) -> None:
    """Each fault is, for the SDK, the error that it stands for; the next call is well again."""
    simulator.faults.add(kind, count=1)
    with pytest.raises(error):
        await sdk.messages.create(**call())
    assert await sdk.messages.create(**call())
    assert (simulator.counts.outcomes[kind], simulator.counts.outcomes["answered"]) == (1, 1)


async def test_sdk_retries(simulator: Simulator, sdk: anthropic.AsyncAnthropic) -> None:
    """The SDK's own retries get through, no earlier than retry-after."""
    simulator.faults.add("rate_limit", count=2, retry_after_s=0.2)
    assert await sdk.with_options(max_retries=2).messages.create(**call())
    visits = list(simulator.journal.visits)
    assert [visit.outcome for visit in visits] == ["rate_limit", "rate_limit", "answered"]
    for earlier, later in itertools.pairwise(visits):
        assert later.at_monotonic - earlier.at_monotonic >= 0.2
    assert visits[0].retry_after_s == 0.2


async def test_sdk_other_endpoints(sdk: anthropic.AsyncAnthropic) -> None:
    """Tokens are counted as a message counts them; models are listed."""
    counted = await sdk.messages.count_tokens(model="claude-sonnet-5", messages=call()["messages"])
    assert counted.input_tokens == 2
    models = await sdk.models.list()
    assert (await sdk.models.retrieve(models.data[0].id)).id == models.data[0].id


# The door


@pytest.mark.parametrize(
    ("headers", "status", "type"),
    [
        ({"x_api_key": ""}, 401, "authentication_error"),
        ({"x_api_key": " "}, 401, "authentication_error"),
        ({"x_api_key": "", "authorization": "Basic abc"}, 401, "authentication_error"),
        ({"x_api_key": "", "authorization": "Bearer sk-test"}, 200, None),
        ({"anthropic_version": ""}, 400, "invalid_request_error"),
        ({"anthropic_version": "2020-01-01"}, 400, "invalid_request_error"),
        ({"anthropic_version": "2023-06-01"}, 200, None),
    ],
)
async def test_door(simulator: Simulator, web: aiohttp.ClientSession, headers: dict[str, str], status: int, type: str) -> None:
    """A key, in one header or the other, and a known version are asked for."""
    got, body, said = await post(web, simulator, call(), **headers)
    assert got == status
    assert said["request-id"].startswith("req_")
    assert said["anthropic-organization-id"]
    if type:
        assert body["type"] == "error"
        assert body["error"]["type"] == type
        assert body["request_id"] == said["request-id"]


async def test_named_keys(web: aiohttp.ClientSession) -> None:
    """Where keys are named, others are refused, and x-api-key is the one that counts."""
    async with await start(Options.instant(keys=("good",))) as simulator:
        assert (await post(web, simulator, call(), x_api_key="bad"))[0] == 401
        assert (await post(web, simulator, call(), x_api_key="good"))[0] == 200
        assert (await post(web, simulator, call(), x_api_key="bad", authorization="Bearer good"))[0] == 401
        keys = [visit.key for visit in simulator.journal.visits]
        assert keys[1]
        assert "good" not in keys[1]


@pytest.mark.parametrize(
    ("method", "path", "status", "type"),
    [
        ("POST", "/v1/nothing", 404, "not_found_error"),
        ("GET", "/", 404, "not_found_error"),
        ("GET", "/v1/messages", 405, "invalid_request_error"),
        ("DELETE", "/v1/models/claude-x", 405, "invalid_request_error"),
        ("GET", "/v1/models/gpt-4", 404, "not_found_error"),
    ],
)
async def test_paths(simulator: Simulator, web: aiohttp.ClientSession, method: str, path: str, status: int, type: str) -> None:
    """What is not there says so in the API's own shape."""
    async with web.request(method, simulator.url + path, headers=KEY) as response:
        assert response.status == status
        assert msgspec.json.decode(await response.read())["error"]["type"] == type
        assert ("allow" in response.headers) == (status == 405)
    assert simulator.counts.paths[path] == 1


async def test_too_large(web: aiohttp.ClientSession) -> None:
    """A body over the size is refused, whether or not it says its length first."""
    async with await start(Options.instant(max_body_bytes=1_000)) as simulator:
        body = msgspec.json.encode(call("x" * 1_000))
        status, said, _ = await post(web, simulator, body)
        assert (status, said["error"]["type"]) == (413, "request_too_large")

        async def in_parts() -> AsyncIterator[bytes]:
            yield body

        async with web.post(simulator.url + "/v1/messages", data=in_parts(), headers=KEY) as response:
            assert response.status == 413


async def test_bad_body(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """A wrong body is answered with the sentence that says what is wrong."""
    status, said, _ = await post(web, simulator, b'{"model": ')
    assert (status, said["error"]["type"]) == (400, "invalid_request_error")
    status, said, _ = await post(web, simulator, call(temperature=1.0))
    assert (status, said["error"]["message"]) == (400, "temperature: Extra inputs are not permitted")
    assert simulator.counts.outcomes["invalid_request_error"] == 2


async def test_expect_continue(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """A client that asks whether to go on is told to."""
    async with web.post(simulator.url + "/v1/messages", json=call(), headers=KEY, expect100=True) as response:
        assert response.status == 200


# Timing and limits


async def test_timing(web: aiohttp.ClientSession) -> None:
    """A stream begins after the time to the first token and grows at the pace asked for; JSON takes as long as all of it."""
    options = Options(first_token_s=0.2, tokens_per_s=100, jitter=0, answer_tokens=(40, 40))
    async with await start(options) as simulator:
        began = time.monotonic()
        seen: list[tuple[float, bytes]] = []
        async with web.post(simulator.url + "/v1/messages", json=call(stream=True), headers=KEY) as response:
            async for line in response.content:
                if line.startswith(b"event: content_block_delta"):
                    seen.append((time.monotonic() - began, line))
        assert 0.19 <= seen[0][0] < 0.5
        assert seen[-1][0] - seen[0][0] >= 0.3
        began = time.monotonic()
        await post(web, simulator, call())
        assert time.monotonic() - began >= 0.5


async def test_limit(web: aiohttp.ClientSession) -> None:
    """Over the limit it is 429 with all headers; after waiting as long as asked it is not."""
    async with await start(Options.instant(requests_per_minute=120, burst_s=1, input_tokens_per_minute=100_000)) as simulator:
        for left in ("1", "0"):
            status, _, headers = await post(web, simulator, call())
            assert (status, headers["anthropic-ratelimit-requests-remaining"]) == (200, left)
        status, said, headers = await post(web, simulator, call())
        assert (status, said["error"]["type"], headers["retry-after"]) == (429, "rate_limit_error", "1")
        assert headers["anthropic-ratelimit-requests-limit"] == "120"
        assert "anthropic-ratelimit-tokens-reset" in headers
        await asyncio.sleep(float(headers["retry-after"]))
        assert (await post(web, simulator, call()))[0] == 200
        assert simulator.counts.outcomes["limited"] == 1


async def test_output_is_charged_as_it_comes(web: aiohttp.ClientSession) -> None:
    """While a stream speaks, the output bucket falls; a caller who leaves has paid only for what was said."""
    options = Options(first_token_s=0, tokens_per_s=200, jitter=0, answer_tokens=(2000, 2000), output_tokens_per_minute=1)
    async with await start(options) as simulator:
        async with web.post(simulator.url + "/v1/messages", json=call(stream=True, max_tokens=9000), headers=KEY) as response:
            assert response.status == 200
            await until(lambda: simulator.counts.output_tokens >= 8)
            assert (await post(web, simulator, call()))[0] == 429
            response.close()
        await until(lambda: simulator.counts.outcomes["gone"] == 1)
        assert simulator.counts.output_tokens < 1000
        assert simulator.counts.running == 0


async def test_concurrency(web: aiohttp.ClientSession) -> None:
    """No more calls of a model than allowed are in the air; a place is given back by whoever leaves."""
    async with await start(Options.instant(concurrency=1)) as simulator:
        simulator.faults.add("hang", count=1)
        hanging = asyncio.create_task(post(web, simulator, call()))
        await until(lambda: simulator.counts.running == 1)
        assert (await post(web, simulator, call()))[0] == 429
        hanging.cancel()
        await asyncio.gather(hanging, return_exceptions=True)
        await until(lambda: simulator.counts.running == 0)
        assert (await post(web, simulator, call()))[0] == 200
        assert simulator.counts.most_running == 2


# Faults


@pytest.mark.parametrize(
    ("kind", "status", "type"),
    [
        ("rate_limit", 429, "rate_limit_error"),
        ("overloaded", 529, "overloaded_error"),
        ("api_error", 500, "api_error"),
        ("bad_gateway", 502, "api_error"),
        ("unavailable", 503, "api_error"),
        ("gateway_timeout", 504, "timeout_error"),
        ("request_timeout", 408, "timeout_error"),
        ("spend_limit", 429, "rate_limit_error"),
    ],
)
async def test_errors(simulator: Simulator, web: aiohttp.ClientSession, kind: str, status: int, type: str) -> None:
    """An error fault has its status and type; only a 429 that waiting clears says how long."""
    simulator.faults.add(kind, count=1)
    got, said, headers = await post(web, simulator, call())
    assert (got, said["error"]["type"]) == (status, type)
    assert ("retry-after" in headers) == (kind == "rate_limit")
    assert simulator.journal.visits[-1].outcome == kind
    assert simulator.journal.visits[-1].status == status


async def test_spend_limit(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """A spend limit says so in its details."""
    simulator.faults.add("spend_limit", count=1)
    _, said, _ = await post(web, simulator, call())
    assert said["error"]["details"] == {"error_code": "enforced_spend_limit_reached"}


@pytest.mark.parametrize("stream", [False, True])
async def test_hang(simulator: Simulator, web: aiohttp.ClientSession, stream: bool) -> None:
    """A call that hangs is answered nothing, and ends when its caller leaves."""
    simulator.faults.add("hang", count=1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(post(web, simulator, call(stream=stream)), 0.2)
    await until(lambda: simulator.counts.running == 0)
    assert (simulator.journal.visits[-1].outcome, simulator.journal.visits[-1].status) == ("hang", 0)


async def test_reset(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """A reset is a reset: before the headers nothing is sent, after them the body breaks off."""
    simulator.faults.add("reset", count=1)
    with pytest.raises(aiohttp.ClientOSError, match="reset"):
        await post(web, simulator, call())
    assert simulator.journal.visits[-1].status == 0
    simulator.faults.add("reset", count=1, after_deltas=0)
    async with web.post(simulator.url + "/v1/messages", json=call(), headers=KEY) as response:
        assert response.status == 200
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def test_half_json(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """Half a body comes, then the end."""
    simulator.faults.add("half_json", count=1)
    async with web.post(simulator.url + "/v1/messages", json=call(), headers=KEY) as response:
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()


async def read_stream(web: aiohttp.ClientSession, simulator: Simulator) -> tuple[list[str], bytes, bool]:
    """Return a stream's events, its bytes, and whether it was cut off."""
    seen, was_cut = b"", False
    async with web.post(simulator.url + "/v1/messages", json=call(stream=True), headers=KEY) as response:
        assert response.status == 200
        try:
            async for part in response.content.iter_any():
                seen += part
        except aiohttp.ClientError:
            was_cut = True
    names = [line.removeprefix(b"event: ").decode() for line in seen.split(b"\n") if line.startswith(b"event: ")]
    return names, seen, was_cut


@pytest.mark.parametrize(("clean", "after"), [(False, 2), (True, 2), (False, 0), (False, 999)])
async def test_half_stream(simulator: Simulator, web: aiohttp.ClientSession, clean: bool, after: int) -> None:
    """A stream breaks off after as many deltas as asked, at the latest before its end; with or without good manners."""
    simulator.faults.add("half_stream", count=1, after_deltas=after, clean=clean)
    names, _, was_cut = await read_stream(web, simulator)
    deltas = names.count("content_block_delta")
    assert deltas == after or (after == 999 and deltas > 5)
    assert was_cut != clean
    assert "message_delta" not in names


@pytest.mark.parametrize(("after", "type"), [(0, "overloaded_error"), (3, "api_error")])
async def test_stream_error(simulator: Simulator, web: aiohttp.ClientSession, after: int, type: str) -> None:
    """A stream that began well ends in an error event."""
    simulator.faults.add("stream_error", count=1, after_deltas=after, error_type=type)
    names, raw, was_cut = await read_stream(web, simulator)
    assert names[:3] == ["message_start", "content_block_start", "ping"]
    assert names.count("content_block_delta") == after
    assert names[-1] == "error"
    assert not was_cut
    assert msgspec.json.decode(raw.strip().rpartition(b"data: ")[2])["error"]["type"] == type


async def test_silence_in_mid_stream(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """A stream may also fall silent."""
    simulator.faults.add("hang", count=1, after_deltas=1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(read_stream(web, simulator), 0.2)
    await until(lambda: simulator.counts.running == 0)


async def test_garbage(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """A body may be no JSON at all, under any status."""
    simulator.faults.add("garbage", count=1, status=502)
    status, said, headers = await post(web, simulator, call())
    assert (status, headers["content-type"]) == (502, "text/html")
    assert said.startswith(b"<html>")


async def test_slow(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """A slow answer is late and whole."""
    simulator.faults.add("slow", count=1, delay_s=0.2)
    began = time.monotonic()
    assert (await post(web, simulator, call()))[0] == 200
    assert time.monotonic() - began >= 0.2


# The control endpoints


async def test_control_faults(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """Rules can be added, seen and cleared over HTTP; a wrong one says what is wrong with it."""
    rules = [{"kind": "overloaded", "count": 1, "text": "storm"}, {"kind": "api_error", "model": "sim-*", "probability": 0.5}]
    assert len((await control(web, simulator, "POST", "faults", rules))["faults"]) == 2
    assert (await post(web, simulator, call("no")))[0] == 200
    assert (await post(web, simulator, call("a storm")))[0] == 529
    assert [rule["kind"] for rule in (await control(web, simulator, "GET", "faults"))["faults"]] == ["api_error"]
    assert (await control(web, simulator, "DELETE", "faults"))["faults"] == []
    refused = await control(web, simulator, "POST", "faults", {"kind": "hang", "probability": 7})
    assert refused["status"] == 400
    assert "probability is 7" in refused["error"]["message"]
    assert (await control(web, simulator, "GET", "nothing"))["status"] == 404


async def test_control_arrivals(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """Each arrival is told with what it cost: an answer its tokens, a refusal nothing."""
    simulator.faults.add("overloaded", count=1, text="storm")
    _, said, *_ = await post(web, simulator, call("calm, answer in 20 tokens"))
    await post(web, simulator, call("storm"))
    calm, storm = (await control(web, simulator, "GET", "arrivals"))["arrivals"]
    assert {kind: calm[kind] for kind in said["usage"] if kind in calm} == {
        "input_tokens": said["usage"]["input_tokens"],
        "output_tokens": said["usage"]["output_tokens"],
    }
    assert (calm["status"], storm["status"]) == (200, 529)
    assert storm["input_tokens"] == storm["output_tokens"] == 0


async def test_overloaded_above(web: aiohttp.ClientSession) -> None:
    """An upstream that is overloaded above two calls of a class takes two at once, whichever model; other classes are free."""
    async with await start(Options(first_token_s=0.3, tokens_per_s=0, seed=1)) as simulator:
        simulator.faults.add("overloaded", model="claude-opus-4*", above=2)
        models = ("claude-opus-4-1", "claude-opus-4-5", "claude-opus-4-1", "claude-sonnet-5")
        met = await asyncio.gather(*(post(web, simulator, call("x") | {"model": model}) for model in models))
        assert sorted(status for status, *_ in met) == [200, 200, 200, 529]
        assert met[3][0] == 200
        assert (await post(web, simulator, call("x") | {"model": "claude-opus-4-1"}))[0] == 200


async def test_control_counts_and_journal(simulator: Simulator, web: aiohttp.ClientSession) -> None:
    """Every call is counted and noted, by outcome, model and body; control calls are not."""
    simulator.faults.add("rate_limit", count=1, retry_after_s=0.25, text="second")
    began = time.time()
    for prompt in ("first", "second", "first"):
        await post(web, simulator, call(prompt))
    counts = await control(web, simulator, "GET", "counts")
    assert counts["total"] == 3
    assert counts["outcomes"] == {"answered": 2, "rate_limit": 1}
    assert counts["models"] == {"claude-sonnet-5": 3}
    assert counts["fingerprints"][fingerprint(msgspec.json.encode(call("first")))] == 2
    assert simulator.asked("first") == 2
    [visit] = (await control(web, simulator, "GET", "journal?text=second"))["visits"]
    assert (visit["outcome"], visit["status"], visit["retry_after_s"], visit["text"]) == ("rate_limit", 429, 0.25, "second")
    assert began <= visit["at_unix"] <= time.time()
    assert "sk-test" not in str(visit)
    assert [v["number"] for v in (await control(web, simulator, "GET", "journal?newest=2"))["visits"]] == [2, 3]
    assert (await control(web, simulator, "GET", "journal?newest=x"))["status"] == 400
    await control(web, simulator, "POST", "reset")
    assert simulator.counts.total == 0


# Its life


async def test_occupied_port() -> None:
    """A second one on the same port fails with the address in its message."""
    async with await start(Options.instant()) as simulator:
        port = int(simulator.url.rpartition(":")[2])
        with pytest.raises(StartupError, match=f"cannot listen on 127.0.0.1:{port}"):
            await start(Options.instant(), port=port)


async def test_stop_ends_calls(web: aiohttp.ClientSession) -> None:
    """Stopping does not wait for calls that hang."""
    simulator = await start(Options.instant())
    simulator.faults.add("hang")
    hanging = asyncio.create_task(post(web, simulator, call()))
    await until(lambda: simulator.counts.running == 1)
    await asyncio.wait_for(simulator.stop(), 2)
    with pytest.raises(aiohttp.ClientError):
        await hanging


def test_main_stops_on_sigterm() -> None:
    """The program prints its address, serves, and leaves when told to."""
    code = "from headrace.simulator import Options, main; main(Options.instant(), port=0)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ | {"NO_COLOR": "1"}
    ) as run:
        assert run.stdout
        url = run.stdout.readline().split()[-1]
        host, _, port = url.removeprefix("http://").partition(":")
        socket.create_connection((host, int(port)), 5).close()
        run.send_signal(signal.SIGTERM)
        assert run.wait(5) == 0
        assert "stopped after 0 calls" in run.stdout.read()
