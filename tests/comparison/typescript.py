"""
The official TypeScript SDKs, driven from Python: a Node process does one call for each line that it is sent.

`Remote` looks like the Python SDK's client, so that the rows of `rows.py` serve for both: a method's positional arguments go as
they are, and its keywords as the one object of parameters that the TypeScript SDK takes.
"""

from __future__ import annotations

import base64
import contextlib
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from comparison.pair import ADMIN_KEY, KEY, Side, body, told
from comparison.python import Exchanged, checked
from conftest import missing

HERE = Path(__file__).parent
PACKAGE = HERE.parent.parent / "clients/typescript/package.json"  # its node_modules have the SDKs


class Wrong(Exception):
    """An error of the SDK's, as it is told by Node."""

    def __init__(self, told: dict[str, Any]) -> None:
        super().__init__(told["message"])
        self.told = told


class Thing(dict[str, Any]):
    """An object of the SDK's; its members are attributes as well."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None


class Node:
    """The process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, asked: dict[str, Any]) -> Any:
        """Have one thing done, and return what is said of it."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(asked) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline(), object_hook=Thing)

    def methods(self) -> list[str]:
        """Return the dotted names of all methods of the SDK's resources."""
        return list(self.ask({}))


@contextlib.contextmanager
def node() -> Iterator[Node]:
    """Run a process until the block ends."""
    if not shutil.which("node") or not (PACKAGE.parent / "node_modules/@anthropic-ai/sdk").exists():
        missing("node, or what `npm ci` installs in clients/typescript,")
    command = ["node", str(HERE / "typescript.mjs"), str(PACKAGE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Node(process)
        finally:
            assert process.stdin
            process.stdin.close()
            process.wait(10)


class Remote:
    """
    An SDK's client or resource at one side.

    Args:
        exchanged: takes what went over the wire.
    """

    def __init__(self, node: Node, side: Side, caller: str, exchanged: list[Exchanged], *, is_admin: bool = False, **more: Any):
        self._node = node
        self._exchanged = exchanged
        self._call: dict[str, Any] = {"url": side.url, "key": ADMIN_KEY if is_admin else KEY, **more}
        self._headers = {"x-headrace-caller": caller} | more.get("headers", {})
        self._path = ""

    def __getattr__(self, name: str) -> Remote:
        if name.startswith("__"):
            raise AttributeError(name)
        inner = Remote.__new__(Remote)
        inner.__dict__ = self.__dict__ | {"_path": f"{self._path}.{name}".lstrip(".")}
        return inner

    def __call__(self, *args: Any, extra_headers: dict[str, str] | None = None, **params: Any) -> Any:
        call = {"method": self._path, "headers": self._headers | (extra_headers or {})}
        return self._do(self._call | call | {"args": _sent([*args, *([params] if params else [])])})

    def _do(self, asked: dict[str, Any]) -> Any:
        answer = self._node.ask(asked)
        assert "failed" not in answer, answer["failed"]
        self._exchanged.extend(_exchanged(one) for one in answer["exchanged"])
        if "wrong" in answer:
            raise Wrong(answer["wrong"])
        said = answer.get("said")
        return Stream(said) if self._path.endswith("messages.stream") else Content(said) if isinstance(said, str) else said


class Content(str):
    """A file's content, by its SHA-256."""

    def read(self) -> str:
        return str(self)


class Stream(list[Any]):
    """The events of a stream, and the message that the SDK put together from them."""

    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__(said["events"])
        self._final = said["final"]

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def get_final_message(self) -> Any:
        return self._final


def observe(node: Node, side: Side, work: Any, caller: str, **how: Any) -> dict[str, Any]:
    """Do *work* with the SDK, and return all that was seen, in the form in which it can be compared."""
    exchanged: list[Exchanged] = []
    try:
        said = work(Remote(node, side, caller, exchanged, **how))
    except Wrong as error:
        said = error.told
    return checked(side, said, exchanged)


def _exchanged(one: dict[str, Any]) -> Exchanged:
    came = body(base64.b64decode(one["came"]))
    return Exchanged(one["method"], one["target"], one["sent"], one["status"], told(one["headers"]), came)


def _sent(value: Any) -> Any:
    """Return an argument as JSON can hold it: files by their bytes, what `parse` is to find by its schema."""
    match value:
        case dict() if "output_format" in value:
            schema = value["output_format"].model_json_schema()
            rest = {name: item for name, item in value.items() if name != "output_format"}
            return _sent(rest) | {"output_config": {"$schema": schema}}
        case dict():
            return {name: _sent(item) for name, item in value.items()}
        case list():
            return [_sent(item) for item in value]
        case (str() as name, bytes() as content, str() as kind):
            return {"$file": {"name": name, "base64": base64.b64encode(content).decode(), "type": kind}}
        case _:
            return value
