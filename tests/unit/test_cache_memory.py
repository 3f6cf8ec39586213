"""The memory tier: least recently used first to go, never over its bound."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cache_samples import entry, key
from headrace.cache.memory import Memory
from headrace.cache.selector import Selector

NOW = 1_800_000_000.0


def kept(name, size=10, **changed):
    return entry(name, b"x" * size, created=NOW, **changed)


def test_least_recently_used():
    """Room is made by dropping what was not asked for the longest."""
    one = kept(1).weight
    memory = Memory(3 * one)
    for name in (1, 2, 3):
        memory.put(kept(name), NOW)

    memory.get(key(1))
    memory.put(kept(4), NOW)

    assert [name for name in range(1, 5) if memory.get(key(name))] == [1, 3, 4]
    assert repr(memory) == f"<Memory [3 entries, {3 * one} of {3 * one} bytes]>"


def test_replaced():
    """A newer answer takes the place of an older one."""
    memory = Memory(10_000)
    memory.put(kept(1, 10), NOW)
    memory.put(newer := kept(1, 20), NOW)

    assert memory.get(key(1)) is newer
    assert memory.stats().bytes == newer.weight


def test_too_big():
    """What is over the whole bound is not kept, and takes nothing else away."""
    memory = Memory(5_000)
    memory.put(kept(1), NOW)
    memory.put(kept(2, 5_000), NOW)

    assert memory.get(key(1))
    assert memory.get(key(2)) is None


def test_off():
    """A bound of nothing keeps nothing."""
    memory = Memory(0)
    memory.put(kept(1), NOW)

    assert memory.get(key(1)) is None
    assert not memory.stats().on


def test_renditions_count():
    """Forms built later count against the bound, and those of a dropped entry against nothing."""
    memory = Memory(6_000)
    memory.put(first := kept(1), NOW)
    memory.put(second := kept(2), NOW)

    second.renditions["grpc"] = b"x" * 4_000
    assert memory.get(key(1)) is None
    assert memory.stats().bytes == second.weight

    first.renditions["grpc"] = b"x" * 4_000
    assert memory.stats().bytes == second.weight


def test_lapsed():
    """What is past keeping goes when something new comes."""
    memory = Memory(100_000)
    memory.put(kept(1, ttl_s=1, stale_s=1), NOW)
    memory.put(kept(2), NOW)
    memory.put(kept(3), NOW + 2)

    assert memory.get(key(1)) is None
    assert memory.stats().entries == 2


def test_born_lapsed():
    """An entry that is over when it comes does not stay."""
    memory = Memory(100_000)
    memory.put(kept(1, ttl_s=0, stale_s=0), NOW)

    assert memory.stats().entries == memory.stats().bytes == 0


@pytest.mark.parametrize(
    ("selector", "left"),
    [
        (Selector(fingerprint=key(1)), [2, 3, 4]),
        (Selector(scope="me"), [3, 4]),
        (Selector(scope=""), [1, 2, 3]),
        (Selector(model="b"), [1, 3, 4]),
        (Selector(scope="me", model="a"), [2, 3, 4]),
        (Selector(scope="other"), [1, 2, 4]),
        (Selector(all=True), []),
    ],
)
def test_purge(selector, left):
    """A purge takes what it means; a caller's scope with a key's hash behind it is the caller's too."""
    memory = Memory(100_000)
    for name, scope, model in ((1, "me", "a"), (2, "me", "b"), (3, "other#hash", "a"), (4, "", "a")):
        memory.put(kept(name, scope=scope, model=model), NOW)

    assert memory.purge([selector]) == 4 - len(left)
    assert [name for name in range(1, 5) if memory.get(key(name))] == left


@pytest.mark.parametrize("parts", [{}, {"all": True, "model": "m"}])
def test_careless_selector(parts):
    """Everything goes only if everything is what was asked for."""
    with pytest.raises(ValueError, match="a purge needs"):
        Selector(**parts)


class Model(RuleBasedStateMachine):
    """Against a plain list, least recently used first, that is summed up anew each time."""

    BOUND = 12_000

    def __init__(self):
        super().__init__()
        self.memory = Memory(self.BOUND)
        self.model = []

    def trim(self):
        while sum(entry.weight for entry in self.model) > self.BOUND:
            self.model.pop(0)

    def find(self, name):
        return next((entry for entry in self.model if entry.fingerprint == key(name)), None)

    @rule(name=st.integers(0, 9), size=st.integers(0, 12_000))
    def put(self, name, size):
        new = kept(name, size)
        self.memory.put(new, NOW)
        self.model = [entry for entry in self.model if entry.fingerprint != key(name)]
        if new.weight <= self.BOUND:
            self.model.append(new)
        self.trim()

    @rule(name=st.integers(0, 9))
    def get(self, name):
        found = self.find(name)
        assert self.memory.get(key(name)) is found
        if found:
            self.model.remove(found)
            self.model.append(found)

    @rule(name=st.integers(0, 9), form=st.sampled_from(["json", "sse"]), size=st.integers(0, 6_000))
    def render(self, name, form, size):
        if found := self.find(name):
            found.renditions[form] = b"x" * size
            self.trim()

    @rule(name=st.integers(0, 9))
    def drop(self, name):
        found = self.find(name)
        assert self.memory.drop(key(name)) == (found is not None)
        self.model = [entry for entry in self.model if entry is not found]

    @invariant()
    def bounded(self):
        stats = self.memory.stats()
        assert stats.bytes == sum(entry.weight for entry in self.model) <= self.BOUND
        assert stats.entries == len(self.model)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)
