"""
What was asked and said, as bytes, for whatever outlives a process or leaves it: kept entries, tickets, logs of flights.

One format for all: a JSON head, a newline, the raw payload. Never a pickle, nothing re-encoded, and an error comes back as the
class it was. Fields may be added to a head; a reader that does not know them skips them, and takes the default for those that
an older writer left out. `_pack` and `_unpack` are the only way out and in: whoever wants it sealed seals it there.
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec

from headrace import errors
from headrace.errors import HeadraceError, UpstreamError
from headrace.model import Answer, Event, Form, Headers, Usage

H = TypeVar("H")

VERSION = 1  # of the heads; change it when a reader of today's would misread what is written then

_ERRORS = {
    cls.__name__: cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, HeadraceError) and cls is not errors.AttemptFailed
}


# What messages and books can hold; nothing that we write is more.
_Tokens = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Times = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]
_Status = Annotated[int, msgspec.Meta(ge=100, le=999)]


class _AnswerHead(msgspec.Struct):
    form: Form
    created: float
    usage: tuple[_Tokens, _Tokens, _Tokens, _Tokens, bool]
    request_id: str = ""
    no_keep: str = ""
    is_kept: bool = False
    headers: Headers = ()
    version: int = VERSION
    cache_creation_1h_input_tokens: _Tokens = 0
    tier: str = ""


class _ErrorHead(msgspec.Struct):
    cls: str = msgspec.field(name="class", default="")
    message: str = ""
    retry_after_s: float | None = None
    metadata: dict[str, str] | None = None
    status: _Status = 502
    type: str = "api_error"
    headers: Headers = ()


class EventHead(msgspec.Struct, omit_defaults=True):
    """
    What is known of the flight in which an event was said.

    Args:
        name: the event's.
        data_bytes: the size of its data, which come before its raw bytes.
        headers: upstream's; with a stream's first event only.
    """

    name: str
    data_bytes: _Tokens
    attempts: _Times = 1
    request_id: str = ""
    headers: Headers = ()


def encode_answer(answer: Answer) -> bytes:
    """Return an answer as bytes."""
    usage = answer.usage
    head = _AnswerHead(
        form=answer.form,
        created=answer.created,
        usage=(
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_creation_input_tokens,
            usage.cache_read_input_tokens,
            usage.known,
        ),
        request_id=answer.request_id,
        no_keep=answer.no_keep,
        is_kept=answer.is_kept,
        headers=_spelled(answer.headers),
        cache_creation_1h_input_tokens=usage.cache_creation_1h_input_tokens,
        tier=usage.tier,
    )
    return _pack(head, answer.payload)


def decode_answer(raw: bytes) -> Answer:
    """Return the answer that `encode_answer` made these bytes of; ValueError if it did not."""
    head, payload = _unpack(raw, _AnswerHead)
    if head.version != VERSION:
        raise ValueError("an answer that another version of ours encoded")
    return Answer(
        form=head.form,
        payload=payload,
        created=head.created,
        usage=Usage(*head.usage, head.cache_creation_1h_input_tokens, head.tier),
        request_id=head.request_id,
        no_keep=head.no_keep,
        is_kept=head.is_kept,
        headers=_unspelled(head.headers),
    )


def encode_event(event: Event, *, attempts: int, request_id: str, headers: Headers) -> bytes:
    """Return an event as bytes, with what is known of the flight it happened in."""
    head = EventHead(event.name, len(event.data), attempts, request_id, _spelled(headers))
    return _pack(head, event.data + event.raw)


def decode_event(raw: bytes) -> tuple[Event, EventHead]:
    """Return what `encode_event` made these bytes of; ValueError if it did not."""
    head, said = _unpack(raw, EventHead)
    head.headers = _unspelled(head.headers)
    return Event(head.name, said[: head.data_bytes], said[head.data_bytes :]), head


def encode_error(error: HeadraceError) -> bytes:
    """Return an error as bytes, upstream's exact body included."""
    metadata = {name: _clean(value) for name, value in error.metadata.items()}
    head = _ErrorHead(type(error).__name__, _clean(error.message), error.retry_after_s, metadata)
    body = b""
    if isinstance(error, UpstreamError):
        head.status, head.type, head.headers = error.status, _clean(error.type), _spelled(error.headers)
        body = error.body
    return _pack(head, body)


def decode_error(raw: bytes) -> HeadraceError:
    """Return the error that `encode_error` made these bytes of; a class that we do not know comes back as the root's."""
    head, body = _unpack(raw, _ErrorHead)
    cls = _ERRORS.get(head.cls, HeadraceError)
    common: dict[str, Any] = {"retry_after_s": head.retry_after_s, "metadata": head.metadata}
    if issubclass(cls, UpstreamError):
        headers = _unspelled(head.headers)
        return cls(head.message, status=head.status, type=head.type, body=body, headers=headers, **common)
    return cls(head.message, **common)


def decode(raw: bytes | memoryview, kind: type[H]) -> H:
    """Return the value of this type that some JSON spells; ValueError for whatever else there is, however deep."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except (ValueError, RecursionError) as error:  # msgspec's are ValueErrors, too
        raise ValueError("not the JSON that it should be") from error


def count(text: str | bytes, most: int = 2**31 - 1) -> int:
    """Return a count as a record spells it; ValueError for what is none, or more than it may be."""
    found = int(text)
    if not 0 <= found <= most:
        raise ValueError("no count of ours")
    return found


# The format.


def _clean(text: str) -> str:
    # An error may quote half a character, which no JSON of ours takes.
    return text if text.isascii() else text.encode(errors="replace").decode()


def _pack(head: msgspec.Struct, payload: bytes) -> bytes:
    return msgspec.json.encode(head) + b"\n" + payload


def _unpack(raw: bytes, head_type: type[H]) -> tuple[H, bytes]:
    head, _, payload = raw.partition(b"\n")
    return decode(head, head_type), payload


# A header's value is any bytes, some of which no JSON takes (PEP 383 hides them in halves of characters). Written down, each of
# its bytes is a character.


def _spelled(headers: Headers) -> Headers:
    return tuple([(name, value.encode("utf-8", "surrogateescape").decode("latin-1")) for name, value in headers])


def _unspelled(headers: Headers) -> Headers:
    return tuple((name, value.encode("latin-1").decode("utf-8", "surrogateescape")) for name, value in headers)
