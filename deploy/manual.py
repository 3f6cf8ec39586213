"""
The man page, made of the command tree, and the completions of three shells.

    python -m deploy.manual        prints deploy/man/headrace.1 (`make man`)

The page that is committed is what packages install; a test asks whether it is what the commands say.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any

import typer
from typer._completion_classes import completion_init
from typer.completion import get_completion_script
from typer.main import get_command

from deploy.making import version
from headrace import main
from headrace.rehearse.command import rehearse
from headrace.simulator.command import simulate

SHELLS = {"bash": "headrace", "zsh": "_headrace", "fish": "headrace.fish"}

_CODES = (
    ("0", "done"),
    ("1", "the daemon cannot be asked, or says no; whatever else went wrong"),
    ("2", "a wrong configuration or option"),
    ("3", "there is no such host, call, ticket, letter, limit or key; of several, the others are done all the same"),
    ("4", "it was not confirmed, and nothing is done"),
    ("5", "status --check found something amiss"),
)
_VARIABLES = (
    ("HEADRACE_CONFIG", "the configuration file, unless --config names one"),
    ("HEADRACE_KEY", "the key to present, unless --as-key names one"),
    ("HEADRACE_TABLE__KEY", "any key of the configuration, as HEADRACE_CACHE__TTL"),
    ("ANTHROPIC_API_KEY", "upstream's key, unless the configuration names a file"),
)
_FILES = (
    ("/etc/headrace/config.toml", "the configuration"),
    ("/var/lib/headrace", "what the daemon keeps: cache, and its own Valkey, if no Redis is configured"),
)


def page() -> str:
    """Return the man page."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    root: Any = get_command(main.app)
    yield f'.TH HEADRACE 1 "" "headrace {version()}" "User Commands"'
    yield from (".SH NAME", "headrace \\- a daemon between your services and the Anthropic API")
    yield from (".SH SYNOPSIS", ".B headrace", ".I COMMAND", "[OPTION]...")
    yield from (".SH DESCRIPTION", _roff(root.help))
    yield ".SH COMMANDS"
    for name, command in _commands(root, ""):
        yield from _command(name, command)
    for title, rows in (("EXIT STATUS", _CODES), ("ENVIRONMENT", _VARIABLES), ("FILES", _FILES)):
        yield f".SH {title}"
        yield from _entries(rows)
    yield from (".SH SEE ALSO", "The pages in /usr/share/doc/headrace; https://headrace.dev")


def _commands(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in sorted(group.commands.items()):
        if not hasattr(command, "commands"):
            yield prefix + name, _own(command)
            continue
        if command.invoke_without_command:
            yield prefix + name, command
        yield from _commands(command, f"{prefix}{name} ")


def _own(command: Any) -> Any:
    """Return a command; of one whose options a program of its own reads, that."""
    own = {"simulate": simulate, "rehearse": rehearse}.get(command.name)
    if own is None:
        return command
    program = typer.Typer(add_completion=False)
    program.command(command.name)(own)
    return get_command(program)


def _command(name: str, command: Any) -> Iterator[str]:
    context = command.make_context(name, [], resilient_parsing=True)
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    options = [each for each in command.params if each.param_type_name == "option" and not each.hidden]
    usage = " ".join(_roff(each.display_name_raw.upper()) for each in arguments)
    yield from (f".SS headrace {name} {usage}".rstrip(), _roff(inspect.cleandoc(command.help or "")))
    yield from _entries((each.display_name_raw.upper(), each.help or "") for each in arguments)
    yield from _entries(each.get_help_record(context) for each in options)


def _entries(rows: Any) -> Iterator[str]:
    for name, said in rows:
        yield from (".TP", f".B {_roff(name)}", _roff(said))


def _roff(text: str) -> str:
    said = " ".join(text.split()).replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{said}" if said.startswith((".", "'")) else said


def completion(shell: str) -> str:
    """Return what completes the commands in a shell."""
    completion_init()
    return get_completion_script(prog_name="headrace", complete_var="_HEADRACE_COMPLETE", shell=shell) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
