"""The simulator over real HTTP: with the official SDK and with plain HTTP, at its door, in its time, within its limits."""

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

import aiohttp
import anthropic
import msgspec
import pytest

from conftest import until
from headrace.errors import StartupError
from headrace.simulator import Options, Simulator, start
from simulator_parts import KEY, call, post


@pytest.fixture
async def sdk(simulator: Simulator) -> AsyncIterator[anthropic.AsyncAnthropic]:
    """The official SDK, without its own retries."""
    async with anthropic.AsyncAnthropic(api_key="sk-test", base_url=simulator.url, max_retries=0) as client:
        yield client


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
