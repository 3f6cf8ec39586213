"""`Headrace` against a real daemon."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time

import pytest

import headrace_client
from headrace_client import Headrace
from headrace_client.forms import to_dict


@pytest.fixture
def client(stage):
    with Headrace(stage.address, caller="tests") as client:
        yield client


def test_create_and_repeat(client, ask, stage):
    """An answer says what it is and where it came from; its repeat is the same, from the cache."""
    first = client.messages.create(**ask("hello"))
    again = client.messages.create(**ask("hello"))

    assert first.text.startswith('You said: "hello"')
    assert (first.source, first.origin.attempts) == ("upstream", 1)
    assert again.source == "cache"
    assert again.json() == first.json()
    assert first.json()["content"][0]["text"] == first.text
    assert first.usage.output_tokens == first.json()["usage"]["output_tokens"] > 0
    assert stage.asked == 1


def test_over_tcp(stage, ask):
    """A host and a port will do as well as a socket."""
    with Headrace(stage.grpc) as client:
        assert client.messages.create(**ask("tcp")).stop_reason == "max_tokens"


def test_options(client, ask, stage):
    """What a keyword asks of the daemon, the daemon does."""
    call = ask("options")
    ids = {client.messages.create(**call, cache_control="no-store").message.id for _ in range(2)}
    assert len(ids) == 2
    with pytest.raises(headrace_client.NotFoundError) as caught:
        client.messages.create(**call, cache_control="only-if-cached")
    assert caught.value.reason == "NOT_CACHED"

    first = client.messages.create(**call, idempotency_key="k1", lane="batch")
    assert client.messages.create(**call, idempotency_key="k1").message.id == first.message.id
    with pytest.raises(headrace_client.ConflictError) as conflict:
        client.messages.create(**ask("another"), idempotency_key="k1")
    assert conflict.value.reason == "IDEMPOTENCY_CONFLICT"
    assert stage.asked == 3


def test_prompt_cache_is_the_apis(client, ask):
    """A mapping as cache_control goes upstream, and a parameter that upstream does not know is its error."""
    client.messages.create(**ask("prompt cache"), cache_control={"type": "ephemeral"})
    with pytest.raises(headrace_client.InvalidRequestError, match="Extra inputs") as caught:
        client.messages.create(**ask("unknown"), parameter_of_the_future=1)
    assert (caught.value.upstream_status, caught.value.upstream_type) == (400, "invalid_request_error")
    assert caught.value.request_id


@pytest.mark.parametrize("wrong", [{"cache_control": "no-such-thing"}, {"cache_control": "max-age=x"}])
def test_options_that_make_no_sense(client, ask, wrong):
    """A wrong option is refused here, by name."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        client.messages.create(**ask("x"), **wrong)


def test_stream(client, ask):
    """Pieces of text come one by one, and make the message that the API would have said at once."""
    with client.messages.stream(**ask("flow", cache_control="no-store")) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()
    assert len(pieces) > 3
    assert "".join(pieces) == final.text
    assert final.source == "upstream"
    assert final.stop_reason == "end_turn"


