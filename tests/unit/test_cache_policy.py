"""What may be kept, and the reason for each no."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.cache import policy
from headrace.cache.policy import no_keep_call, no_keep_message

PLAIN = {"model": "m", "max_tokens": 10, "messages": [{"role": "user", "content": "Hi"}]}
MESSAGE = {
    "type": "message",
    "content": [{"type": "thinking", "thinking": "?"}, {"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "container": None,
    "usage": {"input_tokens": 1, "output_tokens": 1, "server_tool_use": None},
}


def saying(*blocks):
    return {**PLAIN, "messages": [{"role": "user", "content": list(blocks)}]}


@pytest.mark.parametrize(
    "type",
    [
        None,
        "custom",
        "bash_20250124",
        "text_editor_20250728",
        "computer_20250124",
        "computer_toolset_20260801",
        "browser_toolset_20260801",
    ],
)
def test_client_tools(type):
    """Tools that the caller runs are no obstacle: what they find comes inside the next call."""
    tool = {"name": "t"} if type is None else {"name": "t", "type": type}

    assert no_keep_call({**PLAIN, "tools": [tool]}) == ""


@pytest.mark.parametrize(
    ("type", "reason"),
    [
        ("web_search_20260318", "server-tools"),
        ("web_fetch_20250910", "server-tools"),
        ("code_execution_20260521", "server-tools"),
        ("bash_code_execution_20250825", "server-tools"),
        ("text_editor_code_execution_20250825", "server-tools"),
        ("tool_search_tool_bm25_20251119", "server-tools"),
        ("advisor_20260301", "server-tools"),
        ("memory_20250818", "memory-tool"),
        ("mcp_toolset", "mcp"),
        ("weather_20300101", "unknown-tool"),
        ("bash_20250124_remote", "unknown-tool"),
        (7, "unknown-tool"),
    ],
)
def test_other_tools(type, reason):
    """Tools that upstream runs, or may run, are; one is enough."""
    assert no_keep_call({**PLAIN, "tools": [{"name": "mine"}, {"name": "t", "type": type}]}) == reason


@pytest.mark.parametrize(
    ("field", "reason"),
    [
        ({"container": "c"}, "container"),
        ({"mcp_servers": [{"url": "u"}]}, "mcp"),
        ({"thread": {"type": "create"}}, "thread"),
        ({"diagnostics": {"previous_message_id": "m"}}, "diagnostics"),
        ({"fallback_credit_token": "t"}, "fallback-credit"),
        ({"max_tokens": 0}, "prewarm"),
    ],
)
def test_fields(field, reason):
    """What reaches outside of the call is not kept; what is null or empty reaches nowhere."""
    assert no_keep_call({**PLAIN, **field}) == reason
    if "max_tokens" not in field:
        assert no_keep_call({**PLAIN, **dict.fromkeys(field)}) == ""


@pytest.mark.parametrize(("type", "reason"), [("url", "url-source"), ("file", "file-source"), ("base64", "")])
def test_sources(type, reason):
    """What is fetched from elsewhere is not kept, wherever in the call it is named."""
    image = {"type": "image", "source": {"type": type}}

    assert no_keep_call(saying({"type": "text", "text": "x"}, image)) == reason
    assert no_keep_call(saying({"type": "tool_result", "content": [image]})) == reason
    assert no_keep_call(saying({"type": "document", "source": {"type": "content", "content": [image]}})) == reason


def test_words_are_not_sources():
    """A tool's input that merely looks like a source is the caller's own matter."""
    assert no_keep_call(saying({"type": "tool_use", "input": {"source": {"type": "url"}}})) == ""


def test_container_upload():
    """A file handed to a container is outside of the call."""
    assert no_keep_call(saying({"type": "container_upload", "file_id": "f"})) == "container"


@pytest.mark.parametrize("stop_reason", ["end_turn", "max_tokens", "stop_sequence", "tool_use"])
def test_whole_answers(stop_reason):
    """An answer that ended by itself is kept."""
    assert no_keep_message({**MESSAGE, "stop_reason": stop_reason}) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stop_reason": "refusal"}, "refusal"),
        ({"stop_reason": "pause_turn"}, "pause-turn"),
        ({"stop_reason": "model_context_window_exceeded"}, "stop-reason"),
        ({"stop_reason": "compaction"}, "stop-reason"),
        ({"stop_reason": "of_tomorrow"}, "stop-reason"),
        ({"stop_reason": None}, "bad-message"),
        ({"type": "error"}, "bad-message"),
        ({"container": {"id": "c"}}, "container"),
        ({"usage": {"server_tool_use": {"web_search_requests": 1}}}, "server-tools"),
        ({"content": [{"type": "server_tool_use"}]}, "server-tools"),
        ({"content": [{"type": "web_search_tool_result"}]}, "server-tools"),
        ({"content": [{"type": "mcp_tool_use"}]}, "mcp"),
        ({"content": [{"type": "fallback"}]}, "fallback"),
        ({"content": [{"type": "container_upload"}]}, "container"),
    ],
)
def test_other_answers(change, reason):
    """Half answers, refusals, and what upstream found outside of the call are not."""
    assert no_keep_message({**MESSAGE, **change}) == reason


def test_unused_server_tools():
    """Counts of zero say that no server tool was used; a block we do not know is replayed as it came."""
    usage = {"server_tool_use": {"web_search_requests": 0}}
    assert no_keep_message({**MESSAGE, "usage": usage, "content": [{"type": "poem"}]}) == ""


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "content", "source", "x"]), inner),
    max_leaves=10,
)
FIELDS = ["tools", "messages", "system", "content", "usage", "stop_reason", "type", "container", "max_tokens"]


@given(st.dictionaries(st.sampled_from(FIELDS), anything))
def test_any_shape(value):
    """Whatever the JSON looks like, there is an answer, and it is a token that the module's table explains."""
    for reason in (no_keep_call(value), no_keep_message(value)):
        assert reason == "" or re.search(rf"^\| {reason} \|", policy.__doc__, re.MULTILINE)
