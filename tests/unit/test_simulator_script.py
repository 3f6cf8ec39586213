"""What the simulator says, what it costs, and that both forms of it say the same."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.simulator import render, tokens
from headrace.simulator.checks import NEW_VERSION, OLD_VERSION, Ask, read_ask, read_count
from headrace.simulator.refusals import Refused
from headrace.simulator.script import Script, sample, write

TOOL = {"name": "find", "input_schema": {"type": "object", "properties": {"q": {"type": "string"}, "n": {"type": "integer"}}}}


def ask(prompt: str = "Hello", *, version: str = NEW_VERSION, **fields: Any) -> Ask:
    body = {"model": "claude-a", "max_tokens": 500, "messages": [{"role": "user", "content": prompt}], **fields}
    return read_ask(msgspec.json.encode(body), version=version, beta=False)


def script(prompt: str = "Hello", **fields: Any) -> Script:
    return write(ask(prompt, **fields), (30, 200), "toolu_1")


def test_same_prompt_same_text() -> None:
    """An answer quotes its prompt and is the same each time; another prompt gets another answer."""
    assert script("Hello") == script("Hello") != script("Hello!")
    assert script("Hello").blocks[0].text.startswith('You said: "Hello". ')
    assert script("Hello").stop_reason == "end_turn"


@pytest.mark.parametrize("wanted", [20, 21, 120])
def test_length_asked(wanted: int) -> None:
    """A prompt may say how long its answer is; `max_tokens` still cuts it."""
    said = script(f"river, answer in {wanted} tokens")
    assert abs(said.output_tokens - wanted) <= 1
    assert script(f"river, answer in {wanted} tokens", max_tokens=5).output_tokens == 5


@given(prompt=st.text(min_size=1), most=st.integers(0, 300), low=st.integers(0, 300))
def test_max_tokens(prompt: str, most: int, low: int) -> None:
    """No answer is longer than max_tokens, and one that is cut says so."""
    said = write(ask(prompt, max_tokens=most), (low, 300), "toolu_1")
    assert said.output_tokens <= most
    whole = write(ask(prompt, max_tokens=5_000), (low, 300), "toolu_1")
    assert (said == whole) == (said.stop_reason == "end_turn")


def test_stop_sequence() -> None:
    """The answer ends before the first of the stop sequences."""
    said = script("one STOP two HALT three", stop_sequences=["HALT", "STOP"])
    assert (said.stop_reason, said.stop_sequence) == ("stop_sequence", "STOP")
    assert said.blocks[0].text == 'You said: "one '


@pytest.mark.parametrize(
    ("prompt", "choice", "kind"),
    [
        ("Please use the tool.", {"type": "auto"}, "tool_use"),
        ("Please don't.", {"type": "auto"}, "text"),
        ("Anything", {"type": "any"}, "tool_use"),
        ("Anything", {"type": "tool", "name": "find"}, "tool_use"),
        ("Please use the tool.", {"type": "none"}, "text"),
    ],
)
def test_tool_choice(prompt: str, choice: dict[str, str], kind: str) -> None:
    """A tool is used where it is forced, or asked for."""
    said = script(prompt, tools=[TOOL], tool_choice=choice)
    assert said.blocks[-1].kind == kind
    assert said.stop_reason == ("tool_use" if kind == "tool_use" else "end_turn")


def test_tool_input() -> None:
    """Its input fits the tool's schema; one that does not fit max_tokens is not begun."""
    [block] = script("Hello", tools=[TOOL], tool_choice={"type": "any"}).blocks
    assert (block.name, block.id, msgspec.json.decode(block.text)) == ("find", "toolu_1", {"q": "Hello", "n": 5})
    assert script("Hello", tools=[TOOL], tool_choice={"type": "any"}, max_tokens=2) == Script((), "max_tokens")


def test_sample() -> None:
    """The usual schemas get a value of their type, and odd ones get some value."""
    assert sample({"enum": ["a", "b"]}, "p") == "a"
    assert sample({"type": "array", "items": {"type": "boolean"}}, "p") == [True]
    assert sample({"anyOf": [{"const": 7}, {"type": "null"}]}, "p") == 7
    assert sample({"type": ["number", "null"], "minimum": 2}, "p") == 2.0
    assert sample({"$ref": "#/nowhere"}, "p") == "p"
    loop: dict[str, Any] = {"type": "array"}
    loop["items"] = loop
    assert sample(loop, "p")


