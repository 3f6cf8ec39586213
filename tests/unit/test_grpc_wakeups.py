"""What grpcio puts down for the loop is heard in one go, and nothing of it is missed."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
from collections import deque

from headrace.edge.grpc_wakeups import at_once

BEGINS = """
import asyncio, grpc.aio, uvloop
from headrace.edge.grpc_wakeups import heard_at_once

async def main():
    loop, heard = asyncio.get_running_loop(), []
    add_reader = loop.add_reader
    loop.add_reader = lambda line, hear, *rest: (heard.append(hear.__module__), add_reader(line, hear, *rest))
    with heard_at_once(loop):
        server = grpc.aio.server()
    print(heard)

LOOP.run(main())
"""


class Poller:
    """As grpcio has it: what happened is put down, and then a byte is written; one byte is read, and all is taken up."""

    def __init__(self) -> None:
        self.line, self._end = socket.socketpair()
        self.put: deque[int] = deque()
        self.taken: list[int] = []
        self.wakes = 0

    def say(self, *numbers: int) -> None:
        for number in numbers:
            self.put.append(number)
            self._end.send(b"1")

    def hear(self) -> None:
        self.line.recv(1)
        self.wakes += 1
        while self.put:
            self.taken.append(self.put.popleft())

    def close(self) -> None:
        self.line.close()
        self._end.close()


async def test_many_wake_the_loop_once() -> None:
    loop = asyncio.get_running_loop()
    with contextlib.closing(Poller()) as poller:
        loop.add_reader(poller.line, at_once(poller.line, poller.hear))
        poller.say(*range(100))
        await asyncio.sleep(0.01)
        poller.say(100)
        await asyncio.sleep(0.01)
        loop.remove_reader(poller.line)
    assert poller.taken == list(range(101))
    assert poller.wakes == 2


async def test_what_is_put_down_meanwhile_is_heard_the_next_time() -> None:
    with contextlib.closing(Poller()) as poller:

        def hear() -> None:
            poller.hear()
            if poller.wakes == 1:
                poller.say(3, 4)

        run = at_once(poller.line, hear)
        poller.say(1, 2)
        run()
        assert poller.taken == [1, 2]
        run()  # there are bytes of theirs: it does not wait
    assert poller.taken == [1, 2, 3, 4]


def test_grpcio_begins_so() -> None:
    """It asks the loop to hear a socket when its first server is made; in a process of its own, since that is once."""
    for loop in ("asyncio", "uvloop"):
        script = BEGINS.replace("LOOP", loop)
        said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
        assert said.stdout.strip() == "['headrace.edge.grpc_wakeups']"
