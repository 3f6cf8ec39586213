"""
The latest word of upstream on each model class, until a settlement carries it to the buckets of all daemons.

It goes with the first settlement of its class, whosesoever that is, and only once: a word is true of the moment at which it
came.

Which buckets it lowers: those of limits that tell calls apart by nothing but their models (`Limit.is_upstreams`), the learned
ones among them. A caller's, a team's or a lane's own bucket is its own, and does not grow less because others use upstream.
Nor does a bucket from which several model classes draw, as soon as they have been seen to: what is left to one class says
nothing of what the other may use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from headrace import observe
from headrace.budget.want import Want
from headrace.tuning.heed import Word, ceiling

_BOUND = 4096
_SEVERAL = "*"  # no model class is called so


@dataclass(frozen=True, slots=True)
class WordsStats:
    """On how many model classes there is a word that no settlement has carried yet."""

    waiting: int


class Words:
    """Keeps words."""

    def __init__(self) -> None:
        self._latest: dict[str, Word] = {}
        self._newest: dict[str, float] = {}  # when the call of the newest word was sent
        self._drawn_by: dict[str, str] = {}  # bucket id -> the one model class that draws from it

    def __repr__(self) -> str:
        return f"<Words [{self.stats().waiting} waiting]>"

    def stats(self) -> WordsStats:
        """Return its state now."""
        return WordsStats(len(self._latest))

    def hear(self, model_class: str, word: Word) -> None:
        """Take in a word, in the place of an older one; one whose call was sent before an earlier word's says nothing new."""
        if word.at < self._newest.get(model_class, 0.0):
            return
        if len(self._newest) >= _BOUND:  # model names are the callers' free text
            self._latest.clear()
            self._newest.clear()
        self._latest[model_class] = word
        self._newest[model_class] = word.at

    def carried(self, model_class: str, wants: Sequence[Want], now: float) -> dict[str, int]:
        """Return how much these buckets hold at most, by bucket id, for the settlement of a call of this class."""
        mine = [want for want in wants if want.is_upstreams and self._is_of_one_class(want.bucket_id, model_class)]
        word = self._latest.pop(model_class, None) if mine else None
        if word is None:
            return {}
        most = {want.bucket_id: ceiling(want, word, now) for want in mine}
        for want in mine:
            if most[want.bucket_id] is not None:
                observe.WORDS.inc(want.kind)
        return {bucket_id: tokens for bucket_id, tokens in most.items() if tokens is not None}

    def _is_of_one_class(self, bucket_id: str, model_class: str) -> bool:
        known = self._drawn_by.get(bucket_id)
        if known is None:
            if len(self._drawn_by) >= _BOUND:
                self._drawn_by.clear()
            self._drawn_by[bucket_id] = known = model_class
        elif known != model_class:
            self._drawn_by[bucket_id] = known = _SEVERAL
        return known == model_class
