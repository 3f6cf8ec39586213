"""
A ticket as a value, and a call as bytes.

What Redis holds of a ticket is one hash. The call goes in as JSON without its body and its key: the body lies beside it as
the exact bytes, the caller's own key goes nowhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, Protocol

import msgspec

from headrace import codec, observe, records
from headrace.clock import is_moment
from headrace.errors import Canceled, DeadlinePassed, HeadraceError, UpstreamError
from headrace.model import Answer, Call, Caller, Source
from headrace.seal import UNSEALED, Broken, Seal
from headrace.trail import Trail


class State(StrEnum):
    """How far a call is. The last four are terminal: a ticket reaches exactly one of them."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELED = "CANCELED"
    EXPIRED = "EXPIRED"

    @property
    def is_terminal(self) -> bool:
        return self not in (State.QUEUED, State.RUNNING)


@dataclass(frozen=True, slots=True)
class Timing:
    """
    How long things last without a word.

    Args:
        lease_s: an attempt whose process is gone.
        want_s: a parked call whose RPC is gone.
        grace_s: how long after its due time a queued ticket is looked after.
    """

    lease_s: float = 15.0
    want_s: float = 30.0
    grace_s: float = 3.0


@dataclass(frozen=True, slots=True)
class Keep:
    """
    How long tickets are kept that have ended.

    Args:
        results_s: one that has its answer, or was given up.
        letters_s, letters: dead letters, and how many of them; beyond that the eldest go.
    """

    results_s: float = 86_400.0
    letters_s: float = 7 * 86_400.0
    letters: int = 10_000


@dataclass(frozen=True, slots=True)
class Ticket:
    """
    The durable record of a call that may outlive its RPC.

    Args:
        owner: whose it is, as `Owner.text` has it.
        attempts: tries at upstream begun so far; `broken` of them failed in a way that counts.
        due: when the next attempt is due, while QUEUED.
        lane: the class of traffic that it waits in; "" for one of an earlier version.
        ended: when it reached its terminal state; 0 before.
        is_bound: its call needs its caller's own key, which is not kept.
        is_wanted: it lives as long as somebody waits for it, and is no dead letter in the end.
        is_submitted: it was handed over with SubmitMessage.
        idempotency: the Redis key of its idempotency key, if it has one. A ticket with neither goes with its RPC.
        source: where the answer came from.
        answer, error: one of them, once the state is terminal.
        call: what to ask, while that is known: running tickets and dead letters.
    """

    id: str
    owner: str
    state: State
    model: str
    fingerprint: str
    created: float
    due: float
    deadline: float
    attempts: int = 0
    broken: int = 0
    is_stream: bool = False
    lane: str = ""
    ended: float = 0.0
    is_submitted: bool = False
    is_wanted: bool = False
    is_bound: bool = False
    idempotency: str = field(default="", repr=False)
    source: str = ""
    answer: Answer | None = field(default=None, repr=False)
    error: HeadraceError | None = None
    call: Call | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Claimed:
    """The ticket is new, and the caller's to pursue."""

    ticket: str


@dataclass(frozen=True, slots=True)
class Same:
    """The idempotency key stands for this ticket of the same call already."""

    ticket: str


@dataclass(frozen=True, slots=True)
class Conflict:
    """The idempotency key stands for another call."""


class Alarms(Protocol):
    """What rings when an attempt is due: `ringer.Ringer`."""

    async def schedule(self, ticket_id: str, attempt: int, due: float) -> None:
        """Have this attempt made, not before *due*; durable when it returns. Raises `RedisAway`."""

    def wake(self) -> None:
        """Look what is due now."""


# What is read of a ticket: always, when it is looked at closely, and when it is run.
SUMMARY = (
    "caller", "state", "model", "fingerprint", "created", "due", "deadline", "attempts", "broken", "stream", "submitted",
    "idempotency", "source", "error", "facts", "lane", "ended", "wanted_us", "bound",
)  # fmt: skip
FULL = (*SUMMARY, "answer")
ASKED = (*SUMMARY, "call")
RUN = (*ASKED, "body")


