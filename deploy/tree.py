"""
The tree of files that deb and rpm install: an environment of Python in /opt/headrace that needs only the system's Python.

It is made beside the place where it will lie, so nothing in it may name where it was made, and nothing may depend on when: what
pip notes for itself goes, and every file bears the same time. Compiled files are made when the package is installed.

pip chooses for the system's Python, not for the one that runs it: what is needed differs between 3.11.2 and 3.11.4.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from deploy import manual
from deploy.making import ROOT, run

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"  # whose wheels pip takes, and whose package is needed
LAUNCHER = """#!/opt/headrace/bin/python3
import sys

from headrace.main import run

sys.exit(run())
"""
HOME = f"""home = /usr/bin
include-system-site-packages = false
version = {sys.version_info.major}.{sys.version_info.minor}
"""
PAGES = ("README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE", "NOTICE", "THIRD-PARTY.md", "config.example.toml")


def lay(stage: Path, wheel: Path, seconds: int) -> None:
    """
    Lay the tree under *stage*: `opt/headrace`, and beside it `doc` for the pages, and `completions` for shells.

    *seconds* is the time that all files bear.
    """
    shutil.rmtree(stage, ignore_errors=True)
    home = stage / "opt" / "headrace"
    _lay_environment(home, wheel)
    _lay_pages(stage / "doc")
    _lay_completions(stage / "completions")
    for path in (stage, *stage.rglob("*")):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)
        os.utime(path, (seconds, seconds), follow_symlinks=False)


def _lay_environment(home: Path, wheel: Path) -> None:
    packages = home / "lib" / PYTHON / "site-packages"
    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--python", f"/usr/bin/{PYTHON}", "install")
    pip = (*pip, "--no-compile", "--target", str(packages))
    run(*pip, "--require-hashes", "--only-binary=:all:", "-r", "constraints.txt")
    shutil.rmtree(packages / "bin")  # programs of others, which name the Python that made them
    run(*pip, "--no-deps", "--no-index", wheel)
    shutil.rmtree(packages / "bin")
    # Where a wheel came from, and which files pip wrote.
    for note in [path for name in ("RECORD", "REQUESTED", "direct_url.json") for path in packages.glob(f"*.dist-info/{name}")]:
        note.unlink()
    binaries = home / "bin"
    binaries.mkdir()
    (binaries / "python3").symlink_to(f"/usr/bin/{PYTHON}")
    (binaries / "headrace").write_text(LAUNCHER)
    (binaries / "headrace").chmod(0o755)
    (home / "pyvenv.cfg").write_text(HOME)


def _lay_completions(folder: Path) -> None:
    for shell, name in manual.SHELLS.items():
        (folder / shell).mkdir(parents=True)
        (folder / shell / name).write_text(manual.completion(shell))


def _lay_pages(doc: Path) -> None:
    doc.mkdir()
    for name in PAGES:
        shutil.copy(ROOT / name, doc)
    for page in sorted((ROOT / "docs").rglob("*.md")):
        kept = doc / page.relative_to(ROOT)
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(page, kept)
