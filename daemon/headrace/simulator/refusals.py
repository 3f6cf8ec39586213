"""How the API says no: a status, an error type, a sentence, and now and then details and a `retry-after`."""

from __future__ import annotations

from typing import Any

import msgspec

EXTRA = "Extra inputs are not permitted"


class Refused(Exception):
    """
    A call is answered with an error.

    `outcome` is the word under which it is counted: the error type, unless the reason is more telling.
    """

    def __init__(
        self,
        status: int,
        type: str,
        message: str,
        *,
        outcome: str = "",
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.type, self.message = status, type, message
        self.outcome = outcome or type
        self.details = details
        self.headers = headers or {}

    def body(self, request_id: str) -> bytes:
        """Return the error in Anthropic's shape."""
        return msgspec.json.encode({"type": "error", "error": self.error(), "request_id": request_id})

    def openai_body(self) -> bytes:
        """Return the error in OpenAI's shape."""
        code = (self.details or {}).get("error_code")
        return msgspec.json.encode({"error": {"type": self.type, "message": self.message, "code": code, "param": None}})

    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = {"type": self.type, "message": self.message}
        return error | {"details": self.details} if self.details else error


def invalid(message: str) -> Refused:
    """Return the commonest one: 400, the body is wrong."""
    return Refused(400, "invalid_request_error", message)


def demand(holds: bool, sentence: str) -> None:
    """Refuse with that sentence what does not hold."""
    if not holds:
        raise invalid(sentence)


def seconds(value: float) -> str:
    """Write a time as `retry-after` has it: whole seconds if it is whole, else up to three decimals."""
    return f"{value:.3f}".rstrip("0").rstrip(".")
