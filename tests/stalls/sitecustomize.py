"""
How long the loop of a process is held up, measured inside it, whatever the process: Python runs this file at its start.

    PYTHONPATH=tests/stalls STALLS=/path/of/a/socket headrace serve

A thread asks the loop for a word every few milliseconds and notes how long the word takes: less the time in which the loop's
thread was ready to run and had no CPU, where the kernel counts that, and no more than the process itself has worked meanwhile.
The rest is the machine's fault. Where it takes long, it notes what the loop is doing, too. Whoever connects to the socket is
told the longest since the last time, as JSON, and where it was.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import threading
import time
import traceback
from pathlib import Path

EVERY_S = 0.003
LONG_S = 0.02


class Probe:
    """The thread, and what it has seen."""

    def __init__(self, path: str, loop: asyncio.AbstractEventLoop) -> None:
        self._path, self._loop = path, loop
        self._tid = threading.get_native_id()
        self._ident = threading.get_ident()
        self._longest: dict[str, object] = {}
        self._reset()

    def _reset(self) -> None:
        self._longest = {"stall_s": 0.0, "wall_s": 0.0, "where": "", "words": 0}

    def _starved_s(self) -> float:
        try:
            return int(Path(f"/proc/self/task/{self._tid}/schedstat").read_text().split()[1]) / 1e9
        except OSError:
            return 0.0

    def run(self) -> None:
        with socket.socket(socket.AF_UNIX) as ear:
            ear.bind(self._path)
            ear.listen()
            ear.settimeout(EVERY_S)
            while not self._loop.is_closed():
                self._ask()
                try:
                    asking, _ = ear.accept()
                except TimeoutError:
                    continue
                with asking:
                    asking.sendall(json.dumps(self._longest).encode())
                self._reset()

    def _ask(self) -> None:
        came, said = threading.Event(), []
        starved, used, asked = self._starved_s(), time.process_time(), time.monotonic()

        def answer() -> None:
            said.append((time.monotonic() - asked, self._starved_s() - starved, time.process_time() - used))
            came.set()

        try:
            self._loop.call_soon_threadsafe(answer)
        except RuntimeError:  # closed
            return
        where = ""
        while not came.wait(LONG_S):
            if (frame := sys._current_frames().get(self._ident)) is not None:
                where = "".join(traceback.format_stack(frame)[-6:]) if len(where) < 10_000 else where
            if self._loop.is_closed():
                return
        wall_s, starved_s, used_s = said[0]
        stall_s = min(wall_s - starved_s, used_s)
        self._longest["words"] = int(str(self._longest["words"])) + 1
        if stall_s > float(str(self._longest["stall_s"])):
            self._longest |= {"stall_s": stall_s, "wall_s": wall_s, "where": where}


def _follow(path: str) -> None:
    before = asyncio._set_running_loop

    def set_running_loop(loop: asyncio.AbstractEventLoop | None) -> None:
        before(loop)
        if loop is not None and threading.current_thread() is threading.main_thread() and not Path(path).exists():
            threading.Thread(target=Probe(path, loop).run, name="stalls", daemon=True).start()

    asyncio._set_running_loop = asyncio.events._set_running_loop = set_running_loop


if "STALLS" in os.environ:
    _follow(os.environ["STALLS"])
