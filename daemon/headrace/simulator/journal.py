"""
What the simulator was asked: counts, and a journal of single calls.

Both are bounded: what was first to come is first forgotten. Prompts in here are test data, so the journal may quote
them; keys are only there as hashes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Any

_QUOTE = 40
_DIGITS = 16
_DISTINCT = 1_000
_COUNTED = ("at_unix", "took_s", "status", "outcome", "model", "text", "key", "input_tokens", "output_tokens")
_KEYS = frozenset(("x-api-key", "authorization", "proxy-authorization", "cookie"))


@dataclass(slots=True)
class Visit:
    """
    One call, from its arrival on.

    Args:
        at_monotonic, at_unix: when its headers were here, in seconds.
        outcome: "open", then "answered", "limited" (a real limit), the kind of an injected fault, the type of an error, or
            "gone" when the caller left first.
        status: 0 while nothing was sent.
        retry_after_s: as sent, if it was.
        fingerprint: of the body, see `fingerprint`.
        key: a hash of the API key.
        text: the beginning of the prompt.
        input_tokens, output_tokens: what it cost; output as far as it was produced.
        took_s: until the last byte was written.
        method, target: of the request line; the target with its query, as it came.
        headers: of the request, in lower case; the values of keys are `***`.
        body_bytes, body_sha256: of the body, as far as it was read.
    """

    number: int
    at_monotonic: float
    at_unix: float
    path: str
    outcome: str = "open"
    status: int = 0
    retry_after_s: float | None = None
    fingerprint: str = ""
    key: str = ""
    model: str = ""
    stream: bool = False
    text: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    request_id: str = ""
    message_id: str = ""
    took_s: float = 0.0
    method: str = ""
    target: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    body_bytes: int = 0
    body_sha256: str = ""
    told_input_tokens: int = 0
    told_output_tokens: int = 0


class Tally:
    """Counts by word; of more than *bound* words the oldest are forgotten."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._counts: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Tally {self._counts}>"

    def __getitem__(self, word: str) -> int:
        return self._counts.get(word, 0)

    def inc(self, word: str) -> None:
        if word not in self._counts and len(self._counts) >= self._bound:
            del self._counts[next(iter(self._counts))]
        self._counts[word] = self._counts.get(word, 0) + 1

    def items(self) -> dict[str, int]:
        return dict(self._counts)


class Counts:
    """How often the simulator was asked, since its start or its last reset."""

    def __init__(self, bound: int) -> None:
        self.total = 0
        self.running = 0
        self.most_running = 0
        self.outcomes = Tally(_DISTINCT)
        self.paths = Tally(_DISTINCT)
        self.models = Tally(_DISTINCT)
        self.fingerprints = Tally(bound)
        self.output_tokens = 0
        self.told: dict[str, dict[str, int]] = {}  # by model: what answers said was used

    def __repr__(self) -> str:
        return f"<Counts [{self.total} calls, {self.running} running, at most {self.most_running}] {self.outcomes.items()}>"

    def listed(self) -> dict[str, Any]:
        """Return all of it, ready for JSON."""
        return {name: value.items() if isinstance(value, Tally) else value for name, value in vars(self).items()}


class Journal:
    """The last calls, in the order of their arrival, and the counts of all."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self.visits: deque[Visit] = deque(maxlen=bound)
        self.counts = Counts(bound)

    def __repr__(self) -> str:
        return f"<Journal [{len(self.visits)} of {self.counts.total} calls kept]>"

    def reset(self) -> None:
        """Forget everything; calls in the air are still counted as running."""
        running = self.counts.running
        self.visits.clear()
        self.counts = Counts(self._bound)
        self.counts.running = self.counts.most_running = running

    def open(self, path: str) -> Visit:
        """Note an arrival."""
        counts = self.counts
        counts.total += 1
        counts.running += 1
        counts.most_running = max(counts.most_running, counts.running)
        counts.paths.inc(path)
        visit = Visit(counts.total, time.monotonic(), time.time(), path)
        self.visits.append(visit)
        return visit

    def identify(self, visit: Visit, body: bytes) -> None:
        """Note what the call is, once its body is here."""
        self.weigh(visit, len(body), sha256(body).hexdigest())

    def weigh(self, visit: Visit, size_bytes: int, digest: str) -> None:
        """Note the same of a body that nobody holds: its size and its SHA-256 in hex."""
        visit.body_bytes, visit.body_sha256, visit.fingerprint = size_bytes, digest, digest[:_DIGITS]
        self.counts.fingerprints.inc(visit.fingerprint)

    def describe(self, visit: Visit, model: str, stream: bool, prompt: str) -> None:
        """Note what the call wants, once its body made sense."""
        visit.model, visit.stream, visit.text = model, stream, prompt[:_QUOTE]
        self.counts.models.inc(model)

    def tell(self, visit: Visit, input_tokens: int, output_tokens: int) -> None:
        """Note what a call was told it used: all of it, each time it is told."""
        models = self.counts.told
        model = visit.model if visit.model in models or len(models) < _DISTINCT else "(other)"
        told = models.setdefault(model, {"input_tokens": 0, "output_tokens": 0})
        told["input_tokens"] += input_tokens - visit.told_input_tokens
        told["output_tokens"] += output_tokens - visit.told_output_tokens
        visit.told_input_tokens, visit.told_output_tokens = input_tokens, output_tokens

    def close(self, visit: Visit) -> None:
        """Note how it ended."""
        visit.took_s = time.monotonic() - visit.at_monotonic
        self.counts.running -= 1
        self.counts.outcomes.inc(visit.outcome)

    def listed(self, *, text: str = "", path: str = "*", newest: int | None = None) -> list[dict[str, Any]]:
        """Return calls, oldest first: those with *text* in their quoted prompt and with such a *path* (a glob); the newest."""
        chosen = [visit for visit in self.visits if text in visit.text and fnmatchcase(visit.path, path)]
        return [asdict(visit) for visit in (chosen if newest is None else chosen[len(chosen) - min(newest, len(chosen)) :])]

    def arrivals(self) -> list[dict[str, Any]]:
        """Return what counting needs of the calls, oldest first; cheap, however many there are."""
        return [{name: getattr(visit, name) for name in _COUNTED} for visit in self.visits]


def fingerprint(body: bytes) -> str:
    """Return what a body is known by here: 16 hex digits of its SHA-256."""
    return sha256(body).hexdigest()[:_DIGITS]


def shown(headers: Mapping[str, str]) -> dict[str, str]:
    """Return headers as the journal has them: one of each name, and no keys."""
    said: dict[str, str] = {}
    for name, value in headers.items():
        name = name.lower()
        value = "***" if name in _KEYS else value
        said[name] = f"{said[name]}, {value}" if name in said else value
    return said
