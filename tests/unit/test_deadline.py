"""What callers say of their time, and the moments that follow; a moment as a block of code."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.clock import HandClock
from headrace.deadline import Wait, until
from headrace.edge.waits import read_wait
from headrace.errors import DeadlinePassed, InvalidCall

USUAL_S = 570.0


def moments(headers, *, within_s=None, is_http=True, is_stream=False, configured_s=None):
    wait = read_wait(headers, within_s, is_http=is_http)
    return wait.moments(0.0, usual_s=USUAL_S, configured_s=configured_s, is_stream=is_stream)


@pytest.mark.parametrize(
    ("given", "deadline", "begin_by"),
    [("4", 5.0, 3.5), ("4.0", 4.0, 3.5), ("0.5", 0.5, 0.4375), ("0", 1.0, 0.0), ("600.0", 290.0, 289.5)],
)
def test_sdks(given, deadline, begin_by):
    """A 504 is said at the most that an SDK may mean; attempts are planned for the least, less a margin."""
    said = moments({"x-stainless-timeout": given, "x-stainless-lang": "js"})
    assert (said.deadline, said.deadline - said.slack_s, said.ends) == (deadline, begin_by, None)


@pytest.mark.parametrize("given", ["NOT_GIVEN", "", "4.0.1", "-1", "1e3", "٤", "9" * 13])
def test_unsaid(given):
    """What is no number of seconds says nothing."""
    assert moments({"x-stainless-timeout": given}).deadline == 290.0


@pytest.mark.parametrize(
    ("headers", "is_stream", "deadline"),
    [
        ({}, False, 290.0),
        ({}, True, USUAL_S),
        ({"x-stainless-timeout": "600.0", "x-stainless-lang": "python"}, False, 600.0),
        ({"x-stainless-timeout": "600", "x-stainless-lang": "js"}, False, 290.0),
        ({"x-stainless-timeout": "600", "x-stainless-lang": "js"}, True, 601.0),
        ({"x-headrace-timeout-ms": "400000", "user-agent": "node"}, False, 290.0),
        ({"x-headrace-timeout-ms": "400000", "user-agent": "undici"}, False, 290.0),
        ({"x-headrace-timeout-ms": "400000", "user-agent": "ai-sdk/anthropic/2 runtime/node.js/20"}, False, 290.0),
        ({"x-headrace-timeout-ms": "400000", "user-agent": "python-httpx/0.28 (nodejs-free)"}, False, 400.0),
    ],
)
def test_heads(headers, is_stream, deadline):
    """Who gives up on an answer without a head, or says nothing, gets a bound below that; a stream's head goes out early."""
    assert moments(headers, is_stream=is_stream).deadline == deadline


def test_openais():
    """OpenAI's SDK in Python names its time in another header; of two the shorter counts."""
    assert moments({"x-stainless-read-timeout": "4"}).deadline == 5.0
    assert moments({"x-stainless-read-timeout": "9", "x-stainless-timeout": "4.0"}).deadline == 4.0


def test_over_grpc():
    """An RPC waits for no head."""
    assert moments({"x-stainless-lang": "js", "x-stainless-timeout": "600"}, is_http=False).deadline == 601.0
    assert moments({}, is_http=False).deadline == USUAL_S


def test_configured():
    """What is configured counts for a caller that says nothing, as the time of a clock of its own."""
    assert moments({}, configured_s=60.0).deadline == 60.0
    assert moments({}, configured_s=60.0).slack_s == 0.5
    assert moments({}, configured_s=400.0).deadline == 400.0
    assert moments({"x-headrace-timeout-ms": "5000"}, configured_s=60.0).deadline == 5.0


@pytest.mark.parametrize("how", [{"within_s": 3.0}, {"headers": {"x-headrace-timeout-ms": "3000"}}])
def test_stated(how):
    """What a caller states bounds the whole; what is only implied may end earlier than that, or later."""
    headers = how.get("headers", {}) | {"x-stainless-timeout": "2.0"}
    said = moments(headers, within_s=how.get("within_s"), is_stream=True)
    assert (said.deadline, said.ends) == (2.0, 3.0)


def test_nonsense():
    """A time that makes no sense is named."""
    with pytest.raises(InvalidCall, match="x-headrace-timeout-ms"):
        read_wait({"x-headrace-timeout-ms": "1.5"})


@given(
    stated=st.none() | st.floats(0, 1e6), least=st.none() | st.floats(0, 1e6), more=st.sampled_from([0.0, 1.0]),
    gives_up=st.none() | st.floats(0, 1e6), unsaid=st.none() | st.floats(0, 1e6), configured=st.none() | st.floats(0.1, 1e6),
    is_stream=st.booleans(),
)  # fmt: skip
def test_in_order(stated, least, more, gives_up, unsaid, configured, is_stream):
    """Whatever is said: arrival, the last beginning, the deadline and the end come in this order."""
    wait = Wait(stated, None if least is None else least + more, least, gives_up, unsaid)
    said = wait.moments(0.0, usual_s=USUAL_S, configured_s=configured, is_stream=is_stream)
    assert 0 <= said.deadline - said.slack_s <= said.deadline <= 86_400
    assert said.ends is None or said.deadline <= said.ends


# A block of code.


async def in_time(clock: HandClock, seconds: float, *, moved: float | None = -1.0) -> str:
    try:
        async with until(clock.now() + seconds, clock) as bound:
            if moved != -1.0:
                bound.move(moved)
            await clock.sleep(10)
        return "done"
    except DeadlinePassed as error:
        return str(error)


async def test_block():
    """What is not done by the deadline is given up; a bound that is moved holds from its new moment."""
    clock = HandClock()
    runs = [
        asyncio.create_task(in_time(clock, 5)),
        asyncio.create_task(in_time(clock, 15)),
        asyncio.create_task(in_time(clock, 5, moved=None)),
        asyncio.create_task(in_time(clock, 5, moved=clock.now() + 7)),
        asyncio.create_task(in_time(clock, 0)),
    ]
    for _ in range(10):
        await asyncio.sleep(0)
    assert runs[4].done()
    await clock.advance(6)
    assert [run.done() for run in runs[:4]] == [True, False, False, False]
    await clock.advance(10)
    said = await asyncio.gather(*runs)
    assert said[1:3] == ["done", "done"]
    assert "before there was an answer" in said[0]
    assert "before its answer was whole" in said[3]
