"""What comes back: the protos themselves, with what one asks of them daily beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from headrace_client import errors
from headrace_client.forms import from_dict, to_dict
from headrace_client.v1.events_pb2 import StreamEvent
from headrace_client.v1.messages_pb2 import Message, Usage
from headrace_client.v1.options_pb2 import AnswerSource, Origin
from headrace_client.v1.tickets_pb2 import Ticket as TicketRecord
from headrace_client.v1.tickets_pb2 import TicketState

_ENDED = (
    TicketState.TICKET_STATE_SUCCEEDED,
    TicketState.TICKET_STATE_FAILED,
    TicketState.TICKET_STATE_CANCELED,
    TicketState.TICKET_STATE_EXPIRED,
)


@dataclass(frozen=True)
class Answer:
    """
    An answer, and where it came from.

    Attributes:
        message: the answer, typed. Its `content` may go back as it is, in the next call's `messages`.
        origin: all that the daemon says of it.
    """

    message: Message
    origin: Origin

    @property
    def text(self) -> str:
        """The text of all its text blocks."""
        return "".join(block.text.text for block in self.message.content if block.HasField("text"))

    @property
    def stop_reason(self) -> str:
        """Why it ends, such as "end_turn"."""
        return self.message.stop_reason

    @property
    def usage(self) -> Usage:
        """What it cost upstream, in tokens."""
        return self.message.usage

    @property
    def source(self) -> str:
        """Who gave it: "upstream", "shared", "cache" or "stale"."""
        return AnswerSource.Name(self.origin.source).removeprefix("ANSWER_SOURCE_").lower()

    def json(self) -> dict[str, Any]:
        """Return the message as the API spells it, members that are younger than this package included."""
        said: dict[str, Any] = to_dict(self.message)
        return said


@dataclass(frozen=True)
class Ticket:
    """
    A call that outlives the RPC which handed it in.

    Attributes:
        record: all that the daemon says of it.
    """

    record: TicketRecord

    @property
    def id(self) -> str:
        """Identifies it; only its caller can use it."""
        return self.record.id

    @property
    def state(self) -> str:
        """How far it is: "queued", "running", "succeeded", "failed", "canceled" or "expired"."""
        return TicketState.Name(self.record.state).removeprefix("TICKET_STATE_").lower()

    @property
    def done(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.record.state in _ENDED

    def answer(self) -> Answer:
        """Return the answer; raises the `HeadraceError` that it ended with, and ValueError if it has not ended."""
        if not self.done:
            raise ValueError(f"ticket {self.id} is {self.state}: wait for it")
        if error := self.error:
            raise error
        return Answer(self.record.message, self.record.origin)

    @property
    def error(self) -> errors.HeadraceError | None:
        """What it ended with instead of an answer; None if it has one, or goes on."""
        if not self.record.HasField("error"):
            return None
        said = self.record.error
        metadata = dict(said.metadata)
        if said.upstream_status:
            metadata["upstream_status"] = str(said.upstream_status)
        return errors.of_code(said.code, said.reason, said.message, metadata)


def message_of_events(events: Iterable[StreamEvent]) -> Message:
    """Return the message that a whole stream tells, as the API would have said it at once; ValueError without a beginning."""
    teller = Teller()
    for event in events:
        teller.add(event)
    return teller.message()


class Teller:
    """
    Puts a message together while its events come.

    Merges by shape, so that a kind of delta nobody knew when this was written is not lost: texts and lists grow, all else
    replaces.
    """

    def __init__(self) -> None:
        self._message: dict[str, Any] | None = None
        self._blocks: dict[int, _Block] = {}

    def add(self, event: StreamEvent) -> None:
        """Take the next event."""
        said = to_dict(event)
        match said.get("type"):
            case "message_start":
                self._message = dict(said["message"])
            case "content_block_start":
                self._blocks[said.get("index", 0)] = _Block(said["content_block"])
            case "content_block_delta":
                self._blocks.setdefault(said.get("index", 0), _Block({})).add(said["delta"])
            case "message_delta" if self._message is not None:
                self._message["usage"] = _merged(self._message.get("usage"), said.pop("usage", None))
                delta = said.pop("delta", {})
                self._message = _merged(self._message, delta | {key: value for key, value in said.items() if key != "type"})

    def message(self) -> Message:
        """Return the message so far."""
        if self._message is None:
            raise ValueError("the stream has no message_start")
        return from_dict(Message, self._message | {"content": [block.whole() for block in self._blocks.values()]})


class _Block:
    """A content block that grows. Pieces are kept apart until the end: joining them one by one would be quadratic."""

    def __init__(self, said: dict[str, Any]) -> None:
        self._said = dict(said)
        self._pieces: dict[str, list[str]] = {}

    def add(self, delta: dict[str, Any]) -> None:
        for key, value in delta.items():
            if key == "citation":
                self._said["citations"] = [*(self._said.get("citations") or ()), value]
            elif key == "signature" or (key != "type" and not isinstance(value, (str, list))):
                self._said[key] = value
            elif isinstance(value, list):
                self._said[key] = [*(self._said.get(key) or ()), *value]
            elif key != "type":
                self._pieces.setdefault(key, [self._said.get(key) or ""]).append(value)

    def whole(self) -> dict[str, Any]:
        texts = {key: "".join(pieces) for key, pieces in self._pieces.items()}
        if spoken := texts.pop("partial_json", ""):
            self._said["input"] = _tool_input(spoken)
        return self._said | texts


def _tool_input(spoken: str) -> Any:
    try:
        return json.loads(spoken)
    except ValueError:
        # Cut off by max_tokens, say. The API's own advice for input that is no JSON is to wrap it so.
        return {"INVALID_JSON": spoken}


def _merged(old: dict[str, Any] | None, new: dict[str, Any] | None) -> dict[str, Any]:
    # Counts are sums, not differences. A null says "nothing new": what was known stays.
    known = dict(old or {})
    return known | {key: value for key, value in (new or {}).items() if value is not None or key not in known}
