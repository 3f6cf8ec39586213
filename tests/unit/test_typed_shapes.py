"""What the typed services say and hear: JSON -> proto -> JSON is the identity for all of it, in both versions of the API."""

from __future__ import annotations

import json
from typing import Any

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from headrace.edge import translate
from headrace.edge.grpc_routes import ROUTES
from headrace.v1 import chat_pb2, message_batches_pb2, messages_service_pb2, models_pb2, organization_pb2

# All that stands for JSON in a request or a response of the table.
SAID = {route.said for route in ROUTES}
ASKED = {field.message_type._concrete_class for route in ROUTES for field in route.request.DESCRIPTOR.fields
         if field.name == "params"}  # fmt: skip
MESSAGES = sorted(SAID | ASKED, key=lambda cls: cls.DESCRIPTOR.full_name)

TEXTS = st.one_of(st.text(max_size=6), st.sampled_from(["", "\ud83d", "\u0000", '"\\\n', "\U0001f600"]))
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([2**53 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 10**30]),
    st.floats(allow_nan=False, allow_infinity=False),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, TEXTS)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
UNKNOWN = st.dictionaries(
    st.sampled_from(["unheard_of", "origin", "extra_json", "other_json", "type", "\ud800"]), ANYTHING, max_size=2
)
MAX_DEPTH = 5


def of(descriptor: Descriptor, depth: int = 0) -> st.SearchStrategy[Any]:
    """JSON as a message of this type stands for, and nearly so."""
    if depth > MAX_DEPTH:
        return ANYTHING
    fields = {field.name: field for field in descriptor.fields if field.name not in ("extra_json", "other_json", "origin")}
    if "other_json" in descriptor.fields_by_name:
        tagged = [
            st.tuples(one(field, depth), st.just(name)).map(
                lambda pair: pair[0] | {"type": pair[1]} if isinstance(pair[0], dict) else pair[0]
            )
            for name, field in fields.items()
        ]
        return st.one_of(*tagged, ANYTHING)
    if "extra_json" not in descriptor.fields_by_name:
        return st.one_of(*(value(field, depth) for field in fields.values()), ANYTHING)
    known = st.fixed_dictionaries({}, optional={name: value(field, depth) for name, field in fields.items()})
    return st.tuples(UNKNOWN, known).map(lambda pair: pair[0] | pair[1])


