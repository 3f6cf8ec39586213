"""
File and environment into `Settings`.

The environment is laid over the file first (`HEADRACE_CACHE__TTL` is `cache.ttl`), then one reader walks the tables and the
values side by side. It does not stop at the first mistake: every problem is named with its full key, the value (unless it may
be a secret) and what would be right.
"""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, get_args, get_origin

import msgspec

from headrace.budget.limits import Limit, validate
from headrace.callers import is_name
from headrace.config import checks
from headrace.config.environment import FILE_VARIABLE, FromEnvironment, known_keys, lay_over
from headrace.config.places import state_dir
from headrace.config.tables import LimitTable, Settings, fields_of, spelling_of
from headrace.config.wording import is_secret, is_text, right, shown
from headrace.errors import ConfigError

DEFAULT_FILE = Path("/etc/headrace/config.toml")

_MISSING: Final = object()


def find_file(option: Path | None, environ: Mapping[str, str], default: Path = DEFAULT_FILE) -> Path | None:
    """Return the file to read: the one named by option or HEADRACE_CONFIG, else the default if it is there, else none."""
    if option is not None:
        return option
    if named := environ.get(FILE_VARIABLE):
        return Path(named)
    return default if default.exists() else None


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Return the settings of file and environment; raises `ConfigError` with every problem in them."""
    values = _read_file(path) if path else {}
    reader = _Reader()
    for variable in sorted(environ):
        lay_over(values, variable, environ[variable], reader.problems)
    state = values.setdefault("state", {})
    if isinstance(state, dict):
        state.setdefault("dir", str(state_dir(environ)))
    settings: Settings = reader.table(Settings, values, "")
    problems = [*reader.problems, *checks.contradictions(settings)]
    if problems:
        where = f"{path}" if path else "the environment"
        raise ConfigError(f"{where}: {problems[0]}" if len(problems) == 1 else "\n  ".join([f"{where}:", *problems]))
    return settings


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 (byte {error.start}), as TOML must be") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error


class _Reader:
    """Reads values by their kinds. What cannot be read is a problem, and stays at its default so that reading goes on."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def __repr__(self) -> str:
        return f"<_Reader [{len(self.problems)} problems]>"

    def table(self, table: type[msgspec.Struct], values: Any, path: str) -> Any:
        if isinstance(values, FromEnvironment):
            values = self._parse(values, path)
        if not isinstance(values, dict):
            return (
                self._note(path, values, f"must be a table: [{path}], with its keys below")
                if values is not _MISSING
                else values
            )
        kinds = fields_of(table)
        for key in values.keys() - kinds.keys():
            self._note_unknown(_join(path, key), values[key], kinds)
        read = {key: self.value(kinds[key], values[key], _join(path, key)) for key in kinds if key in values}
        return table(**{key: value for key, value in read.items() if value is not _MISSING})

    def value(self, kind: Any, value: Any, path: str) -> Any:
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self.table(kind, value, path)
        if get_origin(kind) is dict:
            return self._callers(get_args(kind)[1], value, path)
        if get_args(kind)[:1] == (Limit,):
            return self._limits(value, path)
        plain = value
        if isinstance(value, FromEnvironment):
            plain = str(value) if is_text(kind) else self._parse(value, path)
        return self._scalar(kind, plain, value, path) if plain is not _MISSING else _MISSING

    def _scalar(self, kind: Any, plain: Any, value: Any, path: str) -> Any:
        spelling = spelling_of(kind)
        if spelling is None and get_origin(kind) is tuple:
            return self._list(get_args(kind)[0], plain, value, path)
        try:
            return spelling.read(plain) if spelling else msgspec.convert(plain, kind)
        except (ValueError, msgspec.ValidationError):
            return self._note(path, value, f"must be {right(kind)}", hidden=is_secret(kind))

    def _list(self, kind: Any, plain: Any, value: Any, path: str) -> Any:
        if not isinstance(plain, list):
            return self._note(path, value, f"must be a list, each item {right(kind)}")
        items = [self.value(kind, item, f"{path}[{n}]") for n, item in enumerate(plain)]
        return tuple(item for item in items if item is not _MISSING)

    def _callers(self, kind: Any, value: Any, path: str) -> Any:
        values = self._parse(value, path) if isinstance(value, FromEnvironment) else value
        if not isinstance(values, dict):
            return self._note(path, value, "must be a table for each caller, as [caller.checkout]")
        for name in values:
            if not is_name(name):
                self.problems.append(f"{path}.{name!r}: must be 1 to 64 letters, digits, dots, underscores or hyphens")
        read = {name: self.value(kind, inner, _join(path, name)) for name, inner in values.items()}
        return {name: caller for name, caller in read.items() if caller is not _MISSING}

    def _limits(self, value: Any, path: str) -> Any:
        rows = self._parse(value, path) if isinstance(value, FromEnvironment) else value
        if rows is _MISSING:
            return _MISSING
        if not isinstance(rows, list):
            return self._note(path, value, "must be a list of tables, each begun with [[limit]]")
        read = [self._limit(row, f"{path}[{_name_of(row) or n}]") for n, row in enumerate(rows)]
        return tuple(limit for limit in read if limit is not None)

    def _limit(self, row: Any, path: str) -> Limit | None:
        before = len(self.problems)
        table = self.table(LimitTable, row, path)
        if len(self.problems) > before:
            return None
        try:
            validate(table.limit)
        except ValueError as error:
            self.problems.append(f"{path}: {error}")
            return None
        return table.limit  # type: ignore[no-any-return]

    def _parse(self, text: FromEnvironment, path: str) -> Any:
        for parse in (lambda: tomllib.loads(f"value = {text}"), lambda: {"value": json.loads(text)}):
            try:
                found = parse()
            except ValueError:
                continue
            if found.keys() == {"value"}:
                return found["value"]
        return self._note(path, text, 'must be a value as TOML has it, such as 5, true, ["a", "b"] or { key = "value" }')

    def _note(self, path: str, value: Any, wanted: str, *, hidden: bool = False) -> Any:
        source = f" (from {value.variable})" if isinstance(value, FromEnvironment) else ""
        self.problems.append(f"{path} = {'(not shown)' if hidden else shown(value)}{source}: {wanted}")
        return _MISSING

    def _note_unknown(self, path: str, value: Any, kinds: Mapping[str, Any]) -> None:
        key = path.rpartition(".")[2]
        near = difflib.get_close_matches(key, kinds, 1)
        elsewhere = [known for known in known_keys() if known.rpartition(".")[2] == key]
        meant = _join(path.rpartition(".")[0], near[0]) if near else elsewhere[0] if elsewhere else ""
        hint = f"did you mean {meant}?" if meant else f"there are {', '.join(kinds)}"
        hidden = bool(near) and is_secret(kinds[near[0]])
        self._note(path, value, f"no such key; {hint}", hidden=hidden)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _name_of(row: Any) -> str:
    name = row.get("name") if isinstance(row, dict) else None
    return name if isinstance(name, str) else ""
