"""`headrace top`: the program, one look, or JSON for scripts."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from headrace.errors import ConfigError, StartupError
from headrace.terminal import ConfigOption, KeyOption, load, local_operator
from headrace.top import text

if TYPE_CHECKING:
    from headrace.top.client import Client

_ONCE = ("budgets", "callers", "line")


def top(
    view: Annotated[str, typer.Argument(help=f"What to show first: {', '.join(text.VIEWS)}.")] = "",
    once: Annotated[bool, typer.Option("--once", help="Print one look as text, and leave.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one look as JSON, and leave.")] = False,
    config: ConfigOption = None,
    as_key: KeyOption = "",
) -> None:
    """Show budgets, callers, who waits, tickets and hosts, of all hosts on the same Redis, as they change."""
    if view and view not in text.VIEWS:
        raise typer.BadParameter(f"{view!r} is none of {', '.join(text.VIEWS)}")
    with _client(config, as_key) as client:
        if as_json:
            _print(*_json(client, view))
        elif once:
            _print(*_look(client, view))
        else:
            _run(client, view or text.VIEWS[0])


def _print(said: str, trouble: str) -> None:
    """Print a look; one that has nothing to show says why on standard error, too, and by its exit code."""
    typer.echo(said)
    if trouble:
        raise StartupError(trouble)


def _client(config: ConfigOption, key: str) -> Client:
    from headrace.admin.places import is_socket
    from headrace.config import resolve, runtime_dir
    from headrace.top.client import Client

    settings, _ = load(config)
    if not settings.listen.admin:
        raise ConfigError("listen.admin = []: is empty, and this command talks to the daemon there; name an address")
    where = runtime_dir(os.environ, settings)
    local = dict(local_operator(settings)) if not key else {}
    # Who is let in at a socket alone asks there first.
    addresses = sorted(settings.listen.admin, key=lambda each: bool(local) and not is_socket(each))
    return Client(
        tuple(resolve(each, where) for each in addresses), key, local=local, is_tls=bool(settings.listen.tls_certificate)
    )


def _json(client: Client, view: str) -> tuple[str, str]:
    said = {name: client.said(name) for name in ((view,) if view else text.VIEWS)}
    trouble = next((each["more"]["trouble"] for each in said.values() if "trouble" in each["more"]), "")
    whole = (
        {"summary": said["budgets"]["summary"]} | {name: each["rows"] for name, each in said.items()}
        if not view
        else said[view]
    )
    return msgspec.json.format(msgspec.json.encode(whole), indent=2).decode(), trouble


def _look(client: Client, view: str) -> tuple[str, str]:
    views = (view,) if view else _ONCE
    shown = [client.view(name) for name in views]
    said = [text.head(shown[0].summary), *shown[0].summary.troubles]
    for each in shown:
        said += ["", *text.lines(each)]
    return "\n".join(said), next((each.more["trouble"] for each in shown if "trouble" in each.more), "")


def _run(client: Client, view: str) -> None:
    from headrace.top.app import Top  # Textual takes a while to import, and nobody else needs it

    Top(client, view).run()
