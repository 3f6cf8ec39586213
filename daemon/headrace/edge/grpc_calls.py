"""What every RPC of ours has in common: bytes in and out, who asks, and how errors end it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import structlog
from google.protobuf.message import DecodeError, Message
from multidict import CIMultiDict

from headrace import observe, roles
from headrace.callers import Callers, Certified
from headrace.edge import peers, status
from headrace.edge.http_asks import credential, presented_keys
from headrace.errors import HeadraceError, InvalidCall, TooLarge, UnknownCaller
from headrace.model import Caller
from headrace.owner import Owner

M = TypeVar("M", bound=Message)
Handler = Callable[[Any, Any], Awaitable[bytes | None]]  # the request, in bytes or as an iterator of them, and the context
Method = Callable[[Any, Any, Any], Awaitable[bytes | None] | bytes]

log = structlog.get_logger()

_MAX_BYTES = 262_144  # of a message that is parsed in the loop: what is in it may be many small things


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


def parse(cls: type[M], raw: bytes, *, most_bytes: int | None = _MAX_BYTES) -> M:
    """Return the message; `InvalidCall` if the bytes are none, and `TooLarge` for more than may be parsed in the loop."""
    if most_bytes is not None and len(raw) > most_bytes:
        raise TooLarge(f"{cls.DESCRIPTOR.full_name}: has {len(raw):,} bytes; without a prompt it may have {most_bytes:,}")
    try:
        return cls.FromString(raw)
    except DecodeError as error:
        name = cls.DESCRIPTOR.full_name
        raise InvalidCall(f"the request is no {name}: its bytes do not parse", metadata={"field": name}) from error


class Keys(NamedTuple):
    """
    What was presented with a call.

    Args:
        ours: the key that says who asks, or what stands for one (`Callers.ours`); "" where none is needed.
        own: the caller's own key for upstream; "" unless that is what goes there.
        scope: tells this caller's bytes from another's same bytes; the name in the bytes themselves apart.
    """

    ours: str = ""
    own: str = ""
    scope: bytes = b""


_NONE = Keys()


class Asker(NamedTuple):
    """
    Who asks for an RPC of ours, that may.

    Args:
        owner: whose things are its own.
        own: its own key for upstream; "" unless that is what goes there.
        is_limited: whether it is limited to those.
    """

    caller: Caller
    owner: Owner
    own: str
    is_limited: bool


class Who:
    """
    Finds out who asks. Metadata is looked at only where keys matter: it costs as much as the rest of a hit.

    Args:
        passes_credentials: callers' own keys go upstream (`upstream.credentials = "caller"`).
    """

    def __init__(self, callers: Callers, *, passes_credentials: bool) -> None:
        self._callers = callers
        self._passes_credentials = passes_credentials

    def keys(self, context: Any, headers: Mapping[str, str] | None = None) -> Keys:
        """
        Return what is presented; raises `UnknownCaller` where that does not do.

        It is looked for in the *headers* of a request inside the RPC and in the metadata: whichever is one of ours counts.
        """
        if not self.asks_for_keys:
            return _NONE
        # Several of one name are several: a key of ours may be the second.
        metadata = CIMultiDict(context.invocation_metadata() or ())
        metadata.extend(headers or {})
        own_key = credential(headers or {}) or credential(metadata) if self._passes_credentials else ""
        if self._passes_credentials and not own_key:
            raise UnknownCaller("Send your own key for upstream in the metadata x-api-key or authorization (Bearer).")
        names = peers.of_grpc(context) if self._callers.knows_certificates else ()
        key = self._callers.ours(presented_keys(metadata), names) if self._callers.required or names else ""
        is_known = self._callers.required or type(key) is Certified
        name = self._callers.identify(key, "").name if is_known else ""
        return Keys(key, own_key, f"{name}\n{own_key}".encode("utf-8", "surrogateescape"))

    def identify(self, key: str, named: str) -> Caller:
        """Return the caller."""
        return self._callers.identify(key, named)

    def ask(self, context: Any, rpc: str, named: str = "") -> Asker:
        """Return who asks for an RPC ("TicketsService.GetTicket"); raises `NotAllowed` if that may not (roles.py)."""
        key, own_key, _ = self.keys(context)
        if self._passes_credentials and not named:
            named = dict(context.invocation_metadata() or ()).get("x-headrace-caller", "")
        caller, rule = self.identify(key, named), roles.of_rpc(rpc)
        rule.check(caller.role)
        is_limited = rule.is_limited(caller.role, told_apart=self.tells_apart)
        return Asker(caller, Owner.of(caller.name, own_key), own_key, is_limited)

    @property
    def tells_apart(self) -> bool:
        """Whether callers are told apart by what they present, and not only by what they say."""
        return self.asks_for_keys

    @property
    def asks_for_keys(self) -> bool:
        """Whether a key or a certificate decides anything: who asks, or whose key goes upstream."""
        return self._callers.required or self._passes_credentials or self._callers.knows_certificates

    @property
    def required(self) -> bool:
        """Whether callers must present keys."""
        return self._callers.required
