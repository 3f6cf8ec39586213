"""What tokens cost: upstream's published sums, to the nano-dollar."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.model import Usage
from headrace.prices import DEFAULTS, NANO, Price, Prices

MILLION = 1_000_000


@pytest.mark.parametrize(
    ("model", "usage", "usd"),
    [
        ("claude-sonnet-5", Usage(MILLION), 2.0),
        ("claude-sonnet-5-20260601", Usage(output_tokens=MILLION), 10.0),
        ("claude-sonnet-4-5-20250929", Usage(cache_creation_input_tokens=MILLION), 3.75),
        ("claude-opus-5", Usage(cache_creation_input_tokens=MILLION, cache_creation_1h_input_tokens=MILLION), 10.0),
        ("claude-opus-4-5", Usage(cache_read_input_tokens=MILLION), 0.5),
        ("claude-opus-4-1-20250805", Usage(MILLION, MILLION), 90.0),
        ("claude-opus-5-5", Usage(MILLION, cache_read_input_tokens=MILLION), 4.2),
        ("claude-haiku-5-5", Usage(100_000), 0.01),
        ("claude-haiku-5-5", Usage(100_000, 1000, cache_read_input_tokens=1), 0.0525 + 0.05 / MILLION),
        ("claude-3-haiku-20240307", Usage(0, 0, MILLION, MILLION), 0.33),
    ],
)
def test_published_prices(model, usage, usd):
    """Each class of token at its price, and a long prompt at its own."""
    assert Prices().cost(model, usage) == round(usd * NANO)


def test_batches_and_tiers():
    """A batch costs half, fast mode twice, and a tier of no price of its own as usual."""
    prices, usage = Prices(), Usage(MILLION, tier="fast")
    assert prices.cost("claude-opus-5-5", usage) == 8 * NANO
    assert prices.cost("claude-opus-5-5", usage, tier="standard") == 4 * NANO
    assert prices.cost("claude-opus-5-5", usage, tier="batch") == 2 * NANO
    assert prices.cost("claude-opus-5-5", Usage(MILLION), is_batch=True) == 2 * NANO


@pytest.mark.parametrize("model", ["", "gpt-5", "sim-1", "claude-opus-5-6", "claude-opus-6"])
def test_unknown_model_has_no_price(model):
    """A model that is in no row costs nothing that we could say; a newer one is not taken for an older."""
    assert Prices().cost(model, Usage(MILLION)) is None


def test_configuration_comes_first():
    """A row of the configuration comes before the default ones, and stands in the place of its namesake."""
    own = Price(("claude-*",), 1.0, 1.0)
    assert Prices({"own": own}).of("claude-opus-5") is own
    renamed = Prices({"sonnet-5": Price(("other",), 1.0, 1.0)})
    assert renamed.of("claude-sonnet-5") is None
    assert renamed.of("claude-opus-5") is DEFAULTS["opus"]


@given(st.lists(st.builds(Usage, *[st.integers(0, 10**7)] * 4), max_size=20), st.sampled_from(sorted(DEFAULTS)))
def test_nothing_is_lost_in_adding_up(usages, name):
    """Calls that are priced one by one come to what all of their tokens come to, but for less than a nano-dollar a call."""
    price = Price(DEFAULTS[name].models, DEFAULTS[name].input, DEFAULTS[name].output)
    whole = Usage(
        sum(usage.input_tokens for usage in usages),
        sum(usage.output_tokens for usage in usages),
        sum(usage.cache_creation_input_tokens for usage in usages),
        sum(usage.cache_read_input_tokens for usage in usages),
    )
    assert 0 <= sum(price.cost(usage) for usage in usages) - price.cost(whole) <= len(usages)
