"""Which models share upstream's limits."""

from __future__ import annotations

import pytest

from headrace.classes import ModelClasses, class_of


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("claude-opus-4-1-20250805", "opus-4"),
        ("claude-opus-4-20250514", "opus-4"),
        ("claude-sonnet-4-5", "sonnet-4"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("claude-sonnet-5", "claude-sonnet-5"),
        ("claude-sonnet-5-20270101", "claude-sonnet-5"),
        ("claude-opus-40", "claude-opus-40"),
        ("claude-3-5-haiku-latest", "claude-3-5-haiku"),
        ("claude-3-5-haiku@20241022", "claude-3-5-haiku"),
        ("", ""),
    ],
)
def test_default(model, name):
    """All Opus 4 models are one class, and all Sonnet 4 models; any other model is its own, whatever its date."""
    assert class_of(model) == name


def test_table():
    """What the configuration says comes first, and leaves the other classes as they are."""
    classes = ModelClasses({"mine": ("claude-sonnet-4-6*", "tuned-*"), "opus-4": ("claude-opus-*",)})
    named = [classes.of(model) for model in ("claude-sonnet-4-6-20260101", "tuned-7", "claude-opus-5", "claude-sonnet-4-5")]
    assert named == ["mine", "mine", "opus-4", "sonnet-4"]
    assert repr(classes) == "<ModelClasses [mine, opus-4, sonnet-4]>"


def test_bounded():
    """Models that callers make up do not fill the memory."""
    classes = ModelClasses()
    for number in range(10_000):
        classes.of(f"m{number}")
    assert len(classes._memo) <= 4096
