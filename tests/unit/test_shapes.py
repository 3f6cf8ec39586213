"""The order of names: nothing in the API's own objects, everything in what is the caller's own or unknown to us."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import assume, given
from hypothesis import strategies as st

from headrace.cache.fingerprint import essence
from headrace.cache.shapes import Shape, Tagged, shape_of
from headrace.edge import translate
from headrace.v1 import chat_pb2, messages_pb2

SCHEMA = {
    "type": "object",
    "properties": {"reasoning": {"type": "string"}, "answer": {"type": "string"}},
    "required": ["answer"],
}
BLOCKS = [
    {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral", "ttl": "5m"}},
    {"type": "text", "text": "Hi", "citations": [{"type": "char_location", "cited_text": "H", "document_index": 0}]},
    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}},
    {
        "type": "document", "title": "D", "citations": {"enabled": True},
        "source": {"type": "content", "content": [{"type": "text", "text": "page"}]},
    },
    {
        "type": "search_result", "source": "s", "title": "t", "citations": {"enabled": False},
        "content": [{"type": "text", "text": "found"}],
    },
    {"type": "thinking", "thinking": "Hm", "signature": "s"},
    {"type": "tool_use", "id": "t1", "name": "t", "input": {"b": 1, "a": {"d": 2, "c": 3}}},
    {
        "type": "tool_result", "tool_use_id": "t1", "is_error": False,
        "content": [{"type": "text", "text": "done"}, {"type": "image", "source": {"type": "url", "url": "u"}}],
    },
    {"type": "web_search_tool_result", "tool_use_id": "t1", "content": [{"url": "u", "type": "web_search_result"}]},
    {"type": "hologram", "z": 1, "a": {"y": 1, "x": 2}},
]  # fmt: skip
MESSAGES = {
    "model": "m",
    "max_tokens": 5,
    "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    "messages": [{"role": "user", "content": BLOCKS}, {"role": "assistant", "content": "x"}],
    "tools": [
        {"name": "t", "description": "d", "input_schema": SCHEMA, "cache_control": {"type": "ephemeral"}, "strict": True}
    ],
    "tool_choice": {"type": "tool", "name": "t"},
    "thinking": {"type": "enabled", "budget_tokens": 1024},
    "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": SCHEMA}},
    "field_of_tomorrow": {"b": 1, "a": [{"d": 1, "c": 2}]},
}
CHAT = {
    "model": "m",
    "messages": [
        {
            "role": "user", "name": "n",
            "content": [
                {"type": "text", "text": "Hi"},
                {"type": "image_url", "image_url": {"url": "u", "detail": "low"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"filename": "f", "file_data": "AAAA"}},
            ],
        },
        {
            "role": "assistant",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "t", "arguments": '{"b":1,"a":2}'}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": "done"},
    ],
    "tools": [{"type": "function", "function": {"name": "t", "description": "d", "parameters": SCHEMA, "strict": True}}],
    "tool_choice": {"type": "function", "function": {"name": "t"}},
    "response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": SCHEMA}},
    "stream_options": {"include_usage": True},
    "metadata": {"b": "1", "a": "2"},
    "logit_bias": {"50256": -100, "1": 5},
}  # fmt: skip
BODIES = {"messages": MESSAGES, "chat": CHAT}

# By path, without the places in lists: the objects whose names the model reads in their order, or that are unknown to us.
OWN = {
    "messages": {
        ("messages", "content", "input"),
        ("messages", "content", "input", "a"),
        ("messages", "content", "content:web_search_result"),
        ("messages", "content:hologram"),
        ("messages", "content:hologram", "a"),
        ("field_of_tomorrow",),
        ("field_of_tomorrow", "a"),
    },
    "chat": {("metadata",), ("logit_bias",)},
}
SCHEMAS = {("input_schema",), ("format", "schema"), ("parameters",), ("json_schema", "schema")}
UNKNOWN = {"hologram", "web_search_result"}


def objects(value: Any, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Yield every object in a body, with its path."""
    if isinstance(value, list):
        for item in value:
            yield from objects(item, where)
    elif isinstance(value, dict):
        if value.get("type") in UNKNOWN:
            where = (*where[:-1], f"{where[-1]}:{value['type']}")
        yield where, value
        for name, item in value.items():
            yield from objects(item, (*where, name))


def is_own(endpoint: str, where: tuple[str, ...]) -> bool:
    in_a_schema = any(where[at : at + len(path)] == path for path in SCHEMAS for at in range(len(where)))
    return in_a_schema or where in OWN[endpoint]


CASES = [
    (endpoint, index) for endpoint, body in BODIES.items() for index, (_, found) in enumerate(objects(body)) if len(found) > 1
]


@pytest.mark.parametrize(("endpoint", "index"), CASES)
def test_each_object(endpoint: str, index: int) -> None:
    """Another order in one object of the API's is the same call; in one of the caller's own it is another."""
    body = json.loads(json.dumps(BODIES[endpoint]))
    before = essence(body, endpoint)
    where, found = next(itertools.islice(objects(body), index, None))
    turned = dict(reversed(found.items()))
    found.clear()
    found.update(turned)
    assert (essence(body, endpoint) != before) == is_own(endpoint, where), where


