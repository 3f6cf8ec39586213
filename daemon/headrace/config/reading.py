"""
File and environment into `Settings`.

The environment is laid over the file first (`HEADRACE_CACHE__TTL` is `cache.ttl`), then one reader walks the tables and the
values side by side. It does not stop at the first mistake: every problem is named with its full key, the value (unless it may
be a secret) and what would be right.
"""

from __future__ import annotations

import contextlib
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
from headrace.config.kinds import Name, Url, is_proxy
from headrace.config.places import environments_proxy, state_dir
from headrace.config.tables import LimitTable, Settings, attribute, fields_of, spelling_of
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
    try:
        return default if default.exists() else None
    except OSError:  # it may be there, and saying that it cannot be read is better than doing as if it were not
        return default


def load(path: Path | None, environ: Mapping[str, str]) -> Settings:
    """Return the settings of file and environment; raises `ConfigError` with every problem in them."""
    values = _read_file(path) if path else {}
    reader = _Reader()
    for variable in sorted(environ):
        lay_over(values, variable, environ[variable], reader.problems)
    state = values.setdefault("state", {})
    if isinstance(state, dict):
        state.setdefault("dir", str(state_dir(environ)))
    settings: Settings = _with_proxy(reader.table(Settings, values, ""), environ)
    problems = [*reader.problems, *checks.contradictions(settings)]
    if problems:
        where = f"{path}" if path else "the environment"
        raise ConfigError(f"{where}: {problems[0]}" if len(problems) == 1 else "\n  ".join([f"{where}:", *problems]))
    return settings


def _with_proxy(settings: Settings, environ: Mapping[str, str]) -> Settings:
    # In the settings, so that `headrace config show` says by which way calls go. What cannot be used is warned of.
    upstream = settings.upstream
    _, named = environments_proxy(upstream.base_url, environ)
    if upstream.proxy or not is_proxy(named):
        return settings
    return msgspec.structs.replace(settings, upstream=msgspec.structs.replace(upstream, proxy=Url(named)))


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 (byte {error.start}), as TOML must be") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: is not TOML: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{path}: has a number of too many digits") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: is nested too deeply") from error


class _Reader:
    """Reads values by their kinds. What cannot be read is a problem, and stays at its default so that reading goes on."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._variables: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<_Reader [{len(self.problems)} problems]>"

    def value(self, kind: Any, value: Any, path: str) -> Any:
        if isinstance(value, FromEnvironment):
            self._variables[path] = value.variable
            value = str(value) if is_text(kind) else self._parse(str(value), path)
        if value is _MISSING:
            return _MISSING
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self.table(kind, value, path)
        if get_origin(kind) is dict:
            name_kind, inner = get_args(kind)
            return self._named(name_kind, inner, value, path)
        if get_origin(kind) is tuple:
            return self._list(get_args(kind)[0], value, path)
        return self._scalar(kind, value, path)

    def table(self, table: type[msgspec.Struct], values: Any, path: str) -> Any:
        if not isinstance(values, dict):
            return self._note(path, values, f"must be a table: [{path}], with its keys below")
        kinds = fields_of(table)
        for key, value in values.items():
            if key not in kinds:
                self._note_unknown(path, key, value, kinds)
        read = {key: self.value(kinds[key], values[key], _join(path, key)) for key in kinds if key in values}
        return table(**{attribute(key): value for key, value in read.items() if value is not _MISSING})

    def _scalar(self, kind: Any, value: Any, path: str) -> Any:
        spelling = spelling_of(kind)
        try:
            return spelling.read(value) if spelling else msgspec.convert(value, kind)
        except ValueError:  # msgspec's are ValueErrors, too
            return self._note(path, value, f"must be {right(kind)}", hidden=is_secret(kind))

    def _list(self, kind: Any, values: Any, path: str) -> Any:
        if not isinstance(values, list):
            return self._note(path, values, f"must be a list, each item {right(kind)}")
        if kind is Limit:
            items = [self._limit(row, f"{path}[{_name_of(row) or n}]") for n, row in enumerate(values)]
        else:
            items = [self.value(kind, item, f"{path}[{n}]") for n, item in enumerate(values)]
        return tuple(item for item in items if item is not _MISSING)

    def _named(self, name_kind: Any, kind: Any, values: Any, path: str) -> Any:
        if not isinstance(values, dict):
            return self._note(path, values, f"must be a table: [{path}], its keys being names")
        for name in values:
            if not _is_named(name_kind, name):
                wanted = right(name_kind) if spelling_of(name_kind) else right(Name)
                self.problems.append(f"{path}.{name!r}: must be {wanted}")
        read = {name: self.value(kind, inner, _join(path, name)) for name, inner in values.items()}
        return {name: caller for name, caller in read.items() if caller is not _MISSING}

    def _limit(self, row: Any, path: str) -> Any:
        before = len(self.problems)
        table = self.table(LimitTable, row, path)
        if len(self.problems) > before:
            return _MISSING
        try:
            validate(table.limit)
        except ValueError as error:
            self.problems.append(f"{path}: {error}")
            return _MISSING
        return table.limit

    def _parse(self, text: str, path: str) -> Any:
        for parse in (_parse_toml, json.loads):
            with contextlib.suppress(ValueError, RecursionError):
                return parse(text)
        return self._note(path, text, 'must be a value as TOML has it, such as 5, true, ["a", "b"] or { key = "value" }')

    def _note(self, path: str, value: Any, wanted: str, *, hidden: bool = False) -> Any:
        source = f" (from {self._variables[path]})" if path in self._variables else ""
        self.problems.append(f"{path} = {'(not shown)' if hidden else shown(value)}{source}: {wanted}")
        return _MISSING

    def _note_unknown(self, path: str, key: str, value: Any, kinds: Mapping[str, Any]) -> None:
        near = difflib.get_close_matches(key, kinds, 1)
        elsewhere = [known for known in known_keys() if known.rpartition(".")[2] == key]
        meant = _join(path, near[0]) if near else elsewhere[0] if elsewhere else ""
        if isinstance(value, FromEnvironment):
            self._variables[_join(path, key)] = value.variable
        self._note(
            _join(path, key),
            value,
            f"no such key; did you mean {meant}?" if meant else f"no such key; there are {', '.join(kinds)}",
            hidden=bool(near) and is_secret(kinds[near[0]]),
        )


def _is_named(kind: Any, name: str) -> bool:
    spelling = spelling_of(kind)
    if spelling is None:
        return is_name(name)
    with contextlib.suppress(ValueError):
        return bool(spelling.read(name))
    return False


def _parse_toml(text: str) -> Any:
    values = tomllib.loads(f"value = {text}")
    if len(values) > 1:
        raise ValueError("is more than one value")
    return values["value"]


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _name_of(row: Any) -> str:
    name = row.get("name") if isinstance(row, dict) else None
    return name if isinstance(name, str) else ""
