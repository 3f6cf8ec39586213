"""
What a configuration allows and its author hardly meant: names that fit nothing, figures that do nothing. A sentence each.

Read from the settings alone. What the outside says of them (a key in Redis, upstream's list of models) is `doctor`'s to find.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from headrace.classes import DEFAULT
from headrace.config.binding import never_bind
from headrace.config.tables import Settings
from headrace.model import Role
from headrace.prices import DEFAULTS
from headrace.sentinels import sentinels
from headrace.units import format_duration, format_size

# All of upstream's models begin so. Which there are changes month by month, so a longer name is not held against a list.
_MODELS = "claude-"
_WILD = re.compile(r"[*?\[]")
_SDKS_S = 600.0


def doubts(settings: Settings) -> Iterator[str]:
    """Yield what is in doubt."""
    yield from _models(settings)
    yield from _owners(settings)
    yield from never_bind(settings.limit)
    yield from _addresses(settings)
    yield from _roles(settings)
    yield from _amounts(settings)


# Names.


def fits_models(glob: str) -> bool:
    """Whether a model's name that begins as upstream's do could fit."""
    head = _WILD.split(glob, maxsplit=1)[0]
    return head.startswith(_MODELS) or (head != glob and _MODELS.startswith(head))


def like(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean NAME?" with what is nearest, or nothing."""
    near = difflib.get_close_matches(name.rstrip("*"), sorted({each.rstrip("*") for each in known}), 1, 0.7)
    return f"; did you mean {near[0]}{'*' if name.endswith('*') else ''}?" if near else ""


def _models(settings: Settings) -> Iterator[str]:
    classes = {**DEFAULT, **{name: table.models for name, table in settings.class_.items()}}
    own = [glob for globs in classes.values() for glob in globs]  # a gateway's names may be others
    for limit in settings.limit:
        glob = limit.match.model
        if not fits_models(glob) and not any(fnmatchcase(each, glob) or fnmatchcase(glob, each) for each in own):
            yield f'limit[{limit.name}].match.model = "{glob}": {_no_model(glob)}'
        glob = limit.match.model_class
        if not fits_models(glob) and not any(fnmatchcase(name, glob) for name in classes):
            yield f'limit[{limit.name}].match.class = "{glob}": fits no class{like(glob, [*classes, *_known_models()])}'
    for kind, tables in (("class", settings.class_), ("price", settings.price)):
        for name, table in tables.items():
            for glob in table.models:
                if not fits_models(glob):
                    yield f'{kind}.{name}.models: "{glob}": {_no_model(glob)}'


def _no_model(glob: str) -> str:
    return f"fits no model that begins with {_MODELS}{like(glob, [*_known_models(), _MODELS])}"


def _known_models() -> Iterator[str]:
    yield from (model for price in DEFAULTS.values() for model in price.models if not _WILD.search(model))


def _owners(settings: Settings) -> Iterator[str]:
    teams = {caller.team for caller in settings.caller.values() if caller.team}
    for limit in settings.limit:
        where = f"limit[{limit.name}].match"
        # Callers may come without a table of their own, by a key or by name; only what looks like a slip is said here.
        if unknown_caller(limit.match.caller, settings.caller) and (meant := like(limit.match.caller, settings.caller)):
            yield f'{where}.caller = "{limit.match.caller}": fits no caller of the configuration{meant}'
        if not any(fnmatchcase(team, limit.match.team) for team in ("", *teams)):
            yield f'{where}.team = "{limit.match.team}": no caller is of such a team{like(limit.match.team, teams)}'


def unknown_caller(glob: str, callers: Iterable[str]) -> bool:
    """Whether a glob fits none of the callers."""
    return glob != "*" and not any(fnmatchcase(name, glob) for name in callers)


# Places.


def _addresses(settings: Settings) -> Iterator[str]:
    base = str(settings.upstream.base_url)
    if re.search(r"/v\d+\Z", base):
        yield f'upstream.base_url = "{base}": calls would go to {base}/v1/...; use "{base.rpartition("/")[0]}"'
    if (database := database_of(settings.redis.url)) and not database.isdecimal():
        yield f'redis.url: its path is "/{database}", and a database is a number, so it is 0 that is used; use /0'


def database_of(url: str) -> str:
    """Return which database a URL of Redis names, as it is written there; "" for none, or for a path that is a socket's."""
    if url.startswith("unix") or sentinels(url) is not None:
        return ""
    return urlsplit(url).path.strip("/")


# Figures and roles.


def _roles(settings: Settings) -> Iterator[str]:
    if settings.auth.required or settings.upstream.credentials == "caller":
        return
    for name, caller in settings.caller.items():
        if caller.role is not Role.CALLER and not settings.listen.tls_clients:
            yield (
                f'caller.{name}.role = "{caller.role}": does nothing, since no key is asked for and anybody could take the '
                f"name; set auth.required = true"
            )


def _amounts(settings: Settings) -> Iterator[str]:
    cache = settings.cache
    if cache.enabled and 0 < cache.memory < cache.max_entry:
        sizes = f'"{format_size(cache.max_entry)}": is over cache.memory = "{format_size(cache.memory)}"'
        yield f"cache.max_entry = {sizes}, so what is larger than that never stays in memory; raise the one or lower the other"
    if settings.retry.max_age > _SDKS_S:
        yield (
            f'retry.max_age = "{format_duration(settings.retry.max_age)}": the SDKs give up after ten minutes; '
            f"what may take longer is better submitted"
        )
