"""
Examples of everything that the official SDK knows how to say or hear, made from its own types.

The SDK's type hints are walked: TypedDicts, pydantic models, unions, literals, lists. Every choice is in at least one example,
not every combination: the examples of an object take the first choice of each member, then the second, and so on (and once
only what is required). Where a type contains itself, the inner one is its smallest example. The walk is deterministic, so a
failing example can be named by its number.
"""

from __future__ import annotations

import collections.abc
import functools
import itertools
from collections.abc import Iterator
from datetime import date, datetime
from typing import Annotated, Any, Literal, NamedTuple, NotRequired, Required, Union, get_args, get_origin

import pydantic
from anthropic import types
from anthropic.types import beta, messages
from anthropic.types.beta import messages as beta_messages
from google.protobuf.message import Message
from typing_extensions import ReadOnly, get_type_hints, is_typeddict

from headrace.v1 import events_pb2, message_batches_pb2, messages_pb2, messages_service_pb2, models_pb2

JSON = Any

_TEXTS = ("water", 'a "mill"\\\n', "Grüße \u2028 \U0001f30a", "", "\x7f\u0000\t")
_NUMBERS = (3, 0, 2**53 + 1, 1)
_LEAVES: dict[Any, tuple[JSON, ...]] = {
    object: ({}, {"depth": {"of": [1, 2.5, 1e300, "\u00e9", None, True, {}]}, "n": 12345678901234567890123}),
    float: (0.25, 1.0),
    bool: (True, False),
    type(None): (None,),
    datetime: ("2026-10-21T08:30:00.123456Z",),
    date: ("2026-10-21",),
}
_HEADERS = frozenset({"betas"})  # an argument of the SDK's that is no member of the body


class Root(NamedTuple):
    """A type of the SDK's, and our message that stands for the same JSON; of `every` so many examples one is taken."""

    name: str
    type: Any
    message: type[Message]
    every: int = 1


REQUESTS = (
    Root("ask", types.message_create_params.MessageCreateParamsNonStreaming, messages_pb2.MessageParams),
    Root("ask for a stream", types.message_create_params.MessageCreateParamsStreaming, messages_pb2.MessageParams, 10),
    Root("ask in beta", beta.message_create_params.MessageCreateParamsNonStreaming, messages_pb2.MessageParams, 2),
    Root("count", types.MessageCountTokensParams, messages_pb2.MessageParams, 10),
    Root("count in beta", beta.MessageCountTokensParams, messages_pb2.MessageParams, 10),
    Root("batch", messages.BatchCreateParams, message_batches_pb2.MessageBatchParams, 40),
    Root("batch in beta", beta_messages.BatchCreateParams, message_batches_pb2.MessageBatchParams, 40),
)
MESSAGES = (
    Root("message", types.Message, messages_pb2.Message),
    Root("beta message", beta.BetaMessage, messages_pb2.Message),
)
EVENTS = (
    Root("event", types.RawMessageStreamEvent, events_pb2.StreamEvent),
    Root("beta event", beta.BetaRawMessageStreamEvent, events_pb2.StreamEvent),
    Root("error", types.ErrorResponse, events_pb2.StreamEvent),
    Root("beta error", types.BetaErrorResponse, events_pb2.StreamEvent),
)
OTHERS = (
    Root("tokens", types.MessageTokensCount, messages_service_pb2.CountTokensResponse),
    Root("beta tokens", beta.BetaMessageTokensCount, messages_service_pb2.CountTokensResponse),
    Root("model", types.ModelInfo, models_pb2.ModelInfo),
    Root("beta model", beta.BetaModelInfo, models_pb2.ModelInfo),
    Root("a batch", messages.MessageBatch, message_batches_pb2.MessageBatch),
    Root("a beta batch", beta_messages.BetaMessageBatch, message_batches_pb2.MessageBatch),
    Root("a deleted batch", messages.DeletedMessageBatch, message_batches_pb2.DeletedMessageBatch),
    Root("a deleted beta batch", beta_messages.BetaDeletedMessageBatch, message_batches_pb2.DeletedMessageBatch),
    Root("result", messages.MessageBatchIndividualResponse, message_batches_pb2.MessageBatchIndividualResponse, 5),
    Root(
        "beta result", beta_messages.BetaMessageBatchIndividualResponse, message_batches_pb2.MessageBatchIndividualResponse, 5
    ),
)
ANSWERS = (*MESSAGES, *EVENTS, *OTHERS)


