"""The package as others install it: what it needs, and whom it can live beside."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "headrace_client"

ALONE = """
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {"grpc", "google", "typing_extensions", "headrace_client"}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Wall())
import headrace_client
headrace_client.Headrace("127.0.0.1:1").close()
try:
    import headrace_client.httpx_transport
except ModuleNotFoundError as error:
    assert error.name is None or "httpx" in str(error), error
else:
    raise AssertionError("the wall has a hole")
"""
BESIDE = """
{imports}
from headrace.v1 import api_service_pb2, messages_service_pb2, tickets_service_pb2
from headrace_client import v1
assert messages_service_pb2.CreateMessageRequest().SerializeToString() == b""
from headrace_client.v1 import messages_service_pb2 as theirs
sent = theirs.CreateMessageRequest(params={{"model": "m"}}).SerializeToString()
assert messages_service_pb2.CreateMessageRequest.FromString(sent).params.model == "m"
"""


def python(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_needs_grpc_and_protobuf_only():
    """The package works with nothing that its own dependencies do not bring: no daemon, no httpx."""
    python(ALONE)


def test_beside_the_daemon():
    """The daemon's stubs and the client's are one set of descriptors: both may be imported, whichever comes first."""
    python(BESIDE.format(imports="import headrace_client"))
    python(BESIDE.format(imports="import headrace.edge.grpc_server"))


def test_stubs_name_the_client_only():
    """No stub imports the daemon's package."""
    stubs = list((PACKAGE / "v1").glob("*_pb2*"))
    assert len(stubs) > 20
    assert not [stub.name for stub in stubs if "from headrace.v1" in stub.read_text()]


def test_is_typed():
    """Type checkers are told that there are types."""
    assert (PACKAGE / "py.typed").exists()


def test_readme(stage, capsys):
    """The README's programs run as they stand, but for the address."""
    text = (PACKAGE.parent / "README.md").read_text()
    sdk, typed = (block.partition("```")[0] for block in text.split("```python\n")[1:])
    names: dict = {}
    exec(sdk.replace("unix:/run/headrace/headrace.sock", stage.address), names)
    message = {"role": "user", "content": "hello"}
    with names["client"] as client:
        assert client.messages.create(model="claude-haiku-4-5", max_tokens=20, messages=[message]).content
    exec(typed.replace("unix:/run/headrace/headrace.sock", stage.address), {})
    assert 'You said: "What is a headrace?"' in capsys.readouterr().out
