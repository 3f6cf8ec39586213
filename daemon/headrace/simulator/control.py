"""
The simulator's own endpoints, under `/_simulator/`: what was asked, and what shall go wrong.

    GET    counts                 how often it was asked, by outcome, path, model and body
    GET    journal?text=&newest=  the last calls, oldest first
    GET    faults                 the rules in force
    POST   faults                 add a rule or a list of rules
    DELETE faults                 let everything go well
    POST   reset                  forget counts and journal, fill the buckets, back to the faults of the options
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from aiohttp import web

from headrace.simulator.faults import Faults, Rule
from headrace.simulator.journal import Journal
from headrace.simulator.refusals import Refused, invalid


class Controlled(Protocol):
    """What there is to control of a simulator."""

    @property
    def faults(self) -> Faults:
        """Return the rules."""

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
        case "GET", "faults":
            return {"faults": simulator.faults.listed()}
        case "POST", "faults":
            for rule in _rules(await request.read()):
                simulator.faults.add(rule)
            return {"faults": simulator.faults.listed()}
        case "DELETE", "faults":
            simulator.faults.clear()
            return {"faults": []}
        case "POST", "reset":
            simulator.reset()
            return {}
        case _:
            raise Refused(404, "not_found_error", "Not Found: see docs/simulator.md for the control endpoints")


def _visits(journal: Journal, request: web.BaseRequest) -> list[dict[str, Any]]:
    newest = request.query.get("newest", "")
    if newest and not newest.isdecimal():
        raise invalid(f"newest is {newest[:40]!r}; it should be a whole number")
    return journal.listed(text=request.query.get("text", ""), newest=int(newest) if newest else None)


def _rules(body: bytes) -> list[Rule]:
    try:
        rules = msgspec.json.decode(body, type=Rule | list[Rule])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise invalid(f"not a fault: {error}") from None
    return [rules] if isinstance(rules, Rule) else rules
