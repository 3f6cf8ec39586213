"""The .proto files say to each language where the code that is made of them belongs; the examples of their use are true."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from headrace.edge import translate
from headrace.v1 import messages_pb2

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


def test_content_with_blocks() -> None:
    """The page shows a message with blocks three times: as JSON, in Python, and for grpcurl. It is the same message."""
    section = (ROOT / "docs/grpc.md").read_text().partition("## Content")[2].partition("\n## ")[0]
    said, for_tools = re.findall(r"```json\n(.*?)```", section, re.S)
    (code,) = re.findall(r"```python\n(.*?)```", section, re.S)
    names: dict[str, Any] = {}
    exec(code, names)
    assert json.loads(translate.write(names["message"])) == json.loads(said)
    assert json_format.Parse(for_tools, messages_pb2.InputMessage()) == names["message"]
    assert translate.read(said.encode(), messages_pb2.InputMessage) == names["message"]
