"""
Everything about the simulator that can be chosen, in one value.

The defaults behave like a small, healthy account: half a second to the first token, 80 tokens a second, no limits, no
faults. `Options.instant()` takes the waiting out, for tests.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

ENCODINGS = ("gzip", "br", "zstd")
_RATES = ("rate_429", "rate_529", "rate_500", "rate_hang", "rate_reset", "rate_half_stream", "rate_stream_error")


@dataclass(frozen=True, slots=True)
class Options:
    """
    How the simulator answers.

    Args:
        first_token_s: time to the first token.
        tokens_per_s: speed after that; 0 means all at once.
        jitter: both of them vary from call to call by up to this share, up and down.
        answer_tokens: length of an answer, from and to; which one is a function of the prompt.
        delta_tokens: tokens in one delta of a stream.
        keys: the API keys that are accepted; none named: any that is not blank.
        requests_per_minute, input_tokens_per_minute, output_tokens_per_minute: limits for each model class; 0: none.
        burst_s: a bucket holds what its rate gives in this time.
        concurrency: calls of one model class in the air at once; 0 means any number.
        rate_...: share of the calls that meet this fault (see `faults.py`); together at most 1.
        retry_after_s: the `retry-after` of injected 429s, from and to, in seconds (whole ones are what upstream sends).
        seed: of all chance in here; None makes each run different.
        max_body_bytes, max_batch_bytes, max_file_bytes: larger bodies are refused with 413; for files, 0 is no limit.
        keep_file_bytes: a larger file is hashed, and its content not kept.
        admin_keys: Admin keys, beside those that begin with `sk-ant-admin`.
        batch_s: how long a batch takes; batch_expires_s: after this it ends anyhow.
        public_url: what the addresses in answers begin with; empty: `http://` and the host that was asked.
        encodings: content encodings that callers may have ("gzip", "br", "zstd"), the first that they take.
        journal: how many calls the journal and the counts by body remember.
    """

    first_token_s: float = 0.5
    tokens_per_s: float = 80.0
    jitter: float = 0.2
    answer_tokens: tuple[int, int] = (30, 200)
    delta_tokens: int = 4
    keys: tuple[str, ...] = ()
    requests_per_minute: int = 0
    input_tokens_per_minute: int = 0
    output_tokens_per_minute: int = 0
    burst_s: float = 60.0
    concurrency: int = 0
    rate_429: float = 0.0
    rate_529: float = 0.0
    rate_500: float = 0.0
    rate_hang: float = 0.0
    rate_reset: float = 0.0
    rate_half_stream: float = 0.0
    rate_stream_error: float = 0.0
    retry_after_s: tuple[float, float] = (1.0, 3.0)
    seed: int | None = None
    max_body_bytes: int = 32_000_000
    journal: int = 20_000
    max_batch_bytes: int = 256_000_000
    max_file_bytes: int = 500_000_000
    keep_file_bytes: int = 8_000_000
    admin_keys: tuple[str, ...] = ()
    batch_s: float = 30.0
    batch_expires_s: float = 86_400.0
    public_url: str = ""
    encodings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("first_token_s", "tokens_per_s", "requests_per_minute", "input_tokens_per_minute",
                     "output_tokens_per_minute", "concurrency", "max_file_bytes", "keep_file_bytes", "batch_s"):  # fmt: skip
            _check(getattr(self, name) >= 0, name, getattr(self, name), "0 or more")
        for name in ("burst_s", "delta_tokens", "max_body_bytes", "max_batch_bytes", "batch_expires_s", "journal"):
            _check(getattr(self, name) > 0, name, getattr(self, name), "more than 0")
        for name in ("answer_tokens", "retry_after_s"):
            low, high = getattr(self, name)
            _check(0 <= low <= high, name, (low, high), "two numbers, the smaller one first")
        rates = [getattr(self, name) for name in _RATES]
        _check(all(rate >= 0 for rate in rates) and sum(rates) <= 1 + 1e-9, "rate_...", rates, "shares, together at most 1")
        _check(set(self.encodings) <= set(ENCODINGS), "encodings", self.encodings, f"some of {', '.join(ENCODINGS)}")
        _check(0 <= self.jitter < 1, "jitter", self.jitter, "a share below 1")

    @classmethod
    def instant(cls, **changes: Any) -> Self:
        """Answer without any waiting; the same chance in each run."""
        return cls(**{"first_token_s": 0.0, "tokens_per_s": 0.0, "seed": 1, "batch_s": 0.0, **changes})


def _check(holds: bool, name: str, value: object, right: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value}; it should be {right}")
