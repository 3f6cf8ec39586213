"""
What tokens cost: a table by model, and one exact sum.

Prices are written in USD for a million tokens, as upstream publishes them, and money is counted in nano-USD ($1 = 1e9), in
whole numbers: a token of the cheapest class costs ten of those, so nothing is lost however many calls are added up. A model
that no row names has no price. Then there is no cost either, rather than a guess, and whoever shows costs shows how many
tokens had none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from headrace.model import Usage

NANO = 1_000_000_000  # of a dollar
_MILLION = 1_000_000
_MEMO = 4096


@dataclass(frozen=True, slots=True)
class Price:
    """
    What the tokens of some models cost, in USD for a million of them.

    Args:
        models: globs.
        input, output: of fresh input, and of output.
        cache_read, cache_write_5m, cache_write_1h: of input that upstream's prompt cache had, and that it took in for so long;
            None: upstream's usual 0.1, 1.25 and 2 times the input's.
        batch: everything times this in a message batch.
        tiers: everything times this, by the name of a service tier ("priority"), or "fast" for fast mode; a tier that is not
            here costs as usual.
        long_prompt, long_factor: a call whose whole input is over so many tokens costs so many times as much; 0: no such bound.
    """

    models: tuple[str, ...]
    input: float
    output: float
    cache_read: float | None = None
    cache_write_5m: float | None = None
    cache_write_1h: float | None = None
    batch: float = 0.5
    tiers: Mapping[str, float] = field(default_factory=dict)
    long_prompt: int = 0
    long_factor: float = 1.0
    _rates: tuple[int, int, int, int, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # In nano-USD for a million tokens. Worked out once, for costs are asked for at each attempt.
        rates = (
            self.input,
            self.output,
            _or(self.cache_read, 0.1 * self.input),
            _or(self.cache_write_5m, 1.25 * self.input),
            _or(self.cache_write_1h, 2 * self.input),
        )
        object.__setattr__(self, "_rates", tuple(round(usd * NANO) for usd in rates))

    def cost(self, usage: Usage, *, is_batch: bool = False, tier: str = "", requests: int = 1) -> int:
        """Return what this comes to in nano-USD, rounded up; of several *requests* all are long prompts, or none is."""
        for_an_hour = min(usage.cache_creation_1h_input_tokens, usage.cache_creation_input_tokens)
        input_, output, read, write_5m, write_1h = self._rates
        sum_ = (
            usage.input_tokens * input_
            + usage.output_tokens * output
            + usage.cache_read_input_tokens * read
            + (usage.cache_creation_input_tokens - for_an_hour) * write_5m
            + for_an_hour * write_1h
        )
        factor = self._factor(usage, is_batch, tier, requests)
        if factor == 1.0:
            return -(-sum_ // _MILLION)
        return -(-sum_ * round(factor * _MILLION) // (_MILLION * _MILLION))

    def _factor(self, usage: Usage, is_batch: bool, tier: str, requests: int) -> float:
        prompt = usage.metered_input_tokens + usage.cache_read_input_tokens
        factor = self.long_factor if self.long_prompt and prompt > self.long_prompt * requests else 1.0
        if is_batch or tier == "batch":
            return factor * self.batch
        return factor * self.tiers.get(tier, 1.0)


class Prices:
    """
    The whole table: the configuration's rows before upstream's own, and of each the first that fits.

    Args:
        rows: of the configuration, by name; one with the name of a default row stands in its place.
    """

    def __init__(self, rows: Mapping[str, Price] | None = None) -> None:
        rows = rows or {}
        self._rows = {**rows, **{name: price for name, price in DEFAULTS.items() if name not in rows}}
        self._memo: dict[str, str] = {}

    def __repr__(self) -> str:
        return f"<Prices [{len(self._rows)} rows]>"

    def of(self, model: str) -> Price | None:
        """Return the price of a model, None if it has none."""
        return self._rows.get(self.row(model))

    def row(self, model: str) -> str:
        """Return the name of the row that has a model's price, "" if none has: few words for any number of models."""
        if model not in self._memo:
            if len(self._memo) >= _MEMO:
                self._memo.clear()  # names that callers made up; nothing to remember any of them by
            self._memo[model] = next((name for name, price in self._rows.items() if _fits(model, price.models)), "")
        return self._memo[model]

    def cost(self, model: str, usage: Usage, *, is_batch: bool = False, tier: str = "", requests: int = 1) -> int | None:
        """Return what a call cost in nano-USD, or several *requests* alike, rounded up; None if its model has no price."""
        price = self.of(model)
        return None if price is None else price.cost(usage, is_batch=is_batch, tier=tier or usage.tier, requests=requests)


def _fits(model: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(model, glob) for glob in globs)


def _or(price: float | None, usual: float) -> float:
    return usual if price is None else price


def _named(*models: str) -> tuple[str, ...]:
    # As upstream names them: plain, with a date, or an alias. `claude-opus-5*` would also be Opus 5.5, and whatever comes next.
    return tuple(form for model in models for form in (model, f"{model}-20??????", f"{model}-latest", f"{model}-0"))


# As published in November 2026. Retired models stay: what they did cost is still asked for.
DEFAULTS: Mapping[str, Price] = {
    "fable-5-1": Price(_named("claude-fable-5-1", "claude-mythos-5-1"), 10, 50, cache_read=0.25),
    "fable-5": Price(_named("claude-fable-5", "claude-mythos-5"), 10, 50),
    "opus-5-5": Price(_named("claude-opus-5-5"), 4, 20, cache_read=0.2, tiers={"fast": 2.0}),
    "opus": Price(
        _named("claude-opus-5", "claude-opus-4-8", "claude-opus-4-7", "claude-opus-4-6", "claude-opus-4-5"), 5, 25
    ),
    "opus-4": Price(_named("claude-opus-4-1", "claude-opus-4", "claude-3-opus"), 15, 75),
    "sonnet-5-5": Price(_named("claude-sonnet-5-5"), 2, 10, cache_read=0.1),
    "sonnet-5": Price(_named("claude-sonnet-5"), 2, 10),
    "sonnet": Price(
        _named(
            "claude-sonnet-4-6", "claude-sonnet-4-5", "claude-sonnet-4",
            "claude-3-7-sonnet", "claude-3-5-sonnet", "claude-3-sonnet",
        ),
        3, 15,
    ),
    "haiku-5-5": Price(_named("claude-haiku-5-5"), 0.1, 0.5, long_prompt=100_000, long_factor=5.0),
    "haiku-4-5": Price(_named("claude-haiku-4-5"), 1, 5),
    "haiku-3-5": Price(_named("claude-3-5-haiku"), 0.8, 4),
    "haiku-3": Price(_named("claude-3-haiku"), 0.25, 1.25, cache_read=0.03, cache_write_5m=0.3),
}  # fmt: skip
