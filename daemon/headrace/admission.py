"""
May this call be served, and what exactly is it? Decided from the bytes alone.

An edge says an `Ask` (what it read from the wire, in the API's own terms) and gets a `Call`: parsed, checked as far as the
daemon needs it, with its fingerprint, its lane, its deadline, and the reason why its answer may not be kept, if there is one.
What only upstream can judge is left to upstream: a parameter that we have never heard of is not our business.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict, Unpack

from headrace import disconnect
from headrace.allowance import Allowance
from headrace.aside import Aside
from headrace.bodies.read import NOTHING, Reading
from headrace.bodies.reader import Reader
from headrace.cache.fingerprint import fingerprint
from headrace.cache.keeping import Keeping
from headrace.clock import Clock
from headrace.deadline import Moments, Wait, until
from headrace.endpoints import MODELS, Endpoint
from headrace.errors import InvalidCall, TooLarge
from headrace.model import CacheControl, Call, Caller, Headers, Labels
from headrace.owner import Owner, text_of
from headrace.rank import LANES, lane_within
from headrace.resources import Guard
from headrace.trace import Trace

_AT_ONCE = 16  # calls that are let in at a turn of the loop: each takes about a millisecond on its way
_MAX_IDEMPOTENCY_KEY = 255


class Said(TypedDict):
    """
    What goes into a `Call` as the edge read it; there it says what each is.

    Nothing of it is checked here but the body.
    """

    caller: Caller
    body: bytes
    betas: tuple[str, ...]
    headers: Headers
    method: str
    path: str
    credential: str
    labels: NotRequired[Labels]
    id: str
    trace: NotRequired[Trace | None]


class Ask(Said):
    """
    What an edge read from the wire: the arguments of `admit`.

    Args:
        endpoint: where it is to go.
        stream: what the edge knows of the form; None leaves it to the body.
        version, lane: "" for the usual one, and for the caller's own.
        wait: how long the caller will wait.
        on_disconnect: as disconnect.py reads it.
    """

    endpoint: Endpoint
    stream: bool | None
    version: str
    lane: str
    wait: Wait
    cache: CacheControl
    idempotency_key: str
    on_disconnect: NotRequired[str]


class Admission:
    """
    Turns asks into calls.

    Args:
        version: the `anthropic-version` of a caller who names none.
        is_shared: whether callers share answers (`cache.scope = "shared"`).
        max_age_s: the deadline of a call that came without one.
        lanes: the lanes that there are, with their shares.
        guard: what calls may name of what lives at upstream.
    """

    def __init__(
        self, clock: Clock, keeping: Keeping, reader: Reader, *, version: str, is_shared: bool, max_age_s: float,
        lanes: Mapping[str, int] = LANES, guard: Guard | None = None,
    ) -> None:  # fmt: skip
        self._clock = clock
        self._keeping = keeping
        self._reader = reader
        self._version = version
        self._is_shared = is_shared
        self._max_age_s = max_age_s
        self._lanes = lanes
        self._guard = guard
        self._arrivals = Allowance(_AT_ONCE)

    @property
    def aside(self) -> Aside:
        """Where large bodies are read."""
        return self._reader.aside

    def reload(self, lanes: Mapping[str, int]) -> None:
        """Go by other lanes from now on."""
        self._lanes = lanes

    def lane_of(self, asked: str, caller: Caller) -> str:
        """
        Return the lane that a call asks for, or its caller's own where that is a bound and the other has a larger share.

        Raises `InvalidCall` if there is none of that name.
        """
        if not asked:
            return caller.lane
        if (lane := asked.lower()) not in self._lanes:
            problem = f"there is no lane {asked[:32]!r}; there are {', '.join(self._lanes)}"
            raise InvalidCall(problem, metadata={"field": "lane"})
        return lane_within(lane, caller.ceiling, self._lanes)

    def scope(self, caller: Caller, credential: str) -> str:
        """
        Return whose answers this caller may be given: its own, or everybody's ("").

        With callers' own keys upstream, only the same key shares: another may not be allowed the model.
        """
        return text_of("" if self._is_shared else caller.name, credential)

    async def admit(
        self,
        *,
        endpoint: Endpoint,
        stream: bool | None,
        version: str,
        lane: str,
        wait: Wait,
        cache: CacheControl,
        idempotency_key: str,
        on_disconnect: str = "",
        **said: Unpack[Said],
    ) -> Call:
        """
        Return the call, or raise `InvalidCall` or `TooLarge` saying what is wrong and what would be right.

        Only a large body is waited for, and no longer than its caller would wait; and of a crowd that comes at once some are
        let in at a turn of the loop, so that whoever comes next does not wait for all of them.
        """
        await self._arrivals.take(1)
        caller = said["caller"]
        check_size(endpoint, len(said["body"]))
        now = self._clock.now()
        reading = _no_body(said) if endpoint is MODELS else self._reader.read_small(said["body"], endpoint.name)
        if reading is None:
            async with until(self.moments(now, wait, endpoint, caller, is_stream=False).deadline, self._clock):
                reading = await self._reader.read(said["body"], endpoint.name)
        if stream is not None and stream != reading.stream:
            raise InvalidCall(f"the call says stream = {stream}, its body {reading.stream}", metadata={"field": "stream"})
        version = version or self._version
        scope = self.scope(caller, said["credential"])
        if self._guard is not None and self._guard.is_on:
            owner = Owner.of(caller.name, said["credential"])
            await self._guard.refers(owner, caller.role, reading.ids, said["headers"])
            scope = owner.text if reading.no_keep else scope  # what it leaves behind at upstream is this caller's alone
        moments = self.moments(now, wait, endpoint, caller, is_stream=reading.stream)
        call = Call(
            **said,
            model=reading.model,
            max_tokens=reading.max_tokens,
            stream=reading.stream,
            no_keep=reading.no_keep,
            weight=reading.weight,
            version=version,
            lane=self.lane_of(lane, caller),
            fingerprint=_fingerprint(said, scope, version, reading),
            scope=scope,
            arrival=now,
            deadline=moments.deadline,
            slack_s=moments.slack_s,
            ends=moments.ends,
            cache=self._keeping.wish(cache, caller),
            idempotency_key=_idempotency_key(idempotency_key),
            on_disconnect=disconnect.read(on_disconnect),
            endpoint=endpoint.name,
        )
        if call.trail is not None:
            call.trail.steps.append(("admission", now, self._clock.now()))
        return call

    def moments(self, now: float, wait: Wait, endpoint: Endpoint, caller: Caller, *, is_stream: bool) -> Moments:
        """Return until when an answer is wanted: what the caller said, else what is configured for it, else what is usual."""
        usual_s = self._max_age_s if endpoint.timeout_s is None else endpoint.timeout_s
        return wait.moments(now, usual_s=usual_s, configured_s=caller.timeout_s, is_stream=is_stream)


def check_size(endpoint: Endpoint, length: int | None) -> None:
    """Raise `TooLarge` if a body of *length* bytes is more than upstream takes."""
    if endpoint.max_body is not None and (length or 0) > endpoint.max_body:
        raise TooLarge(f"the body has {length:,} bytes; upstream takes {endpoint.max_body:,} at most")


def _no_body(said: Said) -> Reading:
    if said["body"]:
        raise InvalidCall(f"{said['method']} {said['path'].partition('?')[0]} takes no body")
    return NOTHING


def _fingerprint(said: Said, scope: str, version: str, reading: Reading) -> str:
    # A POST by its path alone: most calls are.
    place = said["path"] if said["method"] == "POST" else f"{said['method']} {said['path']}"
    betas, headers = said["betas"], said["headers"]
    return fingerprint(scope=scope, path=place, version=version, betas=betas, headers=headers, essence=reading.essence)


def _idempotency_key(key: str) -> str:
    if not key:
        return key
    if len(key) > _MAX_IDEMPOTENCY_KEY:
        raise InvalidCall(
            f"the idempotency key has {len(key)} characters; {_MAX_IDEMPOTENCY_KEY} is the most",
            metadata={"field": "idempotency_key"},
        )
    if any("\ud800" <= character <= "\udfff" for character in key):
        raise InvalidCall("the idempotency key is not valid UTF-8", metadata={"field": "idempotency_key"})
    return key
