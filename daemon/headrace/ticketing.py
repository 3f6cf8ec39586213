"""
The commands for tickets of all callers: `headrace tickets list`, `show`, `cancel`, `requeue` and `drop`.

All of them ask the running daemon, over OperatorService. Acts are on the tickets that are named, or on those that filters
choose: these are counted first, and whoever asks is asked back, unless there is `--yes`. Exit codes: 0, done; 1, the daemon
cannot be asked, or says no; 2, a wrong configuration or option; 3, there is no such ticket (of several, the others are done all
the same); 4, it was not confirmed, and nothing is done.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.acting import act
from headrace.terminal import (
    NOT_CONFIRMED,
    Ask,
    ConfigOption,
    JsonOption,
    KeyOption,
    ReasonOption,
    YesOption,
    ago,
    ask_daemon,
    asking,
    echo_json,
    microseconds,
    plain,
    print_table,
)

if TYPE_CHECKING:
    from headrace.v1.operator_service_pb2 import ListAllTicketsRequest
    from headrace.v1.tickets_pb2 import Ticket

tickets_app = typer.Typer(help="Calls that outlive their connection, of all callers.", no_args_is_help=True)

COLUMNS = ("id", "caller", "model", "lane", "state", "made", "tries", "next", "why")

_PAGE = 500
_ABSENT = "there is no such ticket"
_MOST_SHOWN = 60  # characters of an error's message in a table
_STATES = ("queued", "running", "succeeded", "failed", "canceled", "expired")

IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="As `list` shows them; else by the filters.")]
CallerOption = Annotated[str, typer.Option("--caller", help="Only of callers that match, as 'reports*'.")]
StateOption = Annotated[str, typer.Option("--state", help=f"Only in this state: {', '.join(_STATES)}.")]
ModelOption = Annotated[str, typer.Option("--model", help="Only of models that match, as 'claude-*'.")]
LaneOption = Annotated[str, typer.Option("--lane", help="Only of this lane.")]
OlderOption = Annotated[str, typer.Option("--older", help='Only what was made so long ago, or longer, as "10m".')]
NewerOption = Annotated[str, typer.Option("--newer", help='Only what was made since, as "10m".')]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(tickets_app, name="tickets")


@tickets_app.command("list")
def list_tickets(
    caller: CallerOption = "",
    state: StateOption = "",
    model: ModelOption = "",
    lane: LaneOption = "",
    older: OlderOption = "",
    newer: NewerOption = "",
    most: Annotated[int, typer.Option("--most", min=1, help="Show so many, the newest first.")] = 100,
    config: ConfigOption = None,
    as_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """List tickets, the newest first."""
    request = _request(caller, state, model, lane, older, newer)
    with asking(config, as_key) as ask:
        found = list(islice(_tickets(ask, request), most))
    if as_json:
        echo_json([plain(ticket) for ticket in found])
    else:
        print_table(COLUMNS, [_row(ticket) for ticket in found])


@tickets_app.command("show")
def show_ticket(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
    config: ConfigOption = None,
    as_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show one ticket; what it went through, `headrace explain ID` says."""
    from headrace.v1.operator_service_pb2 import GetAnyTicketRequest

    said = plain(ask_daemon(config, as_key, "Operator", "GetAnyTicket", GetAnyTicketRequest(id=id)).ticket)
    if as_json:
        echo_json(said)
        return
    print_table(("", ""), [(name, f"{value}") for name, value in said.items()])


