"""The configuration: defaults, file, and what it says of mistakes."""

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from config_parts import HOME, problems
from headrace import config
from headrace.budget.limits import Limit, Match
from headrace.config import toml
from headrace.config.environment import known_keys
from headrace.model import Caller, Lane
from headrace.prices import DEFAULTS

ROOT = Path(__file__).parents[2]


def test_defaults():
    """No file at all: sockets and loopback only, our own Valkey, no limits, no callers."""
    settings = config.load(None, HOME)
    assert settings.listen.grpc == ("unix:headrace.sock", "127.0.0.1:7400")
    assert settings.listen.http == "127.0.0.1:7480"
    assert settings.redis.url == ""
    assert settings.state.dir == "/home/ada/.local/state/headrace"
    assert (settings.limit, settings.caller) == ((), {})
    assert (settings.cache.ttl, settings.cache.stale, settings.cache.memory) == (3600, 86_400, 64_000_000)
    assert settings.retry.backoff == (0.5, 30.0)
    assert settings.retry.max_age == 570


EXAMPLES = ("limit", "caller", "class", "lane", "price")


def test_example_is_the_defaults(tmp_path):
    """The example with every comment mark taken off a key is valid, and without the examples in it says the defaults."""
    text = (ROOT / "config.example.toml").read_text()
    lines = [line.removeprefix("# ") if line.startswith("# ") and " = " in line else line for line in text.splitlines()]
    keys = [line for line in lines if not line.startswith("#")]
    path = tmp_path / "config.toml"
    path.write_text("\n".join(keys))
    settings = config.load(path, {})
    defaults = config.load(None, {"STATE_DIRECTORY": "/var/lib/headrace"})
    assert settings.limit[0] == Limit(
        "org",
        Match(model="claude-*"),
        ("model",),
        1000,
        400_000,
        80_000,
        50,
        480_000,
        spend_per_day=100.0,
        spend_per_month=2000.0,
    )
    checkout = Caller(
        "checkout", Lane.INTERACTIVE, 2, timeout_s=50.0, team="shop", labels=("feature", "env"), ceiling="interactive"
    )
    assert config.callers(settings) == {"checkout": checkout}
    assert config.classes(settings).of("claude-opus-5-1") == "opus-5"
    assert config.prices(settings).of("claude-sonnet-5") == dataclasses.replace(
        DEFAULTS["sonnet-5"], models=("claude-sonnet-5", "claude-sonnet-5-20??????"),
        cache_read=0.2, cache_write_5m=2.5, cache_write_1h=4.0, tiers={"priority": 1.0},
    )  # fmt: skip
    said, default = settings.redacted(), defaults.redacted()
    assert {**said, "limit": [], "caller": {}, "class": {}, "lane": {}, "price": {}} == default
    assert {name: set(table) for name, table in tomllib.loads("\n".join(keys)).items() if name not in EXAMPLES} == {
        name: set(table) for name, table in default.items() if name not in EXAMPLES
    } | {"upstream": set(default["upstream"]) - {"api_key", "admin_api_key"}}


def test_shown_can_be_read_again(write):
    """What `config show` prints is a configuration, and the same one."""
    path = write(
        """
        [listen]
        grpc = []
        [cache]
        disk = 0
        memory = "1GiB"
        [[limit]]
        name = "a"
        per = ["caller", "lane"]
        requests_per_minute = 600
        burst = "2s"
        on_redis_loss = "share"
        [caller."batch.jobs"]
        lane = "batch"
        """
    )
    settings = config.load(path, HOME)
    assert config.load(write(toml.dumps(settings.redacted())), {}) == settings


