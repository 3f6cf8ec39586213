"""One exchange of borrowed budget with Redis, in the words of exchange.lua."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from headrace.budget.quanta import Quantum, Word


@dataclass(frozen=True, slots=True)
class Exchange:
    """One exchange, which may have to be said again: then without what upstream said."""

    quanta: list[Quantum]
    names: list[str]
    args: list[Any]
    words: list[Word]
    made_at: float

    @property
    def all_args(self) -> list[Any]:
        """What the script is told: who speaks, and a line a bucket."""
        return [*self.args, " ".join(map(_figures, self.quanta, self.words))]

    def again(self) -> Exchange:
        """Return it as it is said another time."""
        return replace(self, words=[word.later for word in self.words])


def _figures(quantum: Quantum, word: Word) -> str:
    want, ceiling = quantum.want, "-" if word.ceiling is None else word.ceiling
    told = f"{word.spent} {word.back} {word.home} {word.kept} {word.asked} {word.most} {ceiling}"
    return f"{want.form} {want.figure} {want.capacity} {told}"
