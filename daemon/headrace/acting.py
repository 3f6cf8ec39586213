"""
Acts of commands on things that are named by their ids, one after the other.

One that is not there, or that the daemon does not act on, is said and keeps nobody from the others; the exit code tells in the
end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import typer

from headrace.errors import StartupError
from headrace.terminal import NOT_THERE, Absent, echo_json


def act(ids: Sequence[str], work: Callable[[str], dict[str, Any]], done: str, *, absent: str, as_json: bool) -> None:
    """
    Do *work* with each, and print "<id> <done>", or in the end what came of all, as JSON.

    Args:
        absent: what is said of one that is not there.
    """
    said, wrong = {}, 0
    for each in ids:
        try:
            said[each] = work(each)
        except StartupError as error:
            is_absent = isinstance(error, Absent)
            wrong = NOT_THERE if is_absent else wrong or 1
            typer.echo(f"headrace: {each}: {absent if is_absent else error}", err=True)
        else:
            if not as_json:
                typer.echo(f"{each} {done}")
    if as_json:
        echo_json(said)
    if wrong:
        raise typer.Exit(wrong)
