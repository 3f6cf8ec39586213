"""The .proto files say to each language where the code that is made of them belongs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path.stem for path in (ROOT / "protos/headrace/v1").glob("*.proto"))


@pytest.mark.parametrize("name", FILES)
def test_options(name: str) -> None:
    """Go's package is the client's own, so nobody needs mappings; Java gets a file a message, in a package of ours."""
    module: Any = importlib.import_module(f"headrace.v1.{name}_pb2")
    said = module.DESCRIPTOR.GetOptions()
    go = re.search(r"^module (\S+)$", (ROOT / "clients/go/go.mod").read_text(), re.M)
    assert go is not None
    assert said.go_package == f"{go[1]}/headracev1"
    assert (said.java_package, said.java_multiple_files) == ("dev.headrace.v1", True)
