"""What the daemon must know of a body, endpoint by endpoint: bytes in, one frozen value out, without I/O."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace.bodies.parse import kind, parse
from headrace.bodies.pieces import PIECE_BYTES, pieces
from headrace.budget.measure import weigh
from headrace.cache.fingerprint import essence
from headrace.cache.policy import no_keep_call
from headrace.endpoints import CHAT, COUNT_TOKENS, MESSAGES
from headrace.errors import InvalidCall
from headrace.resources.ids import asked_in
from headrace.values import quick
from headrace.weight import Weight

_MOST_TOKENS = 10**15  # more can be no model's, and passes what our own books count
_LARGE_BYTES = 4 * PIECE_BYTES  # of what is longer, no more than a piece is ever there as values
_UNSAID_MAX_TOKENS = 4096  # what a chat without a bound is taken to use at most, until it is settled


@quick(frozen=True, slots=True)
class Reading:
    """
    What a body asks.

    Args:
        model: its name; "" where the endpoint has none.
        max_tokens: the most that the answer may have; 0 where it has none.
        stream: whether events are wanted.
        essence: 32 bytes, equal for bodies that deserve one answer; see `cache/fingerprint.py`.
        no_keep: why an answer may not be kept, or "".
        ids: what it names of what lives at upstream; whatever names any is not kept.
        weight: what it holds, of large ones.
    """

    model: str
    max_tokens: int
    stream: bool
    essence: bytes
    no_keep: str
    ids: tuple[str, ...] = ()
    weight: Weight | None = None


NOTHING = Reading("", 0, stream=False, essence=essence({}, is_finite=True), no_keep="")  # of a call that has no body


def read(raw: bytes, endpoint: str, *, weighs: bool = False) -> Reading:
    """
    Return what a body asks of an endpoint, by its name; `InvalidCall` says what is wrong and what would be right.

    *weighs*: what it holds is found out, too.
    """
    if len(raw) > _LARGE_BYTES:
        of = pieces(raw, endpoint)
        body, known, no_keep, ids = of.body, of.essence, of.no_keep, of.ids
    else:
        body, is_finite = parse(raw)
        known = essence(body, endpoint, is_finite=is_finite)
        no_keep, ids = no_keep_call(body), asked_in(body)
    model, max_tokens = _CHECKS[endpoint](body)
    stream = _stream(body, endpoint)
    no_keep = no_keep or ("file-source" if ids else "")
    return Reading(model, max_tokens, stream, known, no_keep, ids, weigh(raw) if weighs else None)


# What each endpoint must say, as far as the daemon needs it: the model, and how many tokens the answer may have.


def _check_message(body: Mapping[str, Any]) -> tuple[str, int]:
    max_tokens = body.get("max_tokens")
    model = _model(body)
    if not _is_count(max_tokens):
        raise _field_error("max_tokens", "an integer, 0 or more", body)
    _check_conversation(body)
    return model, int(max_tokens)  # type: ignore[arg-type]  # it is a count by now


def _check_count(body: Mapping[str, Any]) -> tuple[str, int]:
    model = _model(body)
    _check_conversation(body)
    return model, 0


def _check_chat(body: Mapping[str, Any]) -> tuple[str, int]:
    model = _model(body)
    _check_conversation(body)
    said = [body[name] for name in ("max_completion_tokens", "max_tokens") if _is_count(body.get(name))]
    return model, said[0] if said else _UNSAID_MAX_TOKENS


_CHECKS = {MESSAGES.name: _check_message, COUNT_TOKENS.name: _check_count, CHAT.name: _check_chat}


def _model(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise _field_error("model", 'a model name, such as "claude-sonnet-4-5"', body)
    return model


def _check_conversation(body: Mapping[str, Any]) -> None:
    if not isinstance(body.get("messages"), list) or not body["messages"]:
        raise _field_error("messages", "a list with at least one message", body)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_TOKENS


def _stream(body: Mapping[str, Any], endpoint: str) -> bool:
    stream = body.get("stream", False)
    if stream is None and endpoint == CHAT.name:
        return False  # in that dialect null for an optional field is absence
    if not isinstance(stream, bool):
        raise _field_error("stream", "true or false", body)
    return stream


def _field_error(name: str, right: str, body: Mapping[str, Any]) -> InvalidCall:
    found = "and is missing" if name not in body else "and is empty" if body[name] in ([], "") else f"not {kind(body[name])}"
    return InvalidCall(f"{name}: must be {right}, {found}", metadata={"field": name})
