"""What a row hands back: its figures, by the names that goals.py has for them, and words that explain them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Measured:
    """A figure that is None could not be measured."""

    figures: dict[str, float | None]
    notes: list[str] = field(default_factory=list)


Row = Callable[[bool], Awaitable[Measured]]
