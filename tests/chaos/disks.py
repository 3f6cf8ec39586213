"""Disks that can be written no longer, below the state of a daemon."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.chaos.faults import Form, _valkey_of
from tests.chaos.house import CannotMount, House


@contextlib.contextmanager
def read_only(at: Path) -> Iterator[None]:
    """
    Let nothing be written below a directory any more until the block ends; `CannotMount` where the machine does not let us.

    It is laid over itself, read-only. What is open already can still be written, unlike on a disk that the system has given up;
    so whoever writes has to be started anew meanwhile.
    """
    _mount("--bind", str(at), str(at))
    try:
        _mount("-o", "remount,bind,ro", str(at))
        yield
    finally:
        subprocess.run(["umount", "-l", str(at)], check=True)


def _mount(*words: str) -> None:
    done = subprocess.run(["mount", *words], capture_output=True, check=False)
    if done.returncode:
        raise CannotMount(done.stderr.decode().strip())


async def read_only_disk(house: House, dice: random.Random, form: Form) -> None:
    """The disk of a daemon's own Valkey is read-only, and the Valkey dies of it; after a while it can be written again."""
    host = house.hosts[0]
    with read_only(house.root / host.name):
        if (pid := _valkey_of(host)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.sleep(dice.uniform(*form.spell_s))
