"""instructor: the `base_url` is that of the official SDK that it wraps. It asks for objects, by forcing a tool."""

from __future__ import annotations

import itertools

import anthropic
import instructor
import openai
import pytest
from pydantic import BaseModel
from staging import CHATS, MODEL


class River(BaseModel):
    """A river, as an answer."""

    name: str
    depth: int


@pytest.fixture
def client(stage) -> instructor.Instructor:
    return instructor.from_anthropic(anthropic.Anthropic(base_url=stage.edge, api_key="unused"))


def saying(prompt: str) -> dict[str, object]:
    return {"model": MODEL, "max_tokens": 1024, "messages": [{"role": "user", "content": prompt}]}


def test_chat(stage, client):
    """The same chat twice, without an object: upstream is asked once."""
    first, second = (client.create(response_model=None, **saying("instructor, a chat")).content[0].text for _ in range(2))
    assert first == second
    stage.answered("instructor, a chat", first)


def test_stream(stage, client):
    """An object grows as its JSON comes in: each of what is seen is a beginning of the next."""
    seen = list(client.create_partial(response_model=River, **saying("instructor, a stream of a river")))
    assert len(seen) > 2
    names = [river.name or "" for river in seen]
    assert all(after.startswith(before) for before, after in itertools.pairwise(names))
    assert (seen[-1].name, seen[-1].depth) == ("instructor, a stream of a river", len("instructor, a stream of a river"))
    assert [call["stream"] for call in stage.calls("instructor, a stream of a river")] == [True]


def test_tool(stage, client):
    """An object is the input of a forced tool; the same again is answered from the cache."""
    first, second = (client.create(response_model=River, **saying("instructor, a river")) for _ in range(2))
    assert first.model_dump() == second.model_dump() == {"name": "instructor, a river", "depth": len("instructor, a river")}
    assert len(stage.calls("instructor, a river")) == 1


def test_openai(stage):
    """Around OpenAI's SDK: the same model, asked in the other dialect."""
    client = instructor.from_openai(openai.OpenAI(base_url=f"{stage.edge}/v1", api_key="unused"))
    first, second = (client.create(response_model=None, **saying("instructor, the other dialect")) for _ in range(2))
    assert first.choices[0].message.content == second.choices[0].message.content
    stage.answered("instructor, the other dialect", first.choices[0].message.content, path=CHATS)
