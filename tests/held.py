"""
What held up a process: itself, or a machine that had no CPU for it. The kernel counts both.

As a program it asks for /healthz all the time, in a process of its own, so that nobody but the daemon can hold it up:

    python held.py HOST:PORT PID_OF_THE_DAEMON

For each line that it reads it says, of all answers since the last line: the longest wait; the longest wait less the time in
which the daemon or this process was ready to run and had no CPU; the most CPU time that the daemon took while somebody waited
(all in seconds); and how many answers there were. A parse in the loop shows in the last two times on any machine, however busy.
"""

from __future__ import annotations

import http.client
import os
import select
import sys
import time
from pathlib import Path


def starved_s(pid: int) -> float:
    """Return for how long the threads of a process were ready to run and had no CPU; 0 where the kernel does not count it."""
    waited_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            waited_ns += int((task / "schedstat").read_text().split()[1])
        except OSError:  # the thread has ended, or the kernel does not count
            continue
    return waited_ns / 1e9


def used_s(pid: int) -> float:
    """Return the CPU time that a process has used; its children's is not in it."""
    return time.clock_gettime((~pid << 3) | 2)  # as clock_getcpuclockid(3) makes it


def look(connection: http.client.HTTPConnection, pid: int) -> tuple[float, float, float]:
    """Ask once, and return how long it took: in all, less starving, and in CPU time of *pid*."""
    own = os.getpid()
    starved, used, began = starved_s(pid) + starved_s(own), used_s(pid), time.monotonic()
    connection.request("GET", "/healthz")
    connection.getresponse().read()
    took_s = time.monotonic() - began
    return took_s, took_s - (starved_s(pid) + starved_s(own) - starved), used_s(pid) - used


def main(address: str, pid: int) -> None:
    connection = http.client.HTTPConnection(address)
    worst, count = (0.0, 0.0, 0.0), 0
    while True:
        worst = tuple(map(max, worst, look(connection, pid)))
        count += 1
        if select.select([sys.stdin], [], [], 0.002)[0]:
            if not sys.stdin.readline():
                break
            print(*worst, count, flush=True)
            worst, count = (0.0, 0.0, 0.0), 0


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
