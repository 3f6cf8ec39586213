"""Whole answers: a heavy one is judged and told elsewhere, and comes to the same."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace import answers, forms
from headrace.answers import Answers, is_light
from headrace.aside import Aside
from headrace.cache.policy import Told, no_keep_message
from headrace.model import Answer, Event, Form, Usage
from scripted import MESSAGE

TEXT = {"type": "text", "text": "t"}


def message(blocks: int, **more: object) -> bytes:
    return json.dumps(json.loads(MESSAGE) | {"content": [TEXT] * blocks} | more).encode()


def taken_in(events: list[Event]) -> Told:
    told = Told()
    for event in events:
        told.add(event)
    return told


@pytest.fixture
async def here():
    made = Answers(Aside((answers.JOB,)))
    yield made
    await made.aside.aclose()


@pytest.mark.parametrize(
    ("payload", "verdict"),
    [
        (message(1), Usage(3, 7)), (message(1)[:-2], forms.Wrong.CUT_OFF), (b"[1]", forms.Wrong.STRANGE),
        (b'{"type":"error","error":{"type":"a","message":"b"},"x":[%b]}', forms.Wrong.ERROR), (b"\xff[1]", forms.Wrong.CUT_OFF),
    ],
)  # fmt: skip
async def test_judged(here, payload, verdict):
    """What an answer is, whatever its weight."""
    light, heavy = payload.replace(b"%b", b"1"), payload.replace(b"%b", b"1," * 9 + b"1")
    text = json.dumps(TEXT).encode()
    heavy = heavy.replace(text, b", ".join([text] * 5000)).replace(b"[1]", b"[%b1]" % (b"1," * 200_000))
    assert await here.judge(light, "messages") == verdict
    assert await here.judge(heavy, "messages") == verdict
    assert (here.stats().aside == 0) == is_light(heavy)


async def test_told(here):
    """Told in the other form and back, it says the same; those who ask for it at once are told once."""
    for blocks in (2, 5000):
        answer = Answer(Form.JSON, message(blocks), 1.0)
        events, again = await asyncio.gather(here.told(answer, Form.EVENTS), here.told(answer, Form.EVENTS))
        assert events == again == forms.sse_payload(answer)
        back = await here.told(Answer(Form.EVENTS, events, 1.0), Form.JSON)
        assert json.loads(back) == json.loads(answer.payload)
        assert [event async for event in here.events(answer)] == forms.event_list(answer)
    assert here.stats() == answers.AnswersStats(aside=3, telling=0)
    assert repr(here) == "<Answers [3 aside, 0 being told]>"


async def test_no_message(here):
    """Events that tell no message cannot be told as one, however many they are."""
    for chunks in (1, 20_000):
        with pytest.raises(ValueError, match=r"told|tell"):
            await here.told(Answer(Form.EVENTS, b"data: {}\n\n" * chunks, 1.0), Form.JSON)


async def test_kept(here):
    """Whether it may be kept, said by its weight alone, by its events, and elsewhere, is the same."""
    for stop, reason in (("end_turn", ""), ("refusal", "refusal")):
        for blocks in (1, 5000):
            answer = Answer(Form.JSON, message(blocks, stop_reason=stop), 1.0)
            told = Answer(Form.EVENTS, forms.sse_payload(answer), 1.0)
            assert await here.no_keep("messages", answer) == reason
            assert await here.no_keep("messages", told) == reason
            assert await here.no_keep("messages", told, taken_in(forms.split(told.payload))) == reason
    for chunks in (1, 20_000):
        said = b'data: {"choices":[]}\n\n' * chunks + b'data: {"choices":[{"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
        assert await here.no_keep("chat", Answer(Form.EVENTS, said, 1.0)) == ""


async def test_made(here):
    """What was made for it is found in both."""
    for blocks in (1, 5000):
        answer = Answer(Form.JSON, message(blocks, container={"id": "container_1"}), 1.0)
        assert await here.made(answer, has_thread=False) == ["container_1"]


BLOCKS = st.sampled_from([
    TEXT, {"type": "server_tool_use", "id": "x", "name": "n", "input": {}}, {"type": "redacted_thinking", "data": "x"},
    {"type": "tool_use", "id": "x", "name": "n", "input": {"a": 1}}, {"type": "fallback"}, {"type": "mcp_tool_use"},
    {"type": "of_tomorrow"},
])  # fmt: skip
MORE = st.fixed_dictionaries({}, optional={
    "container": st.sampled_from([None, {"id": "c"}]),
    "stop_reason": st.sampled_from(["end_turn", "tool_use", "refusal", "pause_turn", "of_tomorrow", None]),
    "usage": st.sampled_from([None, {"output_tokens": 1}, {"output_tokens": 1, "server_tool_use": {"web_search_requests": 1}}]),
})  # fmt: skip


@given(st.lists(BLOCKS, max_size=4), MORE)
def test_by_events(blocks, more):
    """A message's events say of it what the message does."""
    payload = json.dumps(json.loads(MESSAGE) | {"content": blocks} | more).encode()
    told = forms.split(forms.sse_payload(Answer(Form.JSON, payload, 1.0)))
    assert taken_in(told).no_keep == no_keep_message(forms.message_of_events(told))


@given(st.lists(st.sampled_from([b"data: x", b": y", b"\n", b"\r", b"\r\n", b" ", b"\n\n", b"\xef\xbb\xbf"])).map(b"".join))
def test_whole_by_its_end(stream):
    """Whether a stream is whole its end says, as reading all of it does."""
    try:
        whole = bool(forms.split(stream))
    except ValueError:
        whole = False
    assert forms.is_whole(Answer(Form.EVENTS, stream, 1.0)) == whole


@given(st.lists(st.sampled_from([b"data: x\n\n", b"data: y\r\n\r\n", b"event: z\ndata: z\n\n"]), max_size=5000).map(b"".join))
def test_by_pieces(stream):
    """Piece by piece there are the same events."""
    assert [event for piece in forms.by_pieces(stream) for event in piece] == forms.split(stream)


def test_counting():
    """What is used is told as the events come."""
    counting, events = forms.dialect("messages").counting(), forms.split(forms.sse_payload(Answer(Form.JSON, MESSAGE, 1.0)))
    said = []
    for event in [*events, Event("", b"", b": x\n\n")]:
        counting.add(event)
        said.append(counting.usage)
    assert said[0] == Usage(3, 0, known=False)
    assert said[-1] == Usage(3, 7) == forms.usage_of(events)
