"""
Measures the daemon beside the floor, and prints the table that docs/performance.md quotes.

    python -m tests.bench [--short] [--starts N] [--seconds S] [--rounds N] [--only NAME]

Server on core 0; load, upstream and Valkey on core 1, as they are other machines' business in a fleet. Floor and daemon take
turns (A B A B ...), many and short, because a machine drifts: both sides of a pair should meet the same machine. All are
started anew a few times, because one start of a process differs from the next by up to 10 %, whichever code it runs. The
quoted ratio is the median of all turns' ratios. Everything in the daemon is on: cache in three tiers, single-flight, a limit on
requests and tokens in Redis, metrics, logs. LiteLLM joins in where it is installed. Fails where a ratio is under its goal.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
# row: kind of call, what, floor, goal (daemon / floor)
ROWS = (
    ("gRPC hit", "grpc", "hit", "grpc", 0.88),
    ("HTTP hit", "http", "hit", "http", 0.78),
    ("gRPC hit, stream of 6", "grpc-stream", "hit", "grpc", 0.85),
    ("gRPC hit, chat", "grpc-chat", "hit", "grpc", 0.85),
    ("gRPC hit, chat's stream of 6", "grpc-chat-stream", "hit", "grpc", 0.85),
    ("gRPC hit, ApiService.Call", "grpc-call", "hit", "grpc", 0.80),
    ("gRPC miss", "grpc", "miss", "grpc-proxy", 0.65),
    ("HTTP miss", "http", "miss", "http-proxy", 0.65),
)
Row = tuple[str, str, str, str, float]
Turn = tuple[dict[str, float], dict[str, float]]  # the floor's rate, p50 and p99, and the daemon's
MOST_ALONE = 1.2  # p50 of a hit with one call in the air, beside the floor's

CONFIG = """
[upstream]
base_url = "http://{upstream}"
api_key = "bench"
[listen]
grpc = ["{grpc}"]
http = "{http}"
admin = []
[state]
dir = "{state}"
[redis]
url = "unix://{state}/valkey.sock"
[[limit]]
name = "bench"
per = ["model"]
requests_per_minute = 10000000
input_tokens_per_minute = 1000000000
output_tokens_per_minute = 1000000000
burst = "5s"
"""


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


@contextlib.contextmanager
def server(core: int, *command: str, address: str, environ: dict[str, str] | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server pinned to a core, from when it listens until the block ends."""
    cores = sorted(os.sched_getaffinity(0))
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **(environ or {})},
        preexec_fn=lambda: os.sched_setaffinity(0, {cores[core % len(cores)]}),
    )
    try:
        wait_for(address, process)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def valkey(core: int, directory: str) -> Iterator[None]:
    """Run a Valkey with the settings of the daemon's own."""
    from headrace.embedded import find_binary

    path = f"{directory}/valkey.sock"
    command = [find_binary(), "--port", "0", "--unixsocket", path, "--dir", directory, "--save", "", "--appendonly", "yes"]
    with server(core, *command, "--appendfsync", "always", address=path):
        yield


def wait_for(address: str, process: subprocess.Popen[bytes], patience_s: float = 240) -> None:
    give_up = time.monotonic() + patience_s
    while True:
        with contextlib.suppress(OSError), _connect(address):
            return
        if process.poll() is not None or time.monotonic() > give_up:
            raise SystemExit(f"{process.args!r} does not listen on {address}")
        time.sleep(0.05)


def _connect(address: str) -> socket.socket:
    if not address.startswith("/"):
        host, _, port = address.rpartition(":")
        return socket.create_connection((host, int(port)), 1)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(address)
    return connection


def load(kind: str, address: str, what: str, connections: int, seconds: float) -> dict[str, float]:
    """Return calls a second, p50 and p99 of one spell of load from core 1."""
    cores = sorted(os.sched_getaffinity(0))
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.load", kind, address, what, str(connections), str(seconds)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        preexec_fn=lambda: os.sched_setaffinity(0, {cores[-1]}),
    )
    report = json.loads(done.stdout)
    if report["errors"]:
        raise SystemExit(f"{report['errors']} of {report['calls']} {kind} {what} calls on {address} failed")
    return {"rate": report["calls"] / report["seconds"], "p50_ms": report["p50_ms"], "p99_ms": report["p99_ms"]}


@contextlib.contextmanager
def rig(kinds: set[str], memory: list[str]) -> Iterator[dict[str, str]]:
    """Run upstream, the floors and the daemon; yields their addresses. At the end a line on the daemon's memory is there."""
    upstream = free_address()
    addresses = {kind: free_address() for kind in sorted(kinds | {"headrace-grpc", "headrace-http"})}
    with contextlib.ExitStack() as stack:
        state = stack.enter_context(tempfile.TemporaryDirectory(prefix="hr"))
        stack.enter_context(server(1, sys.executable, "-m", "tests.bench.upstream", upstream, address=upstream))
        stack.enter_context(valkey(1, state))
        for kind in kinds:
            command = [sys.executable, "-m", "tests.bench.floor", kind, addresses[kind], f"http://{upstream}/v1/messages"]
            stack.enter_context(server(0, *command, address=addresses[kind]))
        config = Path(state) / "config.toml"
        config.write_text(
            CONFIG.format(upstream=upstream, grpc=addresses["headrace-grpc"], http=addresses["headrace-http"], state=state)
        )
        command = [str(Path(sys.executable).parent / "headrace"), "serve", "--config", str(config)]
        daemon = stack.enter_context(server(0, *command, address=addresses["headrace-http"]))
        at_rest = resident_mb(daemon)
        yield addresses
        memory.append(f"- memory: {at_rest:.0f} MB at rest, {resident_mb(daemon):.0f} MB at the end, caches filled")


