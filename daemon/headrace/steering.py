"""
The commands that show budgets and steer them at run time: `headrace limits`, `hold` and `release`.

All of them ask the running daemon, over BudgetsService; every daemon on the same Redis goes by what is changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.terminal import ConfigOption, JsonOption, KeyOption, ReasonOption, ask_daemon, microseconds, print_table

if TYPE_CHECKING:
    from headrace.v1.budgets_service_pb2 import HoldCallerRequest, SetLimitRequest

limits_app = typer.Typer(help="Show limits with their budgets and who waits; change them for a while.")

ForOption = Annotated[str, typer.Option("--for", help='For how long, as "1h" or "30m"; without it, until it is taken back.')]
NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The limit's name.")]
CallerArgument = Annotated[str, typer.Argument(metavar="CALLER", help="The caller's name.")]
Figure = Annotated[int | None, typer.Option()]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(limits_app, name="limits")
    app.command("hold")(hold)
    app.command("release")(release)


@limits_app.callback(invoke_without_command=True)
def limits(context: typer.Context, config: ConfigOption = None, as_key: KeyOption = "", as_json: JsonOption = False) -> None:
    """Show limits with their budgets and who waits; change them for a while."""
    if context.invoked_subcommand is None:
        _show_all(config, as_key, as_json)


def _show_all(config: ConfigOption, as_key: str, as_json: bool) -> None:
    from headrace.budgets import show
    from headrace.v1.budgets_service_pb2 import ListBudgetsRequest

    reply = ask_daemon(config, as_key, "Budgets", "ListBudgets", ListBudgetsRequest())
    if as_json:
        typer.echo(show.as_json(reply))
        return
    print_table(show.COLUMNS, show.rows(reply.limits))
    for line in show.notes(reply):
        typer.echo(line)


@limits_app.command("show")
def show_limit(name: NameArgument, config: ConfigOption = None, as_key: KeyOption = "", as_json: JsonOption = False) -> None:
    """Show one limit, and call by call who waits for it."""
    from headrace.budgets import show
    from headrace.v1.budgets_service_pb2 import GetBudgetRequest

    reply = ask_daemon(config, as_key, "Budgets", "GetBudget", GetBudgetRequest(limit=name))
    if as_json:
        typer.echo(show.as_json(reply))
        return
    print_table(show.COLUMNS, show.rows([reply.limit]))
    if waiting := show.waiting(reply.limit):
        print_table(show.WAITING, waiting)
    for line in show.notes(reply):
        typer.echo(line)


@limits_app.command("set")
def set_limit(
    name: NameArgument,
    requests_per_minute: Figure = None,
    input_tokens_per_minute: Figure = None,
    output_tokens_per_minute: Figure = None,
    total_tokens_per_minute: Figure = None,
    concurrency: Figure = None,
    spend_per_day: Annotated[str, typer.Option(help="In USD.")] = "",
    spend_per_month: Annotated[str, typer.Option(help="In USD.")] = "",
    burst: Annotated[str, typer.Option(help='So much inflow a bucket holds, as "10s".')] = "",
    lasting: ForOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Lay other figures over a limit, in every daemon, for a while; those that are not given stay as configured."""
    from headrace.budgets import show
    from headrace.v1.budgets_service_pb2 import LimitFigures, SetLimitRequest

    figures: dict[str, Any] = {
        "requests_per_minute": requests_per_minute, "input_tokens_per_minute": input_tokens_per_minute,
        "output_tokens_per_minute": output_tokens_per_minute, "total_tokens_per_minute": total_tokens_per_minute,
        "concurrency": concurrency,
    }  # fmt: skip
    for field, usd in (("spend_per_day", spend_per_day), ("spend_per_month", spend_per_month)):
        if usd:
            figures[f"{field}_nano_usd"] = _nano_usd(field, usd)
    request = SetLimitRequest(limit=name, reason=reason, figures=LimitFigures(**figures))
    if burst:
        request.figures.burst.FromMicroseconds(microseconds("--burst", burst))
    _end(request, lasting)
    reply = ask_daemon(config, as_key, "Budgets", "SetLimit", request)
    typer.echo(show.as_json(reply) if as_json else show.limit_line(reply.limit))


@limits_app.command("unset")
def unset_limit(
    name: NameArgument,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let a limit be again what the configuration says, in every daemon."""
    from headrace.budgets import show
    from headrace.v1.budgets_service_pb2 import DeleteLimitRequest

    reply = ask_daemon(config, as_key, "Budgets", "DeleteLimit", DeleteLimitRequest(limit=name, reason=reason))
    typer.echo(show.as_json(reply) if as_json else show.limit_line(reply.limit) if reply.HasField("limit") else name)


def hold(
    caller: CallerArgument,
    refuse: Annotated[bool, typer.Option("--refuse", help="Refuse its calls at once; else they wait.")] = False,
    lasting: ForOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Put a caller on hold, in every daemon: what it would ask upstream waits, or is refused."""
    from headrace.budgets import show
    from headrace.v1.budgets_service_pb2 import HoldCallerRequest

    request = HoldCallerRequest(caller=caller, refuse=refuse, reason=reason)
    _end(request, lasting)
    reply = ask_daemon(config, as_key, "Budgets", "HoldCaller", request)
    typer.echo(show.as_json(reply) if as_json else show.hold_line(reply.hold))


def release(
    caller: CallerArgument,
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Let a caller that is on hold go on."""
    from headrace.budgets import show
    from headrace.v1.budgets_service_pb2 import ReleaseCallerRequest

    reply = ask_daemon(config, as_key, "Budgets", "ReleaseCaller", ReleaseCallerRequest(caller=caller, reason=reason))
    typer.echo(show.as_json(reply) if as_json else f"{caller} goes on")


def _end(request: SetLimitRequest | HoldCallerRequest, lasting: str) -> None:
    if lasting:
        request.ttl.FromMicroseconds(microseconds("--for", lasting))


def _nano_usd(option: str, text: str) -> int:
    from decimal import Decimal, InvalidOperation

    try:
        return int(Decimal(text) * 1_000_000_000)
    except (InvalidOperation, ValueError, OverflowError):
        raise typer.BadParameter(f"--{option.replace('_', '-')} {text}: give an amount in USD such as 25 or 0.5") from None
