"""
What an operator may do from the live page: to tickets, whoever's they are, and to callers. Each act is told in the log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import structlog

from headrace import observe
from headrace.budgets import Overrides
from headrace.errors import InvalidCall
from headrace.owner import Owner
from headrace.retry.letters import Letters
from headrace.retry.ticket import ASKED
from headrace.retry.tickets import Tickets

log = structlog.get_logger()

TICKET_ACTS = ("cancel", "requeue", "drop")
CALLER_ACTS = ("hold", "release")

_LONGEST_REASON = 200
_LONGEST_HOLD_S = 366 * 86_400.0


class Acts:
    """Acts."""

    def __init__(self, tickets: Tickets, letters: Letters, overrides: Overrides) -> None:
        self._tickets = tickets
        self._letters = letters
        self._overrides = overrides

    def __repr__(self) -> str:
        return "<Acts>"

    async def on_ticket(self, act: str, ticket_id: str, said: Mapping[str, Any], by: str) -> str:
        """Do something to a ticket, and return what was done; raises `TicketNotFound`, `InvalidCall`, `RedisAway`."""
        reason = _reason(said)
        if act == "cancel":
            ticket = await self._tickets.looks.read(ticket_id, ASKED)
            name, _, credential = ticket.owner.partition("#")
            ended = await self._tickets.cancel(ticket_id, Owner(name, credential))
            done = f"the ticket is {ended.state}"
        elif act == "requeue":
            await self._letters.requeue(ticket_id)
            done = "the ticket is QUEUED again"
        else:
            await self._letters.drop(ticket_id)
            done = "the dead letter is gone"
        log.info(observe.ADMIN_ACTED, act=act, ticket=ticket_id, by=by, reason=reason)
        return done

    async def on_caller(self, act: str, name: str, said: Mapping[str, Any], by: str) -> str:
        """Hold or release a caller, and return what was done; raises `InvalidCall`, `OverrideNotFound`, `RedisAway`."""
        reason = _reason(said)
        if act == "hold":
            await self._overrides.hold(name, refuse=said.get("refuse") is True, by=by, reason=reason, ttl_s=_seconds(said))
            done = f"{name} is on hold"
        else:
            await self._overrides.release(name, by=by)
            done = f"{name} goes on"
        log.info(observe.ADMIN_ACTED, act=act, caller=name, by=by, reason=reason)
        return done


def _reason(said: Mapping[str, Any]) -> str:
    reason = said.get("reason", "")
    if not isinstance(reason, str) or len(reason) > _LONGEST_REASON:
        raise InvalidCall(f"reason: must be a text of {_LONGEST_REASON} characters at most", metadata={"field": "reason"})
    return reason


def _seconds(said: Mapping[str, Any]) -> float | None:
    seconds = said.get("for_s")
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= _LONGEST_HOLD_S:
        raise InvalidCall("for_s: must be a number of seconds, more than 0", metadata={"field": "for_s"})
    return float(seconds)
