"""Messages and the events that tell them: faithful both ways."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from headrace import forms
from headrace.model import Answer, Event, Form, Usage

text = st.text(max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3), max_leaves=8
)
objects = st.dictionaries(text, values, max_size=4)

blocks = st.one_of(
    st.fixed_dictionaries({"type": st.just("text"), "text": text}, optional={"citations": st.none() | st.lists(objects)}),
    st.fixed_dictionaries({"type": st.just("thinking"), "thinking": text, "signature": text}),
    st.fixed_dictionaries({"type": st.just("redacted_thinking"), "data": text}),
    st.fixed_dictionaries(
        {"type": st.sampled_from(["tool_use", "server_tool_use", "mcp_tool_use"]), "id": text, "name": text, "input": objects}
    ),
    st.fixed_dictionaries({"type": st.just("web_search_tool_result"), "content": st.lists(objects)}),
    st.fixed_dictionaries({"type": st.just("not_yet_invented"), "text": values, "input": values}),
    st.dictionaries(text, values, max_size=3),
)
usages = st.fixed_dictionaries(
    {"input_tokens": st.integers(0), "output_tokens": st.integers(0)},
    optional={"cache_read_input_tokens": st.none() | st.integers(0), "service_tier": text, "server_tool_use": objects},
)
messages = st.fixed_dictionaries(
    {
        "id": text,
        "type": st.just("message"),
        "role": st.just("assistant"),
        "content": st.lists(blocks, max_size=4),
        "model": text,
        "stop_reason": st.none() | text,
        "stop_sequence": st.none() | text,
        "usage": usages,
    },
    optional={"container": objects, "stop_details": values, "context_management": values, "new": values},
)

KINDS = {"message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "ping"}

inner = st.dictionaries(
    st.sampled_from(["type", "text", "input", "partial_json", "citation", "citations", "usage", "to", "signature"]), values
)
members = st.fixed_dictionaries(
    {"index": st.integers(0, 2), "message": inner, "content_block": inner, "delta": inner},
    optional={"usage": inner | values, "x": values},
)

TOLD = Answer(
    Form.JSON,
    b'{"id":"m","type":"message","role":"assistant","model":"c","content":[{"type":"text","text":"Hi"}],'
    b'"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":3,"output_tokens":7,"service_tier":"standard"}}',
    created=0.0,
)


def message(*content: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"id": "m", "type": "message", "content": list(content), **fields}


def told(*events: tuple[str, dict[str, Any]]) -> list[Event]:
    start = ("message_start", {"message": message(stop_reason=None, usage={"input_tokens": 3, "output_tokens": 1})})
    return [forms.make_event(name, json.dumps(data).encode()) for name, data in (start, *events)]


def grown(block: dict[str, Any], *deltas: dict[str, Any]) -> dict[str, Any]:
    start = ("content_block_start", {"index": 0, "content_block": block})
    events = told(start, *(("content_block_delta", {"index": 0, "delta": delta}) for delta in deltas))
    whole: dict[str, Any] = forms.message_of_events(events)["content"][0]
    return whole


@given(messages)
@example(message({"type": "text", "text": "half a pair: \ud83d"}, {"type": "tool_use", "input": {"\ud800": "\udc00"}}))
@example(message({"type": "tool_use", "input": {"big": 2**200, "one": 1.0, "": -0.0}}))
def test_round_trip(said: dict[str, Any]) -> None:
    """A message told in events and put together again is the same message, its fields in the same order."""
    events = forms.events_of_message(said)
    again = forms.message_of_events(events)
    assert again == said
    assert json.dumps(again) == json.dumps(said)
    assert forms.split(forms.join(events)) == events
    assert all(forms.is_sound(event) for event in events)
    assert forms.is_terminal(events[-1])


def test_as_upstream_tells() -> None:
    """The events come as upstream sends them: what is known only at the end is told at the end."""
    assert forms.sse_payload(TOLD).decode().split("\n\n") == [
        'event: message_start\ndata: {"type":"message_start","message":{"id":"m","type":"message","role":"assistant",'
        '"model":"c","content":[],"stop_reason":null,"stop_sequence":null,'
        '"usage":{"input_tokens":3,"output_tokens":0,"service_tier":"standard"}}}',
        'event: content_block_start\ndata: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":""}}',
        'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"Hi"}}',
        'event: content_block_stop\ndata: {"type":"content_block_stop","index":0}',
        'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn","stop_sequence":null},'
        '"usage":{"input_tokens":3,"output_tokens":7}}',
        'event: message_stop\ndata: {"type":"message_stop"}',
        "",
    ]


@pytest.mark.parametrize("number", ["1.0", "1", "1e400", "-0.0", "1E5", "0.1000", "123456789012345678901234567890123456789"])
def test_numbers(number: str) -> None:
    """A number is spelled in the other form as upstream spelled it in the first."""
    payload = b'{"type":"message","content":[{"type":"tool_use","input":{"n":%b}}],"n":%b}' % ((number.encode(),) * 2)
    events = forms.sse_payload(Answer(Form.JSON, payload, 0.0))
    assert forms.json_payload(Answer(Form.EVENTS, events, 0.0)) == payload


def test_pretty() -> None:
    """A body over several lines still makes events whose data is on one."""
    payload = (
        b'{\r\n "type": "message",\n "content": [\n  {"type": "zzz",\n "q": [1,\n 2]}, {"type": "tool_use", "input": {\n}}]\n}'
    )
    answer = Answer(Form.JSON, payload, 0.0)
    events = forms.event_list(answer)
    assert all(event.raw.count(b"\n") == 3 and b"\r" not in event.raw for event in events)
    assert forms.message_of_events(events) == json.loads(payload)


def test_verbatim() -> None:
    """An answer in the form that is wanted is handed out byte by byte."""
    stream = b": hello\r\n\r\n" + forms.sse_payload(TOLD)
    kept = Answer(Form.EVENTS, stream, 0.0)
    assert forms.json_payload(TOLD) is TOLD.payload
    assert forms.sse_payload(kept) is stream
    assert forms.join(forms.event_list(kept)) == stream
    assert json.loads(forms.json_payload(kept)) == json.loads(TOLD.payload) == forms.message(kept)


def test_pieces() -> None:
    """Deltas of every known kind grow their block."""
    said = grown({"type": "text", "text": "a"}, {"type": "text_delta", "text": ' "b'}, {"type": "text_delta", "text": "\\ "})
    assert said == {"type": "text", "text": 'a "b\\ '}
    cited = grown(
        {"type": "text", "text": "", "citations": None}, *({"type": "citations_delta", "citation": {"n": n}} for n in (1, 2))
    )
    assert cited["citations"] == [{"n": 1}, {"n": 2}]
    thought = grown(
        {"type": "thinking", "thinking": "", "signature": ""},
        {"type": "thinking_delta", "thinking": "hm"},
        {"type": "signature_delta", "signature": "old"},
        {"type": "signature_delta", "signature": "new"},
    )
    assert thought == {"type": "thinking", "thinking": "hm", "signature": "new"}
    compacted = grown(
        {"type": "compaction", "content": None}, {"type": "compaction_delta", "content": "so far", "encrypted_content": "x"}
    )
    assert compacted == {"type": "compaction", "content": "so far", "encrypted_content": "x"}


def test_unknown_delta() -> None:
    """A delta of a kind not yet invented is merged by its shape."""
    deltas = [
        {"type": "new_delta", "hue": "re", "list": [1], "n": 1},
        {"type": "new_delta", "hue": "d", "list": [2, 3], "n": 2},
    ]
    assert grown({"type": "new", "hue": None}, *deltas) == {"type": "new", "hue": "red", "list": [1, 2, 3], "n": 2}
    assert grown({"type": "new", "x": "a"}, {"x": "b"}, {"x": {"c": 1}}, {"x": None}, {"x": "d"}) == {"type": "new", "x": "d"}


def test_spaced_array() -> None:
    """An empty array may hold white space; it adds nothing all the same."""
    start = forms.make_event("content_block_start", b'{"index":0,"content_block":{"type":"new","list":[ ]}}')
    pieces = [
        forms.make_event("content_block_delta", b'{"index":0,"delta":{"list":%b}}' % piece) for piece in (b"[ ]", b"[ 1 ]")
    ]
    assert forms.message_of_events([*told(), start, *pieces])["content"] == [{"type": "new", "list": [1]}]


def test_split_pair() -> None:
    """A character torn in two by upstream's chunking is whole again in the message."""
    assert grown({"type": "text", "text": ""}, {"text": "\ud83d"}, {"text": "\ude00!"}) == {"type": "text", "text": "😀!"}


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["", '{"a"', ": 1.0}"], {"a": 1.0}),
        ([""], {}),
        (['{"a": "cut o'], {"INVALID_JSON": '{"a": "cut o'}),
        (['{"a": "\ud83d', '\ude00"}'], {"a": "😀"}),
        (['{"a": "\ud83d"}'], {"a": "\ud83d"}),
        (["[" * 3000 + "]" * 3000], {"INVALID_JSON": "[" * 3000 + "]" * 3000}),
    ],
)
def test_tool_input(pieces: list[str], expected: object) -> None:
    """A tool's input is put together from its pieces; one that was cut off is kept as text."""
    deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
    assert grown({"type": "tool_use", "input": {}}, *deltas)["input"] == expected


