"""Where a first call is made: an installed `headrace simulate`, and the same program's daemon in front of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon_process import Served, environment, serving
from fleet import addresses

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Place:
    """Where the two listen: host:port for gRPC, URLs else."""

    grpc: str
    http: str
    simulator: str
    served: Served

    def put_into(self, text: str) -> str:
        """Return what a page says, with the ports of this place for the defaults that it names."""
        ports = {"127.0.0.1:7400": self.grpc, "http://127.0.0.1:7480": self.http, "http://127.0.0.1:7490": self.simulator}
        for said, real in ports.items():
            text = text.replace(said, real)
        return text


@contextlib.contextmanager
def simulating(program: str) -> Iterator[str]:
    """Run a program's `simulate`, and yield its URL."""
    with subprocess.Popen([program, "simulate", "--port", "0", "--instant"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            assert "listening on" in said, said
            yield said.split()[-1]
        finally:
            process.kill()


@contextlib.contextmanager
def serving_at(program: str, directory: Path, **settings: str) -> Iterator[Place]:
    """Run a program's simulator and daemon; *settings* are environment variables less their prefix."""
    with simulating(program) as simulator:
        more = {"UPSTREAM__BASE_URL": simulator, "UPSTREAM__API_KEY": "any", **settings}
        environ = environment(directory, **{f"HEADRACE_{name}": value for name, value in more.items()})
        with serving(environ, [program, "serve"], within=60) as served:
            *_, grpc, http = addresses(served)
            yield Place(grpc, http, simulator, served)


def first_answer(origin: str, text: str) -> None:
    """Look whether what a program printed is upstream's answer, or a repeat of it."""
    assert origin.removeprefix("ANSWER_SOURCE_").lower() in ("upstream", "cache", "shared"), (origin, text)
    assert text.startswith("You said"), text


def metrics(place: Place) -> str:
    """Return the daemon's page of metrics."""
    return subprocess.run(
        ["curl", "-sS", f"{place.http}/metrics"], capture_output=True, text=True, check=True, timeout=20
    ).stdout


def parsed(line: str) -> dict[str, object]:
    """Return a line of JSON."""
    found: dict[str, object] = json.loads(line)
    return found
