"""
What each value allows but all of them together do not, and what is allowed but hardly meant.

Contradictions keep the configuration from loading. Warnings do not: the daemon logs them as it starts, and
`headrace config check` prints them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

from headrace import endpoints
from headrace.config import places, transport
from headrace.config.doubts import doubts
from headrace.config.environment import ignored_variables
from headrace.config.sealing import key_file
from headrace.config.tables import Settings
from headrace.config.tables import lanes as lanes_of
from headrace.config.transport import is_loopback, is_open_to_all
from headrace.model import Role

_LANE = re.compile(r"[a-z0-9._-]{1,64}")


def contradictions(settings: Settings) -> Iterator[str]:
    """Yield what cannot be."""
    yield from _credentials(settings)
    yield from _addresses(settings)
    yield from transport.contradictions(settings)
    yield from _amounts(settings)
    yield from _limits(settings)
    yield from _lanes(settings)
    yield from _classes(settings)
    yield from _prices(settings)


def _credentials(settings: Settings) -> Iterator[str]:
    if settings.upstream.credentials != "caller":
        return
    if settings.auth.required:
        yield (
            'auth.required = true: cannot go with upstream.credentials = "caller", since a call carries one key: '
            "either ours (auth.required) or upstream's; drop one of the two"
        )
    if settings.cache.scope == "shared":
        yield (
            'cache.scope = "shared": cannot go with upstream.credentials = "caller", since the answers to one key would go to '
            'holders of another, or of none; use cache.scope = "caller"'
        )


def _addresses(settings: Settings) -> Iterator[str]:
    addresses = [*settings.listen.grpc, settings.listen.http, *settings.listen.admin]
    for address in _repeated([address for address in addresses if not address.endswith(":0")]):
        yield f'listen: "{address}" is named twice; give each endpoint an address of its own'


def _amounts(settings: Settings) -> Iterator[str]:
    if settings.cache.max_entry == 0:
        yield "cache.max_entry = 0: would keep nothing; to do without the cache use cache.enabled = false"
    if settings.schedule.max_waiting_bytes == 0:
        yield 'schedule.max_waiting_bytes = 0: would refuse every call; use a size such as "512MB"'
    for name, caller in settings.caller.items():
        if caller.timeout == 0:
            yield f'caller.{name}.timeout = "0s": would give up its calls at once; use a duration such as "50s"'
    if settings.retry.max_age == 0:
        yield 'retry.max_age = "0s": would give up every call at once; use a duration such as "9m30s"'


def _lanes(settings: Settings) -> Iterator[str]:
    for name, table in settings.lane.items():
        if table.share < 0.000_001:
            yield f"lane.{name}.share = {table.share:g}: would never let a call go; use a number over 0, up to 1"
        if not _LANE.fullmatch(name):
            yield f"lane.{name}: a lane's name has 1 to 64 small letters, digits, dots, dashes or underscores"
    lanes = lanes_of(settings)
    for name, caller in settings.caller.items():
        if caller.lane and caller.lane not in lanes:
            yield f'caller.{name}.lane = "{caller.lane}": there is no such lane; there are {", ".join(lanes)}'


def _limits(settings: Settings) -> Iterator[str]:
    for name in _repeated([limit.name for limit in settings.limit]):
        yield f'limit[{name}].name = "{name}": two limits have it; give each a name of its own'
    for limit in settings.limit:
        if not any(fnmatchcase(lane, limit.match.lane) for lane in lanes_of(settings)):
            lanes = ", ".join(lanes_of(settings))
            yield f'limit[{limit.name}].match.lane = "{limit.match.lane}": fits no lane; there are {lanes}'

        if limit.match.endpoint and not any(fnmatchcase(name, limit.match.endpoint) for name in endpoints.NAMES):
            names = ", ".join(endpoints.NAMES)
            yield f'limit[{limit.name}].match.endpoint = "{limit.match.endpoint}": fits no endpoint; there are {names}'


def _classes(settings: Settings) -> Iterator[str]:
    for name, table in settings.class_.items():
        if not table.models:
            yield f'class.{name}.models = []: would be the class of nothing; use globs such as ["claude-opus-5*"]'


def _prices(settings: Settings) -> Iterator[str]:
    for name, price in settings.price.items():
        if not price.models:
            yield f'price.{name}.models = []: would be the price of nothing; use globs such as ["claude-sonnet-5*"]'


def _repeated(names: list[str]) -> list[str]:
    return sorted({name for name in names if names.count(name) > 1})


def warnings(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Return what a person should look at, one sentence each."""
    return [
        *_about_key(settings, environ),
        *_about_seals(settings, environ),
        *_about_doors(settings),
        *transport.warnings(settings),
        *doubts(settings),
        *_about_proxy(settings, environ),
        *_about_variables(environ),
    ]


def _about_key(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    if settings.upstream.credentials == "caller":
        return
    sources = list(places.key_sources(settings, environ))
    if all(problem for _, _, problem in sources):
        tried = "; ".join(f"{place}: {problem}" for place, _, problem in sources)
        yield f"there is no key for upstream, so calls that are not in the cache end in authentication errors ({tried})"
    elif sources[1][2] and not places.is_default_key_file(settings):
        used = next(place for place, _, problem in sources if not problem)
        yield f"upstream.api_key_file: {sources[1][0]}: {sources[1][2]}; the key comes from {used}"
    for name, path in (
        ("api_key_file", settings.upstream.api_key_file),
        ("admin_api_key_file", settings.upstream.admin_api_key_file),
    ):
        if path and is_open_to_all(Path(path)):
            yield f"upstream.{name}: every user of this machine may read {path}; chmod it to 0600"
    if (path := settings.upstream.admin_api_key_file) and not places.admin_api_key(settings, environ):
        yield f"upstream.admin_api_key_file: {path} holds no key; the Admin API answers with authentication errors"


def _about_seals(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    if settings.redis.url and key_file(settings, environ) is None:
        yield "redis.url: who may write to that Redis may put words into answers; give all its daemons one state.mac_key_file"
    for name in ("mac_key_file", "encryption_key_file"):
        if (path := getattr(settings.state, name)) and is_open_to_all(Path(path)):
            yield f"state.{name}: every user of this machine may read {path}; chmod it to 0600"


def _about_doors(settings: Settings) -> Iterator[str]:
    if settings.auth.default_role is Role.ADMIN and not settings.auth.required:
        yield 'auth.default_role = "admin": whoever reaches this daemon can use the Admin API; better require keys'
    parts = urlsplit(settings.upstream.base_url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        yield f"upstream.base_url: keys and prompts go to {parts.hostname} unencrypted; use https"


def _about_proxy(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    variable, named = places.environments_proxy(settings.upstream.base_url, environ)
    if named and not settings.upstream.proxy:
        yield f'{variable} names no proxy by HTTP, so calls go directly; set upstream.proxy, or "off" if that is meant'


def _about_variables(environ: Mapping[str, str]) -> Iterator[str]:
    for variable in ignored_variables(environ):
        yield f"{variable} in the environment is no setting, and does nothing"
