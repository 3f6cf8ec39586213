"""
What was asked and what was heard, call by call, and what that comes to: the judge of a chaos run. Pure.

Each answer of the simulator has an id of its own, and is made of that id word for word. So callers know an answer that is of
one piece from one that was spliced, and the books know two answers to one call from one that was heard twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class End(StrEnum):
    """What became of a call."""

    OPEN = "open"
    ANSWERED = "answered"
    REFUSED = "refused"  # told that a repeat would not help
    UNANSWERED = "unanswered"  # its caller's patience came to an end before there was an answer
    LOST = "lost"


@dataclass(slots=True)
class Call:
    """
    One call, which may be asked again and again.

    Args:
        way: how it is asked, by its name.
        key: its idempotency key; "" for none.
        ticket: that it was given, if it was submitted.
        marks: the ids of the whole answers that were heard.
        tries: how often it was asked.
        words: what was heard in place of an answer.
        course: of each try when it began and how long it took, in seconds, whom it asked, and what it heard.
        took_s: until its answer, in the run or in the audit, whichever was longer.
    """

    name: str
    way: str
    key: str = ""
    ticket: str = ""
    end: End = End.OPEN
    marks: list[str] = field(default_factory=list)
    spliced: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    course: list[str] = field(default_factory=list)
    tries: int = 0
    took_s: float = 0.0

    @property
    def is_accepted(self) -> bool:
        """Whether the daemon has said, by a ticket or by an answer, that it took the call."""
        return bool(self.ticket or self.marks)

    def hear(self, mark: str, text: str, *, is_whole: bool) -> None:
        """Note an answer, or the beginning of one."""
        if not is_of_one_piece(mark, text):
            self.spliced.append(f"{mark}: {where_it_breaks(mark, text)}")
        if is_whole:
            self.marks.append(mark)


def is_of_one_piece(mark: str, text: str) -> bool:
    """Whether a text is its mark and nothing else, again and again, the last one cut off anywhere."""
    word = f"{mark} "
    return bool(mark) and (word * (len(text) // len(word) + 1)).startswith(text)


def where_it_breaks(mark: str, text: str) -> str:
    """Return what stands around the first character of a text that is not its mark's."""
    word = f"{mark} "
    at = next((number for number, said in enumerate(text) if said != word[number % len(word)]), len(text))
    return f"at {at} of {len(text)}: ...{text[max(0, at - 30) : at + 60]!r}"


@dataclass(slots=True)
class Books:
    """All calls of a run."""

    calls: list[Call] = field(default_factory=list)

    def __repr__(self) -> str:
        return f"<Books {dict(self.ends())}>"

    def open(self, call: Call) -> Call:
        self.calls.append(call)
        return call

    def ends(self) -> Counter[str]:
        """Return how many calls ended how."""
        return Counter(str(call.end) for call in self.calls)

    @property
    def accepted(self) -> int:
        return sum(call.is_accepted for call in self.calls)

    def twice(self) -> list[Call]:
        """Return the calls that promise one answer and have had two: those with a key or a ticket."""
        return [call for call in self.calls if (call.key or call.ticket) and len(set(call.marks)) > 1]

    def spliced(self) -> list[Call]:
        return [call for call in self.calls if call.spliced]

    def hung(self) -> list[Call]:
        return [call for call in self.calls if call.hung]

    def lost(self) -> list[Call]:
        return [call for call in self.calls if call.end is End.LOST]

    def words(self) -> Counter[str]:
        """Return what was heard in place of answers, most of all first."""
        return Counter(word for call in self.calls for word in call.words)

    def troubles(self) -> list[str]:
        """Return a line about each call that breaks a promise."""
        found = {"twice": self.twice(), "spliced": self.spliced(), "hung": self.hung(), "lost": self.lost()}
        return [f"{what}: {_line(call)}" for what, calls in found.items() for call in calls]

    def refused(self) -> list[str]:
        """Return a line about each of those that were told not to ask again, with all that they went through."""
        return [f"refused: {_line(call)}; {call.course}" for call in self.calls if call.end is End.REFUSED]

    def slowest(self, count: int) -> list[str]:
        """Return a line about each of those that waited longest, with all that they went through."""
        slowest = sorted(self.calls, key=lambda call: call.took_s, reverse=True)[:count]
        return [f"{call.took_s:.1f} s: {_line(call)}; {call.course}" for call in slowest]


def _line(call: Call) -> str:
    heard = [*dict.fromkeys(call.marks), *call.spliced, *call.hung]
    ticket = f" ticket {call.ticket}" if call.ticket else ""
    return f"{call.name} ({call.way}{', keyed' if call.key else ''}{ticket}), {call.tries} tries: {heard}; {call.words[-6:]}"


def asked_by_name(texts: Iterable[str]) -> Counter[str]:
    """Return how often upstream was asked for each call, by the beginnings of the prompts that it saw."""
    return Counter(text.split(" ", 2)[1] for text in texts if text.startswith("chaos "))
