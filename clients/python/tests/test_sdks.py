"""The official SDKs on the daemon's socket: Anthropic's (on httpx2) and OpenAI's (on httpx)."""

from __future__ import annotations

import asyncio

import anthropic
import httpx
import openai
import pytest

from headrace_client import httpx2_transport, httpx_transport

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Anthropic's, about models

TOOL = {"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}}


@pytest.fixture
def client(stage):
    http_client = anthropic.DefaultHttpxClient(transport=httpx2_transport.HeadraceTransport(stage.address))
    with anthropic.Anthropic(api_key="unused", http_client=http_client, max_retries=0) as client:
        yield client


@pytest.fixture
async def async_client(stage):
    http_client = anthropic.DefaultAsyncHttpxClient(transport=httpx2_transport.AsyncHeadraceTransport(stage.address))
    async with anthropic.AsyncAnthropic(api_key="unused", http_client=http_client, max_retries=0) as client:
        yield client


def test_create(client, ask, stage):
    """A message is created; its repeat is the same one, from the cache."""
    first = client.messages.create(**ask("hello"))
    again = client.messages.with_raw_response.create(**ask("hello"))
    assert again.parse() == first
    assert again.headers["x-headrace-source"] == "cache"
    assert stage.asked == 1


def test_stream(client, ask):
    """A stream arrives event by event, and tells the message that create says."""
    with client.messages.stream(**ask("flow")) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 3
    assert "".join(pieces) == final.content[0].text == client.messages.create(**ask("flow")).content[0].text


def test_tool_use(client, ask):
    """A tool call comes through with its input."""
    message = client.messages.create(**ask("use it", tools=[TOOL], tool_choice={"type": "any"}) | {"max_tokens": 200})
    assert message.stop_reason == "tool_use"
    assert set(message.content[-1].input) == {"at"}


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"model": "nope"}, anthropic.NotFoundError),
        ({"messages": []}, anthropic.BadRequestError),
        ({"max_tokens": -1}, anthropic.BadRequestError),
    ],
)
def test_errors(client, ask, wrong, error):
    """Errors are the SDK's own classes."""
    with pytest.raises(error) as caught:
        client.messages.create(**ask("x") | wrong)
    assert caught.value.body["type"] == "error"


def test_pages_and_counts(client, ask):
    """Endpoints beside messages work, too."""
    assert "claude-sonnet-5" in {model.id for model in client.models.list()}
    call = ask("count me")
    del call["max_tokens"]
    assert client.messages.count_tokens(**call).input_tokens > 0


async def test_timeout(client, ask, stage):
    """The SDK's timeout is its APITimeoutError, and the daemon has hung up."""
    stage.fault("hang")
    with pytest.raises(anthropic.APITimeoutError):
        await asyncio.to_thread(client.with_options(timeout=0.5).messages.create, **ask("silence"))
    await stage.ended("silence")


def test_nobody_there(tmp_path, ask):
    """Without a daemon it is an APIConnectionError."""
    transport = httpx2_transport.HeadraceTransport(f"unix:{tmp_path}/none.sock")
    with (
        anthropic.Anthropic(
            api_key="unused", http_client=anthropic.DefaultHttpxClient(transport=transport), max_retries=1
        ) as client,
        pytest.raises(anthropic.APIConnectionError),
    ):
        client.messages.create(**ask("x"))


async def test_async(async_client, ask, stage):
    """The asynchronous SDK: create, stream, and leaving a stream early."""
    whole = await async_client.messages.create(**ask("flow"))
    async with async_client.messages.stream(**ask("flow")) as stream:
        assert "".join([piece async for piece in stream.text_stream]) == whole.content[0].text

    stage.fault("hang", after_deltas=2)
    async with async_client.messages.stream(**ask("leave early")) as stream:
        async for _ in stream.text_stream:
            break
    await stage.ended("leave early")


async def test_async_timeout_and_cancellation(async_client, ask, stage):
    """A timeout and a cancelled task both hang up."""
    stage.fault("hang")
    with pytest.raises(anthropic.APITimeoutError):
        await async_client.with_options(timeout=0.5).messages.create(**ask("silence"))
    await stage.ended("silence")

    task = asyncio.create_task(async_client.messages.create(**ask("cancel me")))
    await stage.runs("cancel me")
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await stage.ended("cancel me")


def test_openai_errors(stage):
    """OpenAI's SDK rides on httpx: what it asks for that is not there is its own NotFoundError."""
    http_client = httpx.Client(transport=httpx_transport.HeadraceTransport(stage.address))
    with openai.OpenAI(api_key="unused", http_client=http_client) as client, pytest.raises(openai.NotFoundError):
        client.models.retrieve("nope")
