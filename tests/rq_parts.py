"""What tests of the retry worker share: a runner of attempts that remembers."""

from __future__ import annotations

import asyncio
import threading
import time


class Made:
    """A runner that remembers what it made, when, and where."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.attempts: list[tuple[str, int, float]] = []
        self.threads: set[str] = set()
        self.running = self.most = 0
        self._seconds = seconds

    async def __call__(self, ticket_id: str, attempt: int) -> None:
        self.attempts.append((ticket_id, attempt, time.time()))
        self.threads.add(threading.current_thread().name)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await asyncio.sleep(self._seconds)
        finally:
            self.running -= 1
