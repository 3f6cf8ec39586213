"""
A process beside this one, for work that would hold up the loop.

Reading 30 MB of JSON takes Python up to seconds, and a thread would not help: the parser holds the interpreter all the
while. So one helper does such work, a job at a time, in the order in which the jobs came. It starts with the first job, dies
with this process (its socket ends), and is started anew when it has died. Only bytes go to and fro: which function a job means
was said when the helper was started, and no key and no configuration goes there, not even by the environment.

Its memory is bounded. A job that wants more is refused. What a job has taken it gives back to the system when it is done; if
that leaves much, the job was the last of its helper.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import importlib
import io
import json
import os
import resource
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import structlog

from headrace import guard, observe
from headrace.errors import HeadraceError, InvalidCall, TooLarge
from headrace.memory import give_back

T = TypeVar("T")
Job = Callable[[bytes, bytes], bytes]

log = structlog.get_logger()

_REQUEST = struct.Struct("!BIQ")  # which job; the lengths in bytes of its head and its body
_REPLY = struct.Struct("!BQ")  # what came of it; the length in bytes
_DONE, _REFUSED, _TOO_MUCH, _FAILED = range(4)

_MOST_BYTES = 1 << 30  # of the helper's address space: a million blocks of an answer take more than half of it
_MUCH_BYTES = 32 << 20  # a helper that holds so much more than it began with, when a job is done, is not kept
_CHUNK_BYTES = 1 << 18  # received at once, so that the loop gets its turn in between
LIGHT_BYTES = 1 << 20  # hashed within a millisecond: done at once, by `aloof` or by whoever cannot wait for it
_LONGEST_S = 60.0  # a job that takes longer is given up
_THREAD = ThreadPoolExecutor(1, "aloof")  # one, so that the loop's is not one of many that want a processor
_PASSED_ON = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "LANG")


@dataclass(frozen=True, slots=True)
class AsideStats:
    """
    What a helper is about.

    Args:
        pid: 0 if it does not run.
        waiting: jobs that wait for their turn.
        done, started: jobs done and helpers started, ever.
    """

    pid: int
    waiting: int
    done: int
    started: int


class Aside:
    """
    Runs jobs in the helper.

    Args:
        jobs: the functions, as "module:name"; each takes two texts in bytes and returns one.
    """

    def __init__(self, jobs: Sequence[str]) -> None:
        self._jobs = tuple(jobs)
        self._turn = asyncio.Lock()  # first come, first served
        self._helper: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._waiting = self._done = self._started = 0

    def __repr__(self) -> str:
        said = self.stats()
        return f"<Aside [{f'pid {said.pid}' if said.pid else 'at rest'}, {said.waiting} waiting, {said.done} done]>"

    def stats(self) -> AsideStats:
        """Return what it is about."""
        pid = self._helper.pid if self._helper is not None else 0
        return AsideStats(pid, self._waiting, self._done, self._started)

    async def run(self, job: str, head: bytes, body: bytes) -> bytes:
        """
        Return what a job makes of *head* and *body*.

        Raises `InvalidCall` if the job does, and `TooLarge` if it wants more memory or time than there is. A caller who leaves
        ends its job, and the helper with it.
        """
        self._waiting += 1
        try:
            await self._turn.acquire()
        finally:
            self._waiting -= 1
        try:
            return await self._run(_REQUEST.pack(self._jobs.index(job), len(head), len(body)), head, body)
        finally:
            self._turn.release()

    async def aclose(self) -> None:
        """End the helper."""
        await self._drop()

    async def _run(self, *parts: bytes) -> bytes:
        try:
            code, said = await self._exchange(parts)
        except ConnectionError:  # it died: killed from outside, perhaps, so once more
            try:
                code, said = await self._exchange(parts)
            except ConnectionError as error:
                raise _too_much() from error
        self._done += 1
        if code == _DONE:
            return said
        if code == _REFUSED:
            refusal = json.loads(said)
            raise InvalidCall(refusal["message"], metadata=refusal["metadata"])
        raise _too_much() if code == _TOO_MUCH else HeadraceError("internal error")

    async def _exchange(self, parts: Sequence[bytes]) -> tuple[int, bytes]:
        try:
            async with asyncio.timeout(_LONGEST_S):  # by the loop: it is a process's work
                return await self._talk(self._line(), parts)
        except TimeoutError as error:
            await self._drop()
            raise _too_much() from error
        except BaseException:
            await self._drop()  # half a job would put all that follow out of step
            raise

    def _line(self) -> socket.socket:
        if self._socket is None or self._helper is None or self._helper.poll() is not None:
            self._start()
        assert self._socket is not None  # noqa: S101
        return self._socket

    async def _talk(self, line: socket.socket, parts: Sequence[bytes]) -> tuple[int, bytes]:
        for part in parts:
            await asyncio.get_running_loop().sock_sendall(line, part)
        code, length = _REPLY.unpack(await self._receive(line, _REPLY.size))
        return code, await self._receive(line, length)

    async def _receive(self, line: socket.socket, length: int) -> bytes:
        received, left = io.BytesIO(), length  # written where it stays: to join it would take as much memory once more
        while left:
            chunk = await asyncio.get_running_loop().sock_recv(line, min(left, _CHUNK_BYTES))
            if not chunk:
                raise ConnectionResetError
            received.write(chunk)
            left -= len(chunk)
        return received.getvalue()

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            self._helper = subprocess.Popen(  # noqa: S603  # our own module, no shell
                [sys.executable, "-m", "headrace.aside", *self._jobs],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # what it could say might hold what a caller said
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
                start_new_session=True,  # Ctrl-C is for us
            )
        if self._socket is not None:
            self._socket.close()
        self._socket = ours
        self._started += 1
        log.info(observe.HELPER_STARTED, pid=self._helper.pid)

    async def _drop(self) -> None:
        line, helper = self._socket, self._helper
        self._socket = self._helper = None
        if line is not None:
            line.close()
        if helper is not None:
            helper.kill()
            await asyncio.shield(asyncio.to_thread(helper.wait))


def _too_much() -> TooLarge:
    return TooLarge("the body holds more values than can be read here in reasonable time and memory")


async def aloof(weight: bytes | bytearray, work: Callable[..., T], *arguments: object) -> T:
    """
    Return what *work* returns: done in a thread, if *weight* is large.

    For work that lets other threads run meanwhile, such as hashing; all else goes to the helper.
    """
    return work(*arguments) if len(weight) <= LIGHT_BYTES else await _in_thread(work, *arguments)


async def joined(chunks: Sequence[bytes]) -> bytes:
    """Return chunks as one: in a thread, if they are large, since what takes the time is to copy them into new memory."""
    is_light = sum(map(len, chunks)) <= LIGHT_BYTES
    return b"".join(chunks) if is_light else await _in_thread(b"".join, chunks)


async def cut(raw: bytes, begin: int, end: int) -> bytes:
    """Return a part of *raw*: copied in a thread, if it is large, and there so that no other thread waits for all of it."""
    if end - begin <= LIGHT_BYTES:
        return raw[begin:end]
    return await _in_thread(_cut, raw, begin, end)


def _cut(raw: bytes, begin: int, end: int) -> bytes:
    # A slice is copied while the interpreter is held, many are joined while it is not.
    return b"".join([raw[at : min(at + _CHUNK_BYTES, end)] for at in range(begin, end, _CHUNK_BYTES)])


async def _in_thread(work: Callable[..., T], *arguments: object) -> T:
    return await asyncio.get_running_loop().run_in_executor(_THREAD, work, *arguments)


# The helper's own side.


def serve(line: socket.socket, jobs: Sequence[Job]) -> None:
    """Do the jobs that come, one by one, until nobody is there to send any."""
    most = _resident_bytes() + _MUCH_BYTES
    while True:
        number, *lengths = _REQUEST.unpack(_taken(line, _REQUEST.size))
        head, body = (_taken(line, length) for length in lengths)
        code, said = _DONE, b""
        try:
            said = jobs[number](head, body)
        except InvalidCall as error:
            code, said = _REFUSED, json.dumps({"message": error.message, "metadata": error.metadata}).encode()
        except (MemoryError, RecursionError):
            code = _TOO_MUCH
        except Exception:
            code = _FAILED
        line.sendall(_REPLY.pack(code, len(said)))
        line.sendall(said)
        heavy = len(body) + len(said) > LIGHT_BYTES
        del head, body, said
        if heavy or _resident_bytes() > most:
            give_back()
        if _resident_bytes() > most:
            return


def _taken(line: socket.socket, length: int) -> bytes:
    taken = io.BytesIO(bytes(length))  # which it gives out again as it is, and no copy of it
    with taken.getbuffer() as view:
        have = 0
        while have < length:
            count = line.recv_into(view[have:])
            if not count:
                raise SystemExit  # nobody is there any more
            have += count
    return taken.getvalue()


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as said:
        return int(said.read().split()[1]) * resource.getpagesize()


def _job(named: str) -> Job:
    module, _, name = named.partition(":")
    job: Job = getattr(importlib.import_module(module), name)
    return job


def main(names: Sequence[str]) -> None:
    """Be the helper; the socket is the standard input."""
    guard.forbid_dumps()  # what it reads are prompts
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    with contextlib.suppress(OSError):
        os.nice(5)  # the other calls first
    line = socket.socket(fileno=0)
    jobs = [_job(name) for name in names]
    gc.disable()  # nothing here is a circle, and looking for them would take half the time
    with contextlib.suppress(ConnectionError):
        serve(line, jobs)


if __name__ == "__main__":
    main(sys.argv[1:])
