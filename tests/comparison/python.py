"""
The official Python SDK at either side of a pair, and everything that can be seen of what it does there.

What it sends and gets is taken down byte by byte below it: an answer, and what the SDK makes of it, are two things.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import anthropic
import httpx2
from pydantic import BaseModel

from comparison.pair import ADMIN_KEY, KEY, Side, body, reached, told


@dataclass
class Exchanged:
    """One request and its response."""

    method: str
    target: str
    sent: str
    status: int
    headers: dict[str, str]
    came: Any = None


class Recorder(httpx2.HTTPTransport):
    """A transport that takes down what goes through it."""

    def __init__(self) -> None:
        super().__init__(verify=False, trust_env=False)  # to read certificates takes longer than a call
        self.exchanged: list[Exchanged] = []

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        sent = hashlib.sha256(request.read()).hexdigest()
        response = super().handle_request(request)
        target = request.url.raw_path.decode()
        seen = Exchanged(request.method, target, sent, response.status_code, told(response.headers))
        self.exchanged.append(seen)
        response.stream = _Tee(response.stream, seen)
        return response


class _Tee(httpx2.SyncByteStream):
    def __init__(self, stream: Any, seen: Exchanged) -> None:
        self._stream, self._seen, self._raw = stream, seen, bytearray()

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._stream:
            self._raw += chunk
            yield chunk

    def close(self) -> None:
        self._seen.came = body(bytes(self._raw))
        self._stream.close()


def client(side: Side, recorder: Recorder, caller: str, *, is_admin: bool = False, **headers: str) -> anthropic.Anthropic:
    """Return the SDK; it tries nothing again by itself, and is a caller of its own: nothing is kept for it yet."""
    return anthropic.Anthropic(
        api_key=ADMIN_KEY if is_admin else KEY,
        base_url=side.url,
        max_retries=0,
        http_client=httpx2.Client(transport=recorder, trust_env=False, verify=False),
        default_headers={"x-headrace-caller": caller, **headers},
    )


def observe(side: Side, work: Callable[[anthropic.Anthropic], Any], caller: str, **how: Any) -> dict[str, Any]:
    """Do *work* with the SDK, and return all that was seen, in the form in which it can be compared."""
    recorder = Recorder()
    with client(side, recorder, caller, **how) as sdk:
        try:
            said = plain(work(sdk))
        except anthropic.APIError as error:
            said = wrong(error)
    return checked(side, said, recorder.exchanged)


def checked(side: Side, said: Any, exchanged: list[Exchanged]) -> dict[str, Any]:
    """Put all that was seen together in the form in which it can be compared; what was sent must have arrived as it was."""
    visits = side.journal()
    sent = {one.sent for one in exchanged}
    assert {visit["body_sha256"] for visit in visits if visit["body_bytes"]} <= sent
    seen = {
        "said": said,
        "exchanged": [_less_sent(one) for one in exchanged],
        "reached": [reached(visit) for visit in visits],
    }
    return side.normal(seen)


def plain(value: Any) -> Any:
    """Return what the SDK returned as JSON can hold it; what is iterated is listed."""
    if isinstance(value, BaseModel) and not hasattr(value, "iter_pages"):
        return {"is": type(value).__name__} | value.model_dump(mode="json", warnings=False)
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def wrong(error: anthropic.APIError) -> dict[str, Any]:
    """Return an error as a program sees it: class, status, body."""
    status = getattr(error, "status_code", None)
    names = [kind.__name__ for kind in type(error).__mro__ if issubclass(kind, anthropic.APIError)]
    return {"error": names, "status": status, "body": error.body, "message": error.message}


def _less_sent(one: Exchanged) -> dict[str, Any]:
    return {name: value for name, value in asdict(one).items() if name != "sent"}
