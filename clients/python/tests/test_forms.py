"""JSON -> message -> JSON loses nothing, whatever the JSON holds."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace_client.forms import from_dict, plain, to_dict
from headrace_client.v1.content_pb2 import Content, ContentBlock, TextBlock
from headrace_client.v1.messages_pb2 import InputMessage, MessageParams

SAMPLE = {
    "model": "claude-haiku-4-5",
    "max_tokens": 64,
    "temperature": 1,
    "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    "messages": [
        {"role": "user", "content": "what is it?"},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "look", "input": {"at": [1, None, "ü"]}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a"}]}]},
        {"role": "user", "content": [{"type": "from_the_future", "deep": {"er": [True]}}]},
    ],
    "tools": [{"name": "look", "input_schema": {"type": "object", "properties": {}}}],
    "stop_sequences": [],
    "new_parameter": {"a": 1},
    "top_k": "not a number",
    "metadata": None,
}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from([field.name for field in MessageParams.DESCRIPTOR.fields] + ["type", "else"])


def test_sample():
    """Fields take what fits them; the rest travels beside them."""
    params = from_dict(MessageParams, SAMPLE)

    assert to_dict(params) == SAMPLE
    assert params.messages[1].content.blocks.blocks[0].tool_use.name == "look"
    assert json.loads(params.extra_json) == {
        name: SAMPLE[name] for name in ("stop_sequences", "new_parameter", "top_k", "metadata")
    }
    assert json.loads(params.messages[3].content.blocks.blocks[0].other_json) == SAMPLE["messages"][3]["content"][0]


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # slow only to make, on a machine that is busy
@given(st.dictionaries(names, json_values, max_size=5))
def test_anything(value):
    """Whatever an object holds comes back, and survives the wire."""
    params = MessageParams.FromString(from_dict(MessageParams, value).SerializeToString())
    assert to_dict(params) == value


def test_half_a_surrogate_pair():
    """Text that is not Unicode, as a model can emit it, does not fit a string and still gets through."""
    value = {"messages": [{"role": "user", "content": "\ud83d"}]}
    assert to_dict(from_dict(MessageParams, value)) == value


def test_deep_nesting():
    """Blocks inside blocks past the depth that protobuf takes stay JSON."""
    block = {"type": "text", "text": "core"}
    for _ in range(60):
        block = {"type": "tool_result", "tool_use_id": "t", "content": [block]}
    message = InputMessage.FromString(from_dict(InputMessage, {"role": "user", "content": [block]}).SerializeToString())
    assert to_dict(message) == {"role": "user", "content": [block]}


def test_what_may_stand_for_json():
    """Messages and tuples stand for what they say, so that an answer's blocks can go back."""
    block = ContentBlock(text=TextBlock(text="hi"))
    assert plain({"content": (block, Content(text="x"))}) == {"content": [{"type": "text", "text": "hi"}, "x"]}


@pytest.mark.parametrize("value", [{"image": b"bytes"}, {"x": {1, 2}}, {"x": object()}])
def test_what_has_no_json(value):
    """What JSON cannot say is refused by name."""
    with pytest.raises(TypeError, match="has no JSON"):
        from_dict(MessageParams, value)


def test_no_mapping():
    """A message stands for an object."""
    with pytest.raises(TypeError, match="must be a mapping"):
        from_dict(MessageParams, [1])
