"""
Answers and errors as bytes, for whatever outlives a process or leaves it: tickets, and flights followed from other hosts.

A JSON header, a newline, the raw payload: never pickle, nothing re-encoded, and an error comes back as the class it was.
"""

from __future__ import annotations

import json
from typing import Any

import msgspec

from headrace import errors
from headrace.errors import HeadraceError, UpstreamError
from headrace.model import Answer, Form, Usage

_ERRORS = {
    cls.__name__: cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, HeadraceError) and cls is not errors.AttemptFailed
}


def encode_answer(answer: Answer) -> bytes:
    """Return an answer as bytes."""
    usage = answer.usage
    head = {
        "form": answer.form,
        "created": answer.created,
        "request_id": answer.request_id,
        "no_keep": answer.no_keep,
        "usage": [
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_creation_input_tokens,
            usage.cache_read_input_tokens,
            usage.known,
        ],
    }
    return msgspec.json.encode(head) + b"\n" + answer.payload


def decode_answer(raw: bytes) -> Answer:
    """Return the answer that `encode_answer` made these bytes of; ValueError if it did not."""
    head_bytes, _, payload = raw.partition(b"\n")
    head = _decode(head_bytes)
    try:
        return Answer(
            form=Form(head["form"]),
            payload=payload,
            created=head["created"],
            usage=Usage(*head["usage"]),
            request_id=head["request_id"],
            no_keep=head["no_keep"],
        )
    except (KeyError, TypeError) as error:
        raise ValueError("not an encoded answer") from error


def encode_error(error: HeadraceError) -> bytes:
    """Return an error as bytes, upstream's exact body included."""
    head: dict[str, Any] = {
        "class": type(error).__name__,
        "message": error.message,
        "retry_after_s": error.retry_after_s,
        "metadata": error.metadata,
    }
    body = b""
    if isinstance(error, UpstreamError):
        head |= {"status": error.status, "type": error.type, "headers": error.headers}
        body = error.body
    try:
        said = msgspec.json.encode(head)
    except UnicodeEncodeError:  # a header with bytes that are no UTF-8: they travel as lone surrogates
        said = json.dumps(head).encode()
    return said + b"\n" + body


def decode_error(raw: bytes) -> HeadraceError:
    """Return the error that `encode_error` made these bytes of; a class that we do not know comes back as the root's."""
    head_bytes, _, body = raw.partition(b"\n")
    head = _decode(head_bytes)
    cls = _ERRORS.get(head.get("class", ""), HeadraceError)
    common: dict[str, Any] = {"retry_after_s": head.get("retry_after_s"), "metadata": head.get("metadata")}
    message = str(head.get("message", ""))
    if issubclass(cls, UpstreamError):
        headers = tuple((name, value) for name, value in head["headers"])
        return cls(message, status=head["status"], type=head["type"], body=body, headers=headers, **common)
    return cls(message, **common)


def _decode(head: bytes) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(head, type=dict[str, Any])
    except msgspec.ValidationError as error:
        raise ValueError("not something that we encoded") from error
    except msgspec.DecodeError:
        decoded = json.loads(head)
    return decoded
