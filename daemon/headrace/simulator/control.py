"""
The simulator's own endpoints, under `/_simulator/`: what was asked, and what shall go wrong or otherwise.

    GET    counts                 how often it was asked, by outcome, path, model and body
    GET    journal?text=&path=&newest=
                                  the last calls, oldest first
    GET    arrivals               when each of the last calls came, what became of it, what it cost: less than the journal has
    GET    faults                 the rules in force
    POST   faults                 add a rule or a list of rules
    DELETE faults                 let everything go well
    GET    answers                the answers that were ordered
    POST   answers                order an answer or a list of answers
    DELETE answers                forget them
    GET    files                  what was uploaded, with its SHA-256
    POST   settings               change `batch_s` and `encodings` of the options
    POST   reset                  forget all that was asked and made, fill the buckets, back to the options
"""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from headrace.simulator.answers import Answer, Answers
from headrace.simulator.batches import Batches
from headrace.simulator.faults import Faults, Rule
from headrace.simulator.files import Files
from headrace.simulator.journal import Journal
from headrace.simulator.options import ENCODINGS
from headrace.simulator.refusals import Refused, invalid

_T = TypeVar("_T")


class Settings(msgspec.Struct, forbid_unknown_fields=True):
    """What can be changed while it runs."""

    batch_s: float | None = None
    encodings: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if (self.batch_s or 0) < 0 or not set(self.encodings or ()) <= set(ENCODINGS):
            raise ValueError(f"batch_s should be 0 or more, encodings some of {', '.join(ENCODINGS)}")


class Controlled(Protocol):
    """What there is to control of a simulator."""

    encodings: tuple[str, ...]

    @property
    def faults(self) -> Faults:
        """Return the rules."""

    @property
    def answers(self) -> Answers:
        """Return the answers that were ordered."""

    @property
    def batches(self) -> Batches:
        """Return the batches."""

    @property
    def files(self) -> Files:
        """Return the files."""

    @property
    def journal(self) -> Journal:
        """Return the calls and their counts."""

    def reset(self) -> None:
        """Start afresh."""


async def control(simulator: Controlled, request: web.BaseRequest) -> web.Response:
    """Answer a call to the simulator itself; such calls are counted nowhere."""
    try:
        status, said = 200, await _answer(simulator, request)
    except Refused as refused:
        status, said = refused.status, {"type": "error", "error": refused.error()}
    return web.Response(status=status, body=msgspec.json.encode(said), content_type="application/json")


async def _answer(simulator: Controlled, request: web.BaseRequest) -> dict[str, Any]:
    match request.method, request.path.rpartition("/")[2]:
        case "GET", "counts":
            return simulator.journal.counts.listed()
        case "GET", "journal":
            return {"visits": _visits(simulator.journal, request)}
        case "GET", "arrivals":
            return {"arrivals": simulator.journal.arrivals()}
        case "GET", "files":
            return {"files": simulator.files.listed()}
        case method, "faults":
            return await _faults(simulator.faults, method, request)
        case method, "answers":
            return await _answers(simulator.answers, method, request)
        case "POST", "settings":
            return _set(simulator, _read(await request.read(), Settings, "settings"))
        case "POST", "reset":
            simulator.reset()
            return {}
        case _:
            raise _unknown()


async def _faults(faults: Faults, method: str, request: web.BaseRequest) -> dict[str, Any]:
    match method:
        case "POST":
            for rule in _several(await request.read(), Rule, "a fault"):
                faults.add(rule)
        case "DELETE":
            faults.clear()
        case other if other != "GET":
            raise _unknown()
    return {"faults": faults.listed()}


async def _answers(answers: Answers, method: str, request: web.BaseRequest) -> dict[str, Any]:
    match method:
        case "POST":
            for answer in _several(await request.read(), Answer, "an answer"):
                answers.add(answer)
        case "DELETE":
            answers.clear()
        case other if other != "GET":
            raise _unknown()
    return {"answers": answers.listed()}


def _set(simulator: Controlled, settings: Settings) -> dict[str, Any]:
    if settings.batch_s is not None:
        simulator.batches.takes_s = settings.batch_s
    if settings.encodings is not None:
        simulator.encodings = settings.encodings
    return {"batch_s": simulator.batches.takes_s, "encodings": simulator.encodings}


def _visits(journal: Journal, request: web.BaseRequest) -> list[dict[str, Any]]:
    newest = request.query.get("newest", "")
    if newest and not newest.isdecimal():
        raise invalid(f"newest is {newest[:40]!r}; it should be a whole number")
    text, path = request.query.get("text", ""), request.query.get("path", "*")
    return journal.listed(text=text, path=path, newest=int(newest) if newest else None)


def _several(body: bytes, kind: type[_T], what: str) -> list[_T]:
    """Read one, or a list of them."""
    if not body.lstrip().startswith(b"["):
        return [_read(body, kind, what)]
    some: list[_T] = _read(body, list[kind], what)  # type: ignore[valid-type]  # a type that is a value here
    return some


def _read(body: bytes, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise invalid(f"not {what}: {error}") from None


def _unknown() -> Refused:
    return Refused(404, "not_found_error", "Not Found: see docs/simulator.md for the control endpoints")