def value(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        fitting: st.SearchStrategy[Any] = st.dictionaries(TEXTS, TEXTS, max_size=2)
    else:
        fitting = one(field, depth)
        fitting = st.lists(fitting, max_size=2) if field.is_repeated else fitting
    # Mostly what fits: what never fits would all be in extra_json.
    return st.one_of(fitting, fitting, fitting, SCALARS)


def one(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        # Put off: messages contain each other.
        return st.deferred(lambda: of(field.message_type, depth + 1))
    kinds = {"STRING": TEXTS, "INT64": NUMBERS, "DOUBLE": NUMBERS, "BOOL": st.booleans()}
    if field.type == FieldDescriptor.TYPE_BYTES:
        return ANYTHING
    return next(kind for name, kind in kinds.items() if field.cpp_type == getattr(FieldDescriptor, f"CPPTYPE_{name}"))


def there_and_back(value: Any, cls: type[Message]) -> Any:
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


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
@pytest.mark.parametrize("cls", MESSAGES, ids=lambda cls: cls.DESCRIPTOR.name)
def test_identity(cls: type[Message], data: st.DataObject) -> None:
    """Whatever upstream says, and whatever is asked."""
    said = data.draw(of(cls.DESCRIPTOR))
    if isinstance(said, dict):
        assert exact(there_and_back(said, cls)) == exact(said)


# As upstream says them: the first of each in version 2023-06-01, the others in 2026-10-21. What must stay untyped, if anything.
NEW_KEY = {
    "id": "apikey_1", "type": "api_key", "name": "n", "status": "active", "partial_key_hint": "sk-...x", "expires_at": None,
    "created_at": "2026-01-01T00:00:00Z", "created_by": {"id": "user_1", "type": "user"},
    "principal": {"type": "user_actor", "user_id": "user_1"}, "scope": {"type": "workspace", "workspace_id": "wrkspc_1"},
}  # fmt: skip
OLD_KEY = {name: said for name, said in NEW_KEY.items() if name not in ("scope", "principal")} | {"workspace_id": "wrkspc_1"}
WORKSPACE = {
    "id": "wrkspc_1", "type": "workspace", "name": "w", "display_color": "#6C5BB9", "created_at": "2026-01-01T00:00:00Z",
    "archived_at": None,
}  # fmt: skip
NEW_WORKSPACE = WORKSPACE | {
    "tags": {"team": "a"}, "compartment_id": "c", "external_key_id": None, "user_profile_id": "up_1",
    "data_residency": {"workspace_geo": "us", "allowed_inference_geos": "unrestricted", "default_inference_geo": "global"},
}  # fmt: skip
INVITE = {
    "id": "invite_1", "type": "invite", "email": "a@b.c", "role": "developer", "status": "pending",
    "invited_at": "2026-01-01T00:00:00Z", "expires_at": "2026-02-01T00:00:00Z",
}  # fmt: skip
LIMITS = [{"type": "requests_per_minute", "value": 50}, {"type": "input_tokens_per_minute_cache_aware", "value": 10**6}]
CALLED = {"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"a":'}}
SAMPLES: list[tuple[type[Message], dict[str, Any], set[str]]] = [
    (messages_service_pb2.CountTokensResponse, {"input_tokens": 3}, set()),
    (models_pb2.ModelInfo, {"id": "m", "object": "model", "created": 1698908800, "type": "claude"}, {"object", "created"}),
    (
        models_pb2.ModelInfo,
        {"id": "m", "type": "model", "display_name": "M", "created_at": "2026-01-01T00:00:00Z", "lifecycle": "active",
         "line": None, "max_input_tokens": 200000, "max_tokens": 64000, "retires_at": None,
         "capabilities": {"batch": {"supported": True}}},
        {"line", "retires_at"},
    ),
    (
        message_batches_pb2.MessageBatch,
        {"id": "msgbatch_1", "type": "message_batch", "processing_status": "ended", "created_at": "2026-01-01T00:00:00Z",
         "request_counts": {"processing": 0, "succeeded": 2, "errored": 1, "canceled": 0, "expired": 0}, "archived_at": None,
         "results_url": "https://api.anthropic.com/v1/messages/batches/msgbatch_1/results"},
        {"archived_at"},
    ),
    (message_batches_pb2.DeletedMessageBatch, {"id": "msgbatch_1", "type": "message_batch_deleted"}, set()),
    (organization_pb2.ApiKey, OLD_KEY, {"expires_at"}),
    (organization_pb2.ApiKey, NEW_KEY, {"expires_at"}),
    (organization_pb2.Workspace, WORKSPACE, {"archived_at"}),
    (organization_pb2.Workspace, NEW_WORKSPACE, {"archived_at", "external_key_id"}),
    (organization_pb2.WorkspaceParams, {"tags": {"team": None}}, {"tags"}),
    (organization_pb2.WorkspaceParams, {"data_residency": {"allowed_inference_geos": ["us", "global"]}}, set()),
    (organization_pb2.User, {"id": "u", "type": "user", "email": "a@b.c", "name": "A", "role": "user", "added_at": "x"}, set()),
    (organization_pb2.Invite, INVITE, set()),
    (organization_pb2.Invite, INVITE | {"rbac_group_ids": ["g"], "accepted_at": None}, {"accepted_at"}),
    (organization_pb2.RateLimit, {"type": "rate_limit", "group_type": "model_group", "models": ["m"], "limits": LIMITS}, set()),
    (
        organization_pb2.RateLimit,
        {"id": "rl", "type": "rate_limit", "group": {"id": "g", "type": "batch"}, "models": None, "limits": LIMITS},
        {"models"},
    ),
    (
        chat_pb2.ChatCompletionParams,
        {"model": "m", "max_tokens": 5, "stop": ["a", "b"], "tool_choice": "auto", "logit_bias": {"5": 1},
         "messages": [{"role": "system", "content": "s"}, {"role": "tool", "tool_call_id": "t", "content": "r"},
                      {"role": "user", "name": "u", "content": [{"type": "text", "text": "hi"},
                                                                {"type": "image_url", "image_url": {"url": "data:"}}]},
                      {"role": "assistant", "tool_calls": [CALLED]}],
         "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}],
         "stream": True, "stream_options": {"include_usage": True}},
        {"logit_bias"},
    ),
    (
        chat_pb2.ChatCompletionParams,
        {"stop": "a", "tool_choice": {"type": "function", "function": {"name": "f"}}, "response_format": {"type": "text"}},
        set(),
    ),
    (
        chat_pb2.ChatCompletion,
        {"id": "c", "object": "chat.completion", "created": 1, "model": "m",
         "choices": [{"index": 0, "message": {"role": "assistant", "content": "ho"}, "finish_reason": "stop"}],
         "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}},
        set(),
    ),
    (
        chat_pb2.ChatCompletionChunk,
        {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
         "choices": [{"index": 0, "delta": {"tool_calls": [CALLED | {"index": 0}]}}]},
        set(),
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("cls", "said", "untyped"), SAMPLES, ids=lambda case: getattr(getattr(case, "DESCRIPTOR", None), "name", "")
)
def test_typed(cls: type[Message], said: dict[str, Any], untyped: set[str]) -> None:
    """What upstream says today arrives in the fields of its names; only nulls, and what only one knows, travel as JSON."""
    message: Any = translate.read(json.dumps(said).encode(), cls)
    assert set(json.loads(message.extra_json or b"{}")) == untyped
    assert nested_extras(message) == []
    assert exact(there_and_back(said, cls)) == exact(said)


def nested_extras(message: Message) -> list[str]:
    """Where, below a message, something travels untyped."""
    found = []
    for field, held in message.ListFields():
        if field.message_type is None or field.message_type.GetOptions().map_entry:
            continue
        for inner in held if field.is_repeated else [held]:
            names = {inner_field.name for inner_field, _ in inner.ListFields()}
            found += [f"{field.name}.{name}" for name in names & {"extra_json", "other_json"}]
            found += nested_extras(inner)
    return found


@pytest.mark.parametrize(
    ("result", "member"),
    [
        ({"type": "succeeded", "message": {"id": "msg_1", "content": [{"type": "text", "text": "t"}]}}, "succeeded"),
        ({"type": "errored", "error": {"type": "error", "error": {"type": "api_error", "message": "m"}}}, "errored"),
        ({"type": "canceled"}, "canceled"),
        ({"type": "expired", "why": 1}, "expired"),
        ({"type": "postponed", "until": "later"}, "other_json"),
        ("succeeded", "other_json"),
        (None, "other_json"),
    ],
)  # fmt: skip
def test_results(result: Any, member: str) -> None:
    """A result is told by its type; one of an unknown type, or none at all, is kept whole."""
    said = {"custom_id": "a", "result": result}
    message = translate.read(json.dumps(said).encode(), message_batches_pb2.MessageBatchIndividualResponse)
    assert message.result.WhichOneof("result") == member
    assert exact(there_and_back(said, message_batches_pb2.MessageBatchIndividualResponse)) == exact(said)


def test_deep() -> None:
    """Blocks inside blocks inside a batch stay within what protobuf can nest."""
    block: dict[str, Any] = {"type": "text", "text": "the innermost"}
    for _ in range(60):
        block = {"type": "tool_result", "content": [block]}
    asked = {"requests": [{"custom_id": "a", "params": {"messages": [{"role": "user", "content": [block]}]}}]}
    assert there_and_back(asked, message_batches_pb2.MessageBatchParams) == asked
    said = {"custom_id": "a", "result": {"type": "succeeded", "message": {"content": [block]}}}
    assert there_and_back(said, message_batches_pb2.MessageBatchIndividualResponse) == said
    route = next(route for route in ROUTES if route.name == "CreateMessageBatch")
    params = translate.read(json.dumps(asked).encode(), message_batches_pb2.MessageBatchParams)
    raw = route.request(params=params).SerializeToString()
    assert route.request.FromString(raw) == route.request(params=params)


def test_ours() -> None:
    """Where a response is itself what upstream says, a member that is called as one of ours is still upstream's."""
    said = {"input_tokens": 3, "origin": {"source": "elsewhere"}}
    message = translate.read(json.dumps(said).encode(), messages_service_pb2.CountTokensResponse)
    assert not message.HasField("origin")
    assert json.loads(message.extra_json) == {"origin": {"source": "elsewhere"}}
