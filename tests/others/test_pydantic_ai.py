"""pydantic-ai: `base_url` of the provider."""

from __future__ import annotations

import pytest
from pydantic_ai import Agent
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from staging import CHATS, MODEL


@pytest.fixture
def agent(stage) -> Agent:
    return Agent(AnthropicModel(MODEL, provider=AnthropicProvider(base_url=stage.edge, api_key="unused")))


def test_chat(stage, agent):
    """The same chat twice: upstream is asked once."""
    first, second = (agent.run_sync("pydantic-ai, a chat").output for _ in range(2))
    assert first == second
    stage.answered("pydantic-ai, a chat", first)


def test_stream(stage, agent):
    """A stream comes in pieces."""
    pieces = list(agent.run_stream_sync("pydantic-ai, a stream").stream_text(delta=True, debounce_by=None))
    assert len(pieces) > 3
    stage.answered("pydantic-ai, a stream", "".join(pieces), stream=True)


def test_tool(stage, agent):
    """The agent calls the tool with its input, and ends with the answer to what it returned."""
    rivers = []

    @agent.tool_plain
    def river_depth(river: str) -> int:
        """Say how deep a river is, in metres."""
        rivers.append(river)
        return 3

    assert agent.run_sync("pydantic-ai, use the tool").output
    assert rivers == ["pydantic-ai, use the tool"]
    assert len(stage.calls("pydantic-ai, use the tool")) == 1


def test_openai(stage):
    """Its provider of OpenAI: the same model, asked in the other dialect."""
    provider = OpenAIProvider(base_url=f"{stage.edge}/v1", api_key="unused")
    agent = Agent(OpenAIChatModel(MODEL, provider=provider))
    first, second = (agent.run_sync("pydantic-ai, the other dialect").output for _ in range(2))
    assert first == second
    stage.answered("pydantic-ai, the other dialect", first, path=CHATS)
