"""
What a path of the API is about: a collection of things, one of them, or something below one. Pure.

The API is regular: `/v1/<collection>/<id>/...`. So a collection that nobody has heard of yet is treated as one all the same,
and what lies below a thing is its owner's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_DAY_S = 86_400
_BATCHES = "messages/batches"
_WORD = re.compile(r"[a-z0-9-]{1,64}")
_PARAMETERS = re.compile(r";[^/]*")
_PATH = re.compile(r"/v1/((?i:messages(?:;[^/]*)?/batches)(?:;[^/]*)?(?![^/])|[^/]+)(?:/([^/]+))?(/.*)?")


@dataclass(frozen=True, slots=True)
class Kind:
    """
    A kind of thing.

    Args:
        title: what upstream calls one in its errors.
        prefix: what its ids begin with; "" if nobody has said.
        kept_s: how long its owner is remembered: a little longer than upstream keeps the thing; None: until it is deleted.
        page: how many of them upstream lists at once, if that is known; 0: as many as a caller asks for.
        has_public: whether there are some that are upstream's own, and so for everybody; their ids are plain words.
    """

    title: str
    prefix: str = ""
    kept_s: int | None = None
    page: int = 0
    has_public: bool = False

    def is_public(self, id: str) -> bool:
        """Whether it is upstream's own."""
        return self.has_public and _WORD.fullmatch(id) is not None


KINDS: dict[str, Kind] = {
    _BATCHES: Kind("Batch", "msgbatch_", 31 * _DAY_S, page=1000),
    "files": Kind("File", "file_", page=1000),
    "skills": Kind("Skill", "skill_", has_public=True),
    "containers": Kind("Container", "container_", 31 * _DAY_S),
    # Conversations that upstream holds, each by the id of its last message.
    "threads": Kind("Message", "thread_", 400 * _DAY_S),
    "agents": Kind("Agent"),
    "deployments": Kind("Deployment"),
    "deployment_runs": Kind("Deployment run"),
    "dreams": Kind("Dream"),
    "environments": Kind("Environment"),
    "memory_stores": Kind("Memory store"),
    "sessions": Kind("Session"),
    "tunnels": Kind("Tunnel"),
    "user_profiles": Kind("User profile"),
    "vaults": Kind("Vault"),
}
"""The collections that are known, by their paths."""

UNKNOWN = Kind("Resource", kept_s=400 * _DAY_S)
"""What may be a thing, or an answer that only has an id: its owner must go some day."""

_PREFIXED = {kind.prefix: kind for kind in KINDS.values() if kind.prefix}
PREFIXES = tuple(_PREFIXED)
"""What ids begin with that tell their kind."""


def kind_of_id(id: str) -> Kind | None:
    """Return the kind that an id tells by itself; None if it tells none."""
    return _PREFIXED.get(id[: id.find("_") + 1])


@dataclass(frozen=True, slots=True)
class Place:
    """
    What a path is about.

    Args:
        collection: as the path says it, "files"; "" for none.
        id: of one thing; "" for the collection.
        below: the rest of the path, "/versions/1", where it is about something below that thing.
    """

    collection: str
    id: str = ""
    below: str = ""

    @property
    def kind(self) -> Kind:
        """The kind of things in the collection."""
        return KINDS.get(self.collection, UNKNOWN)


def place_of(path: str) -> Place:
    """
    Return what a path is about, its query left out.

    Of a collection that is known whatever the case of its letters, and whatever parameters are behind it (`files;x`): a server
    may read it so.
    """
    found = _PATH.fullmatch(path.rstrip("/"))
    return Place(_known(found[1]), found[2] or "", found[3] or "") if found else Place("")


def _known(collection: str) -> str:
    plain = _PARAMETERS.sub("", collection).lower()
    return plain if plain in KINDS else collection
