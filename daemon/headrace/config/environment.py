"""
The environment, laid over the file: HEADRACE_CACHE__TTL is `cache.ttl`.

What it says is text until the reader knows the kind of the key, so it travels as `FromEnvironment`, which also remembers the
variable for messages. Limits go by their names (HEADRACE_LIMIT__ORG__CONCURRENCY); any table or list can be given whole, as
TOML or JSON in one line (HEADRACE_LIMIT).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from headrace.config.tables import Settings, Table, fields_of

# No settings, though they begin like ours: the path of the file, and the key that commands present to a daemon.
FILE_VARIABLE = "HEADRACE_CONFIG"
KEY_VARIABLE = "HEADRACE_KEY"

_PREFIX = "HEADRACE_"


class FromEnvironment(str):
    """A value as the environment has it: text, until its kind is known."""

    variable: str


def lay_over(values: dict[str, Any], variable: str, text: str, problems: list[str]) -> None:
    """Put what *variable* says, if it is one of ours, into the tables of the file."""
    if not variable.startswith(_PREFIX) or variable in (FILE_VARIABLE, KEY_VARIABLE):
        return
    if not _is_unicode(variable + text):
        problems.append(f"{variable.encode(errors='backslashreplace').decode()}: must be UTF-8")
        return
    *tables, key = variable.removeprefix(_PREFIX).lower().split("__")
    if not tables and key not in fields_of(Settings):
        if proper := _VARIABLES.get(key.replace("_", "")):
            problems.append(f"{variable}: no such key; two underscores part the levels: {proper}")
        return
    value = FromEnvironment(text)
    value.variable = variable
    if tables[:1] == ["limit"]:
        values.setdefault("limit", [])
    place: Any = values
    for table in tables:
        place = _inner(place, table)
    if isinstance(place, dict):
        place[_existing(place, key)] = value
    else:
        problems.append(f"{variable}: there is no such limit or table to put it in")


def _is_unicode(text: str) -> bool:
    # What is not arrives as halves of surrogate pairs, which can be neither sent nor shown.
    return text.encode(errors="replace").decode() == text


def _inner(place: Any, name: str) -> Any:
    if isinstance(place, list):  # limits go by their names
        return next((row for row in place if isinstance(row, dict) and _fold(str(row.get("name", ""))) == _fold(name)), None)
    return place.setdefault(_existing(place, name), {}) if isinstance(place, dict) else None


def _existing(place: dict[str, Any], name: str) -> str:
    # The environment has capitals and underscores only, callers have other names too.
    return next((key for key in place if _fold(key) == _fold(name)), name)


def _fold(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def known_keys(table: type[msgspec.Struct] = Settings, path: str = "") -> Iterator[str]:
    """Yield the full path of every key that has a fixed one."""
    for name, kind in fields_of(table).items():
        yield f"{path}{name}"
        if isinstance(kind, type) and issubclass(kind, Table):
            yield from known_keys(kind, f"{path}{name}.")


_VARIABLES = {
    key.replace(".", "").replace("_", ""): _PREFIX + key.replace(".", "__").upper() for key in known_keys() if "." in key
}


def ignored_variables(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield the variables that begin like ours and mean nothing to us, as a cluster may set for a service of our name."""
    names = {_PREFIX + name.upper() for name in fields_of(Settings)} | {FILE_VARIABLE, KEY_VARIABLE}
    for variable in sorted(environ):
        if variable.startswith(_PREFIX) and "__" not in variable and variable not in names:
            yield variable
