"""
Whole answers, judged and told: at once where that takes a moment, else in a process beside this one.

Megabytes of JSON, or hundreds of thousands of events, take seconds to read, and nobody else would have a turn meanwhile. That
process is another than the one for what callers send, so that a flood of theirs does not hold up what upstream says.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from headrace import forms
from headrace.aside import Aside
from headrace.cache.policy import Told, no_keep_answer
from headrace.endpoints import MESSAGES
from headrace.errors import InvalidCall, TooLarge
from headrace.model import Answer, Event, Form, Reply, Usage
from headrace.resources.ids import made_by

JOB = "headrace.answers:job"

SMALL_BYTES = 16_384  # whatever is in them
_LARGEST_BYTES = 262_144  # that are read at once, if there is little in them
_MOST_THINGS = 3_000
_JUDGE, _NO_KEEP, _TELL, _MADE, _MADE_IN_THREAD = "judge", "no_keep", "tell", "made", "made_in_thread"


@dataclass(frozen=True, slots=True)
class AnswersStats:
    """How many looks at answers were had elsewhere, and how many are being told in their other form there."""

    aside: int
    telling: int


class Answers:
    """Judges and tells answers; *aside* has `JOB` among its jobs."""

    def __init__(self, aside: Aside) -> None:
        self.aside = aside
        self._asked = 0
        self._telling: dict[tuple[int, Form], asyncio.Task[bytes]] = {}

    def __repr__(self) -> str:
        said = self.stats()
        return f"<Answers [{said.aside} aside, {said.telling} being told]>"

    def stats(self) -> AnswersStats:
        """Return its state now."""
        return AnswersStats(self._asked, len(self._telling))

    async def judge(self, payload: bytes, endpoint: str) -> Usage | forms.Wrong:
        """Return what `forms.judged` does; what cannot be read in reasonable time and memory is strange."""
        if is_light(payload):
            return forms.judged(payload, endpoint)
        try:
            said = json.loads(await self._ask(_JUDGE, payload, endpoint))
        except TooLarge:
            return forms.Wrong.STRANGE
        return forms.Wrong(said) if isinstance(said, str) else msgspec.convert(said, Usage)

    async def no_keep(self, endpoint: str, answer: Answer, told: Told | None = None) -> str:
        """Return why an answer may not be kept, or ""; *told* has taken in its events, where they were heard."""
        try:
            if told is not None and endpoint == MESSAGES.name:
                return told.no_keep
            if is_light(answer.payload):
                return no_keep_answer(endpoint, answer)
            return (await self._ask(_NO_KEEP, answer.payload, endpoint, answer.form)).decode()
        except ValueError:  # nested past reason
            return "bad-message"
        except TooLarge:
            return "too-large"

    async def made(self, answer: Answer, *, has_thread: bool) -> list[str]:
        """Return the ids of what an answer tells to have been made for it, as `resources.ids` has it."""
        if is_light(answer.payload):
            return made_by(answer.payload, is_events=answer.form is Form.EVENTS, has_thread=has_thread)
        said = await self._ask(_MADE_IN_THREAD if has_thread else _MADE, answer.payload, form=answer.form)
        return msgspec.json.decode(said, type=list[str])

    async def told(self, answer: Answer, form: Form) -> bytes:
        """Return the payload of an answer in a form; raises `ValueError` if it cannot be told so, and `TooLarge`."""
        if answer.form is form:
            return answer.payload
        if is_light(answer.payload):
            return _told(answer)
        key = id(answer.payload), form  # many may ask for the same at once
        telling = self._telling.get(key)
        if telling is None:
            telling = self._telling[key] = asyncio.create_task(self._ask(_TELL, answer.payload, form=answer.form))
            telling.add_done_callback(lambda _: self._telling.pop(key))
        try:
            return await asyncio.shield(telling)
        except InvalidCall as error:
            raise ValueError(error.message) from error

    async def whole(self, reply: Reply, form: Form) -> bytes:
        """Return the payload of a whole reply in a form; told once for all who share it."""
        if reply.answer is None:
            raise RuntimeError("a reply has an answer or events")
        if form is reply.answer.form:
            return reply.answer.payload
        if form not in reply.renditions:
            reply.renditions[form] = await self.told(reply.answer, form)
        said: bytes = reply.renditions[form]
        return said

    async def events(self, answer: Answer) -> AsyncIterator[Event]:
        """Yield the events of an answer, a few at a time with others' turns between; raises as `told` does."""
        for number, events in enumerate(forms.by_pieces(await self.told(answer, Form.EVENTS))):
            if number:
                await asyncio.sleep(0)
            for event in events:
                yield event

    async def _ask(self, work: str, payload: bytes, endpoint: str = "", form: Form = Form.JSON) -> bytes:
        self._asked += 1
        return await self.aside.run(JOB, f"{work} {form} {endpoint}".encode(), payload)


def is_light(payload: bytes) -> bool:
    """Whether reading an answer takes but a moment: what counts is how many things are in it, more than its bytes."""
    if len(payload) <= SMALL_BYTES:
        return True
    return len(payload) <= _LARGEST_BYTES and payload.count(b"{") + payload.count(b"[") + payload.count(b"\n") <= _MOST_THINGS


def _told(answer: Answer) -> bytes:
    return forms.sse_payload(answer) if answer.form is Form.JSON else forms.json_payload(answer)


# The helper's own side.


def job(head: bytes, payload: bytes) -> bytes:
    """Look at an answer, in the helper; `InvalidCall` for one that cannot be told in the other form."""
    work, form, endpoint = head.decode().split(" ")
    answer = Answer(Form(form), payload, 0.0)
    if work in (_MADE, _MADE_IN_THREAD):
        made = made_by(payload, is_events=answer.form is Form.EVENTS, has_thread=work == _MADE_IN_THREAD)
        return msgspec.json.encode(made)
    if work == _JUDGE:
        return json.dumps(msgspec.to_builtins(forms.judged(payload, endpoint))).encode()
    try:
        return no_keep_answer(endpoint, answer).encode() if work == _NO_KEEP else _told(answer)
    except ValueError as error:
        if work == _NO_KEEP:
            return b"bad-message"
        raise InvalidCall("the answer cannot be told in the other form") from error