def take_turns(addresses: dict[str, str], row: Row, rounds: int, seconds: float, connections: int) -> list[Turn]:
    """Return what floor and daemon did, in turns."""
    _, kind, what, floor, _ = row
    ours = addresses[f"headrace-{kind.partition('-')[0]}"]
    load(kind, ours, what, connections, min(1.0, seconds))
    return [
        (load(kind, addresses[floor], what, connections, seconds), load(kind, ours, what, connections, seconds))
        for _ in range(rounds)
    ]


def print_row(row: Row, turns: list[Turn]) -> float:
    """Print the medians of all turns; returns the ratio's."""
    name, _, _, _, goal = row
    ratios = [here["rate"] / low["rate"] for low, here in turns]
    floor, ours = (statistics.median(side["rate"] for side in sides) for sides in zip(*turns, strict=True))
    ratio, p50 = statistics.median(ratios), statistics.median(here["p50_ms"] for _, here in turns)
    print(
        f"| {name} | {floor:,.0f} | {ours:,.0f} | **{ratio:.2f}** ({min(ratios):.2f} to {max(ratios):.2f}) | {goal:.2f} |"
        f" {p50:.1f} ms |",
        flush=True,
    )
    return ratio


def print_alone(row: Row, turns: list[Turn]) -> float:
    """Print the p50 with one call in the air, beside the floor's; returns their ratio."""
    low, here = (statistics.median(side["p50_ms"] for side in sides) for sides in zip(*turns, strict=True))
    ratio = statistics.median(ours["p50_ms"] / floors["p50_ms"] for floors, ours in turns)
    print(f"- {row[0]}, one call in the air: p50 {here:.2f} ms, floor {low:.2f} ms, {ratio:.2f} of it")
    return ratio


def resident_mb(process: subprocess.Popen[bytes]) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1000


def litellm(seconds: float, connections: int) -> None:
    """Measure LiteLLM's proxy on /v1/messages, if it is installed."""
    program = shutil.which("litellm") or shutil.which("litellm", path=str(Path(sys.executable).parent))
    if program is None:
        print("- LiteLLM is not installed (pip install 'litellm[proxy]'), so it was not measured.")
        return
    upstream, address = free_address(), free_address()
    with contextlib.ExitStack() as stack:
        state = stack.enter_context(tempfile.TemporaryDirectory(prefix="hr"))
        config = Path(state) / "litellm.yaml"
        config.write_text(
            "model_list:\n  - model_name: claude-sonnet-4-5\n    litellm_params:\n"
            f"      model: anthropic/claude-sonnet-4-5\n      api_base: http://{upstream}\n      api_key: bench\n"
            "general_settings:\n  dangerously_permit_weak_or_unset_master_key: true\n"  # it starts without a key only so
        )
        stack.enter_context(server(1, sys.executable, "-m", "tests.bench.upstream", upstream, address=upstream))
        host, _, port = address.rpartition(":")
        command = [program, "--config", str(config), "--host", host, "--port", port]
        stack.enter_context(server(0, *command, address=address))
        load("http", address, "miss", connections, 2)
        there = load("http", address, "miss", connections, seconds)
        print(f"- LiteLLM's proxy, HTTP miss on the same cores: {there['rate']:,.0f} calls/s, p50 {there['p50_ms']:.0f} ms")


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--short", action="store_true", help="one short round, and half of the goals: for CI")
    arguments.add_argument("--seconds", type=float, default=1.5)
    arguments.add_argument("--starts", type=int, default=4, help="how often all of them are started anew")
    arguments.add_argument("--rounds", type=int, default=3, help="turns a start")
    arguments.add_argument("--only", default="", help="the rows whose names have this in them")
    arguments.add_argument("--connections", type=int, default=32)
    options = arguments.parse_args()
    share = 0.5 if options.short else 1.0
    starts, rounds, seconds = (1, 1, 1.5) if options.short else (options.starts, options.rounds, options.seconds)
    rows = [row for row in ROWS if options.only in row[0]]
    single = [row for row in ROWS[:2] if row in rows]
    turns: dict[str, list[Turn]] = {row[0]: [] for row in rows}
    alone: dict[str, list[Turn]] = {row[0]: [] for row in single}
    memory: list[str] = []
    for start in range(starts):
        with rig({row[3] for row in rows}, memory) as addresses:
            for row in rows:
                turns[row[0]] += take_turns(addresses, row, rounds, seconds, options.connections)
            for row in single:
                alone[row[0]] += take_turns(addresses, row, rounds, seconds, 1)
        print(f"start {start + 1} of {starts} measured", file=sys.stderr, flush=True)
    print(f"\n{options.connections} calls in the air, body about 1 KiB, {starts} starts x {rounds} x {seconds:g} s a row\n")
    print("| one core | floor, calls/s | Headrace, calls/s | ratio | goal | p50 |\n|---|---|---|---|---|---|", flush=True)
    missed = [row[0] for row in rows if print_row(row, turns[row[0]]) < row[4] * share]
    print()
    slow = [f"{row[0]}, one call in the air" for row in single if print_alone(row, alone[row[0]]) > MOST_ALONE]
    print(memory[-1])
    if not options.short:
        litellm(seconds, options.connections)
    missed += [] if options.short else slow  # one short turn says nothing of a p50
    if missed:
        print(f"\nunder the goal: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
