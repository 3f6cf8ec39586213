"""Estimates learn, and stay within what is possible."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.budget.estimate import Estimate, Estimator, measure
from headrace.model import Call, Caller, Lane, Usage


def call(text: str = "hello", *, max_tokens: int = 1000, caller: str = "ann", model: str = "m", **more: object) -> Call:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": text}], **more}).encode()
    return Call(
        caller=Caller(caller), body=body, model=model, max_tokens=max_tokens, stream=False, version="", betas=(), headers=(),
        lane=Lane.STANDARD, fingerprint="f", scope=caller, arrival=0.0, deadline=60.0,
    )  # fmt: skip


def test_first():
    """The first estimate is a guess: three tokens in ten bytes, half of max_tokens."""
    asked = call()
    assert Estimator().estimate(asked) == Estimate(round(len(asked.body) * 0.3), 500, len(asked.body) // 16)


def test_input_learns():
    """Input comes near what this model's bodies came to, cache reads left out."""
    estimator, asked = Estimator(), call("word " * 1000)
    for _ in range(30):
        estimator.learn(asked, Usage(input_tokens=800, cache_creation_input_tokens=200, cache_read_input_tokens=9999))
    assert estimator.estimate(asked).input_tokens == pytest.approx(1000, rel=0.02)
    assert estimator.estimate(call("word " * 1000, model="other")).input_tokens == pytest.approx(1500, rel=0.05)


def test_output_learns():
    """Output is what nine in ten calls of this caller to this model stayed under."""
    estimator = Estimator()
    for number in range(100):
        estimator.learn(call(), Usage(output_tokens=400 if number % 20 == 0 else 100))
    assert estimator.estimate(call()).output_tokens == 100
    assert estimator.estimate(call(max_tokens=10)).output_tokens == 1
    assert estimator.estimate(call(caller="bob")).output_tokens == 500


def test_unknown_use():
    """An answer that never said what it used teaches nothing."""
    estimator = Estimator()
    estimator.learn(call(), Usage(known=False))
    assert repr(estimator) == "<Estimator [0 models, 0 callers x models]>"


def test_sources():
    """An image counts as a constant, however many bytes it has, and teaches nothing of text."""
    source = {"type": "base64", "media_type": "image/png", "data": "A" * 1_000_000}
    asked = call("look", images=[{"type": "image", "source": source}])
    text_bytes, sources = measure(asked.body)
    assert text_bytes < 300
    assert sources == 1
    estimator = Estimator()
    assert 1600 < estimator.estimate(asked).input_tokens < 1800
    estimator.learn(asked, Usage(input_tokens=1500))
    assert repr(estimator) == "<Estimator [0 models, 1 callers x models]>"


def test_floor():
    """The floor is sure: a sixteenth of the text, and nothing where the prompt may be read from upstream's cache."""
    assert Estimator().estimate(call("x" * 16_000)).input_floor >= 1000
    assert Estimator().estimate(call("x" * 16_000, cache_control={"type": "ephemeral"})).input_floor == 0


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), max_size=80), st.integers(1, 10**6))
def test_bounds(uses, max_tokens):
    """Whatever was learnt, output is between one and max_tokens, input at least its floor."""
    estimator = Estimator()
    for input_tokens, output_tokens in uses:
        estimator.learn(call(), Usage(input_tokens, output_tokens))
    estimate = estimator.estimate(call(max_tokens=max_tokens))
    assert 1 <= estimate.output_tokens <= max_tokens
    assert estimate.input_tokens >= max(1, estimate.input_floor)


def test_memory():
    """The least recently seen is forgotten."""
    estimator = Estimator(models=3)
    for model in "abcad":
        estimator.learn(call(model=model), Usage(100, 1000))
    assert repr(estimator) == "<Estimator [3 models, 3 callers x models]>"
    assert estimator.estimate(call(model="a")).output_tokens == 1000
    assert estimator.estimate(call(model="b")).output_tokens == 500
