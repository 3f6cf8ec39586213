"""What is installed: each by its version and its hash, and no version with known advisories."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PINS = ["constraints.txt", "pins/dev.txt", "pins/otel.txt", "pins/tools.txt"]
# The first version without any known advisory, where there have been some lately.
SAFE = {"aiohttp": "3.14.3"}


def pins(name: str) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes, by name."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    rows = [line.split() for line in text.splitlines() if line and not line.startswith("#")]
    return {
        row[0].partition("==")[0]: (row[0].partition("==")[2], [word for word in row if word.startswith("--hash=sha256:")])
        for row in rows
    }


def asked(*extras: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rows = [*project["dependencies"], *(row for extra in extras for row in project["optional-dependencies"][extra])]
    return [Requirement(row) for row in rows if not row.startswith("headrace[")]


@pytest.mark.parametrize("name", PINS)
def test_hashes(name: str) -> None:
    """Every row has a version and hashes."""
    rows = pins(name)
    assert len(rows) > 5
    assert [name for name, (version, hashes) in rows.items() if not version or not hashes] == []


def test_versions() -> None:
    """What the project asks for is pinned, at a version that it takes, the same for all."""
    running, dev, otel = pins("constraints.txt"), pins("pins/dev.txt"), pins("pins/otel.txt")
    assert running.items() <= dev.items()
    assert otel.items() <= dev.items()
    for wanted, rows in ((asked(), running), (asked("otel"), otel), (asked("dev", "plot", "otel"), dev)):
        for each in wanted:
            name = re.sub(r"[-_.]+", "-", each.name).lower()
            assert each.specifier.contains(rows[name][0]), name


def test_floors() -> None:
    """No version with a known advisory is taken, pinned or not."""
    for each in asked():
        if each.name in SAFE:
            floor = Requirement(f"{each.name}<{SAFE[each.name]}").specifier
            (least,) = [part.version for part in each.specifier if part.operator == ">="]
            assert not floor.contains(least)


def test_installing() -> None:
    """Whatever installs us, installs by hash, and ourselves without asking for more."""
    for page in ("Makefile", "docs/installation.md", "README.md"):
        lines = [line for line in (ROOT / page).read_text().splitlines() if re.search(r"(pip|PIP\)) .*install\b", line)]
        ours = [line for line in lines if "OTHERS" not in line]  # other people's programs, in an environment of their own
        assert [line for line in ours if "--require-hashes" not in line and "--no-deps" not in line] == [], page
