"""langchain-anthropic: `base_url` of the model."""

from __future__ import annotations

import pytest
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from staging import MODEL


@tool
def river_depth(river: str) -> int:
    """Say how deep a river is, in metres."""
    return 3


@pytest.fixture
def model(stage) -> ChatAnthropic:
    return ChatAnthropic(model=MODEL, base_url=stage.edge, api_key="unused")


def test_chat(stage, model):
    """The same chat twice: upstream is asked once."""
    first, second = (model.invoke("LangChain, a chat").text for _ in range(2))
    assert first == second
    stage.answered("LangChain, a chat", first)


def test_stream(stage, model):
    """A stream comes in pieces."""
    pieces = [chunk.text for chunk in model.stream("LangChain, a stream") if chunk.text]
    assert len(pieces) > 3
    stage.answered("LangChain, a stream", "".join(pieces), stream=True)


def test_tool(stage, model):
    """A tool is called, and what it returned is answered."""
    asked = HumanMessage("LangChain, use the tool")
    reply = model.bind_tools([river_depth]).invoke([asked])
    assert isinstance(reply, AIMessage)
    [call] = reply.tool_calls
    assert (call["name"], call["args"]) == ("river_depth", {"river": "LangChain, use the tool"})
    returned = river_depth.invoke(call)
    assert isinstance(returned, ToolMessage)
    assert model.bind_tools([river_depth]).invoke([asked, reply, returned]).text
    assert len(stage.calls("LangChain, use the tool")) == 1