# What never changes of a ticket, and is sealed beside it: whose it is, what it is of, until when.
_FACTS = ("caller", "model", "fingerprint", "created", "deadline", "stream", "submitted", "idempotency")
_SAID = ("call", "body", "answer", "error")
BARE = (*_FACTS, *_SAID)  # what is read of a ticket that has no seal, to seal it


def encode_ticket(
    call: Call,
    *,
    ticket_id: str,
    seal: Seal,
    state: State,
    created: float,
    due: float,
    attempts: int,
    broken: int,
    submitted: bool,
    idempotency: str,
    holder: str,
) -> list[Any]:
    """Return a new ticket as its hash's fields and values, in turn."""
    fields: dict[str, Any] = {
        "caller": call.owner.text,
        "state": state,
        "lane": call.lane,
        "model": call.model.encode(errors="replace"),
        "fingerprint": call.fingerprint,
        "created": repr(created),
        "due": repr(due),
        "deadline": repr(call.deadline),
        "attempts": attempts,
        "broken": broken,
        "stream": int(call.stream),
        "submitted": int(submitted),
        "bound": int(bool(call.credential)),
        "idempotency": idempotency,
        "holder": holder,
        "call": seal.seal(place(ticket_id, "call"), encode_call(call)),
        "body": seal.seal(place(ticket_id, "body"), call.body),
    }
    if seal is not UNSEALED:
        fields["facts"] = seal.seal(place(ticket_id, "facts"), _facts({name: _as_kept(fields[name]) for name in _FACTS}))
    return [part for pair in fields.items() for part in pair]


def place(ticket_id: str, field: str) -> str:
    """Return where a field of a ticket belongs, as seals have it."""
    return f"ticket:{ticket_id}:{field}"


def sealed_anew(ticket_id: str, values: list[bytes | None], seal: Seal) -> list[Any]:
    """Return the fields of a ticket that has no seal, and their values, in turn, as they are to be; *values* are of `BARE`."""
    raw = dict(zip(BARE, values, strict=True))
    facts = _facts({name: (raw[name] or b"").decode(errors="replace") for name in _FACTS})
    fields = {"facts": facts} | {name: said for name in _SAID if (said := raw[name])}
    return [part for name, said in fields.items() for part in (name, seal.seal(place(ticket_id, name), said))]


def _as_kept(value: Any) -> str:
    # As it will be read again.
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value).encode(errors="replace").decode()


def _facts(text: Mapping[str, str]) -> bytes:
    return msgspec.json.encode([text[name] for name in _FACTS])


def decode_ticket(ticket_id: str, fields: tuple[str, ...], values: list[bytes | None], seal: Seal) -> Ticket | None:
    """Return the ticket whose hash has these values for *fields*; None if there is no such hash, ValueError if it is none."""
    raw = dict(zip(fields, values, strict=True))
    if raw["state"] is None:
        return None
    text = {name: (value or b"").decode(errors="replace") for name, value in raw.items() if name in SUMMARY}
    if seal is not UNSEALED and seal.open(place(ticket_id, "facts"), raw["facts"] or b"") != _facts(text):
        raise Broken("not the facts that were sealed")

    def opened(field: str) -> bytes | None:
        return seal.open(place(ticket_id, field), value) if (value := raw.get(field)) else None

    created, due, deadline = (_moment(text[name]) for name in ("created", "due", "deadline"))
    return Ticket(
        id=ticket_id,
        owner=text["caller"],
        state=State(text["state"]),
        model=text["model"],
        fingerprint=text["fingerprint"],
        created=created,
        due=due,
        deadline=deadline,
        attempts=codec.count(text["attempts"]),
        broken=codec.count(text["broken"]),
        is_stream=text["stream"] == "1",
        lane=text["lane"],
        ended=_moment(text["ended"] or "0"),
        is_submitted=text["submitted"] == "1",
        is_wanted=text["wanted_us"] not in ("", "0"),
        is_bound=text["bound"] == "1",
        idempotency=text["idempotency"],
        source=Source(text["source"]) if text["source"] else "",
        answer=codec.decode_answer(answer) if (answer := opened("answer")) else None,
        error=codec.decode_error(error) if (error := opened("error")) else None,
        call=decode_call(call, opened("body") or b"", ticket_id) if (call := opened("call")) else None,
    )