def test_secrets_are_hidden(write):
    """Neither the repr nor `config show` tells a key or a password."""
    path = write('[upstream]\napi_key = "sk-ant-hunter2"\n[redis]\nurl = "rediss://ada:hunter2@db:6379/1?password=hunter2"')
    settings = config.load(path, HOME)
    assert "hunter2" not in repr(settings) + repr(settings.redis.url) + toml.dumps(settings.redacted())
    assert "ada:***@db" in repr(settings)
    assert settings.upstream.api_key == "sk-ant-hunter2"
    assert config.api_key(settings, {}) == "sk-ant-hunter2"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[cache]\ntll = "1h"', "cache.tll: no such key; did you mean cache.ttl?"),
        ("[cache]\nmax_attempts = 3", "cache.max_attempts: no such key; did you mean retry.max_attempts?"),
        ("[cachet]\nttl = 1", "cachet: no such key; did you mean cache?"),
        ('[cache]\nttl = "1x"', 'cache.ttl = "1x": must be a duration such as'),
        ("[cache]\nttl = 60", "cache.ttl = 60: must be a duration such as"),
        ('[cache]\nmemory = "64"', 'cache.memory = "64": must be a size such as'),
        ("[cache]\nmemory = true", "cache.memory = true: must be a size such as"),
        ('[cache]\nenabled = "yes"', 'cache.enabled = "yes": must be true or false'),
        ('[cache]\nscope = "all"', 'cache.scope = "all": must be one of "caller", "shared"'),
        ("[cache]\nmax_entry = 0", "cache.max_entry = 0: would keep nothing"),
        ("cache = 3", "cache = (not shown): must be a table"),
        ("[retry]\nmax_attempts = 0", "retry.max_attempts = 0: must be a whole number, at least 1"),
        ('[retry]\nbackoff = "30s..1s"', 'retry.backoff = "30s..1s": must be two durations, the shorter one first'),
        ('[retry]\nbackoff = "0s..1s"', 'retry.backoff = "0s..1s": must be two durations'),
        ('[retry]\nmax_age = "0s"', 'retry.max_age = "0s": would give up every call at once'),
        ('[schedule]\nmax_waiting_bytes = "0"', "schedule.max_waiting_bytes = 0: would refuse every call"),
        ('[listen]\ngrpc = "unix:a.sock"', 'listen.grpc = "unix:a.sock": must be a list, each item an address such as'),
        ('[listen]\ngrpc = ["nope"]', 'listen.grpc[0] = "nope": must be an address such as'),
        ('[listen]\ngrpc = ["unix:"]', 'listen.grpc[0] = "unix:": must be an address such as'),
        ('[listen]\ngrpc = ["unix://a.sock"]', 'listen.grpc[0] = "unix://a.sock": must be an address such as'),
        ('[listen]\nhttp = "127.0.0.1:70000"', 'listen.http = "127.0.0.1:70000": must be an address such as'),
        ('[listen]\nhttp = "127.0.0.1"', 'listen.http = "127.0.0.1": must be an address such as'),
        ('[listen]\nhttp = ""', 'listen.http = "": must be an address such as'),
        ('[listen]\nhttp = "127.0.0.1:7400"', 'listen: "127.0.0.1:7400" is named twice'),
        ('[listen]\nsocket_mode = "rw"', 'listen.socket_mode = "rw": must be permissions in octal'),
        ('[state]\ndir = "here"', 'state.dir = "here": must be an absolute path'),
        ('[redis]\nurl = "http://x"', 'redis.url = "http://x": must be empty, or a URL such as'),
        ('[redis]\nurl = "redis://x:port"', 'redis.url = "redis://x:port": must be empty, or a URL such as'),
        ('[upstream]\nbase_url = "api.anthropic.com"', 'upstream.base_url = "api.anthropic.com": must be a URL such as'),
        ('[upstream]\nversion = "latest"', 'upstream.version = "latest": must be an API version'),
        ('[upstream]\ncredentials = "callers"', 'upstream.credentials = "callers": must be one of "own", "caller"'),
        ('[auth]\nrequired = true\n[upstream]\ncredentials = "caller"', "auth.required = true: cannot go with"),
        ('[cache]\nscope = "shared"\n[upstream]\ncredentials = "caller"', 'cache.scope = "shared": cannot go with'),
        ("[limit]\nname = 'a'", "limit = (not shown): must be a list, each item a table begun with [[limit]]"),
        ("[[limit]]\nname = 'a'", "limit[a]: bounds nothing: set requests_per_minute"),
        (
            "[[limit]]\nname = 'a'\noutput_tokens_per_minute = 9\nestimate = 'counted'",
            "limit[a]: estimate 'counted': it is input that upstream counts, and this limit bounds none; use learned, or set",
        ),
        ("[[limit]]\nname = 'a'\nconcurrency = 9\nestimate = 'guessed'", 'must be one of "learned", "counted", "ceiling"'),
        ("[[limit]]\nconcurrency = 1", "limit[0]: name '': use 1 to 64"),
        ("[[limit]]\nname = 'a'\nrequest_per_minute = 1", "limit[a].request_per_minute: no such key; did you mean"),
        ("[[limit]]\nname = 'a'\nrequests_per_minute = '9'", 'limit[a].requests_per_minute = "9": must be a whole number'),
        ("[[limit]]\nname = 'a'\nrequests_per_minute = 0", "limit[a]: requests_per_minute 0: at least 1"),
        (
            "[[limit]]\nname = 'a'\nconcurrency = 1\nper = ['user']",
            'limit[a].per[0] = "user": must be one of "caller", "model"',
        ),
        ("[[limit]]\nname = 'a'\nspend_per_day = 0", "limit[a].spend_per_day = 0: must be an amount in USD such as 25"),
        ("[[limit]]\nname = 'a'\nspend_per_day = 9\nzone = 'CEST2'", "limit[a]: zone 'CEST2': use a name of the tz database"),
        (
            "[[limit]]\nname = 'a'\nconcurrency = 1\ncache_read_weight = 2",
            "limit[a].cache_read_weight = 2: must be a number from 0 to",
        ),
        ("[[limit]]\nname = 'a'\nconcurrency = 1\nper = ['label.']", 'limit[a].per[0] = "label.": must be one of "caller"'),
        ("[[limit]]\nname = 'a'\nconcurrency = 1\nmatch.label.'a b' = 'x'", "limit[a].match.label.'a b': must be 1 to 64"),
        ("[class.x]", "class.x.models = []: would be the class of nothing"),
        ("[class.x]\nmodels = ['a']\nmodel = ['a']", "class.x.model: no such key; did you mean class.x.models?"),
        ("[caller.x]\nteam = 'a b'", 'caller.x.team = "a b": must be empty, or 1 to 64 letters'),
        ("[caller.x]\nlabels = ['a,b']", 'caller.x.labels[0] = "a,b": must be 1 to 64 letters'),
        ("[[limit]]\nname = 'a'\nconcurrency = 1\nmatch = {lane = 'fast'}", 'limit[a].match.lane = "fast": fits no lane'),
        ("[[limit]]\nname = 'a'\nconcurrency = 1\nmatch = {model = ''}", 'limit[a].match.model = "": must be a pattern'),
        ("[[limit]]\nname='a'\nconcurrency=1\n[[limit]]\nname='a'\nconcurrency=2", 'limit[a].name = "a": two limits have it'),
        ("[price.x]\nmodels = ['x']\ninput = -1", "price.x.input = -1: must be a number from 0 to 1000000"),
        ("[price.x]\nmodels = ['x']\ntiers = { fast = 'a' }", "price.x.tiers.fast = (not shown): must be a number"),
        ("[price.x]\ninput = 1", "price.x.models = []: would be the price of nothing"),
        ("[caller.'a b']", "caller.'a b': must be 1 to 64 letters"),
        ("[caller.x]\nlane = 'fast'", 'caller.x.lane = "fast": there is no such lane; there are interactive, standard, batch'),
        ("[lane.slow]\nshare = 2", "lane.slow.share = 2: must be a number from 0 to 1"),
        ("[lane.slow]\nshare = 0", "lane.slow.share = 0: would never let a call go"),
        ("[lane.Slow]\nshare = 0.1", "lane.Slow: a lane's name has 1 to 64 small letters"),
        ("[caller.x]\nweight = 0", "caller.x.weight = 0: must be a whole number, at least 1"),
        ("[caller]\nx = 1", "caller.x = (not shown): must be a table"),
        ("ttl =", "is not TOML: Invalid value (at"),
    ],
)
def test_mistakes(write, text, said):
    """Each mistake is answered with the key, the value and what would be right, and with that alone."""
    answer = problems(write(text))
    assert said in answer
    assert "\n" not in answer


