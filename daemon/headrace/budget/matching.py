"""
Which calls a limit holds for, and which of them share a bucket. Pure.

Both go by the same few things that are known of a call: who asks, for whom, for which model, in which lane, by which endpoint,
under which labels.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

from headrace.endpoints import named
from headrace.model import Caller, Labels

# In one fixed order, so that turning `per` round in the file keeps the buckets.
DIMENSIONS = ("caller", "model", "class", "team", "workspace", "lane", "endpoint")
LABEL = "label."

_PLAIN = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


class Payer(Protocol):
    """What decides which buckets a call draws from."""

    @property
    def caller(self) -> Caller: ...
    @property
    def model(self) -> str: ...
    @property
    def lane(self) -> str: ...
    @property
    def endpoint(self) -> str: ...
    @property
    def labels(self) -> Labels: ...


def facts(call: Payer, model_class: str) -> dict[str, str]:
    """Return what is known of a call, by the names that `match` and `per` use."""
    said = {
        "caller": call.caller.name,
        "model": call.model,
        "class": model_class,
        "team": call.caller.team,
        "workspace": call.caller.workspace,
        "lane": call.lane,
        "endpoint": call.endpoint,
    }
    return said | {LABEL + name: value for name, value in call.labels}


@dataclass(frozen=True, slots=True)
class Match:
    """
    Globs; a limit holds for the calls that match all of them.

    Args:
        endpoint: "": those that use a model's tokens.
        labels: by the labels' names; a call without the label has the empty text for it.
    """

    model: str = "*"
    caller: str = "*"
    lane: str = "*"
    endpoint: str = ""
    model_class: str = "*"
    team: str = "*"
    workspace: str = "*"
    labels: tuple[tuple[str, str], ...] = ()

    def fits(self, facts: Mapping[str, str]) -> bool:
        """Whether a call of which these are the facts matches."""
        if not self.endpoint and not named(facts["endpoint"]).is_metered:
            return False
        return all(fnmatchcase(facts.get(name, ""), glob) for name, glob in self._globs)

    @property
    def _globs(self) -> tuple[tuple[str, str], ...]:
        return (
            ("model", self.model),
            ("caller", self.caller),
            ("lane", self.lane),
            ("endpoint", self.endpoint or "*"),
            ("class", self.model_class),
            ("team", self.team),
            ("workspace", self.workspace),
            *((LABEL + name, glob) for name, glob in self.labels),
        )


ANY = Match()


def share(per: tuple[str, ...], facts: Mapping[str, str]) -> str:
    """Return what tells the buckets of a limit apart: the values of what its `per` names, as the end of the buckets' ids."""
    names = [name for name in DIMENSIONS if name in per] + sorted(name for name in set(per) if name.startswith(LABEL))
    return "".join(f":{name}={_safe(facts.get(name, ''))}" for name in names)


def shared_by(bucket_id: str) -> dict[str, str]:
    """Return the values in a bucket's id that `share` has put there, by the names of its limit's `per`."""
    pairs = (part.partition("=") for part in bucket_id.split(":")[2:])
    return {name: value for name, _, value in pairs if name in DIMENSIONS or name.startswith(LABEL)}


def _safe(value: str) -> str:
    # A key of bounded length without odd characters; the tilde keeps hashes apart from plain values.
    if _PLAIN.match(value):
        return value
    return "~" + hashlib.sha256(value.encode("utf-8", "surrogatepass")).hexdigest()[:24]
