"""
Lays the pages out for the site: each where it lies in the repository, with whatever they link to beside them.

    python -m deploy.site      (`make docs` does that, and has mkdocs make the site of it)

A page links to another, to a picture, or to a file of the program, as it is read in the repository; all of these come along. Of
a link to a folder the words stay.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from deploy.making import ROOT

PAGES = ROOT / "build" / "pages"
LINK = re.compile(r"\[([^\]]*)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def pages() -> Iterator[Path]:
    """Yield every page, as a path in the repository."""
    yield from sorted(path.relative_to(ROOT) for path in ROOT.glob("*.md"))
    yield from sorted(path.relative_to(ROOT) for path in (ROOT / "docs").rglob("*.md"))
    yield from sorted(path.relative_to(ROOT) for place in ("*", "*/*") for path in (ROOT / "clients").glob(f"{place}.md"))


def lay(into: Path = PAGES) -> None:
    """Copy pages, and what they link to."""
    shutil.rmtree(into, ignore_errors=True)
    for page in pages():
        text = (ROOT / page).read_text()
        for target in linked(page, text):
            (into / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / target, into / target)
        (into / page).parent.mkdir(parents=True, exist_ok=True)
        (into / page).write_text(LINK.sub(partial(without_folders, page), text))


def linked(page: Path, text: str) -> Iterator[Path]:
    """Yield the files that a page links to."""
    for _, target, _ in LINK.findall(text):
        found = Path(os.path.normpath(page.parent / target))
        if (ROOT / found).is_file():
            yield found


def without_folders(page: Path, found: re.Match[str]) -> str:
    """Return a link as it is, or the words alone if it is to a folder."""
    words, target, _ = found.groups()
    return words if (ROOT / page.parent / target).is_dir() else found[0]


if __name__ == "__main__":
    lay()