@given(st.sampled_from(sorted(BODIES)), st.randoms(use_true_random=False))
def test_all_at_once(endpoint: str, random: Any) -> None:
    """However all objects of the API's are turned, it is the same call."""
    body = json.loads(json.dumps(BODIES[endpoint]))
    before = essence(body, endpoint)
    for where, found in list(objects(body)):
        if not is_own(endpoint, where):
            names = list(found.items())
            random.shuffle(names)
            found.clear()
            found.update(names)
    assert essence(body, endpoint) == before


names = st.text(max_size=4)
values = st.recursive(st.integers(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4))
PLACES = {
    "messages": [
        lambda body, value: body["tools"][0].update(input_schema=value),
        lambda body, value: body["messages"][0]["content"][6].update(input=value),
        lambda body, value: body["output_config"]["format"].update(schema=value),
        lambda body, value: body.update(a_field=value),
        lambda body, value: body["messages"].append(value),
        lambda body, value: body["messages"][0].update(a_field=value),
        lambda body, value: body["thinking"].update(a_field=value),
    ],
    "chat": [
        lambda body, value: body["tools"][0]["function"].update(parameters=value),
        lambda body, value: body["response_format"]["json_schema"].update(schema=value),
        lambda body, value: body["messages"][0].update(a_field=value),
        lambda body, value: body.update(metadata=value),
    ],
}


@given(st.sampled_from([(name, place) for name in PLACES for place in PLACES[name]]), values, st.data())
def test_own_values(at: tuple[str, Any], value: Any, data: st.DataObject) -> None:
    """Any other order of any object in a value of the caller's own is another call; the same order is the same."""
    endpoint, place = at
    inner = [found for _, found in objects(value) if len(found) > 1]
    assume(inner and not (place is PLACES["messages"][4] and isinstance(value, dict)))  # a message is the API's
    one, other = json.loads(json.dumps(BODIES[endpoint])), json.loads(json.dumps(BODIES[endpoint]))
    place(one, json.loads(json.dumps(value)))
    found = data.draw(st.sampled_from(inner))
    turned = data.draw(st.permutations(list(found.items())).filter(lambda pairs: pairs != list(found.items())))
    found.clear()
    found.update(turned)
    place(other, value)
    assert essence(one, endpoint) != essence(other, endpoint)


def test_lists_of_lists() -> None:
    """The API has no lists of lists: what stands in one is unknown to us."""
    one, other = ({"messages": [[{"role": "user", "content": "x"}]]}, {"messages": [[{"content": "x", "role": "user"}]]})
    assert essence(one) != essence(other)


def test_depth() -> None:
    """Blocks inside blocks, past reason, are kept as they are, and nobody falls over them."""
    block: dict[str, Any] = {"type": "text", "text": "x"}
    for _ in range(300):
        block = {"type": "tool_result", "content": [block]}
    assert essence({"messages": [{"role": "user", "content": [block]}]})


# Beside gRPC, whose fields come in the order of the protos.


def modelled(descriptor: Descriptor) -> Iterator[tuple[str, Any]]:
    """Yield the members of a typed message that are objects of the API's, each with the type of its own message."""
    for field in descriptor.fields:
        if field.message_type is not None and field.name != "extra_json":
            yield field.name, field.message_type


def missing(
    descriptor: Descriptor, shape: Shape | Tagged | None, where: str, seen: frozenset[str] = frozenset()
) -> Iterator[str]:
    """Yield the places where the protos know an object and the table does not."""
    if descriptor.full_name in seen:
        return
    seen = seen | {descriptor.full_name}
    names = descriptor.fields_by_name
    if "extra_json" in names:
        if not isinstance(shape, dict):
            yield where
            return
        for name, inner in modelled(descriptor):
            yield from missing(inner, shape.get(name), f"{where}.{name}", seen)
    elif "other_json" in names:
        if not isinstance(shape, Tagged):
            yield where
            return
        for name, inner in modelled(descriptor):
            yield from missing(inner, shape.kinds.get(name), f"{where}:{name}", seen)
    else:  # a text, or a list of something
        for field in descriptor.fields:
            if field.type == FieldDescriptor.TYPE_MESSAGE:
                yield from missing(field.message_type, shape, where, seen)


@pytest.mark.parametrize(
    ("params", "endpoint"), [(messages_pb2.MessageParams, "messages"), (chat_pb2.ChatCompletionParams, "chat")]
)
def test_typed(params: Any, endpoint: str) -> None:
    """Every object that a proto models is in the table: else the same call by gRPC and by HTTP would not be the same."""
    assert list(missing(params.DESCRIPTOR, shape_of(endpoint), endpoint)) == []


@pytest.mark.parametrize(
    ("params", "endpoint"), [(messages_pb2.MessageParams, "messages"), (chat_pb2.ChatCompletionParams, "chat")]
)
def test_both_doors(params: Any, endpoint: str) -> None:
    """The same call, typed and turned into JSON again, is the same call, in whatever order HTTP says it."""
    body = BODIES[endpoint]
    typed = json.loads(translate.write(translate.read(json.dumps(body).encode(), params)))
    assert typed == body
    assert list(typed) != list(body)
    assert essence(typed, endpoint) == essence(body, endpoint)
