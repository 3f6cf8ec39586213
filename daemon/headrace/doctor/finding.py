"""One line of what the doctor finds. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How bad it is: as it should be; to be looked at; the daemon cannot do its work so."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what to do about it."""

    area: str
    verdict: Verdict
    text: str
    mend: str = ""

    @property
    def line(self) -> str:
        """It for people."""
        return f"{self.verdict:<4}  {self.area:<9} {self.text}{f'. {self.mend}' if self.mend else ''}"

    @property
    def fields(self) -> dict[str, str]:
        """It for machines."""
        return {name: str(value) for name, value in asdict(self).items()}


def ok(area: str, text: str) -> Finding:
    return Finding(area, Verdict.OK, text)


def warn(area: str, text: str, mend: str = "") -> Finding:
    return Finding(area, Verdict.WARN, text, mend)


def fail(area: str, text: str, mend: str = "") -> Finding:
    return Finding(area, Verdict.FAIL, text, mend)


def has_failed(findings: Iterable[Finding]) -> bool:
    """Whether any of them is a failure."""
    return any(found.verdict is Verdict.FAIL for found in findings)
