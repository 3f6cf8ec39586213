"""The environment as configuration: it wins over the file, and its mistakes are said with the variable that has them."""

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config_parts import HOME, problems
from headrace import config
from headrace.budget.limits import Limit, Match
from headrace.config import toml
from headrace.config.environment import known_keys
from headrace.errors import ConfigError
from headrace.model import Caller, Lane


def test_environment(write):
    """The environment wins over the file; texts need no quotes there, everything else is TOML."""
    path = write('[cache]\nttl = "2h"\n[caller.batch-jobs]\nweight = 3\n[[limit]]\nname = "org"\nconcurrency = 5')
    settings = config.load(
        path,
        {
            "HEADRACE_CACHE__TTL": "3h",
            "HEADRACE_CACHE__ENABLED": "false",
            "HEADRACE_CACHE__DISK": "0",
            "HEADRACE_LISTEN__GRPC": '["unix:a.sock"]',
            "HEADRACE_RETRY__BACKOFF": "1s..2s",
            "HEADRACE_CALLER__CHECKOUT__LANE": "batch",
            "HEADRACE_CALLER__BATCH_JOBS__WEIGHT": "4",
            "HEADRACE_LIMIT__ORG__CONCURRENCY": "6",
            "HEADRACE_LIMIT__ORG__MATCH__MODEL": "claude-*",
            "HEADRACE_STATE__DIR": "/srv/headrace",
            "STATE_DIRECTORY": "/var/lib/headrace",
        },
    )
    assert (settings.cache.ttl, settings.cache.enabled, settings.cache.disk) == (10_800, False, 0)
    assert settings.listen.grpc == ("unix:a.sock",)
    assert settings.retry.backoff == (1.0, 2.0)
    assert settings.state.dir == "/srv/headrace"
    assert settings.limit == (Limit("org", Match(model="claude-*"), concurrency=6),)
    assert config.callers(settings) == {
        "checkout": Caller("checkout", Lane.BATCH, ceiling="batch"),
        "batch-jobs": Caller("batch-jobs", Lane.STANDARD, 4),
    }


def test_numbers_in_the_environment():
    """Shares, weights, prices and amounts are numbers there, too."""
    settings = config.load(
        None,
        HOME
        | {
            "HEADRACE_LANE__NIGHTLY__SHARE": "0.1",
            "HEADRACE_PRICE__NEW__MODELS": '["new-*"]',
            "HEADRACE_PRICE__NEW__INPUT": "3",
            "HEADRACE_PRICE__NEW__CACHE_READ": "0.25",
            "HEADRACE_LIMIT": '[{ name = "org", spend_per_day = 5 }]',
        },
    )
    assert config.lanes(settings)["nightly"] == 100_000
    assert (settings.price["new"].input, settings.price["new"].cache_read) == (3.0, 0.25)
    with pytest.raises(ConfigError, match=r'lane\.nightly\.share = "much" \(from HEADRACE_LANE__NIGHTLY__SHARE\): must be'):
        config.load(None, HOME | {"HEADRACE_LANE__NIGHTLY__SHARE": "much"})


@pytest.mark.parametrize(
    "text", ['[{ name = "org", concurrency = 5 }]', '[{"name": "org", "concurrency": 5}]'], ids=["toml", "json"]
)
def test_limits_from_the_environment(text):
    """All limits can be given in one line, as TOML or as JSON."""
    assert config.load(None, HOME | {"HEADRACE_LIMIT": text}).limit == (Limit("org", concurrency=5),)


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("HEADRACE_CACHE__TTL", "1x", 'cache.ttl = "1x" (from HEADRACE_CACHE__TTL): must be a duration'),
        ("HEADRACE_CACHE__ENABLED", "yes", 'cache.enabled = "yes" (from HEADRACE_CACHE__ENABLED): must be a value as TOML'),
        ("HEADRACE_RETRY__MAX_ATTEMPTS", "0", "retry.max_attempts = 0 (from HEADRACE_RETRY__MAX_ATTEMPTS): must be a whole"),
        ("HEADRACE_CACHE__TLL", "1h", 'cache.tll (from HEADRACE_CACHE__TLL): no such key; did you mean cache.ttl?'),
        ("HEADRACE_CACHET__TTL", "1h", "no such key; did you mean cache?"),
        ("HEADRACE_UPSTREAM_BASE_URL", "x", "HEADRACE_UPSTREAM_BASE_URL: no such key; two underscores part the levels"),
        ("HEADRACE_LIMIT__NONE__BURST", "1s", "there is no such limit or table"),
        ("HEADRACE_LIMIT", "3", "limit = (not shown) (from HEADRACE_LIMIT): must be a list"),
        ("HEADRACE_LISTEN__GRPC", "unix:a.sock", "listen.grpc = \"unix:a.sock\" (from HEADRACE_LISTEN__GRPC): must be a value"),
    ],
)  # fmt: skip
def test_mistakes_in_the_environment(variable, text, said):
    """A mistake in the environment is said with the variable that has it."""
    assert said in problems(None, {variable: text})


def test_neighbours_in_the_environment():
    """What a cluster sets for a service called headrace is no setting of ours: it is ignored, with a warning."""
    environ = HOME | {
        "HEADRACE_PORT": "tcp://10.0.0.1:7480",
        "HEADRACE_REDIS_SERVICE_HOST": "10.0.0.2",
        "HEADRACE_CONFIG": "/x",
    }
    settings = config.load(None, environ | {"ANTHROPIC_API_KEY": "k"})
    assert [warning.split()[0] for warning in config.warnings(settings, environ | {"ANTHROPIC_API_KEY": "k"})] == [
        "HEADRACE_PORT",
        "HEADRACE_REDIS_SERVICE_HOST",
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([*known_keys(), "caller.x", "caller.x.lane", "limit.x.per"]), st.text() | JSON.map(json.dumps))
def test_any_value_anywhere(key, text):
    """Whatever is written into a key is taken or refused with its reason; nothing else happens, and what is taken shows."""
    try:
        settings = config.load(None, HOME | {f"HEADRACE_{key.replace('.', '__').upper()}": text})
    except ConfigError:
        return
    tomllib.loads(toml.dumps(settings.redacted()))
