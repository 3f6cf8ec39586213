"""
When the data of our own Valkey are mended: where a server has ended and says that it cannot read them. Each time is one line.

At the start that is waited for. A server that is started again while the daemon runs is mended beside the loop. How it is done
is aof.py's.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path

import structlog

from headrace import aof, observe
from headrace.serverlog import ServerLog

log = structlog.get_logger()

_CUT_END = re.compile(r"Truncating the AOF \S+ at offset (\d+)")


class Mending:
    """
    Mends the data in a server's directory.

    Args:
        said: the server's log.
        is_wanted: else nothing is mended, and nothing told.
    """

    def __init__(self, directory: Path, said: ServerLog, *, is_wanted: bool = True) -> None:
        self._directory = directory
        self._log = said
        self._is_wanted = is_wanted
        self._beside: threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Mending {self._directory} [{'going on' if self._beside else 'idle'}]>"

    def mend(self, *, is_last: bool = False) -> bool:
        """
        Mend what a server that has ended could not read, or move all of it aside (*is_last*); whether it was that.

        Raises `OSError`, and then all is as it was.
        """
        said = self._damage()
        if said:
            self._mend(said, is_last=is_last)
        return bool(said)

    def is_going_on(self) -> bool:
        """Whether it is mended beside the loop, which begins here; ask while the server is dead, every second."""
        if self._beside is None and (said := self._damage()):
            self._beside = threading.Thread(target=self._try, args=(said,))
            self._beside.start()
        if self._beside is not None and not self._beside.is_alive():
            self._beside = None
        return self._beside is not None

    def tell_cut_end(self) -> None:
        """Tell if the server that has begun cut off what was not whole, as after a power failure."""
        if self._is_wanted and (found := _CUT_END.search(self._log.heed())):
            log.error(observe.VALKEY_MENDED, reason="the end of its data was not whole", kept_bytes=int(found[1]))

    def _damage(self) -> str:
        said = self._log.heed() if self._is_wanted else ""
        return said if aof.is_damage(said) else ""

    def _try(self, said: str) -> None:
        try:
            self._mend(said)
        except OSError as error:  # the server is started again all the same, and says again what it cannot read
            log.error(observe.VALKEY_DIED, reason=f"its data cannot be mended: {error}")

    def _mend(self, said: str, *, is_last: bool = False) -> None:
        reason = self._log.tail(1)
        mended = aof.set_aside(self._directory) if is_last else aof.mend(self._directory, said)
        log.error(
            observe.VALKEY_MENDED,
            reason=reason, aside=str(mended.aside), kept_bytes=mended.kept, lost_bytes=mended.lost,
        )  # fmt: skip