def test_unopened() -> None:
    """A delta for a block that nobody opened is kept, too."""
    delta = {"index": 1, "delta": {"type": "text_delta", "text": "x"}}
    assert forms.message_of_events(told(("content_block_delta", delta)))["content"] == [{"text": "x"}]


def test_end() -> None:
    """What the end tells is merged: totals replace, nulls do not, new fields are kept."""
    end = {
        "delta": {"stop_reason": "end_turn", "container": None, "new": 1},
        "usage": {"output_tokens": 9, "input_tokens": None, "iterations": [1]},
        "context_management": {"edits": []},
    }
    said = forms.message_of_events([*told(("ping", {}), ("message_delta", end)), Event("", b"", b": bye\n\n")])
    assert said["stop_reason"] == "end_turn"
    assert said["usage"] == {"input_tokens": 3, "output_tokens": 9, "iterations": [1]}
    assert (said["container"], said["new"], said["context_management"]) == (None, 1, {"edits": []})


def test_fallback() -> None:
    """After a fallback the message bears the name of the model that served it."""
    block = {"type": "fallback", "from": {"model": "a"}, "to": {"model": "b"}}
    said = forms.message_of_events(told(("content_block_start", {"index": 0, "content_block": block})))
    assert (said["model"], said["content"]) == ("b", [block])


