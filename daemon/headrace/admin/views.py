"""
The views of the live page by name, each made of one look and of what only it needs: what the page, the JSON and `top` show.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from headrace.admin import budgets, callers, usage
from headrace.admin.calls import told_row
from headrace.admin.fresh import Fresh
from headrace.admin.hosts import host_row
from headrace.admin.looks import Look, Looks
from headrace.admin.reporter import Reporter
from headrace.admin.rows import Shown, Summary, WaitingRow
from headrace.admin.tickets import Counts, Filter, TicketRows
from headrace.clock import Clock
from headrace.errors import HeadraceError, InvalidCall
from headrace.explain import Book
from headrace.explain.reasons import in_lines
from headrace.hosts import Register
from headrace.usage import Granularity, Question, Row, Store

VIEWS = ("budgets", "line", "tickets", "callers", "hosts", "calls", "usage")
CALL = "call"

_FRESH_S = 0.25
_USAGE_S = 2.0
_LONGEST = 300
_MINUTE = timedelta(seconds=60)
_PARAMS: Mapping[str, Sequence[str]] = {"tickets": ("caller", "model", "state", "page"), "usage": ("month",), CALL: ("id",)}

Made = tuple[list[Any], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Asked:
    """A view, and what is asked of it, as (name, value), by name."""

    view: str
    params: tuple[tuple[str, str], ...] = ()

    @property
    def said(self) -> dict[str, str]:
        """The parameters by name."""
        return dict(self.params)


def asked_of(view: str, params: Mapping[str, str]) -> Asked:
    """Return what is asked; what this view does not know is left out. Raises `InvalidCall`."""
    said = {name: params.get(name, "").strip() for name in _PARAMS.get(view, ())}
    for name, value in said.items():
        if len(value) > _LONGEST:
            raise InvalidCall(f"{name}: has {len(value)} characters; use {_LONGEST} at most", metadata={"field": name})
    asked = Asked(view, tuple((name, value) for name, value in sorted(said.items()) if value))
    if view == "tickets":
        _filter(asked).check()
    if view == "usage":
        usage.question_of(asked.said.get("month", ""), datetime.now(UTC))
    return asked


class Views:
    """
    Makes views.

    Args:
        class_of: returns the class of a model.
    """

    def __init__(
        self,
        clock: Clock,
        looks: Looks,
        reporter: Reporter,
        tickets: TicketRows,
        store: Store,
        register: Register,
        book: Book,
        class_of: Callable[[str], str],
    ) -> None:
        self._register = register
        self._book = book
        self._clock = clock
        self._looks = looks
        self._reporter = reporter
        self._tickets = tickets
        self._class_of = class_of
        self._shown: Fresh[Asked, Shown] = Fresh(self._show, _FRESH_S, time.monotonic)
        self._counts: Fresh[None, Counts] = Fresh(lambda _: tickets.counts(), _FRESH_S, time.monotonic)
        self._asked_usage: Fresh[Question, list[Row]] = Fresh(lambda question: _rows(store, question), _USAGE_S, time.monotonic)
        self._store = store
        self._makers: Mapping[str, Callable[[Asked, Look], Awaitable[Made]]] = {
            "budgets": self._budgets,
            "line": self._line,
            "tickets": self._ticket_rows,
            "callers": self._callers,
            "hosts": self._hosts,
            "calls": self._calls,
            CALL: self._call,
            "usage": self._usage,
        }

    def __repr__(self) -> str:
        return f"<Views {self._looks!r} {self._shown!r}>"

    async def show(self, asked: Asked) -> Shown:
        """Return a view that is fresh. While Redis is away it says so, and has no rows."""
        try:
            return await self._shown.get(asked)
        except InvalidCall:
            raise
        except HeadraceError as error:
            trouble = f"{error.reason}: {error}"
            summary = Summary(
                at=self._clock.now(), hosts=0, heard=0, redis_ms=None, troubles=[trouble], flights=0, waiting=0, parked=0
            )
            return Shown(view=asked.view, summary=summary, rows=[], more={"trouble": trouble})

    async def _show(self, asked: Asked) -> Shown:
        look, counts = await asyncio.gather(self._looks.look(), self._counts.get(None))
        rows, more = await self._makers[asked.view](asked, look)
        return Shown(view=asked.view, summary=_summary(look, counts), rows=rows, more={"asked": asked.said} | more)

    async def _budgets(self, asked: Asked, look: Look) -> Made:
        rows = budgets.budget_rows(look, self._class_of)
        more = {"idle": budgets.idle_limits(look)}
        return rows, more if len(rows) < budgets.MOST_ROWS else more | {"most": len(rows)}

    async def _line(self, asked: Asked, look: Look) -> Made:
        rows = budgets.waiting_rows(look)
        return rows, {"by_limit": _by_limit(rows), "total": sum(row.count for row in rows)}

    async def _ticket_rows(self, asked: Asked, look: Look) -> Made:
        seen = (budget.seen for shown in look.state.shown for budget in shown.budgets)
        rows, token = await self._tickets.rows(_filter(asked), in_lines(seen))
        counts = await self._counts.get(None)
        said = {"queued": counts.queued, "running": counts.running, "letters": counts.letters, "next_due": counts.next_due}
        return rows, {"counts": said, "next": token}

    async def _callers(self, asked: Asked, look: Look) -> Made:
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        minutes, _, _ = await self._store.ask(
            Question(since=now - _MINUTE, until=now, group_by=callers.GROUPS, granularity=Granularity.MINUTE)
        )
        return list(callers.caller_rows(look, minutes, now)), {}

    async def _hosts(self, asked: Asked, look: Look) -> Made:
        rows = sorted(look.hosts, key=lambda row: row.daemon)
        known = {row.daemon for row in rows}
        silent = [host_row(fact, is_silent=True) for fact in await self._register.all() if fact.instance not in known]
        return [*rows, *silent], {"configs": sorted({row.config for row in rows if row.config})}

    async def _calls(self, asked: Asked, look: Look) -> Made:
        return list(await self._reporter.calls()), {}

    async def _call(self, asked: Asked, look: Look) -> Made:
        name = asked.said.get("id", "")
        found, told = await asyncio.gather(self._reporter.call(name), self._book.find(name))
        # What is in the book a process may still remember itself.
        known = {(row.id, row.daemon, round(row.began, 3)) for row in found}
        kept = [told_row(each) for each in told if (each.id, each.host, round(each.began, 3)) not in known]
        return sorted([*found, *kept], key=lambda row: row.began), {}

    async def _usage(self, asked: Asked, look: Look) -> Made:
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        question = usage.question_of(asked.said.get("month", ""), now.replace(second=0, microsecond=0))
        rows = usage.usage_rows(await self._asked_usage.get(question))
        return list(rows[: usage.MOST_ROWS]), {"month": question.since.strftime("%Y-%m"), "totals": usage.totals(rows)}


async def _rows(store: Store, question: Question) -> list[Row]:
    rows, _, _ = await store.ask(question)
    return rows


def _filter(asked: Asked) -> Filter:
    said = asked.said
    return Filter(said.get("caller", ""), said.get("model", ""), said.get("state", "").upper(), said.get("page", ""))


def _by_limit(rows: Sequence[WaitingRow]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.held_by] = counts.get(row.held_by, 0) + row.count
    return counts


def _summary(look: Look, counts: Counts) -> Summary:
    hosts = look.hosts
    redis = [row.redis_ms for row in hosts if row.redis_ms is not None]
    troubles = list(dict.fromkeys(trouble for row in hosts for trouble in row.troubles))
    return Summary(
        at=look.at,
        hosts=max(look.asked, look.state.daemons),
        heard=len(look.news),
        redis_ms=max(redis) if redis else None,
        troubles=troubles,
        flights=sum(row.flights for row in hosts),
        waiting=sum(row.waiting for row in hosts),
        parked=counts.queued,
        next_due=counts.next_due,
        letters=counts.letters,
    )
