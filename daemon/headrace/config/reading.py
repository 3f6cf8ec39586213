"""
File and environment into `Settings`.

The environment is laid over the file first (`HEADRACE_CACHE__TTL` is `cache.ttl`), then one reader walks the tables and the
values side by side. It does not stop at the first mistake: every problem is named with its full key, the value (unless it may
be a secret) and what would be right. Under a name that there is not, a value may be anything, and is never said.
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
from headrace.config import checks
from headrace.config.environment import FILE_VARIABLE, FromEnvironment, known_keys, lay_over
from headrace.config.kinds import Name, Url, is_proxy
from headrace.config.places import environments_proxy, redis_password, state_dir, with_password
from headrace.config.tables import LimitTable, Settings, attribute, fields_of, spelling_of
from headrace.config.wording import is_text, looks_secret, may_hold_secret, right, shown
from headrace.errors import ConfigError
from headrace.owner import is_name

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
    settings = _with_password(settings, environ, reader.problems)
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


def _with_password(settings: Settings, environ: Mapping[str, str], problems: list[str]) -> Settings:
    if not settings.redis.url:
        return settings
    try:
        password = redis_password(settings, environ)
        url = Url(with_password(settings.redis.url, password)) if password else settings.redis.url
    except ConfigError as error:
        problems.append(str(error))
        return settings
    except ValueError:
        if settings.redis.password_file:
            problems.append("redis.password_file: redis.url has a password, too; take one of them away")
        return settings
    return msgspec.structs.replace(settings, redis=msgspec.structs.replace(settings.redis, url=url))


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

    def value(self, kind: Any, value: Any, path: str, *, is_free: bool = False) -> Any:
        """Return what a value says; one under a free name may be anything, and is not said where it is wrong."""
        if isinstance(value, FromEnvironment):
            self._variables[path] = value.variable
            value = str(value) if is_text(kind) else self._parse(kind, str(value), path)
        if value is _MISSING:
            return _MISSING
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            return self.table(kind, value, path)
        if get_origin(kind) is dict:
            name_kind, inner = get_args(kind)
            return self._named(name_kind, inner, value, path)
        if get_origin(kind) is tuple:
            return self._list(get_args(kind)[0], value, path)
        return self._scalar(kind, value, path, is_free=is_free)

    def table(self, table: type[msgspec.Struct], values: Any, path: str) -> Any:
        if not isinstance(values, dict):
            return self._note_hidden(path, f"must be a table: [{path}], with its keys below")
        kinds = fields_of(table)
        for key, value in values.items():
            if key not in kinds:
                self._note_unknown(path, key, value, kinds)
        read = {key: self.value(kinds[key], values[key], _join(path, key)) for key in kinds if key in values}
        return table(**{attribute(key): value for key, value in read.items() if value is not _MISSING})

    def _scalar(self, kind: Any, value: Any, path: str, *, is_free: bool) -> Any:
        spelling = spelling_of(kind)
        try:
            return spelling.read(value) if spelling else msgspec.convert(value, kind)
        except ValueError:  # msgspec's are ValueErrors, too
            wanted = f"must be {right(kind)}"
            if is_free or may_hold_secret(kind, value):
                return self._note_hidden(path, wanted)
            return self._note(path, value, wanted)

    def _list(self, kind: Any, values: Any, path: str) -> Any:
        if not isinstance(values, list):
            wanted = f"must be a list, each item {right(kind)}"
            return self._note_hidden(path, wanted) if may_hold_secret(kind, values) else self._note(path, values, wanted)
        if kind is Limit:
            items = [self._limit(row, f"{path}[{_name_of(row) or n}]") for n, row in enumerate(values)]
        else:
            items = [self.value(kind, item, f"{path}[{n}]") for n, item in enumerate(values)]
        return tuple(item for item in items if item is not _MISSING)

    def _named(self, name_kind: Any, kind: Any, values: Any, path: str) -> Any:
        if not isinstance(values, dict):
            return self._note_hidden(path, f"must be a table: [{path}], its keys being names")
        for name in values:
            if not _is_named(name_kind, name):
                wanted = right(name_kind) if spelling_of(name_kind) else right(Name)
                said = "(not shown)" if looks_secret(name) else repr(name)
                self.problems.append(f"{path}.{said}: must be {wanted}")
        read = {name: self.value(kind, inner, _join(path, name), is_free=True) for name, inner in values.items()}
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

    def _parse(self, kind: Any, text: str, path: str) -> Any:
        for parse in (_parse_toml, json.loads):
            with contextlib.suppress(ValueError, RecursionError):
                return parse(text)
        wanted = 'must be a value as TOML has it, such as 5, true, ["a", "b"] or { key = "value" }'
        return self._note_hidden(path, wanted) if may_hold_secret(kind, text) else self._note(path, text, wanted)

    def _note(self, path: str, value: Any, wanted: str) -> Any:
        self.problems.append(f"{path} = {shown(value)}{self._source(path)}: {wanted}")
        return _MISSING

    def _note_hidden(self, path: str, wanted: str) -> Any:
        self.problems.append(f"{path} = (not shown){self._source(path)}: {wanted}")
        return _MISSING

    def _note_unknown(self, path: str, key: str, value: Any, kinds: Mapping[str, Any]) -> None:
        near = difflib.get_close_matches(key, kinds, 1)
        elsewhere = [known for known in known_keys() if known.rpartition(".")[2] == key]
        meant = _join(path, near[0]) if near else elsewhere[0] if elsewhere else ""
        if isinstance(value, FromEnvironment):
            self._variables[_join(path, key)] = value.variable
        wanted = f"did you mean {meant}?" if meant else f"there are {', '.join(kinds)}"
        self.problems.append(f"{_join(path, key)}{self._source(_join(path, key))}: no such key; {wanted}")

    def _source(self, path: str) -> str:
        return f" (from {self._variables[path]})" if path in self._variables else ""


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
    # A key of the other kind, put where a name belongs, is not said; half of a character cannot be.
    key = "(not shown)" if looks_secret(key) else key.encode(errors="backslashreplace").decode()
    return f"{path}.{key}" if path else key


def _name_of(row: Any) -> str:
    name = row.get("name") if isinstance(row, dict) else None
    return name if isinstance(name, str) else ""
