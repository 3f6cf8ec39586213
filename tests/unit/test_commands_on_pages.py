"""Every command of ours that a page has, in a block or among its words, is one that the program takes, options and all."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from deploy import manual, site
from deploy.making import ROOT
from typer.main import get_command

from headrace import main

NO_COMMANDS = ("headrace call", "headrace COMMAND")  # the name of a span, and whatever command
# A page may name an option without its value, or a command without what it is about; a block may not.
UNFINISHED = ("MissingParameter", "BadOptionUsage")


def lines(text: str) -> Iterator[tuple[str, bool]]:
    """Yield what a page has of commands, and whether it stands in a block, to be typed as it is."""
    for fenced, inline in re.findall(r"^ *```\w*\n(.*?)^ *```|`(headrace [^`\n]*)`", text, re.M | re.S):
        for line in fenced.splitlines():
            if found := re.match(r"(?:\$ |.* -- )?(headrace [a-z-].*)", line.strip()):
                yield found[1], True
        if inline:
            yield inline, False


def asked() -> list[tuple[str, str, bool]]:
    """Return the commands of all pages."""
    found = {(str(page), line, whole) for page in site.pages() for line, whole in lines((ROOT / page).read_text())}
    return sorted(found)


def said_by(line: str) -> str:
    """Return the words with which a line is refused; "" if it is taken."""
    words = shlex.split(re.split(r"\s(?:\|\|?|&&|;)\s", line)[0], comments=True)[1:]
    words = [re.sub(r"^[A-Z]+$", "1", word) for word in words]  # what is to be filled in
    command: Any = get_command(main.app)
    try:
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            if words[0] not in command.commands:
                return f"no command {words[0]}"
            command = manual._own(command.commands[words.pop(0)])
        if (words or not hasattr(command, "commands")) and not {"--help", "--version", "--install-completion"} & set(words):
            command.make_context("headrace", words)
    except Exception as error:
        return type(error).__name__ + f" {error}"
    return ""


def is_command(line: str) -> bool:
    """Whether a line says all of a command of ours."""
    return "..." not in line and not line.startswith(NO_COMMANDS)


def test_they_are_taken() -> None:
    """None names a command, an option or a kind of value that there is not."""
    found = asked()
    assert len(found) > 100
    refused = {(page, line): said_by(line) for page, line, _ in found if is_command(line)}
    whole = {(page, line) for page, line, in_block in found if in_block}
    wrong = {at: said for at, said in refused.items() if said and (at in whole or not said.startswith(UNFINISHED))}
    assert wrong == {}


@pytest.mark.parametrize("line", ["headrace limts", "headrace limits set org --requests 5", "headrace explain --tokens many"])
def test_wrong_ones_are_found(line: str) -> None:
    """So it does look."""
    assert said_by(line)
