"""LettersService: dead letters. Operators handle everybody's, other callers their own; what was asked is told its owner."""

from __future__ import annotations

from typing import Any, Protocol

from google.protobuf.duration_pb2 import Duration

from headrace import audit, globs
from headrace.audit import Audit
from headrace.edge.grpc_calls import Asker, Handler, Who, guarded, parse
from headrace.edge.grpc_tickets import page_size, ticket_id, ticket_message, timestamp
from headrace.errors import InvalidCall
from headrace.retry.letters import Letter, Letters
from headrace.v1 import letters_service_pb2 as pb
from headrace.v1 import options_pb2

_LONGEST_S = 86_400


class Lasting(Protocol):
    """A request to try a call again."""

    @property
    def answer_timeout(self) -> Duration: ...
    def HasField(self, field_name: Any) -> bool: ...  # noqa: N802


class LettersServicer:
    """One short method per RPC."""

    def __init__(self, letters: Letters, who: Who, audit: Audit) -> None:
        self._letters = letters
        self._audit = audit
        self._who = who

    def __repr__(self) -> str:
        return f"<LettersServicer {self._letters!r}>"

    @property
    def unary(self) -> dict[str, Handler]:
        """The methods that answer once."""
        return {"ListLetters": self.list, "GetLetter": self.get, "RequeueLetter": self.requeue, "DropLetter": self.drop}

    @guarded
    async def list(self, raw: bytes, context: Any) -> bytes:
        """Return a page of letters."""
        request = parse(pb.ListLettersRequest, raw)
        asker = self._asker("ListLetters", request.options, context)
        globs.check(request.model, "model")
        owner = _owner(asker) or request.owner
        letters, token = await self._letters.page(
            owner if request.owner in ("", owner) else _NOBODY,
            model=request.model or "*",
            page_size=page_size(request.page_size),
            page_token=request.page_token,
        )
        said = [letter_message(letter) for letter in letters]
        return pb.ListLettersResponse(letters=said, next_page_token=token).SerializeToString()

    @guarded
    async def get(self, raw: bytes, context: Any) -> bytes:
        """Return a letter, with what was asked if that is the caller's own."""
        request = parse(pb.GetLetterRequest, raw)
        asker = self._asker("GetLetter", request.options, context)
        letter = await self._letters.get(ticket_id(request.id), _owner(asker))
        said = letter_message(letter)
        if (call := letter.ticket.call) is not None:
            said.body_bytes = len(call.body)
            if letter.ticket.owner == asker.owner.text:
                said.body = call.body
        return pb.GetLetterResponse(letter=said).SerializeToString()

    @guarded
    async def requeue(self, raw: bytes, context: Any) -> bytes:
        """Make a ticket of a letter again."""
        request = parse(pb.RequeueLetterRequest, raw)
        asker = self._asker("RequeueLetter", request.options, context)
        audit.check(request.reason)
        ticket = await self._letters.requeue(ticket_id(request.id), _owner(asker), lasts_s=lasts_s(request))
        await self._audit.note("ticket.requeued", ticket.id, by=asker.caller.name, reason=request.reason)
        return pb.RequeueLetterResponse(ticket=ticket_message(ticket)).SerializeToString()

    @guarded
    async def drop(self, raw: bytes, context: Any) -> bytes:
        """Drop a letter for good."""
        request = parse(pb.DropLetterRequest, raw)
        asker = self._asker("DropLetter", request.options, context)
        audit.check(request.reason)
        await self._letters.drop(ticket_id(request.id), _owner(asker))
        await self._audit.note("ticket.dropped", request.id, by=asker.caller.name, reason=request.reason)
        return pb.DropLetterResponse().SerializeToString()

    def _asker(self, method: str, options: options_pb2.CallOptions, context: Any) -> Asker:
        return self._who.ask(context, f"LettersService.{method}", options.caller)


_NOBODY = "#"  # no owner's text


def letter_message(letter: Letter) -> pb.Letter:
    """Return a letter as callers see it, without what was asked."""
    ticket, call = letter.ticket, letter.ticket.call
    return pb.Letter(
        ticket=ticket_message(ticket),
        fail_time=timestamp(letter.failed),
        path=call.path if call is not None else "",
        submitted=ticket.is_submitted,
    )


def _owner(asker: Asker) -> str:
    """Return whose letters alone may be seen; "" for everybody's."""
    return asker.owner.text if asker.is_limited else ""


def lasts_s(request: Lasting) -> float | None:
    """Return how long a requeued call is to have, None for as long as at first; raises `InvalidCall`."""
    if not request.HasField("answer_timeout"):
        return None
    seconds: float = request.answer_timeout.seconds + request.answer_timeout.nanos / 1e9
    if not 0 < seconds <= _LONGEST_S:
        raise InvalidCall("answer_timeout: must be over 0 and up to 24 hours", metadata={"field": "answer_timeout"})
    return seconds