@functools.cache
def shapes(root: Root) -> tuple[JSON, ...]:
    """Return the examples of a root."""
    return tuple(_Walk().examples(root.type, ())[:: root.every])


class _Member(NamedTuple):
    name: str
    hint: Any
    is_required: bool


class _Walk:
    """A walk through types; its texts and numbers come in turn."""

    def __init__(self) -> None:
        self._texts, self._numbers = itertools.cycle(_TEXTS), itertools.cycle(_NUMBERS)

    def examples(self, hint: Any, inside: tuple[Any, ...]) -> list[JSON]:
        """Return examples of a type; *inside* are the objects around it."""
        hint = _bare(hint)
        origin, arguments = get_origin(hint), get_args(hint)
        if _is_union(hint):
            return [example for choice in arguments for example in self.examples(choice, inside)]
        if origin is Literal:
            return list(arguments)
        if _is_list(origin):
            items = self.examples(arguments[0], inside)
            return [[], *([item] for item in items), items]
        if origin is dict:
            return [{}, *({"a name": example} for example in self.examples(arguments[1], inside))]
        return self._objects(hint, inside) if _is_object(hint) else self._leaf(hint)

    def _leaf(self, hint: Any) -> list[JSON]:
        if hint is str:
            return [next(self._texts)]
        if hint is int:
            return [next(self._numbers)]
        if hint in _LEAVES:
            return list(_LEAVES[hint])
        if getattr(hint, "__module__", "") in ("typing", "os", "io"):
            return []  # a file, which the SDK reads: JSON has what is in it, a string
        raise TypeError(f"no example for {hint!r}")

    def _objects(self, hint: Any, inside: tuple[Any, ...]) -> list[JSON]:
        members = list(_members(hint))
        if hint in inside:
            return [{member.name: self._smallest(member, inside) for member in members if member.is_required}]
        choices = {member.name: self.examples(member.hint, (*inside, hint)) or [None] for member in members}
        rows = range(max(map(len, choices.values()), default=1))
        whole = [{name: examples[row % len(examples)] for name, examples in choices.items()} for row in rows]
        return [*whole, {member.name: choices[member.name][0] for member in members if member.is_required}]

    def _smallest(self, member: _Member, inside: tuple[Any, ...]) -> JSON:
        # An empty list or a text, where that will do: whatever ends the recursion soonest.
        hint = _bare(member.hint)
        if _is_list(get_origin(hint)):
            return []
        choices = get_args(hint) if _is_union(hint) else (hint,)
        return self.examples(min(choices, key=_is_object), inside)[0]


def _bare(hint: Any) -> Any:
    while get_origin(hint) in (Annotated, Required, NotRequired, ReadOnly):
        hint = get_args(hint)[0]
    return hint


def _is_union(hint: Any) -> bool:
    return get_origin(hint) is Union


def _is_list(origin: Any) -> bool:
    return origin in (list, collections.abc.Iterable) or getattr(origin, "__name__", "") == "SequenceNotStr"


def _is_object(hint: Any) -> bool:
    return is_typeddict(hint) or (isinstance(hint, type) and issubclass(hint, pydantic.BaseModel))


def _members(hint: Any) -> Iterator[_Member]:
    if is_typeddict(hint):
        for name, inner in get_type_hints(hint, include_extras=True).items():
            if name not in _HEADERS:
                # `__required_keys__` alone would not do: it does not look into annotations that are strings.
                yield _Member(name, inner, get_origin(inner) is Required or name in hint.__required_keys__)
        return
    for name, field in hint.model_fields.items():
        yield _Member(field.alias or name, field.annotation, field.is_required())
