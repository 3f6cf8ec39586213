"""
The traffic of a rehearsal: a file of calls, one a line, as `headrace usage --export-traffic` writes it, or as CSV.

Columns, not objects: a million calls are a dozen lists. What calls have in common (caller, lane, model, endpoint, labels) is a
*profile*, of which there are few.

A line without tokens is a call that was refused, or failed: nobody knows what it would have used. It is taken to be like some
answered call of the same caller and model, drawn by chance.
"""

from __future__ import annotations

import csv
import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec

from headrace.endpoints import NAMES, named
from headrace.errors import StartupError
from headrace.model import Labels

_LATEST = 250_000_000_000  # Unix seconds: past it there is no calendar

Moment = Annotated[float, msgspec.Meta(ge=0, le=_LATEST)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=10_000_000)]
Count = Annotated[int, msgspec.Meta(ge=0, le=10**12)]

_EXAMPLE = (
    '{"at": 12.5, "caller": "checkout", "model": "claude-sonnet-5", "input_tokens": 812, "output_tokens": 143, "seconds": 2.4}'
)


class Row(msgspec.Struct, frozen=True):
    """A line as it is written; usage/traffic.py says what each key means. Whoever writes one by hand may leave out the rest."""

    at: Moment
    input_tokens: Count
    output_tokens: Count
    seconds: Seconds
    caller: str = "anonymous"
    lane: str = ""
    model: str = ""
    endpoint: str = "messages"
    deadline_s: Seconds = 570.0
    max_tokens: Count = 0
    body_bytes: Count = 0
    labels: str = ""


class Profile(NamedTuple):
    """What calls have in common; `lane` is "" for their caller's own."""

    caller: str
    lane: str
    model: str
    endpoint: str
    labels: Labels


@dataclass(slots=True)
class Traffic:
    """The calls in the order in which they come: times in microseconds, `profile` by its place in `profiles`."""

    profiles: list[Profile] = field(default_factory=list)
    profile: list[int] = field(default_factory=list)
    at_us: list[int] = field(default_factory=list)
    took_us: list[int] = field(default_factory=list)
    deadline_us: list[int] = field(default_factory=list)
    input_tokens: list[int] = field(default_factory=list)
    output_tokens: list[int] = field(default_factory=list)
    max_tokens: list[int] = field(default_factory=list)
    body_bytes: list[int] = field(default_factory=list)
    guessed: int = 0  # calls whose use was drawn by chance

    def __repr__(self) -> str:
        return f"<Traffic [{len(self)} calls, {len(self.profiles)} profiles]>"

    def __len__(self) -> int:
        return len(self.at_us)