@tickets_app.command("cancel")
def cancel_tickets(
    ids: IdsArgument = None,
    caller: CallerOption = "",
    state: StateOption = "",
    model: ModelOption = "",
    lane: LaneOption = "",
    older: OlderOption = "",
    newer: NewerOption = "",
    yes: YesOption = False,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Cancel tickets that have not ended: those that are named, or that the filters choose."""
    from headrace.v1.operator_service_pb2 import CancelAnyTicketRequest as Request

    request = _filters(ids, caller, state, model, lane, older, newer)
    with asking(config, as_key) as ask:

        def cancel(id: str) -> dict[str, Any]:
            return plain(ask("Operator", "CancelAnyTicket", Request(id=id, reason=reason)).ticket)

        chosen = _chosen(ids, request, ask, "cancel", only=("queued", "running"), yes=yes)
        act(chosen, cancel, "canceled", absent=_ABSENT, as_json=as_json)


@tickets_app.command("requeue")
def requeue_tickets(
    ids: IdsArgument = None,
    caller: CallerOption = "",
    model: ModelOption = "",
    lane: LaneOption = "",
    older: OlderOption = "",
    newer: NewerOption = "",
    lasting: Annotated[str, typer.Option("--for", help='The time that each has from now on, as "10m"; else as at first.')] = "",
    yes: YesOption = False,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Try dead letters again, each with all its attempts before it: those that are named, or that the filters choose."""
    from headrace.v1.operator_service_pb2 import RequeueTicketRequest

    lasts_us = microseconds("--for", lasting) if lasting else 0
    filters = _filters(ids, caller, "failed" if not ids else "", model, lane, older, newer)
    with asking(config, as_key) as ask:

        def requeue(id: str) -> dict[str, Any]:
            request = RequeueTicketRequest(id=id, reason=reason)
            if lasts_us:
                request.answer_timeout.FromMicroseconds(lasts_us)
            return plain(ask("Operator", "RequeueTicket", request).ticket)

        chosen = _chosen(ids, filters, ask, "requeue", only=("failed",), yes=yes)
        act(chosen, requeue, "queued again", absent=_ABSENT, as_json=as_json)


@tickets_app.command("drop")
def drop_tickets(
    ids: IdsArgument = None,
    caller: CallerOption = "",
    state: StateOption = "",
    model: ModelOption = "",
    lane: LaneOption = "",
    older: OlderOption = "",
    newer: NewerOption = "",
    yes: YesOption = False,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Remove tickets that have ended, with what was asked and answered, for good."""
    from headrace.v1.operator_service_pb2 import DropTicketRequest as Request

    request = _filters(ids, caller, state, model, lane, older, newer)
    with asking(config, as_key) as ask:

        def drop(id: str) -> dict[str, Any]:
            return plain(ask("Operator", "DropTicket", Request(id=id, reason=reason)))

        chosen = _chosen(ids, request, ask, "drop", only=("succeeded", "failed", "canceled", "expired"), yes=yes)
        act(chosen, drop, "dropped", absent=_ABSENT, as_json=as_json)


# Choosing.


def _filters(ids: list[str] | None, *filters: str) -> ListAllTicketsRequest | None:
    if bool(ids) == any(filters):
        raise typer.BadParameter(
            "name tickets by their ids, or choose them by --caller, --state, --model, --lane, --older, --newer"
        )
    return None if ids else _request(*filters)


def _request(caller: str, state: str, model: str, lane: str, older: str, newer: str) -> ListAllTicketsRequest:
    from headrace.v1.operator_service_pb2 import ListAllTicketsRequest
    from headrace.v1.tickets_pb2 import TicketState

    if state.lower() not in ("", *_STATES):
        raise typer.BadParameter(f"--state {state}: give one of {', '.join(_STATES)}")
    request = ListAllTicketsRequest(page_size=_PAGE, caller=caller, model=model, lane=lane)
    request.state = TicketState.Value(f"TICKET_STATE_{state.upper() or 'UNSPECIFIED'}")
    now_us = time.time_ns() // 1000
    if older:
        request.until_time.FromMicroseconds(now_us - microseconds("--older", older))
    if newer:
        request.since_time.FromMicroseconds(now_us - microseconds("--newer", newer))
    return request


def _tickets(ask: Ask, request: ListAllTicketsRequest) -> Iterator[Ticket]:
    while True:
        reply = ask("Operator", "ListAllTickets", request)
        yield from reply.tickets
        if not reply.next_page_token:
            return
        request.page_token = reply.next_page_token


def _chosen(
    ids: list[str] | None, request: ListAllTicketsRequest | None, ask: Ask, verb: str, *, only: Sequence[str], yes: bool
) -> Sequence[str]:
    """Return the tickets that are named; or what filters choose, in *only* these states, once somebody has confirmed it."""
    if request is None:
        return ids or []
    chosen = [ticket.id for ticket in _tickets(ask, request) if _state(ticket) in only]
    if not chosen:
        typer.echo(f"there is nothing to {verb}", err=True)
    elif not yes:
        _confirm(f"{verb} {len(chosen)} ticket{'s' if len(chosen) > 1 else ''}?")
    return chosen


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        typer.echo(f"headrace: {question} Nobody can be asked here; say --yes", err=True)
        raise typer.Exit(NOT_CONFIRMED)
    if not typer.confirm(question, err=True):
        raise typer.Exit(NOT_CONFIRMED)


# Showing.


def _state(ticket: Ticket) -> str:
    from headrace.v1.tickets_pb2 import TicketState

    return str(TicketState.Name(ticket.state)).removeprefix("TICKET_STATE_").lower()


def _row(ticket: Ticket) -> tuple[str, ...]:
    due = f"{ticket.attempt_time.ToDatetime():%H:%M:%S}" if ticket.HasField("attempt_time") else "-"
    waits = f"waits for {ticket.waits_for}" if ticket.waits_for == "worker" else ticket.waits_for
    why = f"{ticket.error.reason} {ticket.error.message[:_MOST_SHOWN]}" if ticket.HasField("error") else waits or "-"
    return (
        ticket.id, ticket.caller, ticket.model, ticket.lane, _state(ticket), f"{ago(ticket.create_time)} ago",
        f"{ticket.attempts}", due, why,
    )  # fmt: skip