def test_thinking_comes_first() -> None:
    """Thinking is a block with a signature, and counts as output."""
    said = script(thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000)
    assert [block.kind for block in said.blocks] == ["thinking", "text"]
    assert said.blocks[0].signature
    assert [block.kind for block in script(thinking={"type": "disabled"}).blocks] == ["text"]


def test_json_format() -> None:
    """Asked for JSON of a schema, it says JSON of that schema."""
    wanted = {"format": {"type": "json_schema", "schema": TOOL["input_schema"]}}
    assert msgspec.json.decode(script("Hello", output_config=wanted).blocks[0].text) == {"q": "Hello", "n": 5}


@given(prompt=st.text(min_size=1, max_size=80), each=st.integers(1, 20), use_tool=st.booleans(), think=st.booleans())
def test_forms_agree(prompt: str, each: int, use_tool: bool, think: bool) -> None:
    """The deltas of a stream add up to the JSON answer, and so do their tokens."""
    choice = {"type": "any" if use_tool else "none"}
    kind = "adaptive" if think else "disabled"
    call = ask(prompt, tools=[TOOL], tool_choice=choice, thinking={"type": kind})
    said = write(call, (0, 60), "toolu_1")
    message = msgspec.json.decode(render.message(said, call, "msg_1"))
    parts = list(render.pieces(said, call, "msg_1", each))
    assert sum(part.tokens for part in parts) == said.output_tokens == message["usage"]["output_tokens"]
    grown: dict[int, str] = {}
    for part in parts:
        data = msgspec.json.decode(part.raw.split(b"data: ")[1])
        if part.name == "content_block_delta" and data["delta"]["type"] != "signature_delta":
            delta = data["delta"]
            text = delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
            grown[data["index"]] = grown.get(data["index"], "") + text
    for index, block in enumerate(message["content"]):
        if block["type"] == "tool_use":
            assert msgspec.json.decode(grown[index]) == block["input"]
        else:
            assert grown[index] == block.get("text", block.get("thinking"))


