"""docs/errors.md as its tables have it: the rows of our own errors, and of upstream's."""

from __future__ import annotations

from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "errors.md").read_text()
OTHERS = {"other 4xx": 418, "other 5xx": 520}


def rows(heading: str) -> list[list[str]]:
    """The rows of the table under a heading, without its own head."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


OURS = rows("What the daemon says itself")
UPSTREAMS = rows("What upstream says")
