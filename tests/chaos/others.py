"""Callers in other languages, each a program that asks what it is told to; those that are not built are left out."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

from tests.chaos.ways import Spoken, Way

_ROOT = Path(__file__).parents[2]
_GO = _ROOT / "clients" / "go"
_TS = _ROOT / "clients" / "typescript"
_LINE_BYTES = 1 << 20


@contextlib.asynccontextmanager
async def spoken(names: Sequence[str]) -> AsyncIterator[dict[str, Way]]:
    """Yield those of the ways "go", "go-stream", "ts", "ts-stream" that there are."""
    async with contextlib.AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="a")))
        ways: dict[str, Way] = {}
        languages = dict.fromkeys(name.partition("-")[0] for name in names)
        commands = {language: await _command(language, directory) for language in languages}
        for name in names:
            language, _, is_stream = name.partition("-")
            command = commands[language]
            if not command:
                continue
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, limit=_LINE_BYTES
            )
            way = Spoken(process, "stream" if is_stream else "unary")
            stack.push_async_callback(way.close)
            ways[name] = way
        yield ways


async def _command(language: str, directory: Path) -> list[str]:
    """Return what runs the asker of a language; [] if it cannot be built here."""
    if language == "go" and shutil.which("go"):
        return await go_asker(directory)
    return await ts_asker() if language == "ts" and shutil.which("node") else []


async def ts_asker() -> list[str]:
    """Build the asker in TypeScript, and return what runs it; [] if it does not build, or its packages are not installed."""
    compiler = _TS / "node_modules" / ".bin" / "tsc"
    if not compiler.exists():
        return []
    building = await asyncio.create_subprocess_exec(compiler, "-p", "tsconfig.test.json", cwd=_TS)
    return [] if await building.wait() else ["node", str(_TS / ".build" / "tests" / "asker.js")]


async def go_asker(directory: Path) -> list[str]:
    """Build the asker in Go in a directory, and return what runs it; [] if it does not build."""
    built = directory / "asker"
    building = await asyncio.create_subprocess_exec("go", "build", "-o", str(built), "./internal/asker", cwd=_GO)
    return [] if await building.wait() else [str(built)]
