"""The official SDK, unchanged but for its base_url."""

from __future__ import annotations

import asyncio
import time

import anthropic
import pytest

from fleet import daemon, simulated

MODEL = "claude-opus-4-8"
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, about models


def ask(text, **more):
    return {"model": MODEL, "max_tokens": 20, "messages": [{"role": "user", "content": text}], **more}


@pytest.fixture
async def simulator():
    async with simulated() as running:
        yield running


@pytest.fixture
def client(simulator):
    with daemon(simulator.url) as running, anthropic.Anthropic(api_key="sk-x", base_url=running.http) as client:
        yield client


async def in_thread(work, *arguments, **named):
    return await asyncio.to_thread(work, *arguments, **named)


async def test_create_and_repeat(client):
    """A message is created; its repeat is the same one, from the cache."""
    first = await in_thread(client.messages.create, **ask("hello"))
    again = await in_thread(client.messages.with_raw_response.create, **ask("hello"))

    assert first.content[0].text.startswith("You said")
    assert again.parse() == first
    assert again.headers["x-headrace-source"] == "cache"
    assert again.headers["cache-status"].startswith("headrace; hit; ttl=")


async def test_stream(client, simulator):
    """A stream arrives event by event, its repeat event-equal, and the unary call is the same message."""

    def listen():
        with client.messages.stream(**ask("flow")) as stream:
            return [event.model_dump() for event in stream], stream.get_final_message()

    events, message = await in_thread(listen)
    replayed, same = await in_thread(listen)
    whole = await in_thread(client.messages.create, **ask("flow"))

    assert replayed == events
    assert same.model_dump() == message.model_dump()
    assert whole.id == message.id
    assert whole.content[0].text == message.content[0].text
    assert simulator.counts.total == 1


async def test_tool_use(client):
    """A tool call comes through with its input."""
    tool = {"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]}}
    forced = {"type": "tool", "name": "look"}
    message = await in_thread(client.messages.create, **ask("use it", tools=[tool], tool_choice=forced, max_tokens=200))

    assert message.stop_reason == "tool_use"
    assert message.content[-1].name == "look"


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"model": "nope"}, anthropic.NotFoundError),
        ({"messages": []}, anthropic.BadRequestError),
        ({"max_tokens": -1}, anthropic.BadRequestError),
    ],
)
async def test_errors(client, wrong, error):
    """Errors are the SDK's own classes, whether upstream said them or we did."""
    with pytest.raises(error) as caught:
        await in_thread(client.messages.create, **ask("x") | wrong)
    assert caught.value.body["type"] == "error"


async def test_daemon_retries(client, simulator):
    """429, 529 and 500 are ridden out by the daemon; the SDK's own retries have nothing to do."""
    for kind in ("rate_limit", "overloaded", "api_error"):
        simulator.faults.add(kind, count=1, retry_after_s=0.2)
    answer = await in_thread(client.messages.with_raw_response.create, **ask("storm"))

    assert answer.retries_taken == 0
    assert answer.headers["x-headrace-attempts"] == "4"
    assert answer.headers["x-headrace-ticket"]


async def test_no_retry_where_it_is_pointless(client, simulator):
    """A spend limit is final: neither the daemon nor the SDK asks again."""
    simulator.faults.add("spend_limit", count=5)
    with pytest.raises(anthropic.RateLimitError):
        await in_thread(client.messages.create, **ask("dear"))
    assert simulator.counts.total == 1


async def test_timeout_is_a_deadline(client, simulator):
    """What the SDK will wait is the call's deadline: it times out as ever, and the daemon has given up too."""
    simulator.faults.add("hang", count=5)
    began = time.monotonic()
    with pytest.raises(anthropic.APITimeoutError):
        await in_thread(client.with_options(timeout=1.5, max_retries=0).messages.create, **ask("silence"))
    assert time.monotonic() - began < 5
    while simulator.counts.running:
        assert time.monotonic() - began < 10
        await asyncio.sleep(0.02)


async def test_async_client(client):
    """The asynchronous client, many at once."""
    async with anthropic.AsyncAnthropic(api_key="sk-x", base_url=client.base_url) as many:
        messages = await asyncio.gather(*(many.messages.create(**ask(f"number {n % 5}")) for n in range(25)))
    assert len({message.id for message in messages}) == 5


@pytest.mark.parametrize("version", ["2023-06-01", "2026-10-21"])
async def test_versions(client, version):
    """Both versions of the API are passed on, and share nothing."""
    named = {"extra_headers": {"anthropic-version": version}}
    assert (await in_thread(client.messages.create, **ask("version"), **named)).role == "assistant"
    if version == "2026-10-21":
        with pytest.raises(anthropic.BadRequestError, match="Extra inputs"):
            await in_thread(client.messages.create, **ask("version"), **named, extra_body={"temperature": 1})


async def test_query_is_passed_on(client, simulator):
    """A query is part of what is asked, here and upstream."""
    await in_thread(client.messages.create, **ask("query"))
    answer = await in_thread(client.messages.with_raw_response.create, **ask("query"), extra_query={"beta": "true"})

    assert answer.headers["x-headrace-source"] == "upstream"
    assert simulator.counts.total == 2


async def test_own_keys_go_upstream(simulator):
    """With credentials = "caller" the caller's own key goes upstream, and without one there is nothing to send."""
    with (
        daemon(simulator.url, UPSTREAM__CREDENTIALS="caller") as running,
        anthropic.Anthropic(api_key="sk-own", base_url=running.http, max_retries=0) as client,
    ):
        assert (await in_thread(client.messages.create, **ask("mine"))).role == "assistant"
        without = {"Authorization": anthropic.Omit(), "X-Api-Key": anthropic.Omit()}
        with pytest.raises(anthropic.AuthenticationError):
            await in_thread(client.messages.create, **ask("mine"), extra_headers=without)
