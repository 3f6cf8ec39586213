"""
One call to one endpoint: what each of them needs of it, whatever it then says.

A body comes in parts and is hashed on its way, so that the journal knows what was sent even where nothing holds it. An answer
is either a value, or parts that go out one by one, in the encoding that was agreed on and with the fault that was ordered.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from headrace.simulator.breaking import BREAKS, break_off
from headrace.simulator.encodings import encoder
from headrace.simulator.faults import Kind, Rule
from headrace.simulator.journal import Journal, Visit
from headrace.simulator.refusals import Refused, invalid

_MOST_JSON = 32_000_000


@dataclass(slots=True)
class Call:
    """
    A call that is allowed in.

    Args:
        headers: of the answer.
        ids: what its path has in place of the `{}` of its route.
        rule: the fault that its answer meets on the way out.
        encoding: of the answer; empty: none.
    """

    request: web.BaseRequest
    visit: Visit
    journal: Journal
    headers: dict[str, str]
    ids: tuple[str, ...] = ()
    rule: Rule | None = None
    encoding: str = ""

    @property
    def version(self) -> str:
        return self.request.headers.get("anthropic-version", "").strip()

    @property
    def is_beta(self) -> bool:
        return bool(self.request.headers.get("anthropic-beta", "").strip())

    async def parts(self, most: int = 0) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes; more than *most* bytes is 413, and 0 is no limit. Close it if you leave early."""
        if most and (self.request.content_length or 0) > most:
            raise _too_large()
        self._welcome()
        digest, size = sha256(), 0
        try:
            while part := await self.request.content.readany():
                digest.update(part)
                size += len(part)
                if most and size > most:
                    raise _too_large()
                yield part
        except (web.RequestPayloadError, HttpProcessingError):
            raise invalid("The request body could not be read") from None
        finally:
            self.journal.weigh(self.visit, size, digest.hexdigest())

    async def body(self, most: int = _MOST_JSON) -> bytes:
        """Return the whole body."""
        held = bytearray()
        async for part in self.parts(most):
            held += part
        return bytes(held)

    async def fields(self, most: int = _MOST_JSON) -> dict[str, Any]:
        """Return the JSON object that the body is; no body is an empty one."""
        raw = await self.body(most)
        try:
            value = msgspec.json.decode(raw or b"{}")
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise invalid(f"The request body is not valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise invalid("Input should be an object")
        return value

    async def drain(self) -> None:
        """Take the body in and let it go."""
        async with aclosing(self.parts()) as parts:
            async for _ in parts:
                pass

    def say(self, value: object, status: int = 200) -> web.Response:
        """Answer with a value, in JSON."""
        return web.Response(
            status=status, body=msgspec.json.encode(value), headers=self.headers | {"content-type": "application/json"}
        )

    async def stream(self, parts: Iterable[bytes], content_type: str, length: int | None = None) -> web.StreamResponse:
        """Answer part by part, no faster than it is read; *length* in bytes where it is known."""
        response = web.StreamResponse(headers=self.headers | {"content-type": content_type})
        packed = encoder(self.encoding)
        if packed:
            response.headers["content-encoding"] = self.encoding
        elif length is not None:
            response.content_length = length
        await response.prepare(self.request)
        if self.request.method == "HEAD":
            return response
        for number, part in enumerate(parts):
            if self._breaks_before(number):
                break
            await response.write(packed.encode(part) if packed else part)
        if self.rule and self.rule.kind in BREAKS:
            await break_off(self.request, self.rule)
        elif packed:
            await response.write(packed.finish())
        return response

    def _breaks_before(self, number: int) -> bool:
        if self.rule is None or self.rule.kind not in BREAKS:
            return False
        return number >= (self.rule.after_deltas if self.rule.after_deltas is not None else 1)

    def _welcome(self) -> None:
        """Tell a caller who asks whether to go on to do so: only now is it known that its body is wanted."""
        if self.request.headers.get("expect", "").lower() == "100-continue" and self.request.transport is not None:
            self.request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


async def halved(call: Call, response: web.StreamResponse) -> web.StreamResponse:
    """Send an answer that is ready only up to its middle, where that is the fault ordered for it."""
    rule = call.rule
    if rule is None or rule.kind not in BREAKS or response.prepared or not isinstance(response, web.Response):
        return response
    body = response.body if isinstance(response.body, bytes) else b""
    half = web.StreamResponse(status=response.status, headers=response.headers)
    half.content_length = len(body)
    await half.prepare(call.request)
    await half.write(body[: len(body) // 2])
    # What is announced and does not come must not look like an end, however clean the rule wants it.
    await break_off(call.request, msgspec.structs.replace(rule, clean=False))
    return half


def breaks_before_headers(rule: Rule) -> bool:
    """Whether nothing at all is answered."""
    return rule.kind in (Kind.HANG, Kind.RESET) and rule.after_deltas is None


def _too_large() -> Refused:
    return Refused(413, "request_too_large", "Request exceeds the maximum size")
