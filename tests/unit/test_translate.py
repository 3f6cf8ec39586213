"""JSON -> proto -> JSON is the identity, whatever the JSON holds; and what is no JSON is refused by name."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.edge import translate
from headrace.errors import InvalidCall
from headrace.v1 import content_pb2, events_pb2, messages_pb2

PROTOS = (content_pb2, events_pb2, messages_pb2)
MESSAGES = (messages_pb2.MessageParams, messages_pb2.Message, events_pb2.StreamEvent, content_pb2.ContentBlock)

# All field names in the protos, so that generated objects hit the fields, `extra_json` and `other_json` included.
FIELDS = {
    field.name for proto in PROTOS for message in proto.DESCRIPTOR.message_types_by_name.values() for field in message.fields
}
NAMES = sorted(FIELDS | {"type", "unheard_of", "", "\ud800", "ключ"})
TEXTS = st.one_of(st.text(max_size=8), st.sampled_from(["", "\ud83d", "\udc00x", "\u0000", '"\\\n', "\U0001f600", *NAMES]))
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**53, 2**53 + 1, 2**63 - 1, 2**63, -(2**63), -(2**63) - 1, 2**64, 10**30]),
    st.floats(allow_nan=False, allow_infinity=False),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | TEXTS, inner, max_size=5),
    max_leaves=25,
)
OBJECTS = st.dictionaries(st.sampled_from(NAMES), ANYTHING, max_size=8)

CACHED = st.fixed_dictionaries({}, optional={"cache_control": st.just({"type": "ephemeral", "ttl": "1h"}) | ANYTHING})


def block(type: str, **members: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    shape = st.fixed_dictionaries({"type": st.just(type)}, optional=members)
    return st.tuples(shape, CACHED, st.just({}) | OBJECTS).map(lambda parts: {**parts[2], **parts[1], **parts[0]})


CITATIONS = st.lists(st.fixed_dictionaries({"type": TEXTS, "cited_text": TEXTS, "start_char_index": NUMBERS}), max_size=2)
LEAVES = st.one_of(
    block("text", text=TEXTS, citations=CITATIONS | st.none()),
    block("thinking", thinking=TEXTS, signature=TEXTS),
    block("redacted_thinking", data=TEXTS),
    block("tool_use", id=TEXTS, name=TEXTS, input=ANYTHING),
    block("image", source=st.fixed_dictionaries({"type": st.just("base64"), "data": TEXTS})),
    block("web_search_tool_result", tool_use_id=TEXTS, content=ANYTHING),
    block("never_heard_of", whatever=ANYTHING),
    ANYTHING,
)
BLOCKS = st.recursive(LEAVES, lambda inner: block("tool_result", content=TEXTS | st.lists(inner, max_size=3)), max_leaves=8)
CONTENTS = TEXTS | st.lists(BLOCKS, max_size=4)
CALLS = st.fixed_dictionaries(
    {"model": TEXTS, "max_tokens": NUMBERS},
    optional={
        "messages": st.lists(st.fixed_dictionaries({"role": TEXTS, "content": CONTENTS}), max_size=3),
        "system": CONTENTS,
        "temperature": NUMBERS,
        "top_k": NUMBERS,
        "stop_sequences": st.lists(TEXTS, max_size=3),
        "tools": st.lists(st.fixed_dictionaries({"name": TEXTS, "input_schema": ANYTHING}), max_size=2),
        "thinking": st.fixed_dictionaries({"type": TEXTS, "budget_tokens": NUMBERS}),
        "metadata": ANYTHING,
        "stream": st.booleans(),
        "unheard_of": ANYTHING,
    },
)
USAGES = st.dictionaries(st.sampled_from(NAMES), NUMBERS | st.none(), max_size=6)
ANSWERS = st.fixed_dictionaries(
    {"type": st.just("message"), "content": st.lists(BLOCKS, max_size=4), "usage": USAGES, "stop_sequence": st.none() | TEXTS}
)
EVENTS = st.one_of(
    block("message_start", message=ANSWERS),
    block("content_block_start", index=NUMBERS, content_block=BLOCKS),
    block("content_block_delta", delta=block("text_delta", text=TEXTS) | block("other_delta", x=ANYTHING)),
    block("message_delta", delta=OBJECTS, usage=USAGES),
    block("message_stop"),
    block("ping"),
    block("error", error=st.fixed_dictionaries({"type": TEXTS, "message": TEXTS})),
    block("unheard_of_event", x=ANYTHING),
)

thorough = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def there_and_back(value: dict[str, Any], cls: type[Message]) -> Any:
    message = translate.read(json.dumps(value).encode(), cls)
    # Over the wire, too: what cannot be serialised or parsed again is of no use.
    return json.loads(translate.write(cls.FromString(message.SerializeToString())))


def exact(value: Any) -> Any:
    """Tell true from 1, which == does not, and keep 1 and 1.0 equal."""
    if isinstance(value, bool):
        return ("bool", value)
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    return [exact(item) for item in value] if isinstance(value, list) else value


def assert_identity(value: dict[str, Any], cls: type[Message]) -> None:
    assert exact(there_and_back(value, cls)) == exact(value)


@thorough
@given(OBJECTS, st.sampled_from(MESSAGES))
def test_any_object(value: dict[str, Any], cls: type[Message]) -> None:
    """Whatever object, even one whose members have our names and the wrong types."""
    assert_identity(value, cls)


@thorough
@given(CALLS)
def test_calls(value: dict[str, Any]) -> None:
    """Calls as the API takes them, and nearly so."""
    assert_identity(value, messages_pb2.MessageParams)


@thorough
@given(ANSWERS)
def test_answers(value: dict[str, Any]) -> None:
    """Answers as the API gives them, and nearly so."""
    assert_identity(value, messages_pb2.Message)


@thorough
@given(EVENTS)
def test_events(value: dict[str, Any]) -> None:
    """Events of a stream."""
    assert_identity(value, events_pb2.StreamEvent)


def test_typed() -> None:
    """What the protos model arrives in its field, not in extra_json."""
    call = {
        "model": "m",
        "max_tokens": 5,
        "temperature": 1,
        "stream": True,
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral"}}],
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": {"a": [1, 2**70]}}]},
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "r"}]}],
            },
        ],
        "tools": [{"name": "n", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "auto"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "metadata": {"user_id": "u"},
        "container": "c1",
    }
    params = translate.read(json.dumps(call).encode(), messages_pb2.MessageParams)
    assert params.extra_json == b""
    assert params.temperature == 1.0
    assert params.system.blocks.blocks[0].text.cache_control.type == "ephemeral"
    assert params.messages[0].content.text == "hi"
    assert params.messages[1].content.blocks.blocks[0].tool_use.input == b'{"a":[1,1180591620717411303424]}'
    assert params.messages[2].content.blocks.blocks[0].tool_result.content.blocks.blocks[0].text.text == "r"
    assert params.container == b'"c1"'
    assert json.loads(translate.write(params)) == call


def test_answer_typed() -> None:
    """An answer's nulls travel in extra_json, everything else typed."""
    answer = {
        "id": "msg_1",
        "type": "message",
        "content": [{"type": "text", "text": "hi", "citations": None}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {"input_tokens": 1, "output_tokens": 2, "cache_creation": {"ephemeral_5m_input_tokens": 0}},
    }
    message = translate.read(json.dumps(answer).encode(), messages_pb2.Message)
    assert message.content[0].text.text == "hi"
    assert message.usage.cache_creation.HasField("ephemeral_5m_input_tokens")
    assert message.extra_json == b'{"stop_sequence":null}'


def test_deep() -> None:
    """Blocks nested deeper than protobuf can nest messages stay JSON from some depth on."""
    value: dict[str, Any] = {"type": "text", "text": "the innermost"}
    for _ in range(60):
        value = {"type": "tool_result", "content": [value]}
    assert_identity({"messages": [{"content": [value]}]}, messages_pb2.MessageParams)
    assert_identity({"content": [value]}, messages_pb2.Message)


def test_untouched() -> None:
    """JSON in bytes is spliced in as it is: no digit of a number, no escape, no order of members changes."""
    odd = rb'{"z": 1.10, "a": 1e400, "u": "\ud800", "n": 123456789012345678901234567890.123}'
    params = messages_pb2.MessageParams(extra_json=odd)
    params.messages.add().content.blocks.blocks.add().tool_use.input = odd
    assert translate.write(params).count(odd) == 1
    assert odd[1:-1] in translate.write(params).split(b"]}],")[-1]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", True),
        ("max_tokens", 1.0),
        ("max_tokens", 2**63),
        ("max_tokens", None),
        ("temperature", 2**53 + 1),
        ("temperature", False),
        ("stream", 1),
        ("model", "\ud83d"),
        ("stop_sequences", []),
        ("stop_sequences", ["a", 1]),
        ("system", {"text": "s"}),
        ("metadata", "u"),
        ("extra_json", {}),
    ],
)
def test_misfits(name: str, value: Any) -> None:
    """What a field cannot hold exactly goes to extra_json, untouched."""
    params = translate.read(json.dumps({name: value}).encode(), messages_pb2.MessageParams)
    assert [field.name for field, _ in params.ListFields()] == ["extra_json"]
    assert exact(json.loads(params.extra_json)) == exact({name: value})
    assert_identity({name: value}, messages_pb2.MessageParams)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (messages_pb2.MessageParams(extra_json=b"{"), "MessageParams.extra_json"),
        (messages_pb2.MessageParams(extra_json=b"[]"), "MessageParams.extra_json"),
        (messages_pb2.MessageParams(extra_json=b'{"a":1},"b":{"c":2}'), "MessageParams.extra_json"),
        (messages_pb2.MessageParams(model="m", extra_json=b'{"model":"n"}'), "MessageParams.extra_json"),
        (messages_pb2.MessageParams(model="m", extra_json=rb'{"mod\u0065l":"\ud800"}'), "MessageParams.extra_json"),
        (content_pb2.ContentBlock(text={"extra_json": b'{"type":"x"}'}), "TextBlock.extra_json"),
        (content_pb2.ContentBlock(other_json=b"nonsense"), "ContentBlock.other_json"),
        (content_pb2.ContentBlock(other_json=b"[" * 100_000 + b"]" * 100_000), "ContentBlock.other_json"),
        (content_pb2.ContentBlock(tool_use={"input": b""}), "ToolUseBlock.input"),
        (messages_pb2.InputMessage(content={}), "Content"),
        (messages_pb2.Message(content=[{}]), "ContentBlock"),
    ],
)
def test_refused(message: Message, field: str) -> None:
    """A message that stands for no JSON is refused, and the refusal names the field and shows none of its content."""
    with pytest.raises(InvalidCall) as refusal:
        translate.write(message)
    assert refusal.value.metadata["field"] == field
    assert "nonsense" not in str(refusal.value)


def test_nan() -> None:
    """JSON has no NaN."""
    with pytest.raises(InvalidCall):
        translate.write(messages_pb2.MessageParams(temperature=float("nan")))


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff", b'{"a":NaN}'])
def test_not_an_object(raw: bytes) -> None:
    """What is no JSON object is no message."""
    with pytest.raises(ValueError, match=r".+"):
        translate.read(raw, messages_pb2.Message)
