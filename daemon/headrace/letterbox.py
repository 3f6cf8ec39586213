"""
The commands for dead letters: `headrace letters list`, `show`, `requeue` and `drop`.

All of them ask the running daemon, over LettersService. Exit codes: 0, done; 1, the daemon cannot be asked, or says no; 2, a
wrong configuration or option; 3, there is no such letter (of several, the others are done all the same).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from headrace.acting import act
from headrace.terminal import (
    Ask,
    ConfigOption,
    JsonOption,
    KeyOption,
    ReasonOption,
    ask_daemon,
    asking,
    echo_json,
    microseconds,
    plain,
    print_table,
)

if TYPE_CHECKING:
    from headrace.v1.letters_service_pb2 import Letter

letters_app = typer.Typer(help="Dead letters: calls that failed for good, kept for you.", no_args_is_help=True)

COLUMNS = ("id", "caller", "model", "failed", "attempts", "reason", "message")

_PAGE = 500
_ABSENT = "it is no dead letter (of yours)"
_MOST_SHOWN = 80  # characters of an error's message in a table

CallerOption = Annotated[str, typer.Option("--caller", help="Only this caller's.")]
ModelOption = Annotated[str, typer.Option("--model", help='Only of models that match, as "claude-*".')]
AllOption = Annotated[bool, typer.Option("--all", help="All that `list` shows under the same filters.")]
IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="ID...", help="As `list` shows them.")]
ForOption = Annotated[str, typer.Option("--for", help='The time that each has from now on, as "10m"; else as at first.')]


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(letters_app, name="letters")


@letters_app.command("list")
def list_letters(
    caller: CallerOption = "",
    model: ModelOption = "",
    most: Annotated[int, typer.Option("--most", min=1, help="Show so many, the latest failures first.")] = 100,
    config: ConfigOption = None,
    as_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """List dead letters, the latest failure first."""
    with asking(config, as_key) as ask:
        letters = list(islice(_letters(ask, caller, model), most))
    if as_json:
        echo_json([_plain(letter) for letter in letters])
    else:
        print_table(COLUMNS, [_row(letter) for letter in letters])


@letters_app.command("show")
def show_letter(
    id: Annotated[str, typer.Argument(metavar="ID", help="As `list` shows it.")],
    config: ConfigOption = None,
    as_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show one dead letter; what was asked, too, if it is your own."""
    from headrace.v1.letters_service_pb2 import GetLetterRequest

    said = _plain(ask_daemon(config, as_key, "Letters", "GetLetter", GetLetterRequest(id=id)).letter)
    if as_json:
        echo_json(said)
        return
    print_table(("", ""), [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in _flat(said)])


@letters_app.command("requeue")
def requeue_letters(
    ids: IdsArgument = None,
    all_of_them: AllOption = False,
    caller: CallerOption = "",
    model: ModelOption = "",
    lasting: ForOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Make tickets of dead letters again, each with all its attempts before it."""
    from headrace.v1.letters_service_pb2 import RequeueLetterRequest

    lasts_us = microseconds("--for", lasting) if lasting else 0
    with asking(config, as_key) as ask:

        def requeue(id: str) -> dict[str, Any]:
            request = RequeueLetterRequest(id=id, reason=reason)
            if lasts_us:
                request.answer_timeout.FromMicroseconds(lasts_us)
            return plain(ask("Letters", "RequeueLetter", request).ticket)

        act(_chosen(ids, all_of_them, ask, caller, model), requeue, "queued again", absent=_ABSENT, as_json=as_json)


@letters_app.command("drop")
def drop_letters(
    ids: IdsArgument = None,
    all_of_them: AllOption = False,
    caller: CallerOption = "",
    model: ModelOption = "",
    reason: ReasonOption = "",
    config: ConfigOption = None,
    as_key: KeyOption = "",
    as_json: JsonOption = False,
) -> None:
    """Drop dead letters for good."""
    from headrace.v1.letters_service_pb2 import DropLetterRequest

    with asking(config, as_key) as ask:

        def drop(id: str) -> dict[str, Any]:
            return plain(ask("Letters", "DropLetter", DropLetterRequest(id=id, reason=reason)))

        act(_chosen(ids, all_of_them, ask, caller, model), drop, "dropped", absent=_ABSENT, as_json=as_json)


def _letters(ask: Ask, caller: str, model: str) -> Iterator[Letter]:
    from headrace.v1.letters_service_pb2 import ListLettersRequest

    token = ""
    while True:
        request = ListLettersRequest(page_size=_PAGE, page_token=token, owner=caller, model=model)
        reply = ask("Letters", "ListLetters", request)
        yield from reply.letters
        token = reply.next_page_token
        if not token:
            return


def _chosen(ids: list[str] | None, all_of_them: bool, ask: Ask, caller: str, model: str) -> Sequence[str]:
    if bool(ids) == all_of_them or (ids and (caller or model)):
        raise typer.BadParameter("name letters by their ids, or take --all (with --caller and --model, if you like)")
    return ids or [letter.ticket.id for letter in _letters(ask, caller, model)]


def _plain(message: Any) -> dict[str, Any]:
    said = plain(message)
    if body := getattr(message, "body", b""):
        said["body"] = body.decode(errors="replace")
    return said


def _flat(said: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in said.items():
        if name == "ticket":
            yield from value.items()
        else:
            yield name, value


def _row(letter: Letter) -> tuple[str, ...]:
    ticket, error = letter.ticket, letter.ticket.error
    failed = f"{letter.fail_time.ToDatetime():%Y-%m-%d %H:%M:%S}"
    return (
        ticket.id, ticket.caller, ticket.model, failed, str(ticket.attempts), error.reason, error.message[:_MOST_SHOWN],
    )  # fmt: skip
