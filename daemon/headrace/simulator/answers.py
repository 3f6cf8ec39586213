"""
Answers that were ordered: what the simulator says at paths that it knows nothing of, or in place of what it would say.

So that a test can show "an endpoint that the API will have", with the status, headers and bytes that it wants.
"""

from __future__ import annotations

import asyncio
import base64
from fnmatch import fnmatchcase
from typing import Any

import msgspec
from aiohttp import web

from headrace.simulator.call import Call


class Answer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """
    What is answered at a path.

    Args:
        path, method: globs.
        json: a value, sent as JSON; text, base64: bytes as they are. One of the three.
        parts: pieces of text, each sent by itself, `pause_s` after the last one: a stream.
    """

    path: str
    method: str = "*"
    status: int = 200
    headers: dict[str, str] = {}
    json: Any | msgspec.UnsetType = msgspec.UNSET
    text: str = ""
    base64: str = ""
    parts: list[str] = []
    pause_s: float = 0.0

    def __post_init__(self) -> None:
        if not self.path.startswith("/v1/"):
            raise ValueError(f"path is {self.path!r}; it should begin with /v1/")
        if not 200 <= self.status <= 599:
            raise ValueError(f"status is {self.status}; it should be from 200 to 599")
        base64.b64decode(self.base64, validate=True)

    @property
    def body(self) -> bytes:
        if self.json is not msgspec.UNSET:
            return msgspec.json.encode(self.json)
        return base64.b64decode(self.base64) if self.base64 else self.text.encode()


class Answers:
    """The answers in force; the newest that fits is given."""

    def __init__(self) -> None:
        self._answers: list[Answer] = []

    def __repr__(self) -> str:
        return f"<Answers [{len(self._answers)}]>"

    def __bool__(self) -> bool:
        return bool(self._answers)

    def add(self, answer: Answer | None = None, **parts: Any) -> None:
        """Order an answer, either whole or by its parts: `add(path="/v1/new", json={})`."""
        self._answers.append(answer or msgspec.convert(parts, Answer))

    def clear(self) -> None:
        self._answers.clear()

    def listed(self) -> list[Any]:
        return [msgspec.to_builtins(answer) for answer in self._answers]

    def find(self, method: str, path: str) -> Answer | None:
        fits = (a for a in reversed(self._answers) if fnmatchcase(path, a.path) and fnmatchcase(method, a.method))
        return next(fits, None)


async def give(answer: Answer, call: Call) -> web.StreamResponse:
    """Take the call's body in, and give the answer."""
    await call.drain()
    kind = {} if answer.json is msgspec.UNSET else {"content-type": "application/json"}
    headers = call.headers | kind | answer.headers
    if not answer.parts:
        return web.Response(status=answer.status, headers=headers, body=answer.body)
    response = web.StreamResponse(status=answer.status, headers=headers)
    await response.prepare(call.request)
    for number, part in enumerate(answer.parts):
        if number:
            await asyncio.sleep(answer.pause_s)
        await response.write(part.encode())
    return response
