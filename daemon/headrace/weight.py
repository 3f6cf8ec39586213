"""
What a body holds, as values: so much text, these sources, so many tokens at least and at most. `budget/measure.py` finds out.

It travels with a large body from where that is read: to look through thirty megabytes once more would hold up the loop.
"""

from __future__ import annotations

from enum import StrEnum

from headrace.values import quick


class Kind(StrEnum):
    """Kinds of sources, as far as their tokens differ."""

    IMAGE = "image"
    PDF = "pdf"
    AUDIO = "audio"
    FILE = "file"  # any other
    LINKED_IMAGE = "linked_image"  # elsewhere: a URL, or the id of a file
    LINKED_FILE = "linked_file"


@quick(frozen=True, slots=True)
class Source:
    """One source: its kind, and how many bytes it has in base64; 0 if it is elsewhere."""

    kind: Kind
    size_bytes: int


@quick(frozen=True, slots=True)
class Measure:
    """How many bytes of a body are text (JSON's own signs among them), and its sources."""

    text_bytes: int
    sources: tuple[Source, ...] = ()

    @property
    def size_bytes(self) -> int:
        """Of the whole body."""
        return self.text_bytes + sum([source.size_bytes for source in self.sources]) if self.sources else self.text_bytes


@quick(frozen=True, slots=True)
class Weight:
    """
    All that is to be known of a body's input.

    Args:
        held: what it holds.
        least_tokens, most_tokens: what its input surely comes to, and surely does not pass.
        has_reads: whether some of it may be read from upstream's prompt cache.
        is_plain: whether it holds few enough things to be taken apart once more, in the loop.
    """

    held: Measure
    least_tokens: int
    most_tokens: int
    has_reads: bool
    is_plain: bool = True
