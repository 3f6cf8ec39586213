"""What every RPC of ours has in common: bytes in and out, who asks, and how errors end it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import structlog
from google.protobuf.message import DecodeError, Message
from multidict import CIMultiDict

from headrace import observe, passkey, roles
from headrace.callers import Callers, Certified
from headrace.edge import peers, status
from headrace.edge.http_asks import credential, presented_keys
from headrace.edge.last_word import LastWord
from headrace.errors import Draining, HeadraceError, InvalidCall, TooLarge, UnknownCaller
from headrace.model import Caller, Role
from headrace.owner import Owner, text_of
from headrace.trail import GIVEN_HEADER

M = TypeVar("M", bound=Message)
Said = Awaitable[bytes | None] | bytes
Handler = Callable[[Any, Any], Said]  # the request, in bytes or as an iterator of them, and the context
Method = Callable[[Any, Any, Any], Said]

log = structlog.get_logger()

_MAX_BYTES = 262_144  # of a message that is parsed in the loop: what is in it may be many small things


def guarded(method: Method) -> Method:
    """
    End the RPC as `status` says when the method raises; cancellation passes.

    A method that knows its response at once may return that itself, and be no coroutine. Then nothing here is one, either: a
    hit is spared two.
    """

    @functools.wraps(method)
    def run(self: Any, raw: Any, context: Any) -> Said:
        try:
            said = method(self, raw, context)
        except Exception as error:
            return _fail(self, context, error)
        return said if isinstance(said, bytes) else _finish(self, said, context)

    return run


def ending(last_word: LastWord, method: Handler) -> Handler:
    """Return the method of an RPC that is no call of the API's; it ends when the last word of a drain comes while it runs."""

    async def run(raw: Any, context: Any) -> bytes | None:
        try:
            with last_word.call():
                said = method(raw, context)
                del raw  # what waits has of it what it needs
                return said if isinstance(said, bytes) else await said
        except Draining as error:
            failed = error
        observe.ERRORS.inc("grpc", failed.reason)
        await status.abort(context, failed)
        return None

    return run


async def _finish(rpc: Any, said: Awaitable[bytes | None], context: Any) -> bytes | None:
    try:
        return await said
    except Exception as error:
        failed = error
    await _fail(rpc, context, failed)
    return None


async def _fail(rpc: Any, context: Any, error: Exception) -> None:
    if not isinstance(error, HeadraceError):
        if context.done():
            return  # the caller has gone, and what we were writing with it
        log.error(observe.CALL_FAILED, edge="grpc", kind=type(error).__name__, exc_info=error)
    if hasattr(rpc, "refused"):  # it takes calls
        rpc.refused(error, context)
    else:
        observe.ERRORS.inc("grpc", getattr(error, "reason", HeadraceError.reason))
    await status.abort(context, error)


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
        id: by which the caller knows its call; "" where the metadata were not read.
    """

    ours: str = ""
    own: str = ""
    scope: bytes = b""
    id: str = ""


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
        passkey: who presents it at a unix socket may do what an admin may (passkey.py); "" for nobody.
    """

    def __init__(self, callers: Callers, *, passes_credentials: bool, passkey: str = "") -> None:
        self._callers = callers
        self._passes_credentials = passes_credentials
        self._passkey = passkey

    def admit(self, metadata: Iterable[tuple[str, str]]) -> None:
        """
        Find out from the metadata who asks, before anything of the RPC is read; `keys` knows it from then on.

        Raises `UnknownCaller` for a stranger: whoever presents no key of ours there costs nothing more. Where a certificate may
        say it, nobody is a stranger yet: the RPC has to `recognize` its caller.
        """
        # Where the RPC came in is not known yet, so the passkey opens this gate at ports, too; there the RPC itself says no.
        if self.asks_for_keys and not self._callers.knows_certificates and not self._operator(metadata):
            _presented.set(self._read(metadata))

    def recognize(self, context: Any) -> None:
        """Do the same from within the RPC, which knows the certificate, too, before it reads anything."""
        if not self._local_operator(context):
            _presented.set(self._of(context))

    def _operator(self, metadata: Iterable[tuple[str, str]]) -> str:
        """Return which user of this machine presents our passkey; "" if none does."""
        given = next((value for name, value in metadata if name == passkey.HEADER), "")
        return passkey.who(given, self._passkey) if given else ""

    def _local_operator(self, context: Any) -> str:
        """Return the same of an RPC that came in at a unix socket; "" at any port: the passkey is nothing there."""
        return self._operator(context.invocation_metadata() or ()) if peers.is_local(context) else ""

    def keys(self, context: Any, headers: Mapping[str, str] | None = None) -> Keys:
        """
        Return what is presented; raises `UnknownCaller` where that does not do.

        A caller's own key for upstream may be in the *headers* of a request inside the RPC, too.
        """
        if not self.asks_for_keys:
            return _NONE
        presented = _presented.get(None) or self._of(context)
        own_key = self._own_key(presented.metadata, headers or {}) if self._passes_credentials else ""
        scope = f"{presented.name}\n{own_key}".encode("utf-8", "surrogateescape")
        return Keys(presented.key, own_key, scope, presented.metadata.get(GIVEN_HEADER, ""))

    def _of(self, context: Any) -> _Presented:
        names = peers.of_grpc(context) if self._callers.knows_certificates else ()
        return self._read(context.invocation_metadata() or (), names)

    def _read(self, metadata: Iterable[tuple[str, str]], names: Sequence[str] = ()) -> _Presented:
        # Several of one name are several: a key of ours may be the second.
        said = CIMultiDict(metadata)
        if not self._callers.required and not names:
            return _Presented(said)
        key = self._callers.ours(presented_keys(said), names)
        is_known = self._callers.required or type(key) is Certified
        return _Presented(said, key, self._callers.identify(key, "").name if is_known else "")

    @staticmethod
    def _own_key(metadata: Mapping[str, str], headers: Mapping[str, str]) -> str:
        if own_key := credential(headers) or credential(metadata):
            return own_key
        raise UnknownCaller("Send your own key for upstream in the metadata x-api-key or authorization (Bearer).")

    def identify(self, key: str, named: str) -> Caller:
        """Return the caller."""
        return self._callers.identify(key, named)

    def whose(self, keys: Keys) -> str:
        """Return `Owner.text` of who asks, as far as that is known before anything of the RPC is parsed."""
        return text_of(self.identify(keys.ours, "").name, keys.own)

    def ask(self, context: Any, rpc: str, named: str = "") -> Asker:
        """Return who asks for an RPC ("TicketsService.GetTicket"); raises `NotAllowed` if that may not (roles.py)."""
        if operator := self._local_operator(context):
            return Asker(Caller(operator, role=Role.ADMIN), Owner(operator), "", is_limited=False)
        key, own_key, *_ = self.keys(context)
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
    def knows_certificates(self) -> bool:
        """Whether a client certificate may say who asks."""
        return self._callers.knows_certificates

    @property
    def required(self) -> bool:
        """Whether callers must present keys."""
        return self._callers.required