def read(path: Path, lanes: Collection[str], seed: int = 0) -> Traffic:
    """Return the calls of a file. Raises `StartupError` that names file, line, what is wrong and what would be right."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return traffic_of(_rows(file, path, lanes), seed)
    except OSError as error:
        raise StartupError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise StartupError(f"{path}: is not UTF-8 (byte {error.start})") from error


def traffic_of(rows: Iterable[Row], seed: int = 0) -> Traffic:
    """Return the calls of rows in any order."""
    rows = sorted(rows, key=lambda row: row.at)
    traffic, numbers = Traffic(), dict[tuple[str, ...], int]()
    chance = random.Random(seed)  # noqa: S311 - no secret is drawn
    for row, use in zip(rows, _uses(rows, chance), strict=True):
        key = row.caller, row.lane, row.model, row.endpoint, row.labels
        if key not in numbers:
            numbers[key] = len(numbers)
            traffic.profiles.append(Profile(row.caller, row.lane, row.model, row.endpoint, _labels(row.labels)))
        traffic.profile.append(numbers[key])
        traffic.at_us.append(round(row.at * 1e6))
        traffic.deadline_us.append(round(row.deadline_s * 1e6))
        traffic.took_us.append(round(use.seconds * 1e6))
        traffic.input_tokens.append(use.input_tokens)
        traffic.output_tokens.append(use.output_tokens)
        traffic.max_tokens.append(row.max_tokens)
        traffic.body_bytes.append(row.body_bytes)
        traffic.guessed += use is not row
    return traffic


def _uses(rows: list[Row], chance: random.Random) -> Iterator[Row]:
    """Yield, row by row, the one that says what the call uses: itself, or one that it is taken to be like."""
    models: dict[str, list[Row]] = defaultdict(list)
    pairs: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        if row.input_tokens or row.output_tokens:
            models[row.model].append(row)
            pairs[row.caller, row.model].append(row)
    for row in rows:
        alike = pairs.get((row.caller, row.model)) or models.get(row.model)
        is_known = row.input_tokens or row.output_tokens or not named(row.endpoint).is_metered
        yield row if is_known or not alike else chance.choice(alike)


def _labels(text: str) -> Labels:
    pairs = (part.partition("=") for part in text.split(",") if part)
    return tuple(sorted((name.strip(), value.strip()) for name, _, value in pairs))


# Reading.


def _rows(file: Iterable[str], path: Path, lanes: Collection[str]) -> Iterator[Row]:
    lines = ((number, line) for number, line in enumerate(file, 1) if line.strip())
    first = next(lines, None)
    if first is None:
        raise StartupError(f"{path}: is empty; a line looks so: {_EXAMPLE}")
    is_json = first[1].lstrip().startswith("{")
    for number, row in _of_json(first, lines, path) if is_json else _of_csv(first, lines, path):
        if row.lane and row.lane not in lanes:
            raise _wrong(path, number, f"lane {row.lane[:40]!r}: there is none of that name; use one of {', '.join(lanes)}")
        if row.endpoint not in NAMES:
            raise _wrong(path, number, f"endpoint {row.endpoint[:40]!r}: use one of {', '.join(NAMES)}")
        yield row


_Lines = Iterator[tuple[int, str]]


def _of_json(first: tuple[int, str], lines: _Lines, path: Path) -> Iterator[tuple[int, Row]]:
    decode = msgspec.json.Decoder(Row).decode
    for number, line in _chain(first, lines):
        try:
            yield number, decode(line)
        except msgspec.DecodeError as error:
            raise _wrong(path, number, f"{_said(error)}; a line looks so: {_EXAMPLE}") from error


def _of_csv(first: tuple[int, str], lines: _Lines, path: Path) -> Iterator[tuple[int, Row]]:
    names = next(csv.reader([first[1]]))
    known = Row.__struct_fields__
    if missing := [name for name in known if name not in names and name in _REQUIRED]:
        raise _wrong(
            path, first[0], f"there is no column {missing[0]}; the first line names columns, out of {', '.join(known)}"
        )
    for number, line in lines:
        cells = next(csv.reader([line]))
        if len(cells) != len(names):
            raise _wrong(path, number, f"there are {len(cells)} cells for {len(names)} columns; a cell may be empty: a,,b")
        try:
            yield number, _convert({name: cell for name, cell in zip(names, cells, strict=True) if cell != ""})
        except msgspec.ValidationError as error:
            raise _wrong(path, number, f"{_said(error)}; columns are {', '.join(names)}") from error


_REQUIRED = [field.name for field in msgspec.structs.fields(Row) if field.required]


def _convert(cells: dict[str, str]) -> Row:
    return msgspec.convert(cells, Row, strict=False)


def _chain(first: tuple[int, str], lines: _Lines) -> _Lines:
    yield first
    yield from lines


def _said(error: Exception) -> str:
    """Return msgspec's words as "input_tokens: expected `int`, got `str`"."""
    what, _, where = str(error).partition(" - at `$.")
    return f"{where.rstrip('`')}: {what}" if where else what


def _wrong(path: Path, number: int, problem: str) -> StartupError:
    return StartupError(f"{path}, line {number}: {problem}")