def test_event_order() -> None:
    """A stream opens, pings, grows, closes; its last usage is the whole."""
    call = ask("Hello", max_tokens=2)
    parts = list(render.pieces(write(call, (30, 30), "toolu_1"), call, "msg_1", 1))
    assert [part.name for part in parts] == [
        "message_start",
        "content_block_start",
        "ping",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    ending = msgspec.json.decode(parts[-2].raw.split(b"data: ")[1])
    assert ending["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert ending["usage"]["output_tokens"] == 2


def test_input_tokens() -> None:
    """Input is a token for four bytes of text, whichever way the text is written; a picture is a constant."""
    assert ask("x" * 400).input_tokens == 100
    assert ask([{"type": "text", "text": "x" * 400}]).input_tokens == 100
    assert ask("x" * 400, system="y" * 4).input_tokens == 101
    assert ask("ä" * 200).input_tokens == 100
    picture = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A" * 99_999}}
    assert ask([picture]).input_tokens == tokens.SOURCE_TOKENS
    body = {"model": "claude-a", "messages": [{"role": "user", "content": "x" * 400}]}
    assert read_count(msgspec.json.encode(body), version=NEW_VERSION, beta=False).input_tokens == 100


@given(text=st.text(max_size=50), most=st.integers(0, 20))
def test_cut(text: str, most: int) -> None:
    """A cut is a beginning of the text, no longer than allowed, and no shorter than it must be."""
    part = tokens.cut(text, most)
    assert text.startswith(part)
    assert tokens.text_tokens(part) <= most
    assert part == text or len(text[: len(part) + 1].encode()) > most * tokens.BYTES_PER_TOKEN


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"model": ...}, "model: Field required"),
        ({"max_tokens": ...}, "max_tokens: Field required"),
        ({"messages": ...}, "messages: Field required"),
        ({"max_tokens": "5"}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": True}, "max_tokens: Input should be a valid integer"),
        ({"max_tokens": -1}, "max_tokens: Input should be greater than or equal to 0"),
        ({"max_tokens": 999_999}, "max_tokens: 999999 > 128000"),
        ({"messages": {}}, "messages: Input should be a valid list"),
        ({"messages": []}, "messages: at least one message is required"),
        ({"messages": ["x"]}, "messages.0: Input should be an object"),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role: Input should be 'user' or 'assistant'"),
        ({"messages": [{"role": "user", "content": ""}]}, "non-empty content"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content: Input should be a valid string or list"),
        ({"messages": [{"role": "user", "content": [{"type": "poem"}]}]}, "Input tag 'poem' found using 'type'"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}, "text content blocks must be non-empty"),
        ({"max_tokenz": 5}, "max_tokenz: Extra inputs are not permitted"),
        ({"temperature": 1}, "temperature: Extra inputs are not permitted"),
        ({"mcp_servers": []}, "mcp_servers: Extra inputs are not permitted"),
        ({"stream": "yes"}, "stream: Input should be a valid boolean"),
        ({"stop_sequences": [1]}, "stop_sequences: Input should be a valid list of strings"),
        ({"system": [{"type": "image"}]}, "system.0: Input should be a text block"),
        ({"thinking": {"type": "deep"}}, "thinking.type: Input should be 'enabled'"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5}}, "greater than or equal to 1024"),
        ({"thinking": {"type": "enabled", "budget_tokens": 5000}}, "`max_tokens` must be greater"),
        ({"tools": [{"name": "x"}]}, "tools.0.custom.input_schema: Field required"),
        ({"tool_choice": {"type": "any"}}, "tool_choice: may only be specified while providing tools"),
        ({"tools": [TOOL], "tool_choice": {"type": "tool", "name": "lose"}}, "Tool 'lose' not found"),
        ({"messages": [{"role": "assistant", "content": [{"type": "document"}]}]}, "document blocks are not permitted"),
    ],
)
def test_checks(fields: dict[str, Any], sentence: str) -> None:
    """Each thing wrong with a call gets its own sentence."""
    body: dict[str, Any] = {"model": "claude-a", "max_tokens": 2000, "messages": [{"role": "user", "content": "x"}], **fields}
    raw = msgspec.json.encode({name: value for name, value in body.items() if value is not ...})
    with pytest.raises(Refused) as caught:
        read_ask(raw, version=NEW_VERSION, beta=False)
    assert (caught.value.status, caught.value.type) == (400, "invalid_request_error")
    assert sentence in caught.value.message


USER: dict[str, Any] = {"role": "user", "content": "Hello"}
SYSTEM: dict[str, Any] = {"role": "system", "content": "Be brief."}
ASSISTANT: dict[str, Any] = {"role": "assistant", "content": "Well."}
SEARCHED: dict[str, Any] = {"role": "assistant", "content": [{"type": "server_tool_use", "id": "srvtoolu_1"}]}
DIRECTIVE: dict[str, Any] = {"role": "system", "content": [], "output_config": {"effort": "low"}}


def read(*messages: Any, beta: bool = False, **fields: Any) -> Ask:
    """Read a call of these messages."""
    body = {"model": "claude-sonnet-5", "max_tokens": 500, "messages": messages, **fields}
    return read_ask(msgspec.json.encode(body), version=OLD_VERSION, beta=beta)


