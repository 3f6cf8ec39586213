"""What unit tests share: configuration files, and no work left in the background."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest


@pytest.fixture
def write(tmp_path):
    """Write a configuration file, and return its path."""

    def write(text):
        path = tmp_path / "config.toml"
        path.write_text(text)
        return path

    return write


@pytest.fixture
async def tasks() -> AsyncIterator[None]:
    """Nothing may go on in the background when a test ends."""
    yield
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
