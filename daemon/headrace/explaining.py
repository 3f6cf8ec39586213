"""
The command that says why a call was slow, and how long one would wait: `headrace explain`.

It asks the running daemon, over OperatorService. Exit codes: 0, it is explained; 1, the daemon cannot be asked, or says no; 2,
a wrong configuration or option; 3, nothing is known of that id.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.terminal import (
    ConfigOption,
    JsonOption,
    KeyOption,
    ask_daemon,
    echo_json,
    plain,
    print_table,
    seconds_of,
    span,
)

if TYPE_CHECKING:
    from headrace.v1.operator_service_pb2 import BucketForecast, ExplainCallResponse, ForecastCallResponse, Phase, ToldCall
    from headrace.v1.tickets_pb2 import Ticket

PHASES = ("after", "for", "what", "of", "status", "on")
BUCKETS = ("limit", "bucket", "counts", "wants", "left", "holds", "a minute", "waiting", "would wait", "at longest")


def add_to(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command("explain")(explain)


def explain(
    id: Annotated[str, typer.Argument(metavar="[ID]", help="A call's id, its caller's own, or a ticket.")] = "",
    caller: Annotated[str, typer.Option("--caller", help="Say instead what would become of a call of this caller now.")] = "",
    model: Annotated[str, typer.Option("--model", help="The model of that call.")] = "",
    tokens: Annotated[int, typer.Option("--tokens", min=0, help="How many tokens it sends.")] = 0,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="How many it asks for at most.")] = 1024,
    lane: Annotated[str, typer.Option("--lane", help="Its lane; by default its caller's.")] = "",
    labels: Annotated[list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="One of its labels.")] = None,
    config: ConfigOption = None,
    as_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Say why a call took so long; or, with --caller and --model, which limits hold for one, and how long it would wait."""
    if bool(id) == bool(caller or model):
        raise typer.BadParameter("give an ID, or --caller and --model")
    if id:
        _explain(id, config, as_key, as_json)
        return
    from headrace.v1.operator_service_pb2 import ForecastCallRequest

    request = ForecastCallRequest(
        caller=caller, model=model, input_tokens=tokens, max_tokens=max_tokens, lane=lane, labels=dict(_pairs(labels or ())),
    )  # fmt: skip
    reply = ask_daemon(config, as_key, "Operator", "ForecastCall", request)
    if as_json:
        echo_json(plain(reply))
        return
    print_table(BUCKETS, [_bucket(bucket) for bucket in reply.buckets])
    typer.echo("\n".join(verdict(reply)))


def _pairs(labels: Sequence[str]) -> Iterator[tuple[str, str]]:
    for label in labels:
        name, equals, value = label.partition("=")
        if not equals:
            raise typer.BadParameter(f"--label {label}: give NAME=VALUE")
        yield name, value


# A call that was made.


def _explain(id: str, config: Any, as_key: str, as_json: bool) -> None:
    from headrace.v1.operator_service_pb2 import ExplainCallRequest

    reply = ask_daemon(config, as_key, "Operator", "ExplainCall", ExplainCallRequest(id=id))
    if as_json:
        echo_json(plain(reply))
    else:
        _show(reply)


def _show(reply: ExplainCallResponse) -> None:
    for call in reply.calls:
        typer.echo(f"{call.id}: {in_a_line(call)}")
        print_table(PHASES, [_phase(phase) for phase in call.phases])
    is_told = any(call.edge == "queue" or call.ticket == reply.ticket.id for call in reply.calls)
    if reply.HasField("ticket"):
        typer.echo(ticket_line(reply.ticket))
        if not is_told:
            print_table(PHASES, [_phase(phase) for phase in reply.ticket_phases])


def in_a_line(call: ToldCall) -> str:
    """Return what came of a call, in a line."""
    ended = f"ended with {call.reason}" if call.reason else f"was answered ({call.source})"
    upstreams = f" {call.upstream_status}" if call.upstream_status else ""
    held = f"; held by {call.limit}" if call.limit else ""
    began = f"{call.begin_time.ToDatetime():%Y-%m-%d %H:%M:%S}"
    return (
        f"{call.caller or 'somebody'}'s call of {call.model or call.endpoint or 'nothing that is known'}, {call.lane or 'no'} "
        f"lane, came by {call.edge} at {began} UTC to {call.instance}, "
        f"and {ended}{upstreams} after {span(seconds_of(call.took))} and {call.attempts} tries{held}"
    )


def ticket_line(ticket: Ticket) -> str:
    """Return how a ticket stands, in a line."""
    from headrace.v1.tickets_pb2 import TicketState

    state = TicketState.Name(ticket.state).removeprefix("TICKET_STATE_")
    due = f", due at {ticket.attempt_time.ToDatetime():%H:%M:%S} UTC" if ticket.HasField("attempt_time") else ""
    error = f": {ticket.error.reason}, {ticket.error.message}" if ticket.HasField("error") else ""
    waits = f", waits for {ticket.waits_for}" if ticket.waits_for else ""
    return f"ticket {ticket.id} of {ticket.caller} is {state} after {ticket.attempts} tries{due}{waits}{error}"


def _phase(phase: Phase) -> tuple[str, ...]:
    status = f"{phase.status}" if phase.status else ""
    what = f"attempt {phase.attempt}" if phase.what == "attempt" else phase.what
    return span(seconds_of(phase.after)), span(seconds_of(phase.took)), what, phase.about, status, phase.host


# One that nobody makes.


def verdict(reply: ForecastCallResponse) -> Iterator[str]:
    """Yield what would become of a call, a line each."""
    from headrace.budgets import show

    whose = f"a call of {reply.caller}{f' (team {reply.team})' if reply.team else ''} in lane {reply.lane}"
    if reply.HasField("hold"):
        yield show.hold_line(reply.hold)
    if reply.overloaded:
        yield "upstream was overloaded of late: it would have to pass a gate first"
    if reply.never:
        yield f"{whose} would be refused: it is larger than limit {reply.limit} can ever hold"
    elif not reply.HasField("expected_wait"):
        yield f"{whose} would wait for limit {reply.limit}; nobody knows how long"
    elif reply.refused:
        wait, patience = span(seconds_of(reply.expected_wait)), span(seconds_of(reply.patience))
        yield f"{whose} would be refused: limit {reply.limit} would take {wait}, and it waits {patience} at most"
    elif reply.limit:
        yield f"{whose} would wait about {span(seconds_of(reply.expected_wait))}, for limit {reply.limit}"
    else:
        yield f"{whose} would go at once"
    if reply.daemons_heard < reply.daemons:
        yield f"{reply.daemons - reply.daemons_heard} of {reply.daemons} daemons did not answer: who waits there is missing"


def _bucket(bucket: BucketForecast) -> tuple[str, ...]:
    waits = span(seconds_of(bucket.expected_wait)) if bucket.HasField("expected_wait") else "?"
    longest = span(seconds_of(bucket.longest_wait)) if bucket.HasField("longest_wait") else "?"
    name, rate = bucket.limit + (" (shadow)" if bucket.shadow else ""), bucket.rate_per_minute
    return (
        name, bucket.bucket, bucket.kind, f"{bucket.cost:,}", f"{bucket.level - bucket.debt:,}", f"{bucket.capacity:,}",
        f"{rate:,}" if rate else "-", f"{bucket.waiting_calls}", waits, longest,
    )  # fmt: skip