@pytest.mark.parametrize(
    "messages",
    [
        (USER, SYSTEM),
        (USER, SYSTEM, ASSISTANT),
        (USER, ASSISTANT, USER, SYSTEM),
        (USER, SYSTEM, ASSISTANT, USER, SYSTEM, ASSISTANT, USER),
        (USER, SEARCHED, SYSTEM),
        (USER, {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}),
    ],
)
def test_system_message(messages: tuple[Any, ...]) -> None:
    """A system message may stand where the API takes one; it counts as input, and the answer is to the user."""
    call = read(*messages)
    without = read(*(message for message in messages if message["role"] != "system"))
    assert call.prompt == without.prompt
    assert call.input_tokens >= without.input_tokens + 2
    body = msgspec.json.encode({"model": "claude-a", "messages": messages})
    assert read_count(body, version=NEW_VERSION, beta=False).input_tokens == call.input_tokens


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ((SYSTEM,), "messages.0: use the top-level 'system' parameter for the initial system prompt"),
        ((SYSTEM, USER), "messages.0: use the top-level 'system' parameter for the initial system prompt"),
        ((USER, ASSISTANT, SYSTEM), "messages.2: a system message must follow a user message"),
        ((USER, SYSTEM, SYSTEM), "messages.1: a system message must be the last message"),
        ((USER, SYSTEM, USER), "messages.1: a system message must be the last message"),
        ((USER, SYSTEM | {"content": ""}), "messages.1: all messages must have non-empty content"),
        ((USER, SYSTEM | {"content": 5}), "messages.1.content: Input should be a valid string or list"),
        ((USER, SYSTEM | {"content": [{"type": "image"}]}), "messages.1.content.0: Input tag 'image'"),
        ((USER, SYSTEM | {"content": [{"type": "tool_addition"}]}), "messages.1.content.0: Input tag 'tool_addition'"),
        ((USER, SYSTEM | {"clear_at": "never"}), "messages.1.clear_at: Extra inputs are not permitted"),
        ((USER, DIRECTIVE), "messages.1.output_config: Extra inputs are not permitted"),
        ((USER, {"role": "system"}), "messages.1.content: Field required"),
        ((USER | {"clear_at": "never"},), "messages.0.clear_at: Extra inputs are not permitted"),
    ],
)
def test_system_message_refused(messages: tuple[Any, ...], sentence: str) -> None:
    """Elsewhere, or of anything but text, it is refused as the API refuses it."""
    with pytest.raises(Refused) as caught:
        read(*messages)
    assert caught.value.status == 400
    assert caught.value.message.startswith(sentence)


@pytest.mark.parametrize(
    "messages",
    [
        (USER, SYSTEM | {"clear_at": "next_user_message"}),
        (DIRECTIVE, USER),
        (USER, DIRECTIVE, USER),
        (USER, DIRECTIVE, SYSTEM),
        (USER, SYSTEM, DIRECTIVE),
        (USER, {"role": "system", "output_config": {"effort": "low"}}),
        (USER, SYSTEM | {"content": [{"type": "tool_removal", "tool": "x"}]}),
        (USER, {"role": "assistant", "content": [{"type": "mcp_tool_use", "id": "x", "input": {}}]}, USER),
        (USER, {"role": "assistant", "content": [{"type": "compaction", "content": "so far"}]}, USER),
    ],
)
def test_beta_messages(messages: tuple[Any, ...]) -> None:
    """With a beta, messages may have what betas bring: directives alone stand anywhere."""
    assert read(*messages, beta=True).prompt == "Hello"
    with pytest.raises(Refused):
        read(*messages)


def test_output_format() -> None:
    """`output_format` of a beta does what `output_config.format` does; without a beta it is unknown."""
    wanted = {"type": "json_schema", "schema": TOOL["input_schema"]}
    call = read(USER, output_format=wanted, beta=True)
    assert msgspec.json.decode(write(call, (30, 200), "toolu_1").blocks[0].text) == {"q": "Hello", "n": 5}
    assert write(read(USER, output_format=None, beta=True), (30, 200), "toolu_1").blocks[0].text.startswith("You said")
    with pytest.raises(Refused, match="output_format: Extra inputs are not permitted"):
        read(USER, output_format=wanted)


def test_old_version() -> None:
    """The first version still takes sampling parameters, within their range."""
    assert ask(temperature=0.5, top_k=40, version=OLD_VERSION)
    with pytest.raises(Refused, match="temperature: Input should be between 0 and 1"):
        ask(temperature=1.5, version=OLD_VERSION)


@pytest.mark.parametrize("raw", [b"", b"{", b'"\xff"', b"[" * 100_000, b"[]", b'{"model": "\\ud800"}', b"1e999"])
def test_not_json(raw: bytes) -> None:
    """Whatever is not a JSON object is refused as that."""
    with pytest.raises(Refused, match=r"not valid JSON|should be an object"):
        read_ask(raw, version=NEW_VERSION, beta=False)


def test_unknown_model() -> None:
    """A model that cannot exist is not found."""
    with pytest.raises(Refused) as caught:
        ask(model="gpt-4")
    assert (caught.value.status, caught.value.type, caught.value.message) == (404, "not_found_error", "model: gpt-4")
