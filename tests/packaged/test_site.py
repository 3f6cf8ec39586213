"""The site: every page is in it, and every link leads somewhere."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from deploy import site
from tests.packaged.place import ROOT

from conftest import missing

MKDOCS = ROOT / ".venv-tools" / "bin" / "mkdocs"


def test_navigation() -> None:
    """The table of contents has every page, once."""
    named = re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    assert sorted(named) == sorted(map(str, site.pages()))


def build(directory: Path) -> subprocess.CompletedProcess[str]:
    """Make the site of the pages in a folder, strictly."""
    shutil.copy(ROOT / "mkdocs.yml", directory / "mkdocs.yml")
    said = (directory / "mkdocs.yml").read_text().replace("docs_dir: build/pages", "docs_dir: pages")
    (directory / "mkdocs.yml").write_text(said)
    return subprocess.run(
        [MKDOCS, "build", "--strict"], cwd=directory, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.mark.long
def test_builds(tmp_path: Path) -> None:
    """It is made without a warning, and asks nothing of other sites; with one link that leads nowhere it is not."""
    if not MKDOCS.exists():
        missing("mkdocs (make packaged)")
    site.lay(tmp_path / "pages")
    done = build(tmp_path)
    assert done.returncode == 0, done.stderr
    made = tmp_path / "site"
    assert (made / "docs" / "runbook" / "index.html").exists()
    head = (made / "index.html").read_text().partition("</head>")[0]
    assert re.findall(r"<(?:script|link)[^>]+(?:src|href)=\"https?://(?!headrace)[^\"]*\.(?:js|css)", head) == []
    for broken in ("[there](docs/nowhere.md)", "[there](docs/http.md#nowhere)"):
        page = tmp_path / "pages" / "CONTRIBUTING.md"
        text = page.read_text()
        page.write_text(f"{text}\n{broken}\n")
        assert build(tmp_path).returncode == 1, broken
        page.write_text(text)
