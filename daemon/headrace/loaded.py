"""The configuration as a process holds it: as it was at the start, and as it was read last."""

from __future__ import annotations

import os
from collections.abc import Callable

from headrace.config import Keys, Settings, keys
from headrace.config.changes import Changes, changes

Read = Callable[[], Settings]


class Loaded:
    """
    The settings of now.

    Args:
        settings: those with which the process begins.
        read: returns them as they are by then in file and environment; raises `ConfigError`.
    """

    def __init__(self, settings: Settings, read: Read) -> None:
        self._begun = self.now = settings
        self._read = read

    def __repr__(self) -> str:
        return "<Loaded>"

    def keys(self) -> Keys:
        """Return upstream's keys from where the settings of now have them."""
        return keys(self.now, os.environ)

    def renew(self) -> Changes:
        """Read everything anew, and say what is other; raises `ConfigError`, and then all stays as it was."""
        fresh = self._read()
        keys(fresh, os.environ)  # there has to be what they name
        differing = changes(self._begun, self.now, fresh)
        self.now = fresh
        return differing
