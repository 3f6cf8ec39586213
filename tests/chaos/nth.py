"""
A wire to Redis on which one command meets with trouble: the nth of its kind since the wire was armed.

    before    it is lost on its way, and the connection breaks
    after     it is done, its reply is lost, and the connection breaks
    twice     it is done twice, and answered once
    late      the connection breaks, the next one too when it is said again, and only then is it done, each time: for nobody
    held      it is done, and its reply, with all that come behind it, is held back for longer than anybody waits for Redis
    echo      it is done and answered, and done once more when the call is over by all likelihood: for nobody

A kind is a script of ours by its file, another command by its first word and the family of its key, or a whole transaction.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

from tests.chaos.resp import Frames, words
from tests.chaos.wire import end

import headrace
from headrace.link import Script

TROUBLES = ("before", "after", "twice", "late")
HELD = "held"
ECHO = "echo"

_LATE_S = 0.7
_HELD_S = 2.5
_TRIES = 2  # of the link
_SCRIPTS = ("EVALSHA", "EVAL")


@dataclass(slots=True)
class Trouble:
    """What happens to which command, and how often it did; *is_over* says that nothing more will come of it."""

    kind: str
    command: str
    number: int = 1
    times: int = 0
    is_over: asyncio.Event = field(default_factory=asyncio.Event)

    def strikes(self, number: int) -> bool:
        """Whether the command of its kind with this number meets it; what is said again, too, if it is late."""
        most = _TRIES if self.kind == "late" else 1
        return self.number <= number and self.times < most


def scripts() -> dict[str, str]:
    """Return the file name of each of our scripts by its hash."""
    found: dict[str, str] = {}
    root = Path(headrace.__file__).parent
    for path in root.rglob("*.py"):
        if "Script(" not in path.read_text():
            continue
        module = import_module(".".join(("headrace", *path.relative_to(root).with_suffix("").parts)))
        for value in vars(module).values():
            if isinstance(value, Script):
                found[value.sha] = f"{value.name.removesuffix('.lua')}"
    return found


class NthWire:
    """The wire. `seen` are the commands since it was armed, in their order."""

    def __init__(self, to: str) -> None:
        self._to = to
        self._echoes: set[asyncio.Task[None]] = set()
        self._scripts = scripts()
        self._trouble: Trouble | None = None
        self._counts: Counter[str] = Counter()
        self.seen: list[str] = []

    @contextlib.contextmanager
    def armed(self, trouble: Trouble | None = None) -> Iterator[None]:
        """Make the trouble while the block lasts, once; and note what is said."""
        self._trouble, self._counts, self.seen = trouble, Counter(), []
        try:
            yield
        finally:
            self._trouble = None

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        try:
            there, back = await asyncio.open_unix_connection(self._to)
            try:
                await _Carried(self, reader, writer, there, back).run()
            finally:
                await end(back)
        except OSError:
            pass  # Valkey is away
        finally:
            await end(writer)

    def echo(self, frame: bytes, trouble: Trouble) -> None:
        """Do a command once more, later, for nobody."""
        self._echoes.add(task := asyncio.create_task(self._echo(frame, trouble)))
        task.add_done_callback(self._echoes.discard)

    async def _echo(self, frame: bytes, trouble: Trouble) -> None:
        await asyncio.sleep(_LATE_S)
        reader, writer = await asyncio.open_unix_connection(self._to)
        try:
            writer.write(frame)
            await reader.read(1)  # it is done
        finally:
            await end(writer)
        trouble.is_over.set()

    def name(self, said: list[bytes]) -> str:
        """Return what kind of command this is."""
        word = said[0].upper().decode()
        if word in _SCRIPTS:
            text = said[1]
            sha = text.decode() if word == "EVALSHA" else hashlib.sha1(text, usedforsecurity=False).hexdigest()
            return self._scripts.get(sha, "another script")
        key = said[1].decode(errors="replace") if len(said) > 1 else ""
        family = ":".join(key.split(":")[:2]) if key.startswith(("headrace:", "rq:")) else ""
        return f"{word} {family}".strip()

    def struck(self, name: str) -> Trouble | None:
        """Note a command, and return the trouble that it meets."""
        self.seen.append(name)
        self._counts[name] += 1
        trouble = self._trouble
        if trouble is None or trouble.command != name or not trouble.strikes(self._counts[name]):
            return None
        trouble.times += 1
        return trouble


class _Carried:
    """One connection on its way."""

    def __init__(
        self,
        wire: NthWire,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        there: asyncio.StreamReader,
        back: asyncio.StreamWriter,
    ) -> None:
        self._wire = wire
        self._reader, self._writer, self._there, self._back = reader, writer, there, back
        self._owed: deque[str] = deque()  # of each reply to come: "", "swallow", "cut" or "hold"
        self._transaction: list[str] | None = None
        self._said: list[bytes] = []  # of a transaction, before its EXEC

    async def run(self) -> None:
        """Carry until one end has gone, or trouble breaks it."""
        ways = [asyncio.create_task(self._questions()), asyncio.create_task(self._replies())]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)

    async def _questions(self) -> None:
        frames = Frames()
        while data := await self._reader.read(1 << 18):
            for frame in frames.feed(data):
                if not await self._pass(frame):
                    return

    async def _pass(self, frame: bytes) -> bool:
        """Pass a command on, or do to it what is ordered; return whether the connection goes on."""
        name = self._name(words(frame))
        trouble = self._wire.struck(name) if name else None
        match trouble.kind if trouble else "":
            case "before":
                trouble.is_over.set()  # type: ignore[union-attr]
                return False
            case "late":
                self._writer.transport.abort()
                await asyncio.sleep(_LATE_S)
                self._back.write(frame)
                await asyncio.sleep(0.1)  # its reply is for nobody
                trouble.is_over.set()  # type: ignore[union-attr]
                return False
            case "after":
                self._owed.append("cut")
            case "held":
                self._owed.append("hold")
            case "twice":
                again = [*self._said, frame]
                self._back.write(frame)
                self._owed += ("", *["swallow"] * len(again))
                frame = b"".join(again)
            case "echo":
                self._owed.append("")
                self._wire.echo(b"".join([*self._said, frame]), trouble)  # type: ignore[arg-type]  # of what is done there is a trouble
            case _:
                self._owed.append("")
        if trouble is not None and trouble.kind != ECHO:
            trouble.is_over.set()
        self._said = [*self._said, frame] if self._transaction is not None else []
        self._back.write(frame)
        return True

    def _name(self, said: list[bytes]) -> str:
        # A transaction is one command, which is done or not with its EXEC.
        word = said[0].upper()
        if word == b"MULTI":
            self._transaction = []
            return ""
        if self._transaction is None:
            return self._wire.name(said)
        if word not in (b"EXEC", b"DISCARD"):
            self._transaction.append(self._wire.name(said))
            return ""
        inside, self._transaction = self._transaction, None
        return f"EXEC {inside[0].split(' ')[-1]}" if word == b"EXEC" and inside else ""

    async def _replies(self) -> None:
        frames = Frames()
        while data := await self._there.read(1 << 18):
            for frame in frames.feed(data):
                what = "" if frame[:1] == b">" or not self._owed else self._owed.popleft()
                if what == "cut":
                    return
                if what == "hold":
                    await asyncio.sleep(_HELD_S)
                if what != "swallow":
                    self._writer.write(frame)


@contextlib.asynccontextmanager
async def nth_wired(to: Path, at: Path) -> AsyncIterator[NthWire]:
    """Yield a wire from one path of a unix socket to another."""
    wire, tasks = NthWire(str(to)), set[asyncio.Task[None]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(task := asyncio.current_task())  # type: ignore[arg-type]
        task.add_done_callback(tasks.discard)  # type: ignore[union-attr]
        with contextlib.suppress(asyncio.CancelledError):
            await wire.serve(reader, writer)

    server = await asyncio.start_unix_server(serve, at)
    try:
        yield wire
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
