"""Whatever the official SDK's types can say goes through our messages and comes out the same; and what is common, typed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.message import Message
from pydantic import TypeAdapter

from faithful import sdk
from faithful.shapes import ANSWERS, MESSAGES, REQUESTS, Root, shapes
from headrace import forms
from headrace.edge import translate
from headrace.v1 import content_pb2, events_pb2, message_batches_pb2, message_batches_service_pb2

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the SDK's, about models

MANY = 5000  # examples; fewer would mean that the walk has lost its way
PING = {"type": "ping"}  # the SDK drops it before its types

TAGGED = (
    content_pb2.ContentBlock,
    events_pb2.StreamEvent,
    events_pb2.ContentBlockDelta,
    message_batches_pb2.MessageBatchResult,
)
# What travels whole, as JSON: what only betas have. A new kind in the SDK shows up here; if it is common, give it a message.
UNTYPED = {"advisor_tool_result", "browser_state", "mcp_tool_listing", "tool_addition", "tool_removal"}
COMMON = (
    "text", "image", "document", "search_result", "thinking", "redacted_thinking", "tool_use", "tool_result", "tool_reference",
    "server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result",
    "bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "tool_search_tool_result",
    "container_upload", "mcp_tool_use", "mcp_tool_result",
)  # fmt: skip


def there_and_back(example: Any, cls: type[Message]) -> Any:
    message = translate.read(json.dumps(example).encode(), cls)
    return json.loads(translate.write(cls.FromString(message.SerializeToString())))


def exact(value: Any) -> Any:
    """Tell true from 1, which == does not."""
    if isinstance(value, dict):
        return {key: exact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [exact(item) for item in value]
    return ("bool", value) if isinstance(value, bool) else value


def inner(message: Message) -> Iterator[Message]:
    """A message and all that are in it."""
    yield message
    for field, held in message.ListFields():
        if field.message_type is not None and not field.message_type.GetOptions().map_entry:
            for one in held if field.is_repeated else [held]:
                yield from inner(one)


@pytest.mark.parametrize("root", REQUESTS, ids=lambda root: root.name)
def test_requests(root: Root) -> None:
    """JSON -> message -> wire -> message -> JSON is the identity."""
    for number, example in enumerate(shapes(root)):
        assert exact(there_and_back(example, root.message)) == exact(example), number


@pytest.mark.parametrize("root", ANSWERS, ids=lambda root: root.name)
def test_answers(root: Root) -> None:
    """So it is for answers, and the SDK takes each for the same after it as before."""
    adapter = TypeAdapter(root.type)
    for number, example in enumerate(shapes(root)):
        back = there_and_back(example, root.message)
        assert exact(back) == exact(example), number
        assert adapter.validate_python(back) == adapter.validate_python(example), number


def test_many() -> None:
    """There are many examples, each time the same."""
    assert sum(len(shapes(root)) for root in (*REQUESTS, *ANSWERS)) > MANY
    assert shapes.__wrapped__(MESSAGES[0]) == shapes(MESSAGES[0])


def test_typed() -> None:
    """Each kind of block, event, delta and result that has a message is met; what has none is known by name."""
    met, untyped = set(), set()
    roots = [root for root in (*REQUESTS, *ANSWERS) if not root.name.startswith(("count", "batch"))]  # which add nothing here
    examples = [(root.message, example) for root in roots for example in shapes(root)]
    for cls, example in [*examples, (events_pb2.StreamEvent, PING)]:
        for message in inner(translate.read(json.dumps(example).encode(), cls)):
            if isinstance(message, TAGGED):
                kind = message.WhichOneof(message.DESCRIPTOR.oneofs[0].name)
                met.add((message.DESCRIPTOR.name, kind))
                if kind == "other_json":
                    untyped.add(json.loads(message.other_json)["type"])
    known = {(cls.DESCRIPTOR.name, field.name) for cls in TAGGED for field in cls.DESCRIPTOR.fields}
    assert {kind for kind in known - met if kind[1] != "other_json"} == set()
    assert untyped == UNTYPED


@pytest.mark.parametrize("kind", COMMON)
def test_common(kind: str) -> None:
    """What people use daily has a message of its own."""
    assert kind in content_pb2.ContentBlock.DESCRIPTOR.fields_by_name


@pytest.mark.parametrize("root", MESSAGES, ids=lambda root: root.name)
def test_told(root: Root) -> None:
    """Every message, told as events and put together again, is the same; and the SDK puts the same one together."""
    is_beta = root.name.startswith("beta")
    streams = [forms.join(forms.events_of_message(example)) for example in shapes(root)]
    finals = sdk.told(streams, is_beta=is_beta)
    for number, (example, stream, final) in enumerate(zip(shapes(root), streams, finals, strict=True)):
        expected = example | served(example)
        assert exact(forms.message_of_events(forms.split(stream))) == exact(expected), number
        assert final == sdk.whole(expected, is_beta=is_beta), number


def served(message: dict[str, Any]) -> dict[str, str]:
    """After a fallback the message bears the name of the model that served; the examples' own may be another."""
    models = [block["to"]["model"] for block in message["content"] if block["type"] == "fallback"]
    return {"model": models[-1]} if models else {}


def _inside(kind: str, block: dict[str, Any]) -> dict[str, Any]:
    content = [block]
    return {
        "type": kind,
        **({"source": {"type": "content", "content": content}} if kind == "document" else {"content": content}),
    }


@pytest.mark.parametrize("depth", [10, 16, 17, 60])
@pytest.mark.parametrize("kind", ["tool_result", "search_result", "document"])
def test_nested(kind: str, depth: int) -> None:
    """Blocks inside blocks, deeper than protobuf can nest messages, in the outermost shell that there is."""
    block: dict[str, Any] = {"type": "text", "text": "x", "citations": [{"type": "char_location", "extra": 1}]}
    for _ in range(depth):
        block = _inside(kind, block)
    params = {"messages": [{"role": "user", "content": [block]}]}
    batch = {"requests": [{"custom_id": "c", "params": params}]}
    request = message_batches_service_pb2.CreateMessageBatchRequest(
        params=translate.read(json.dumps(batch).encode(), message_batches_pb2.MessageBatchParams)
    )
    carried = message_batches_service_pb2.CreateMessageBatchRequest.FromString(request.SerializeToString())
    assert json.loads(translate.write(carried.params)) == batch


@pytest.mark.parametrize("kept", [b'"old"', b'""', b"null"])
def test_compaction(kept: bytes) -> None:
    """A compaction comes whole: it replaces what the block began with."""
    start = b'{"index":0,"content_block":{"type":"compaction","content":%b}}' % kept
    delta = b'{"index":0,"delta":{"type":"compaction_delta","content":"new","encrypted_content":null}}'
    events = [
        forms.make_event("message_start", b'{"message":{}}'),
        forms.make_event("content_block_start", start),
        forms.make_event("content_block_delta", delta),
    ]
    block = {"type": "compaction", "content": "new", "encrypted_content": None}
    assert forms.message_of_events(events)["content"] == [block]
