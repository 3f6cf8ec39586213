"""
A clock that can be stepped for one process: Python runs this file at its start.

    PYTHONPATH=tests/chaos/clocks CLOCK_OFFSET=/path/of/a/file headrace serve

The file says by how many seconds this process's wall clock is wrong; it may be written at any time. The monotonic clock, which
no step changes, is left alone.
"""

from __future__ import annotations

import os
import time

_LOOKS_EVERY_S = 0.1


class Stepped:
    """The wall clock, and an offset that is read anew now and then."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._real, self._monotonic = time.time, time.monotonic
        self._looked, self._offset_s = 0.0, 0.0

    def __call__(self) -> float:
        now = self._monotonic()
        if now - self._looked > _LOOKS_EVERY_S:
            self._looked = now
            try:
                with open(self._path) as file:
                    self._offset_s = float(file.read())
            except (OSError, ValueError):
                self._offset_s = 0.0
        return self._real() + self._offset_s


if "CLOCK_OFFSET" in os.environ:
    time.time = Stepped(os.environ["CLOCK_OFFSET"])
