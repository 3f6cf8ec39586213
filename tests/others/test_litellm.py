"""LiteLLM's SDK: `api_base` in the call."""

from __future__ import annotations

import json

import litellm
from staging import CHATS, MODEL

TOOL = {
    "type": "function",
    "function": {
        "name": "river_depth",
        "description": "How deep a river is, in metres",
        "parameters": {"type": "object", "properties": {"river": {"type": "string"}}, "required": ["river"]},
    },
}


def ask(stage, prompt, **options):
    """Ask at the daemon."""
    messages = [{"role": "user", "content": prompt}]
    return litellm.completion(f"anthropic/{MODEL}", messages, api_base=stage.edge, api_key="unused", **options)


def test_chat(stage):
    """The same chat twice: upstream is asked once."""
    first, second = (ask(stage, "LiteLLM, a chat").choices[0].message.content for _ in range(2))
    assert first == second
    stage.answered("LiteLLM, a chat", first)


def test_stream(stage):
    """A stream comes in pieces."""
    deltas = [chunk.choices[0].delta.content for chunk in ask(stage, "LiteLLM, a stream", stream=True)]
    pieces = [delta for delta in deltas if delta]
    assert len(pieces) > 3
    stage.answered("LiteLLM, a stream", "".join(pieces), stream=True)


def test_tool(stage):
    """A tool call comes with its input."""
    [call] = ask(stage, "LiteLLM, use the tool", tools=[TOOL]).choices[0].message.tool_calls
    assert call.function.name == "river_depth"
    assert json.loads(call.function.arguments) == {"river": "LiteLLM, use the tool"}
    assert len(stage.calls("LiteLLM, use the tool")) == 1


def test_openai(stage):
    """Its route to OpenAI: the same model, asked in the other dialect."""
    messages, url = [{"role": "user", "content": "LiteLLM, the other dialect"}], f"{stage.edge}/v1"
    first, second = (litellm.completion(f"openai/{MODEL}", messages, api_base=url, api_key="unused") for _ in range(2))
    assert first.choices[0].message.content == second.choices[0].message.content
    stage.answered("LiteLLM, the other dialect", first.choices[0].message.content, path=CHATS)
