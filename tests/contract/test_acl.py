"""The Redis user that docs/installation.md has may do what we do and no more, and the check at the start knows all of it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import redis

import headrace
from headrace import redis_check

ROOT = Path(__file__).parents[2]
PACKAGE = Path(headrace.__file__).parent


def documented() -> set[str]:
    """The commands in the line that the page has."""
    (line,) = re.findall(r"ACL SETUSER headrace on >PASSWORD ([^`]+)", (ROOT / "docs" / "installation.md").read_text())
    return {word[1:].partition("|")[0].upper() for word in line.split() if word.startswith("+")}


def checked() -> set[str]:
    """The commands that are said once, at the start, to see whether they are allowed."""
    return {words[0] for words, _ in redis_check._everything()}


@pytest.fixture
def used(valkey_url: str) -> set[str]:
    """The commands that stand in our source, in scripts and in Python."""
    with redis.Redis.from_url(valkey_url) as client:
        there = {word.decode().upper() for word in client.command_list()}
    said = {
        word.upper() for path in PACKAGE.rglob("*.lua") for word in re.findall(r"""call\(\s*['"](\w+)['"]""", path.read_text())
    }
    for path in PACKAGE.rglob("*.py"):
        if path.name != "embedded.py" and "simulator" not in path.parts:  # our own server, and no Redis at all
            said |= set(_shouted(ast.parse(path.read_text())))
    return said & there


def _shouted(tree: ast.AST) -> list[str]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    words = [argument.value for call in calls for argument in call.args if isinstance(argument, ast.Constant)]
    return [word for word in words if isinstance(word, str) and word.isupper() and word.isalpha()]


def test_documented(used: set[str]) -> None:
    """All that we say is in the line."""
    assert len(used) > 40
    assert used - documented() == set()


def test_checked(used: set[str]) -> None:
    """All that we say is looked at when we start, so that a user who may not do it is told of then."""
    assert used - checked() - {"MULTI", "EXEC", "DISCARD", "SUBSCRIBE", "UNSUBSCRIBE", "HELLO"} == set()


def test_no_more() -> None:
    """Nothing dangerous is in it."""
    dangerous = {
        "KEYS",
        "SCAN",
        "FLUSHALL",
        "FLUSHDB",
        "CONFIG",
        "ACL",
        "DEBUG",
        "SHUTDOWN",
        "FUNCTION",
        "MONITOR",
        "REPLICAOF",
        "SORT",
    }
    assert documented() & dangerous == set()
