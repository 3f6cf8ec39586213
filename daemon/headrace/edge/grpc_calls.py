"""What every RPC of ours has in common: bytes in and out, who asks, and how errors end it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import structlog
from google.protobuf.message import DecodeError, Message
from multidict import CIMultiDict

from headrace import observe
from headrace.callers import Callers
from headrace.edge import status
from headrace.edge.http_asks import credential, presented_keys
from headrace.errors import HeadraceError, InvalidCall, UnknownCaller
from headrace.model import Caller

M = TypeVar("M", bound=Message)
Handler = Callable[[Any, Any], Awaitable[bytes | None]]  # the request, in bytes or as an iterator of them, and the context
Method = Callable[[Any, Any, Any], Awaitable[bytes | None] | bytes]

log = structlog.get_logger()


def guarded(method: Method) -> Callable[[Any, Any, Any], Awaitable[bytes | None]]:
    """
    End the RPC as `status` says when the method raises; cancellation passes.

    A method that knows its response at once may return that itself, and be no coroutine: a hit is spared one.
    """

    @functools.wraps(method)
    async def run(self: Any, raw: Any, context: Any) -> bytes | None:
        try:
            said = method(self, raw, context)
            return said if isinstance(said, bytes) else await said
        except HeadraceError as error:
            failed: Exception = error
        except Exception as error:
            if context.done():
                return None  # the caller has gone, and what we were writing with it
            log.exception(observe.CALL_FAILED, edge="grpc", kind=type(error).__name__)
            failed = error
        if not getattr(failed, "is_told", False):
            observe.ERRORS.inc("grpc", getattr(failed, "reason", HeadraceError.reason))
        await status.abort(context, failed)
        return None

    return run


def parse(cls: type[M], raw: bytes) -> M:
    """Return the message; `InvalidCall` if the bytes are none."""
    try:
        return cls.FromString(raw)
    except DecodeError as error:
        name = cls.DESCRIPTOR.full_name
        raise InvalidCall(f"the request is no {name}: its bytes do not parse", metadata={"field": name}) from error


class Keys(NamedTuple):
    """
    What was presented with a call.

    Args:
        ours: the key that says who asks; "" where none is needed.
        own: the caller's own key for upstream; "" unless that is what goes there.
        scope: tells this caller's bytes from another's same bytes; the name in the bytes themselves apart.
    """

    ours: str = ""
    own: str = ""
    scope: bytes = b""


_NONE = Keys()


class _Presented(NamedTuple):
    # What the metadata of this RPC present; the key is one of ours, or "" where none is needed.
    metadata: CIMultiDict[str]
    key: str = ""
    name: str = ""


# Each RPC is a task of its own, so that this is its own too: what was found out before it was read need not be found out again.
_presented: ContextVar[_Presented] = ContextVar("presented")


class Who:
    """
    Finds out who asks. Metadata is looked at only where keys matter: it costs as much as the rest of a hit.

    Args:
        passes_credentials: callers' own keys go upstream (`upstream.credentials = "caller"`).
    """

    def __init__(self, callers: Callers, *, passes_credentials: bool) -> None:
        self._callers = callers
        self._passes_credentials = passes_credentials

    def admit(self, metadata: Iterable[tuple[str, str]]) -> None:
        """
        Find out from the metadata who asks, before anything of the RPC is read; `keys` knows it from then on.

        Raises `UnknownCaller` for a stranger: whoever presents no key of ours there costs nothing more.
        """
        if self.asks_for_keys:
            _presented.set(self._read(metadata))

    def keys(self, context: Any, headers: Mapping[str, str] | None = None) -> Keys:
        """
        Return what is presented; raises `UnknownCaller` where that does not do.

        A caller's own key for upstream may be in the *headers* of a request inside the RPC, too.
        """
        if not self.asks_for_keys:
            return _NONE
        presented = _presented.get(None) or self._read(context.invocation_metadata() or ())
        own_key = self._own_key(presented.metadata, headers or {}) if self._passes_credentials else ""
        return Keys(presented.key, own_key, f"{presented.name}\n{own_key}".encode("utf-8", "surrogateescape"))

    def _read(self, metadata: Iterable[tuple[str, str]]) -> _Presented:
        # Several of one name are several: a key of ours may be the second.
        said = CIMultiDict(metadata)
        if not self._callers.required:
            return _Presented(said)
        key = self._callers.ours(presented_keys(said))
        return _Presented(said, key, self._callers.identify(key, "").name)

    @staticmethod
    def _own_key(metadata: Mapping[str, str], headers: Mapping[str, str]) -> str:
        if own_key := credential(headers) or credential(metadata):
            return own_key
        raise UnknownCaller("Send your own key for upstream in the metadata x-api-key or authorization (Bearer).")

    def identify(self, key: str, named: str) -> Caller:
        """Return the caller."""
        return self._callers.identify(key, named)

    @property
    def asks_for_keys(self) -> bool:
        """Whether a key decides anything: who asks, or whose key goes upstream."""
        return self._callers.required or self._passes_credentials

    @property
    def required(self) -> bool:
        """Whether callers must present keys."""
        return self._callers.required