def _moment(text: str) -> float:
    moment = float(text)
    if not is_moment(moment):
        raise ValueError("no moment")
    return moment


def readable_ticket(
    ticket_id: str, fields: tuple[str, ...], values: list[bytes | None] | None, seal: Seal = UNSEALED
) -> Ticket | None:
    """Return the ticket as `decode_ticket` does; None, and told, if it cannot be read."""
    if values is None:
        return None
    try:
        return decode_ticket(ticket_id, fields, values, seal)
    except Broken:
        records.unreadable("ticket", ticket_id, observe.RECORD_UNSEALED)
        return None
    except (ValueError, OverflowError, TypeError):
        records.unreadable("ticket", ticket_id)
        return None


def encode_call(call: Call) -> bytes:
    """Return a call as JSON, less its body, its credential and its idempotency key, and less what is as usual."""
    bare = replace(call, body=b"", credential="", idempotency_key="", ticket="", trail=None)
    said = _unusual(msgspec.to_builtins(bare), _USUAL)
    said["caller"] = _unusual(said["caller"], _USUAL_CALLER)
    try:
        return msgspec.json.encode(said)
    except UnicodeEncodeError:  # a lone surrogate in the model's name: JSON all the same
        return json.dumps(said).encode()


def _unusual(said: dict[str, Any], usual: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in said.items() if name not in usual or usual[name] != value}


def _defaults(cls: type[Any]) -> dict[str, Any]:
    """Return what the fields of a dataclass are that nobody says, as they stand in JSON; its trail is its own."""
    found: dict[str, Any] = {}
    for each in fields(cls):
        if each.type == "Trail | None":
            found[each.name] = None
        elif each.default is not MISSING:
            found[each.name] = msgspec.to_builtins(each.default)
        elif each.default_factory is not MISSING:
            found[each.name] = msgspec.to_builtins(each.default_factory())
    return found


_USUAL, _USUAL_CALLER = _defaults(Call), _defaults(Caller)


def decode_call(raw: bytes, body: bytes, ticket_id: str) -> Call:
    """Return the call that `encode_call` made these bytes of, with its body and its ticket; ValueError if it did not."""
    try:
        return replace(_decoded(raw), body=body, ticket=ticket_id, trail=Trail())
    except (ValueError, OverflowError, RecursionError) as error:
        raise ValueError("not a call that we encoded") from error


def _decoded(raw: bytes) -> Call:
    try:
        return msgspec.json.decode(raw, type=Call)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return msgspec.convert(json.loads(raw, parse_float=_finite, parse_constant=_finite), Call)


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError("a number that we write nowhere")
    return value


def encode_end(
    ticket_id: str, seal: Seal, answer: Answer | None, error: HeadraceError | None, source: str
) -> tuple[State, bytes, str]:
    """Return the state in which a ticket ends by an answer or an error, what is kept of that, and where it is from."""
    if answer is not None:
        return State.SUCCEEDED, seal.seal(place(ticket_id, "answer"), codec.encode_answer(answer)), source
    if error is not None:
        return terminal_state(error), seal.seal(place(ticket_id, "error"), codec.encode_error(error)), ""
    raise ValueError("a ticket ends by an answer or by an error")


def lost() -> HeadraceError:
    """Return the error of a ticket that is there, and cannot be read: nobody will ever make its call."""
    return UpstreamError("the call cannot be read any more", status=502)


def terminal_state(error: HeadraceError) -> State:
    """Return the state in which this error ends a ticket."""
    if isinstance(error, Canceled):
        return State.CANCELED
    return State.EXPIRED if isinstance(error, DeadlinePassed) else State.FAILED
