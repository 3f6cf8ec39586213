"""
Ends calls that have been silent for too long.

gRPC's deadline bounds a whole call, and a stream may go on for longer than anyone would wait for its next event. So each call
has an alarm that is set anew before each wait; one thread watches all of them, and sleeps until the nearest.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Alarm:
    """Rings, once, if it is set and not stopped in time."""

    def __init__(self, watch: Watch, ring: Callable[[], object]) -> None:
        self._watch = watch
        self._ring = ring
        self.due = 0.0
        self.has_rung = False

    def set(self, seconds: float) -> None:
        """Ring in *seconds*."""
        self.due = time.monotonic() + seconds
        self._watch.add(self)

    def stop(self) -> None:
        """Do not ring."""
        self._watch.remove(self)

    def ring(self) -> None:
        """Ring now."""
        self.has_rung = True
        self._ring()


class Watch:
    """Watches alarms, in a thread that begins with the first."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._set: set[Alarm] = set()
        self._wakes = 0.0
        self._thread: threading.Thread | None = None

    def add(self, alarm: Alarm) -> None:
        """Watch an alarm. Wakes the thread only for one that is nearer than what it sleeps for."""
        with self._changed:
            self._set.add(alarm)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="headrace-alarms", daemon=True)
                self._thread.start()
            elif alarm.due < self._wakes:
                self._changed.notify()

    def remove(self, alarm: Alarm) -> None:
        """Watch it no longer."""
        with self._changed:
            self._set.discard(alarm)

    def _run(self) -> None:
        while True:
            for alarm in self._next():
                alarm.ring()

    def _next(self) -> list[Alarm]:
        with self._changed:
            nearest = min((alarm.due for alarm in self._set), default=time.monotonic() + 3600)
            self._wakes = nearest
            self._changed.wait(max(0.0, nearest - time.monotonic()))
            now = time.monotonic()
            due = [alarm for alarm in self._set if alarm.due <= now]
            self._set.difference_update(due)
            return due


WATCH = Watch()