def test_all_mistakes_at_once(write):
    """Whoever made three mistakes hears of all three."""
    said = problems(write('[cache]\nttl = "x"\ndisk = "x"\n[drain]\ntime = 3'))
    assert [line.split(" = ")[0].strip() for line in said.splitlines()[1:]] == ["cache.ttl", "cache.disk", "drain.time"]


@pytest.mark.parametrize(
    ("text", "environ"),
    [
        ('[upstream]\napi_kye = "tophunter2"', {}),
        ('[upstream]\napi_key = "top hunter2"', {}),
        ('[upstreem]\napi_key = "sk-hunter2"', {}),
        ('[redis]\nurl = "redis//ada:hunter2@db"', {}),
        ('[redis]\nurl = "redis://ada:hunter2@db:x"', {}),
        ("", {"HEADRACE_UPSTREAM__API_KEY": "top hunter2"}),
        ("", {"HEADRACE_UPSTREAM": '{api_key = "sk-hunter2"'}),
    ],
)
def test_mistakes_keep_secrets(write, text, environ):
    """A key or a password with a mistake in it, or near one, is not shown."""
    assert "hunter2" not in problems(write(text), environ)


def test_no_file(tmp_path):
    """A named file must be there, and be readable text."""
    assert "absent.toml: cannot be read: No such file" in problems(tmp_path / "absent.toml")
    assert "cannot be read: Is a directory" in problems(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9")
    assert "is not UTF-8 (byte 5)" in problems(tmp_path / "latin.toml")


def test_which_file(tmp_path):
    """The option wins over the environment, the environment over the default, which need not be there."""
    default = tmp_path / "config.toml"
    environ = {"HEADRACE_CONFIG": "/b.toml"}
    assert config.find_file(Path("/a.toml"), environ, default) == Path("/a.toml")
    assert config.find_file(None, environ, default) == Path("/b.toml")
    assert config.find_file(None, {}, default) is None
    default.touch()
    assert config.find_file(None, {}, default) == default


def test_new_kinds_of_limits(write):
    """Spend, classes, labels and the rest are read, and written so that they can be read again."""
    text = """
[[limit]]
name = "teams"
match = { class = "opus-*", team = "shop", label.feature = "search*", label.env = "prod" }
per = ["team", "label.feature", "class"]
spend_per_day = 12.5
zone = "Europe/Berlin"
estimate = "ceiling"
shadow = true
cache_read_weight = 0.25

[class.tuned]
models = ["tuned-*"]

[caller.checkout]
team = "shop"
workspace = "wrk_1"
labels = ["feature", "env"]
"""
    settings = config.load(write(text), HOME)
    match = Match(model_class="opus-*", team="shop", labels=(("env", "prod"), ("feature", "search*")))
    limit = Limit(
        "teams", match, ("team", "label.feature", "class"), spend_per_day=12.5, zone="Europe/Berlin", estimate="ceiling",
        shadow=True, cache_read_weight=0.25,
    )  # fmt: skip
    assert settings.limit == (limit,)
    assert config.classes(settings).of("tuned-1") == "tuned"
    checkout = Caller("checkout", team="shop", workspace="wrk_1", labels=("feature", "env"))
    assert config.callers(settings) == {"checkout": checkout}
    assert config.load(write(toml.dumps(settings.redacted())), HOME) == settings


def test_lanes(write):
    """There are lanes beside the usual three, and their shares may be others."""
    settings = config.load(write("[lane.night]\nshare = 0.01\n[lane.batch]\nshare = 0.1\n[caller.x]\nlane = 'night'"), {})
    assert config.lanes(settings) == {"interactive": 800_000, "standard": 150_000, "batch": 100_000, "night": 10_000}
    assert config.callers(settings)["x"].lane == "night"


def test_documented():
    """docs/configuration.md has every key, and the defaults of all that have one."""
    rows = re.findall(r"^\| `([a-zA-Z_.]+)` \| (?:`(.*?)`)?", (ROOT / "docs" / "configuration.md").read_text(), re.MULTILINE)
    assert set(known_keys()) - set(dict(rows)) == {
        "upstream", "listen", "state", "redis", "auth", "cache", "retry", "schedule", "drain", "usage", "log", "metrics",
        "worker",
    }  # fmt: skip
    defaults = config.load(None, HOME).redacted()
    limit = config.load(None, HOME | {"HEADRACE_LIMIT": '[{name = "a", concurrency = 1}]'}).redacted()["limit"][0]
    caller = config.load(None, HOME | {"HEADRACE_CALLER__X__WEIGHT": "1"}).redacted()["caller"]["x"]
    price = config.load(None, HOME | {"HEADRACE_PRICE__X__MODELS": '["x"]'}).redacted()["price"]["x"]
    lane = config.load(None, HOME | {"HEADRACE_LANE": "{x = {}}"}).redacted()["lane"]["x"]
    examples = {"caller": {"NAME": caller}, "lane": {"NAME": lane}, "price": {"NAME": price}}
    tables = defaults | {"limit": limit, **examples}
    for key, said in rows:
        value = tables
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if said:
            assert tomllib.loads(f"value = {said}")["value"] == value, key
