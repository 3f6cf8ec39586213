"""
What is said to upstream: a call as a request, with the headers that are ours, its caller's, or nobody's to say.

A caller must not be able to write a request of its own into ours, so what HTTP cannot carry is refused here, unsent.
"""

from __future__ import annotations

import functools
import re
from collections.abc import AsyncIterator, Callable

from headrace import built, endpoints
from headrace.errors import AttemptFailed, Failure, UpstreamError
from headrace.heads import is_sendable
from headrace.model import Call, Errand, Headers
from headrace.trace import said
from headrace.upstream.carrying import Body, onward
from headrace.upstream.transport import InvalidURL, Request

# The name of a header: RFC 9110, section 5.6.2. The same few come with every call.
_is_name = functools.lru_cache(256)(re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+").fullmatch)
_VIA = "1.1 headrace"
_USER_AGENT = f"headrace/{built.version()}"
_OURS = (("via", _VIA), ("user-agent", _USER_AGENT))
_OF_A_WHOLE = (*_OURS, ("accept", "application/json"), ("accept-encoding", "gzip"))
# A stream uncompressed: a compressor may hold events back.
_OF_A_STREAM = (*_OURS, ("accept", "text/event-stream"), ("accept-encoding", "identity"))

# Ours to say, or of one hop only; never passed on from a caller.
_NOT_PASSED_ON = frozenset({
    "accept", "accept-encoding", "anthropic-beta", "anthropic-version", "authorization", "connection", "content-length",
    "content-type", "cookie", "expect", "host", "keep-alive", "proxy-authorization", "te", "trailer", "transfer-encoding",
    "upgrade", "user-agent", "x-api-key",
})  # fmt: skip


class Requests:
    """
    Makes requests.

    Args:
        target: spells a path and query as a request names them; raises `InvalidURL`.
        api_key, admin_key: return our own keys, each time anew.
        version: `anthropic-version` where a call names none.
        gap_s: how long a stream may say nothing.
    """

    def __init__(
        self,
        target: Callable[[str], str],
        api_key: Callable[[], str],
        admin_key: Callable[[], str],
        *,
        version: str,
        gap_s: float,
    ) -> None:
        self._target = functools.lru_cache(64)(target)
        self._api_key, self._admin_key, self._version = api_key, admin_key, version
        self._gap_s = gap_s

    def __repr__(self) -> str:
        return f"<Requests [{self._version}]>"

    def of(self, call: Call) -> Request:
        """Return the request of a call; raises `AttemptFailed` for one that cannot be sent."""
        # Of a whole answer the bound of all of it is the bound of its silence, too.
        return self._sendable(call, self._headers(call), call.body, read_s=self._gap_s if call.stream else None)

    def carried(self, call: Errand, headers: Headers, body: Body) -> Request:
        """Return the request of a call that is carried as it came; raises `AttemptFailed` for one that cannot be sent."""
        named = dict(headers)
        given = [*onward(headers), ("via", _VIA), *said(call.trace), self._key(call)]
        if "accept" not in named:
            given.append(("accept", "*/*"))
        if "accept-encoding" not in named:
            given.append(("accept-encoding", "identity"))  # by saying nothing, one would take any
        if "user-agent" not in named:
            given.append(("user-agent", _USER_AGENT))
        if "anthropic-version" not in named:
            given.append(("anthropic-version", call.version or self._version))
        content = body.content if isinstance(body.content, bytes) else body.chunks()
        return self._sendable(call, given, content, body.length)

    def _sendable(
        self,
        call: Errand,
        headers: list[tuple[str, str]],
        body: bytes | AsyncIterator[bytes],
        length: int | None = None,
        read_s: float | None = None,
    ) -> Request:
        # A line end in a value, or a colon in a name, would let a caller write headers of its own. All else upstream judges.
        if not is_sendable("".join([value for _, value in headers])):
            raise _unsendable("a header value holds a line end or a NUL, which HTTP cannot carry")
        if not all(map(_is_name, dict(headers))):
            raise _unsendable("the name of a header holds characters that HTTP cannot carry, or is empty")
        try:
            target = self._target(call.path)
        except InvalidURL as error:
            raise _unsendable(f"path and query are no URL: {error}") from error
        return Request(call.method, target, headers, body, length, read_s)

    def _headers(self, call: Call) -> list[tuple[str, str]]:
        headers = [
            *(_OF_A_STREAM if call.stream else _OF_A_WHOLE),
            ("anthropic-version", call.version or self._version),
            *said(call.trace),
            self._key(call),
        ]
        if call.body:
            headers.append(("content-type", "application/json"))
        if call.betas:
            headers.append(("anthropic-beta", ",".join(call.betas)))
        if call.headers:
            headers += ((name, value) for name, value in call.headers if name.lower() not in _NOT_PASSED_ON)
        return headers

    def _key(self, call: Errand) -> tuple[str, str]:
        if call.credential:
            return _credential(call.credential)
        if endpoints.find(call.method, call.path.partition("?")[0]).is_admins:
            return "x-api-key", self._admin_key()
        # The compatible endpoint is OpenAI's in this, too.
        key = self._api_key()
        return ("authorization", f"Bearer {key}") if call.endpoint == endpoints.CHAT.name else ("x-api-key", key)


def _unsendable(message: str) -> AttemptFailed:
    error = UpstreamError(message, status=400, type="invalid_request_error")
    return AttemptFailed(Failure.FINAL, error, sent=False)


def _credential(credential: str) -> tuple[str, str]:
    # As the caller presented it: "x-api-key:..." or "bearer:...".
    scheme, _, key = credential.partition(":")
    return ("authorization", f"Bearer {key}") if scheme == "bearer" else ("x-api-key", key)
