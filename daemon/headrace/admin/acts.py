"""
What an operator may do from the live page: to tickets, whoever's they are, and to callers. Each act is audited (audit.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from headrace import audit
from headrace.audit import Audit
from headrace.budgets import Overrides
from headrace.errors import InvalidCall
from headrace.retry.letters import Letters
from headrace.retry.tickets import Tickets

TICKET_ACTS = ("cancel", "requeue", "drop")
CALLER_ACTS = ("hold", "release")

_LONGEST_HOLD_S = 366 * 86_400.0


class Acts:
    """Acts."""

    def __init__(self, tickets: Tickets, letters: Letters, overrides: Overrides, audit: Audit) -> None:
        self._audit = audit
        self._tickets = tickets
        self._letters = letters
        self._overrides = overrides

    def __repr__(self) -> str:
        return "<Acts>"

    async def on_ticket(self, act: str, ticket_id: str, said: Mapping[str, Any], by: str) -> str:
        """Do something to a ticket, and return what was done; raises `TicketNotFound`, `InvalidCall`, `RedisAway`."""
        reason = _reason(said)
        if act == "cancel":
            ended = await self._tickets.cancel(ticket_id, None)
            what, done = "ticket.canceled", f"the ticket is {ended.state}"
        elif act == "requeue":
            await self._letters.requeue(ticket_id)
            what, done = "ticket.requeued", "the ticket is QUEUED again"
        else:
            await self._letters.drop(ticket_id)
            what, done = "ticket.dropped", "the dead letter is gone"
        await self._audit.note(what, ticket_id, by=by, reason=reason)
        return done

    async def on_caller(self, act: str, name: str, said: Mapping[str, Any], by: str) -> str:
        """Hold or release a caller, and return what was done; raises `InvalidCall`, `OverrideNotFound`, `RedisAway`."""
        reason = _reason(said)
        if act == "hold":
            await self._overrides.hold(name, refuse=said.get("refuse") is True, by=by, reason=reason, ttl_s=_seconds(said))
            what, done = "caller.held", f"{name} is on hold"
        else:
            await self._overrides.release(name, by=by)
            what, done = "caller.released", f"{name} goes on"
        await self._audit.note(what, name, by=by, reason=reason)
        return done


def _reason(said: Mapping[str, Any]) -> str:
    reason = said.get("reason", "")
    if not isinstance(reason, str):
        raise InvalidCall("reason: must be a text", metadata={"field": "reason"})
    audit.check(reason)
    return reason


def _seconds(said: Mapping[str, Any]) -> float | None:
    seconds = said.get("for_s")
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= _LONGEST_HOLD_S:
        raise InvalidCall("for_s: must be a number of seconds, more than 0", metadata={"field": "for_s"})
    return float(seconds)
