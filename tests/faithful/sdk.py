"""What the official SDK makes of an answer, whole or as events, whoever said it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import anthropic
import httpx2
from anthropic import types
from anthropic.types import beta
from pydantic import BaseModel


def whole(payload: bytes | dict[str, Any], *, is_beta: bool = False) -> dict[str, Any]:
    """Return the message that the SDK reads from a JSON answer."""
    model = beta.BetaMessage if is_beta else types.Message
    return _dump(model.model_validate(payload) if isinstance(payload, dict) else model.model_validate_json(payload))


def told(streams: Sequence[bytes], *, is_beta: bool = False) -> Iterator[dict[str, Any]]:
    """Yield the final message that the SDK puts together from each stream of events."""
    waiting = iter(streams)

    def answer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=next(waiting))

    with httpx2.Client(transport=httpx2.MockTransport(answer)) as transport:
        client = anthropic.Anthropic(api_key="x", base_url="http://127.0.0.1", http_client=transport)
        resource = client.beta.messages if is_beta else client.messages
        for _ in streams:
            with resource.stream(model="m", max_tokens=5, messages=[]) as stream:
                yield _dump(stream.get_final_message())


def _dump(message: BaseModel) -> dict[str, Any]:
    # Without nulls: the stream's class has a member more, which is null unless the SDK parsed something.
    return message.model_dump(mode="json", exclude_none=True, warnings=False)
