"""
What the API checks before it answers, in the order in which it does, with the sentences it says.

`read_ask` turns bytes into an `Ask` or raises `Refused`. Known fields are checked for their type, a few for their value;
anything unknown is refused as the API refuses it, so that a typo shows up in rehearsal and not in production.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from headrace.simulator.refusals import EXTRA, Refused, demand, invalid
from headrace.simulator.tokens import input_tokens
from headrace.simulator.turns import check_messages, is_text, prompt_of

OLD_VERSION = "2023-06-01"
NEW_VERSION = "2026-10-21"
VERSIONS = (OLD_VERSION, NEW_VERSION)
MAX_OUTPUT_TOKENS = 128_000
MIN_THINKING_TOKENS = 1_024


@dataclass(frozen=True, slots=True)
class _Type:
    """A JSON type: does a value have it, and what does the API call it?"""

    name: str
    fits: Callable[[Any], bool]


_INTEGER = _Type("a valid integer", lambda v: isinstance(v, int) and not isinstance(v, bool))
_NUMBER = _Type("a valid number", lambda v: isinstance(v, int | float) and not isinstance(v, bool))
_STRING = _Type("a valid string", lambda v: isinstance(v, str))
_BOOLEAN = _Type("a valid boolean", lambda v: isinstance(v, bool))
_OBJECT = _Type("an object", lambda v: isinstance(v, dict))
_LIST = _Type("a valid list", lambda v: isinstance(v, list))
_STRINGS = _Type("a valid list of strings", lambda v: isinstance(v, list) and all(isinstance(s, str) for s in v))
_TEXT = _Type("a valid string or a list of text blocks", lambda v: isinstance(v, str | list))
_ANY = _Type("anything", lambda v: True)

_INPUT_FIELDS = {
    "model": _STRING, "messages": _LIST, "system": _TEXT, "tools": _LIST, "tool_choice": _OBJECT, "thinking": _OBJECT,
    "cache_control": _OBJECT, "output_config": _OBJECT, "speed": _STRING,
}  # fmt: skip
_FIELDS = _INPUT_FIELDS | {
    "max_tokens": _INTEGER, "stream": _BOOLEAN, "stop_sequences": _STRINGS, "metadata": _OBJECT, "container": _ANY,
    "diagnostics": _OBJECT, "inference_geo": _STRING, "service_tier": _STRING,
}  # fmt: skip
_SAMPLING = {"temperature": _NUMBER, "top_p": _NUMBER, "top_k": _INTEGER}
_BETA_FIELDS = dict.fromkeys(
    (
        "billing_policy", "compaction", "context_management", "fallback_credit_token", "fallbacks", "mcp_servers",
        "output_format", "thread",
    ),
    _ANY,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ask:
    """
    A call that passed the checks.

    Args:
        prompt: the text of the last message that is not the system's.
        input_tokens: what it puts in.
        body: all of it, as parsed.
    """

    model: str
    max_tokens: int
    stream: bool
    prompt: str = field(repr=False)
    input_tokens: int
    body: dict[str, Any] = field(repr=False)


def check_version(version: str) -> None:
    """Refuse a missing `anthropic-version`, and any that was never released."""
    if not version:
        raise invalid("anthropic-version: header is required")
    if version not in VERSIONS:
        raise invalid(f'anthropic-version: "{version[:40]}" is not a valid version')


def read_ask(raw: bytes, *, version: str, beta: bool) -> Ask:
    """Check the body of `POST /v1/messages`."""
    return check_ask(_parse(raw), version=version, beta=beta)


def check_ask(body: dict[str, Any], *, version: str, beta: bool) -> Ask:
    """Check the same, already parsed."""
    sampling = _SAMPLING if version == OLD_VERSION else {}
    _check_fields(body, _FIELDS | sampling | (_BETA_FIELDS if beta else {}), ("model", "max_tokens", "messages"))
    for name in sampling.keys() & body.keys() - {"top_k"}:
        demand(0 <= body[name] <= 1, f"{name}: Input should be between 0 and 1")
    _check_max_tokens(body["max_tokens"], body["model"])
    _check_thinking(body.get("thinking"), body["max_tokens"])
    return _ask(body, version, beta)


def read_count(raw: bytes, *, version: str, beta: bool) -> Ask:
    """Check the body of `POST /v1/messages/count_tokens`: the same without what only matters at run time."""
    body = _parse(raw)
    _check_fields(body, _INPUT_FIELDS | (_BETA_FIELDS if beta else {}), ("model", "messages"))
    return _ask(body, version, beta)


def check_model(model: str) -> None:
    """Refuse a model that cannot exist."""
    if not model.startswith(("claude-", "sim-")) or len(model) > 256:
        raise Refused(404, "not_found_error", f"model: {model[:256]}")


def _ask(body: dict[str, Any], version: str, beta: bool) -> Ask:
    check_messages(body["messages"], is_new=version == NEW_VERSION, beta=beta)
    if isinstance(system := body.get("system"), list):
        for index, block in enumerate(system):
            demand(is_text(block), f"system.{index}: Input should be a text block")
    _check_tools(body.get("tools"), body.get("tool_choice"))
    check_model(body["model"])
    return Ask(
        model=body["model"],
        max_tokens=body.get("max_tokens", 0),
        stream=body.get("stream", False),
        prompt=prompt_of(body["messages"]),
        input_tokens=input_tokens(body),
        body=body,
    )


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        body = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"The request body is not valid JSON: {error}") from None
    demand(isinstance(body, dict), "Input should be an object")
    return body  # type: ignore[no-any-return]  # the line above is its check


def _check_fields(body: Mapping[str, Any], fields: Mapping[str, _Type], required: tuple[str, ...]) -> None:
    for name in required:
        demand(name in body, f"{name}: Field required")
    for name, value in body.items():
        demand(name in fields, f"{name[:100]}: {EXTRA}")
        demand(fields[name].fits(value), f"{name}: Input should be {fields[name].name}")


def _check_max_tokens(max_tokens: int, model: str) -> None:
    demand(max_tokens >= 0, "max_tokens: Input should be greater than or equal to 0")
    most = f"{MAX_OUTPUT_TOKENS}, which is the maximum allowed number of output tokens for {model[:256]}"
    demand(max_tokens <= MAX_OUTPUT_TOKENS, f"max_tokens: {max_tokens} > {most}")


def _check_thinking(thinking: Mapping[str, Any] | None, max_tokens: int) -> None:
    if thinking is None:
        return
    kind = thinking.get("type")
    demand(
        kind in ("enabled", "disabled", "adaptive", "between_tools"),
        "thinking.type: Input should be 'enabled', 'disabled', 'adaptive' or 'between_tools'",
    )
    if kind == "enabled":
        budget = thinking.get("budget_tokens")
        demand(_INTEGER.fits(budget), "thinking.enabled.budget_tokens: Input should be a valid integer")
        enough = f"thinking.enabled.budget_tokens: Input should be greater than or equal to {MIN_THINKING_TOKENS}"
        demand(budget >= MIN_THINKING_TOKENS, enough)  # type: ignore[operator]  # an integer, by the check above
        demand(max_tokens > budget, "`max_tokens` must be greater than `thinking.budget_tokens`")  # type: ignore[operator]  # and so is this one


def _check_tools(tools: list[Any] | None, choice: Mapping[str, Any] | None) -> None:
    for index, tool in enumerate(tools or ()):
        demand(isinstance(tool, dict), f"tools.{index}: Input should be an object")
        if tool.get("type", "custom") == "custom":
            demand(isinstance(tool.get("name"), str), f"tools.{index}.custom.name: Field required")
            demand(isinstance(tool.get("input_schema"), dict), f"tools.{index}.custom.input_schema: Field required")
    if choice is None:
        return
    kind = choice.get("type")
    demand(kind in ("auto", "any", "tool", "none"), "tool_choice.type: Input should be 'auto', 'any', 'tool' or 'none'")
    demand(bool(tools) or kind == "none", "tool_choice: may only be specified while providing tools")
    if kind == "tool":
        names = {tool.get("name") for tool in tools or ()}
        demand(choice.get("name") in names, f"tool_choice.tool.name: Tool '{choice.get('name')}' not found in provided tools")
