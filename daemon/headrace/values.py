"""
Values that nobody changes, made with every call.

To the checker they are frozen dataclasses. When the program runs they are plain ones: a frozen one is made field by field
around its own lock, which takes four times as long, and a miss makes a dozen of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from dataclasses import dataclass as quick
else:
    from dataclasses import dataclass

    T = TypeVar("T")

    def quick(*, frozen: bool, **options: Any) -> Callable[[type[T]], type[T]]:
        """Return the decorator of such a value; the options are those of `dataclass`, and equal values have equal hashes."""
        return dataclass(unsafe_hash=frozen, **options)


__all__ = ["quick"]
