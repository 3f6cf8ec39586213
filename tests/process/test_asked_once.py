"""Calls that go on without their caller, through a drain, a hang-up in the wrong moment, and a process that stood still."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal

import grpc
import pytest
import redis

from conftest import until
from fleet import daemon, daemon_beside, simulated
from from_outside import outcome_of, submit, whole_of
from headrace.simulator import Options
from headrace.v1 import messages_service_pb2, messages_service_pb2_grpc
from listening import WHOLE, over_http, over_messages
from scripted import MESSAGE, Line, say_events, say_message, serving

pytestmark = pytest.mark.slow


# A drain.


CALLS = {
    "plain": lambda at: whole_of(at, "plain"),
    "plain stream": lambda at: over_http(at, "flowing"),
    "idempotent": lambda at: whole_of(at, "keyed", idempotency_key="a"),
    "idempotent stream": lambda at: over_http(at, "keyed flowing", idempotency_key="b"),
    "idempotent gRPC": lambda at: over_messages(at, "keyed typed", idempotency_key="c"),
    "left": lambda at: whole_of(at, "left", idempotency_key="d"),  # its caller hangs up
    "submitted": lambda at: submit(at, "submitted"),
    "parked": lambda at: whole_of(at, "parked"),
    "parked stream": lambda at: over_http(at, "parked flowing"),
}


@pytest.mark.parametrize(
    "names",
    [
        ("submitted",),
        ("left",),
        ("idempotent", "idempotent gRPC"),
        ("idempotent stream",),
        ("parked", "parked stream"),
        tuple(CALLS),
    ],
    ids=lambda names: " and ".join(names) if len(names) < 3 else "all",
)
async def test_drain(valkey_url, names):
    """A drain leaves calls that are at upstream their time, whoever waits for them: upstream is asked once for each."""
    asked: list[tuple[str, str]] = []  # prompt and key, of each attempt
    gate = asyncio.Event()

    async def talk(line: Line) -> None:
        text = json.loads(line.body)["messages"][0]["content"]
        asked.append((text, line.headers["x-api-key"]))
        if text.startswith("parked") and len([one for one in asked if one[0] == text]) == 1:
            error = b'{"type":"error","error":{"type":"rate_limit_error","message":"later"}}'
            await line.answer(429, error, "retry-after: 0.2", "content-type: application/json")
            return
        await gate.wait()
        await (say_events(line) if json.loads(line.body).get("stream") else say_message(line))

    async with serving(talk) as server, contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(daemon_beside(server.url, valkey_url, UPSTREAM__API_KEY="key-one"))
        waiting = {name: asyncio.create_task(CALLS[name](one)) for name in names}
        at_upstream = len(names) + len([name for name in names if name.startswith("parked")])
        await until(lambda: len(asked) == at_upstream, within=20)
        if "left" in waiting:
            waiting.pop("left").cancel()
        # It would take over what the other gives up.
        two = await stack.enter_async_context(daemon_beside(server.url, valkey_url, UPSTREAM__API_KEY="key-two"))
        one.served.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(AssertionError):
            await until(lambda: len(asked) > at_upstream, within=3)
        gate.set()
        heard = dict(zip(waiting, await asyncio.wait_for(asyncio.gather(*waiting.values()), 30), strict=True))
        if "submitted" in heard:
            assert await outcome_of(two, heard.pop("submitted")) == "SUCCEEDED"
        if "left" in names:
            assert (await CALLS["left"](two))[0] == 200

    for name, one_heard in heard.items():
        ending = one_heard.ending if hasattr(one_heard, "ending") else one_heard[0]
        assert ending in (WHOLE, 200), (name, one_heard)
    assert len(asked) == at_upstream
    assert {key for _, key in asked} == {"key-one"}


# Hanging up in the wrong moment.


@pytest.mark.parametrize("door", ["http", "grpc"])
async def test_repeated_after_hanging_up(valkey_url, door):
    """Hung up while its ticket is being made, and repeated at once with its key, a call is answered: the key is free."""
    async with simulated(Options.instant(first_token_s=0.1)) as simulator:
        with daemon(simulator.url, valkey_url) as running:
            ask = ask_keyed if door == "http" else ask_typed
            for number in range(6):
                assert await ask(running, f"before {number}", f"before {number}") == 200  # everything is warm
                stand_still(valkey_url, 300)
                first = asyncio.create_task(ask(running, f"call {number}", f"key {number}"))
                await asyncio.sleep(0.04 + 0.03 * number)
                first.cancel()
                await asyncio.gather(first, return_exceptions=True)
                await asyncio.sleep(0.02)
                assert await ask(running, f"call {number}", f"key {number}") == 200


def stand_still(url: str, milliseconds: int) -> None:
    """Have Redis answer nobody for a while."""
    with redis.Redis.from_url(url) as client:
        client.client_pause(milliseconds)


async def ask_keyed(at, text: str, key: str) -> int | str:
    status, said = await asyncio.wait_for(whole_of(at, text, idempotency_key=key), 20)
    return status if status == 200 else said


async def ask_typed(at, text: str, key: str) -> int | str:
    asked = messages_service_pb2.CreateMessageRequest()
    asked.params.model, asked.params.max_tokens = "claude-haiku-4-5", 40
    asked.params.messages.add(role="user").content.text = text
    asked.options.idempotency_key = key
    async with grpc.aio.insecure_channel(at.grpc) as channel:
        try:
            await messages_service_pb2_grpc.MessagesServiceStub(channel).CreateMessage(asked, timeout=20)
        except grpc.aio.AioRpcError as error:
            return error.code().name
    return 200


# Standing still.


async def test_stood_still(valkey_url, long):
    """A process stands still for 20 s in an attempt that then fails, while its successor runs: the successor's word counts."""
    if not long:
        pytest.skip("it takes 30 seconds, until a lease is over; --long runs it")
    asked: dict[str, int] = {}
    woken = asyncio.Event()

    async def talk(line: Line) -> None:
        text = json.loads(line.body)["messages"][0]["content"]
        asked[text] = number = asked.get(text, 0) + 1
        if number == 1:  # the answer lies in the socket of a process that does not read
            await until(lambda: stopped.is_set())
            error = b'{"type":"error","error":{"type":"invalid_request_error","message":"no"}}'
            await line.answer(400, error, "content-type: application/json")
        else:
            await woken.wait()
            await asyncio.sleep(2)
            await line.answer(200, MESSAGE, "content-type: application/json")

    stopped = asyncio.Event()
    async with serving(talk) as server, contextlib.AsyncExitStack() as stack:
        one = await stack.enter_async_context(daemon_beside(server.url, valkey_url))
        ticket = await submit(one, "submitted")
        keyed = asyncio.create_task(whole_of(one, "keyed", idempotency_key="k"))
        await until(lambda: len(asked) == 2)
        two = await stack.enter_async_context(daemon_beside(server.url, valkey_url))
        one.served.process.send_signal(signal.SIGSTOP)
        stopped.set()
        try:
            repeated = asyncio.create_task(whole_of(two, "keyed", idempotency_key="k"))
            await until(lambda: list(asked.values()) == [2, 2], within=40)
        finally:
            one.served.process.send_signal(signal.SIGCONT)
        woken.set()
        assert await outcome_of(two, ticket) == "SUCCEEDED"
        assert (await asyncio.wait_for(repeated, 30))[0] == 200
        await asyncio.gather(keyed, return_exceptions=True)
        print(f"upstream was asked {asked}; the caller at the one that stood still heard {keyed}")
    assert set(asked.values()) == {2}