@pytest.mark.parametrize(
    "more",
    [
        {},
        {
            "tools": [{"name": "look", "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}}}],
            "tool_choice": {"type": "any"},
            "max_tokens": 200,
        },
        {"thinking": {"type": "enabled", "budget_tokens": 1024}, "max_tokens": 2000},
    ],
    ids=["text", "tool", "thinking"],
)
def test_stream_tells_what_create_says(client, ask, more):
    """A message put together from its events is the one that comes whole, tool input and signature included."""
    call = {**ask("the same"), **more}
    with client.messages.stream(**call) as stream:
        events = [to_dict(event)["type"] for event in stream]
        told = stream.get_final_message()
    whole = client.messages.create(**call)

    assert events[0] == "message_start"
    assert events[-1] == "message_stop"
    assert told.json() == whole.json()
    assert whole.source == "cache"


def test_answer_goes_back(client, ask, stage):
    """An answer's content may be the next call's, as it is."""
    first = client.messages.create(**ask("turn one"))
    turns = [{"role": "user", "content": "turn one"}, {"role": "assistant", "content": first.message.content}]
    second = client.messages.create(**ask("x") | {"messages": [*turns, {"role": "user", "content": "turn two"}]})
    assert second.text.startswith('You said: "turn two"')


async def test_leaving_a_stream_hangs_up(client, ask, stage):
    """Whoever leaves a stream early ends the call upstream."""
    stage.fault("hang", after_deltas=2)

    def leave():
        with client.messages.stream(**ask("leave early")) as stream:
            pieces = stream.text_stream
            return stream, pieces, next(pieces)

    held = await asyncio.to_thread(leave)  # a call that nobody holds would end by itself
    await stage.ended("leave early")
    assert held[-1].startswith("You said")


# Goes on after Ctrl-C, and holds on to what the exception holds: so neither its end nor a collector ends the call.
INTERRUPTED = """
import sys
from headrace_client import Headrace
with Headrace(sys.argv[1]) as client:
    try:
        client.messages.create(model="claude-haiku-4-5", max_tokens=9, messages=[{"role": "user", "content": "ctrl-c"}])
    except KeyboardInterrupt as error:
        held = error
        sys.stdin.read()
"""


async def test_interrupt_hangs_up(stage):
    """Ctrl-C in a call that waits ends it upstream."""
    stage.fault("hang")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", INTERRUPTED, stage.address, stdin=subprocess.PIPE)
    await stage.runs("ctrl-c")
    process.send_signal(signal.SIGINT)
    await stage.ended("ctrl-c")
    assert process.returncode is None
    await process.communicate(b"")  # without input it would leave stdin open
    assert process.returncode == 0


async def test_deadline(client, ask, stage):
    """The timeout is the call's deadline, at the daemon too."""
    stage.fault("hang")
    began = time.monotonic()
    with pytest.raises(headrace_client.DeadlineExceededError):
        await asyncio.to_thread(client.messages.create, **ask("in vain"), timeout=0.5)
    assert time.monotonic() - began < 5
    await stage.ended("in vain")


def test_broken_stream(client, ask, stage):
    """A stream that upstream breaks off is an error where it breaks, with the pieces that came before it."""
    stage.fault("half_stream", after_deltas=2)
    pieces = []
    with client.messages.stream(**ask("half")) as stream, pytest.raises(headrace_client.UnavailableError) as caught:
        pieces.extend(stream.text_stream)
    assert pieces
    assert caught.value.reason == "BROKEN_STREAM"
    assert caught.value.retry_after is not None


def test_stream_needs_a_with(client, ask):
    """A stream that was not entered says so."""
    with pytest.raises(RuntimeError, match="with client"):
        client.messages.stream(**ask("x")).get_final_message()


def test_nobody_there(tmp_path, ask):
    """Without a daemon a call fails at once, as UNAVAILABLE."""
    with Headrace(f"unix:{tmp_path}/none.sock") as client, pytest.raises(headrace_client.UnavailableError) as caught:
        client.messages.create(**ask("x"))
    assert caught.value.reason == "UNAVAILABLE"
    assert caught.value.upstream_status is None


def test_budget(own_stage, ask):
    """A refusal for want of budget says when it would fit."""
    limit = '[{"name": "tiny", "requests_per_minute": 1}]'
    with own_stage(LIMIT=limit) as stage, Headrace(stage.address) as client:
        client.messages.create(**ask("one"))
        with pytest.raises(headrace_client.RateLimitError) as caught:
            client.messages.create(**ask("two"), timeout=2)
    assert caught.value.reason == "BUDGET_EXHAUSTED"
    assert 0 < caught.value.retry_after <= 60


def test_tickets(client, ask, stage):
    """A call that is handed in is answered later, and is its caller's alone."""
    ticket = client.messages.submit(**ask("later"), lane="batch", answer_timeout=60)
    ended = client.tickets.wait(ticket.id, timeout=20)

    assert ended.state == "succeeded"
    assert ended.done
    assert ended.error is None
    assert ended.answer().text.startswith('You said: "later"')
    assert client.tickets.get(ticket.id).answer().json() == ended.answer().json()
    assert ticket.id in {each.id for each in client.tickets.list(state="succeeded")}
    with pytest.raises(headrace_client.NotFoundError) as caught:
        client.with_options(caller="stranger").tickets.get(ticket.id)
    assert caught.value.reason == "TICKET_NOT_FOUND"


def test_tickets_that_fail(client, ask, stage):
    """A ticket that failed has the error that the call would have raised; one that waits has none yet."""
    stage.fault("spend_limit", text="dear")
    failed = client.tickets.wait(client.messages.submit(**ask("dear")).id, timeout=20)
    assert failed.state == "failed"
    with pytest.raises(headrace_client.RateLimitError) as caught:
        failed.answer()
    assert caught.value.upstream_status == 429

    stage.fault("hang", text="endless")
    ticket = client.messages.submit(**ask("endless"))
    with pytest.raises(ValueError, match="wait for it"):
        ticket.answer()
    with pytest.raises(headrace_client.DeadlineExceededError):
        client.tickets.wait(ticket.id, timeout=0.2)
    assert client.tickets.cancel(ticket.id).state == "canceled"
    with pytest.raises(headrace_client.CanceledError):
        client.tickets.get(ticket.id).answer()


def test_list_goes_on(client, ask, monkeypatch):
    """A list has as many pages as it takes."""
    monkeypatch.setattr("headrace_client._requests._PAGE", 2)
    other = client.with_options(caller="pages")
    ids = [other.messages.submit(**ask(f"page {number}")).id for number in range(5)]
    assert [ticket.id for ticket in other.tickets.list()] == ids[::-1]


def test_cache(client, ask, stage):
    """What is purged is asked anew."""
    client.messages.create(**ask("purge"))
    assert sum(tier.entry_count for tier in client.cache.stats()) > 0
    assert client.cache.purge(model="claude-haiku-4-5") > 0
    assert client.messages.create(**ask("purge")).source == "upstream"
    with pytest.raises(TypeError, match="exactly one"):
        client.cache.purge()


def test_keys(own_stage, ask):
    """A key goes with every call: here it goes upstream, and without it there is nothing to send."""
    with own_stage(UPSTREAM__CREDENTIALS="caller") as stage:
        with Headrace(stage.address, api_key="sk-own") as client:
            assert client.messages.create(**ask("mine")).text
        with Headrace(stage.address) as client, pytest.raises(headrace_client.AuthenticationError) as caught:
            client.messages.create(**ask("mine"))
    assert caught.value.reason == "UNKNOWN_CALLER"
