"""
A stage for tests in other languages: a simulator and an installed daemon in front of it, until standard input ends.

    python -m tests.stage [NAME=VALUE ...]     (settings of the daemon, such as AUTH__DEFAULT_ROLE=admin)

Prints one line of JSON when both serve: `http` (the edge) and `simulator`, as URLs, `grpc` (host:port) and `socket` (a path).
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fleet import daemon, simulated


async def main(settings: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory(prefix="hr") as directory:
        socket = f"{directory}/headrace.sock"
        listen = json.dumps([f"unix:{socket}", "127.0.0.1:0"])
        async with simulated() as simulator:
            # In a thread: it waits for the process, and the simulator has to go on.
            # Tests share the stage: what upstream says to one of them is not to be the word to all calls of its model class.
            entered = daemon(simulator.url, **{"LISTEN__GRPC": listen, "UPSTREAM__OVERLOAD_GATE": "off"} | settings)
            running = await asyncio.to_thread(entered.__enter__)
            try:
                print(
                    json.dumps({"http": running.http, "grpc": running.grpc, "socket": socket, "simulator": simulator.url}),
                    flush=True,
                )
                await asyncio.to_thread(sys.stdin.read)
            finally:
                await asyncio.to_thread(entered.__exit__, None, None, None)


if __name__ == "__main__":
    asyncio.run(main(dict(argument.split("=", 1) for argument in sys.argv[1:])))
