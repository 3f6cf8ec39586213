"""The page of questions and answers, docs/operate/questions.md."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

_HEAD = """# Eight questions, asked in a storm

All of this is one run, made by `make questions`: two hosts, `web-1` and `web-2`, on one Redis; three callers, of which
`reports` has a limit of its own; and an upstream that answers for a quarter of a minute, refuses every call with 529 for as
long or longer, and is well again. The overload gate is off, so that more is parked. Nothing is edited but the names of the
hosts, since both ran on one machine. Commands were given at either host, and tell of both. What they can do beside this is in
[commands.md](../commands.md).
"""
QUESTIONS = (
    (
        "Who burns the budget now?",
        "In the storm: limits with what is left and how many wait, one limit call by call, and what callers used.",
    ),
    (
        "What did a team cost this month, and what did the cache save?",
        "Prices are in USD ([usage.md](../usage.md)).",
    ),
    (
        "Why did this call take so long?",
        "Its answer named the id (`x-headrace-request-id`). Either host can be asked, wherever its attempts were.",
    ),
    (
        "Is the limit right?",
        "In the storm: what would become of one more call now, without reserving anything. For a week of traffic there is "
        "[rehearse.md](../rehearse.md).",
    ),
    (
        "What is parked, until when?",
        "In the storm: tickets that wait, with the time of their next attempt. Why each is parked, `headrace explain TICKET` "
        "says.",
    ),
    ("Drop, cancel, requeue these", "Without `--yes` each counts first, and asks. What was requeued are dead letters."),
    ("Raise this limit for an hour", "By one host, and seen at the other; those who wait feel it at once."),
    ("Put a caller on hold", "In the storm, and taken back after it."),
)
_LAST = ("How does all of it stand, and who did what?", "At the end.")


@dataclass(frozen=True)
class Answer:
    """A command, and what it said."""

    line: str
    said: str


def page(answers: Mapping[int, Sequence[Answer]]) -> str:
    """Return the page; answers by the number of their question, 0 for the last."""
    return "\n".join(_lines(answers))


def _lines(answers: Mapping[int, Sequence[Answer]]) -> Iterator[str]:
    yield _HEAD
    for number, (title, about) in enumerate(QUESTIONS, 1):
        yield from _section(f"{number}. {title}", about, answers[number])
    yield from _section(*_LAST, answers[0])


def _section(title: str, about: str, answers: Sequence[Answer]) -> Iterator[str]:
    yield from (f"## {title}", "", about, "")
    for answer in answers:
        said = "\n".join(line.rstrip() for line in answer.said.strip("\n").splitlines() if line.strip())
        yield from ("```text", f"$ headrace {answer.line}", said, "```", "")
