"""Which endpoint a path leads to: exact paths first, since the busiest are among them, then those with ids in them."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

from aiohttp import web

from headrace.simulator.call import Call

Handler = Callable[[Call], Awaitable[web.StreamResponse]]


class Door(Enum):
    """Which key opens an endpoint, and whether a version is asked for."""

    API = auto()
    CHAT = auto()  # as the API, but no version, and errors in OpenAI's shape
    BOTH = auto()  # as the API, and open to OpenAI's SDK, which has its key as a bearer and tells no version
    ADMIN = auto()  # an Admin key only


_DOORS = {"/v1/chat/": Door.CHAT, "/v1/organizations/": Door.ADMIN, "/v1/models/": Door.BOTH}


def door_of(path: str) -> Door:
    """Return the door in front of a path, whether there is an endpoint or one may be ordered."""
    return next((door for prefix, door in _DOORS.items() if f"{path}/".startswith(prefix)), Door.API)


@dataclass(frozen=True, slots=True)
class Route:
    """
    One endpoint.

    Args:
        path: with `{}` for each id.
        strikes: it asks for faults by itself, when it knows model and prompt.
    """

    method: str
    path: str
    handler: Handler
    strikes: bool = False


class Routes:
    """All endpoints."""

    def __init__(self, routes: Iterable[Route]) -> None:
        by_path: dict[str, dict[str, Route]] = {}
        for route in routes:
            by_path.setdefault(route.path, {})[route.method] = route
        self._exact = {path: methods for path, methods in by_path.items() if "{}" not in path}
        self._patterns = [(_pattern(path), methods) for path, methods in by_path.items() if "{}" in path]

    def __repr__(self) -> str:
        return f"<Routes [{len(self._exact)} paths, {len(self._patterns)} patterns]>"

    def find(self, path: str) -> tuple[Mapping[str, Route], tuple[str, ...]]:
        """Return a path's routes by method, none if there is no such path, and the ids in it."""
        if found := self._exact.get(path):
            return found, ()
        for pattern, methods in self._patterns:
            if match := pattern.fullmatch(path):
                return methods, match.groups()
        return {}, ()


def allowed(methods: Iterable[str]) -> str:
    """Return what `allow` says of these methods: HEAD comes with GET, and OPTIONS with any."""
    said = dict.fromkeys(methods)
    return ", ".join([*said, *(["HEAD"] if "GET" in said else []), "OPTIONS"])


def _pattern(path: str) -> re.Pattern[str]:
    return re.compile(re.escape(path).replace(r"\{\}", "([^/]+)"))
