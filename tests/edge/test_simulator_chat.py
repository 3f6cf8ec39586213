"""The simulator's chat, as OpenAI's SDK asks it: the Messages API's answers, errors and limits in OpenAI's shapes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest

from headrace.simulator import Options, Simulator, start
from simulator_parts import PARAMS, client


@pytest.fixture
async def chat(simulator: Simulator) -> AsyncIterator[openai.AsyncOpenAI]:
    """OpenAI's SDK."""
    async with openai.AsyncOpenAI(api_key="sk-test", base_url=simulator.url + "/v1", max_retries=0) as some:
        yield some


async def test_chat(simulator: Simulator, chat: openai.AsyncOpenAI) -> None:
    """A chat is answered as the Messages API answers the same, in OpenAI's shape, whole or as a stream."""
    asked: dict[str, Any] = {
        "model": "claude-sonnet-5",
        "max_tokens": 30,
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    }
    whole = await chat.chat.completions.create(**asked)
    async with client(simulator) as sdk:
        message = await sdk.messages.create(**PARAMS | {"max_tokens": 30, "system": "Be brief."})
    block = message.content[0]
    assert block.type == "text"
    assert whole.choices[0].message.content == block.text
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (message.usage.input_tokens, 30)
    stream = await chat.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == block.text
    assert len(chunks) > 5
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage == whole.usage
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    plain = [chunk async for chunk in await chat.chat.completions.create(**asked, stream=True)]
    assert (plain[-1].usage, plain[-1].choices[0].finish_reason) == (None, "length")


async def test_chat_tools(chat: openai.AsyncOpenAI) -> None:
    """A tool is called, in parts or whole, and its result can be given back."""
    parameters = {"type": "object", "properties": {"q": {"type": "string"}}}
    tools: Any = [{"type": "function", "function": {"name": "find", "parameters": parameters}}]
    messages: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "Where?"}]}]
    asked: dict[str, Any] = {"model": "sim-1", "messages": messages, "tools": tools, "tool_choice": "required"}
    whole = (await chat.chat.completions.create(**asked)).choices[0]
    assert whole.finish_reason == "tool_calls"
    assert whole.message.content is None
    assert whole.message.tool_calls
    [used] = whole.message.tool_calls
    assert used.type == "function"
    assert (used.function.name, used.function.arguments) == ("find", '{"q":"Where?"}')
    stream = await chat.chat.completions.create(**asked, stream=True)
    deltas = [d for chunk in [chunk async for chunk in stream] for d in chunk.choices[0].delta.tool_calls or ()]
    assert deltas[0].function is not None
    assert deltas[0].function.name == "find"
    assert "".join(d.function.arguments or "" for d in deltas if d.function) == used.function.arguments
    messages += [whole.message, {"role": "tool", "tool_call_id": used.id, "content": "There."}]
    named = {"type": "function", "function": {"name": "find"}}
    assert (await chat.chat.completions.create(**asked | {"tool_choice": named})).choices[0].finish_reason == "tool_calls"
    assert (await chat.chat.completions.create(**asked | {"tool_choice": "none"})).choices[0].finish_reason == "stop"


async def test_chat_errors(simulator: Simulator, chat: openai.AsyncOpenAI) -> None:
    """Errors are in OpenAI's shape; no version is asked for, and a key is."""
    asked: dict[str, Any] = {"model": "claude-a", "messages": [{"role": "user", "content": "Hello"}]}
    with pytest.raises(openai.NotFoundError) as missing:
        await chat.chat.completions.create(**asked | {"model": "gpt-4"})
    assert missing.value.body == {"type": "not_found_error", "message": "model: gpt-4", "code": None, "param": None}
    simulator.faults.add("spend_limit", path="/v1/chat/*", text="Hello", count=1)
    with pytest.raises(openai.RateLimitError) as limited:
        await chat.chat.completions.create(**asked)
    assert limited.value.code == "enforced_spend_limit_reached"
    simulator.faults.add("stream_error", path="/v1/chat/*", count=1, after_deltas=2)
    with pytest.raises(openai.APIError, match="Overloaded"):
        [chunk async for chunk in await chat.chat.completions.create(**asked, stream=True)]
    async with httpx.AsyncClient() as web:
        said = await web.post(simulator.url + "/v1/chat/completions", json=asked)
    assert (said.status_code, said.json()["error"]["type"]) == (401, "authentication_error")


async def test_chat_models(chat: openai.AsyncOpenAI) -> None:
    """OpenAI's SDK lists the models and finds one."""
    names = [model.id async for model in chat.models.list()]
    assert "claude-sonnet-5" in names
    assert (await chat.models.retrieve(names[0])).id == names[0]


async def test_chat_limits() -> None:
    """Chat and messages of a model share its limits, and chat has the headers, too."""
    async with await start(Options.instant(requests_per_minute=1)) as simulator:
        async with client(simulator) as sdk:
            await sdk.messages.create(**PARAMS)
        async with httpx.AsyncClient() as web:
            said = await web.post(simulator.url + "/v1/chat/completions", json=PARAMS, headers={"authorization": "Bearer k"})
        assert (said.status_code, said.headers["anthropic-ratelimit-requests-remaining"]) == (429, "0")