@pytest.mark.parametrize(
    "events",
    [
        [],
        told()[1:],
        told(("content_block_start", {"index": 0})),
        told(("content_block_delta", {"index": 4})),
        told(("content_block_start", {"index": 0, "content_block": 7})),
        [forms.make_event("message_delta", b'{"delta":{"stop_reason":"x"}}')],
    ],
)
def test_no_message(events: list[Event]) -> None:
    """Events that tell no message are a ValueError, never anything else."""
    with pytest.raises(ValueError, match="tell no message"):
        forms.message_of_events(events)


def test_answer_of_events() -> None:
    """An answer made of its events knows what it cost."""
    answer = forms.answer_of_events(forms.event_list(TOLD), created=5.0, request_id="req_1")
    assert answer == Answer(Form.EVENTS, forms.sse_payload(TOLD), 5.0, Usage(3, 7), "req_1")
    assert forms.message(answer) == forms.message(TOLD)


@given(st.lists(st.tuples(st.sampled_from(sorted(KINDS)), members), max_size=5))
def test_sound_is_enough(said: list[tuple[str, dict[str, Any]]]) -> None:
    """Of events that are sound and begin with a start, a message can always be made."""
    events = [event for event in told(*said) if forms.is_sound(event)]
    assert isinstance(forms.message_of_events(events), dict)
    forms.usage_of(events)


def test_usage_of_tiers() -> None:
    """What is written for an hour, and a tier that is not the usual one, are told apart; what makes no sense is nothing."""
    counted = {"output_tokens": 1, "cache_creation_input_tokens": 5, "service_tier": "priority"}
    said = counted | {"cache_creation": {"ephemeral_5m_input_tokens": 2, "ephemeral_1h_input_tokens": 3}}
    assert forms.usage_of({"usage": said}) == Usage(0, 1, 5, 0, True, 3, "priority")
    assert forms.usage_of({"usage": said | {"speed": "fast"}}).tier == "fast"
    odd = counted | {"cache_creation": [3], "service_tier": {"a": 1}}
    assert forms.usage_of({"usage": odd}) == Usage(0, 1, 5)


def test_usage() -> None:
    """Usage is read from either form, and from half a stream as far as it goes."""
    counted = Usage(3, 7)
    events = forms.event_list(TOLD)
    assert forms.usage_of(json.loads(TOLD.payload)) == forms.usage_of(events) == forms.usage_of_json(TOLD.payload) == counted
    assert forms.usage_of(events[:-2]) == Usage(3, 0, known=False)
    assert forms.usage_of([]) == Usage(known=False)
    odd = {
        "usage": {"output_tokens": 2, "input_tokens": -1, "cache_read_input_tokens": "7", "cache_creation_input_tokens": None}
    }
    assert forms.usage_of(odd) == Usage(0, 2)
    assert forms.usage_of({}) == Usage(known=False)


@pytest.mark.parametrize("payload", [b"", b"{", b"[]", b'{"type":"error"}', b'{"type":"message"}', TOLD.payload + b"x"])
def test_incomplete_json(payload: bytes) -> None:
    """Half a message, or something else, is no message."""
    with pytest.raises(ValueError, match="not a message"):
        forms.usage_of_json(payload)
