"""What the build adds to the package: a file with the commit that it was built from, for `headrace --version`."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CommitHook(BuildHookInterface[Any]):
    """Puts COMMIT beside the package's modules; a checkout that is installed as it is (`-e`) asks git each time instead."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        kept = Path(self.root, "daemon", "headrace", "COMMIT")
        # What is built out of an sdist has the file already: there is no repository any more that could be asked.
        if version == "editable" or kept.exists():
            return
        commit = os.environ.get("HEADRACE_COMMIT") or _asked(self.root)
        if commit:
            self._directory = tempfile.TemporaryDirectory(prefix="headrace-")
            made = Path(self._directory.name, "COMMIT")
            made.write_text(f"{commit}\n")
            made.chmod(0o644)
            build_data["force_include"][str(made)] = ("" if self.target_name == "wheel" else "daemon/") + "headrace/COMMIT"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        if made := getattr(self, "_directory", None):
            made.cleanup()


def _asked(root: str) -> str:
    if not Path(root, ".git").exists():
        return ""
    done = subprocess.run(["git", "-C", root, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()
