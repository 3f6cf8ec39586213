"""What `count_tokens` is asked: input alone, as it was said; a chat as the messages that it means; or nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import get_type_hints

import pytest
from anthropic.types import MessageCountTokensParams
from anthropic.types.beta import MessageCountTokensParams as BetaMessageCountTokensParams

from headrace.budget.measure import weigh
from headrace.budget.question import COUNTED, question
from headrace.endpoints import CHAT, COUNT_TOKENS
from headrace.model import Call
from headrace.simulator import chat, checks
from scripted import CALL

CHATTED = replace(CALL, endpoint=CHAT.name, path="/v1/chat/completions", credential="bearer:k")


def asked(call: Call, body: object) -> dict[str, object] | None:
    question_of = question(replace(call, body=body if isinstance(body, bytes) else json.dumps(body).encode()))
    return None if question_of is None else json.loads(question_of.body)


def test_parameters():
    """All that the official client sends to be counted is asked, and the older name of one of them."""
    known = {**get_type_hints(MessageCountTokensParams), **get_type_hints(BetaMessageCountTokensParams)}
    assert {*known, "output_format"} - {"betas"} == COUNTED


def test_message():
    """The parts are the very bytes that were said; a stream is asked about like any other call."""
    body = b'{"model":"m","max_tokens":9,"stream":true,"temperature":1.0,"messages":[ 1.0, {"a":1e400} ],"system":"\\u00e4"}'
    said = question(replace(CALL, body=body, stream=True, path="/v1/messages?beta=true"))
    assert said is not None
    assert said.body == b'{"model":"m","messages":[ 1.0, {"a":1e400} ],"system":"\\u00e4"}'
    assert (said.path, said.endpoint, said.stream) == ("/v1/messages/count_tokens?beta=true", COUNT_TOKENS.name, False)
    assert (said.fingerprint, said.betas, said.credential) == (CALL.fingerprint, CALL.betas, CALL.credential)


CHAT_BODY = {
    "model": "sim-1",
    "max_tokens": 9,
    "messages": [
        {"role": "system", "content": "be kind"},
        {"role": "developer", "content": [{"type": "text", "text": "be brief"}]},
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at":"sea"}'}}]},
        {"role": "tool", "tool_call_id": "t1", "content": "rain"},
        {"role": "user", "content": [
            {"type": "text", "text": "and here?"},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}]},
    ],
    "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}],
}  # fmt: skip


def test_chat():
    """A chat is retold as upstream retells it, so the count is that of the call; its bearer is the API's key."""
    said = question(replace(CHATTED, body=json.dumps(CHAT_BODY).encode()))
    assert said is not None
    assert (said.path, said.credential) == ("/v1/messages/count_tokens", "x-api-key:k")
    counted = checks.read_count(said.body, version=checks.OLD_VERSION, beta=False)
    meant, _ = chat.read(CHAT_BODY)
    assert counted.input_tokens == meant.input_tokens
    assert asked(CHATTED, CHAT_BODY)["system"] == "be kind\nbe brief"


def test_image_in_a_chat():
    """A `data:` URL becomes what the API calls it."""
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
    said = asked(CHATTED, {"model": "m", "messages": [{"role": "user", "content": [part]}]})
    source = {"type": "base64", "media_type": "image/png", "data": "aGk="}
    assert said == {"model": "m", "messages": [{"role": "user", "content": [{"type": "image", "source": source}]}]}


@pytest.mark.parametrize(
    ("call", "body"),
    [
        (CALL, b"[]"),
        (CALL, b"x" * 8_000_001),
        (CHATTED, b"x" * 500_001),
        (CHATTED, {"model": "m", "messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}),
        (CHATTED, {"model": "m", "messages": [{"role": "function", "content": "x"}]}),
        (CHATTED, {"model": "m", "messages": "x"}),
        (CHATTED, {"model": "m", "messages": [{"role": "user", "content": None}]}),
        (CHATTED, {"model": "m", "messages": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:text/plain,hi"}}]}]}),
        (CHATTED, {"model": "m", "messages": [{"role": "assistant", "tool_calls": [
            {"id": "t", "function": {"name": "f", "arguments": "{"}}]}]}),
        (CHATTED, b'{"messages":' + b"[" * 100_000),
    ],
)  # fmt: skip
def test_no_question(call: Call, body: object):
    """What is too large, or not plainly to be retold, is not asked."""
    assert asked(call, body) is None


THINGS = {"names": {f"k{n}": 1 for n in range(100_000)}, "numbers": [1] * 300_000, "objects": [{}] * 60_000}


@pytest.mark.parametrize("things", THINGS.values(), ids=THINGS)
def test_many_things(things: object) -> None:
    """A body of very many things is not taken apart in the loop, where it was weighed; one of much text is."""
    said = {"model": "m", "messages": []}
    many = json.dumps({**said, "tools": things}).encode()
    much = json.dumps({**said, "tools": "text, and more of it " * 20_000}).encode()
    assert question(replace(CALL, body=many, weight=weigh(many))) is None
    assert question(replace(CALL, body=much, weight=weigh(much))) is not None
