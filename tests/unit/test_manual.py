"""The man page is what the commands say, and completions are made for three shells."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

import pytest
import typer
from deploy import manual
from deploy.making import ROOT

from conftest import missing
from headrace import main

PAGE = ROOT / "deploy" / "man" / "headrace.1"


def commands(app: typer.Typer, prefix: str) -> Iterator[str]:
    for command in app.registered_commands:
        yield prefix + (command.name or getattr(command.callback, "__name__", ""))
    for group in app.registered_groups:
        yield from commands(group.typer_instance, f"{prefix}{group.name} ")


def test_in_step() -> None:
    """The page that packages install is the one that the commands make: `make man`."""
    assert PAGE.read_text() == manual.page()


def test_every_command() -> None:
    """It has every command, and what commands end with."""
    said = set(re.findall(r"^\.SS headrace ([a-z ]+)", PAGE.read_text(), re.M))
    assert set(commands(main.app, "")) <= {name.strip() for name in said}
    assert ".SH EXIT STATUS" in PAGE.read_text()


@pytest.mark.parametrize("shell", manual.SHELLS)
def test_completion(shell: str) -> None:
    """A shell is told whom to ask; and bash takes it."""
    script = manual.completion(shell)
    assert "_HEADRACE_COMPLETE=complete_" in script
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_formatted() -> None:
    """What formats man pages has nothing to say against it."""
    if shutil.which("groff") is None:
        missing("groff")
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", PAGE], capture_output=True, text=True, check=True)
    assert done.stderr == ""
