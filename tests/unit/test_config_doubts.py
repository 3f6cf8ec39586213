"""What a configuration allows and hardly means: each such thing is a warning, and what is meant is none."""

from __future__ import annotations

import pytest

from headrace import config
from headrace.config.doubts import database_of, fits_models

KEY = {"HOME": "/home/ada", "ANTHROPIC_API_KEY": "k"}
RATE = "requests_per_minute = 60\n"

LIMIT = f'[[limit]]\nname = "a"\n{RATE}match = '

DOUBTFUL = [
    (LIMIT + '{ model = "cluade-*" }', "fits no model that begins with claude-; did you mean claude-*?"),
    (f'[[limit]]\nname = "a"\n{RATE}match = {{ model = "gpt-4*" }}', 'limit[a].match.model = "gpt-4*": fits no model'),
    (f'[[limit]]\nname = "a"\n{RATE}match = {{ class = "opsu-4" }}', "fits no class; did you mean opus-4?"),
    (f'[[limit]]\nname = "a"\n{RATE}match = {{ caller = "reprots" }}\n[caller.reports]', "did you mean reports?"),
    (LIMIT + '{ team = "shpo" }\n[caller.x]\nteam = "shop"', "no caller is of such a team; did you mean shop?"),
    ('[class.x]\nmodels = ["cluade-opus-5*"]', 'class.x.models: "cluade-opus-5*": fits no model'),
    ('[price.x]\nmodels = ["sonnet-5"]', 'price.x.models: "sonnet-5": fits no model'),
    ('[upstream]\nbase_url = "https://api.anthropic.com/v1"', 'use "https://api.anthropic.com"'),
    ('[redis]\nurl = "rediss://localhost:6379/main"', 'its path is "/main", and a database is a number'),
    ('[caller.x]\nrole = "admin"', 'caller.x.role = "admin": does nothing'),
    ('[cache]\nmemory = "1MB"\nmax_entry = "4MB"', 'cache.max_entry = "4MB": is over cache.memory = "1MB"'),
    ('[retry]\nmax_age = "3d"', "the SDKs give up after ten minutes"),
    ('[worker]\nlisten = "0.0.0.0:7482"', "worker.listen"),
    (
        f'[[limit]]\nname = "org"\n{RATE}[[limit]]\nname = "s"\nmatch = {{ caller = "s" }}\nrequests_per_minute = 600',
        "limit[s]: can never bind, since org holds for the same calls",
    ),
    (
        '[[limit]]\nname = "org"\nconcurrency = 5\nspend_per_day = 10\n'
        '[[limit]]\nname = "s"\nper = ["caller"]\nconcurrency = 5\nspend_per_day = 20',
        "limit[s]: can never bind, since org holds",
    ),
]  # fmt: skip

MEANT = [
    f'[[limit]]\nname = "a"\n{RATE}match = {{ model = "claude-opus-9-*" }}',
    f'[[limit]]\nname = "a"\n{RATE}match = {{ model = "*sonnet*" }}',
    f'[[limit]]\nname = "a"\n{RATE}match = {{ model = "c*" }}',
    f'[class.own]\nmodels = ["claude-x"]\n[[limit]]\nname = "a"\n{RATE}match = {{ class = "own" }}',
    f'[[limit]]\nname = "a"\n{RATE}match = {{ caller = "payments.*" }}\n[caller.reports]',
    f'[[limit]]\nname = "a"\n{RATE}match = {{ caller = "re*" }}\n[caller.reports]',
    '[upstream]\nbase_url = "https://gateway.internal/anthropic"',
    '[auth]\nrequired = true\n[caller.x]\nrole = "admin"',
    '[cache]\nmemory = "0"\nmax_entry = "4MB"'.replace('"0"', "0"),
    '[cache]\nenabled = false\nmemory = "1MB"',
    # The smaller one of one caller, one for each caller beside one for all, one in the shadow, other kinds, other zones.
    f'[[limit]]\nname = "org"\n{RATE}[[limit]]\nname = "s"\nmatch = {{ caller = "s" }}\nrequests_per_minute = 6',
    f'[[limit]]\nname = "org"\nper = ["caller"]\n{RATE}[[limit]]\nname = "all"\nrequests_per_minute = 600',
    f'[[limit]]\nname = "org"\nshadow = true\n{RATE}[[limit]]\nname = "s"\nrequests_per_minute = 600',
    f'[[limit]]\nname = "org"\n{RATE}[[limit]]\nname = "s"\nrequests_per_minute = 600\nconcurrency = 3',
    f'[[limit]]\nname = "org"\n{RATE}[[limit]]\nname = "s"\nrequests_per_minute = 600\nburst = "1s"',
    f'[[limit]]\nname = "org"\nmatch = {{ model = "claude-opus-*" }}\n{RATE}[[limit]]\nname = "s"\nrequests_per_minute = 600',
    '[[limit]]\nname = "org"\nspend_per_day = 5\n[[limit]]\nname = "s"\nspend_per_day = 50\nzone = "Asia/Tokyo"',
]  # fmt: skip


def said(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_text(text)
    return [each for each in config.warnings(config.load(path, KEY), KEY) if "mac_key_file" not in each]


@pytest.mark.parametrize(("text", "part"), DOUBTFUL, ids=range(len(DOUBTFUL)))
def test_doubtful(tmp_path, text, part):
    """It is one sentence, which says what would be right."""
    [warning] = said(tmp_path, text)
    assert part in warning


@pytest.mark.parametrize("text", MEANT, ids=range(len(MEANT)))
def test_meant(tmp_path, text):
    """It may well be meant."""
    assert said(tmp_path, text) == []


def test_equal_limits(tmp_path):
    """Of two that are the same, the later one is idle."""
    [warning] = said(tmp_path, f'[[limit]]\nname = "a"\n{RATE}[[limit]]\nname = "b"\n{RATE}')
    assert warning.startswith("limit[b]: can never bind, since a ")


@pytest.mark.parametrize(
    ("glob", "fits"),
    [
        ("*", True),
        ("claude-*", True),
        ("cl*", True),
        ("claude", False),
        ("claude-opus-5", True),
        ("[ck]laude-*", True),
        ("gpt*", False),
    ],
)
def test_models(glob, fits):
    """A pattern fits models if it fits one that begins as all do."""
    assert fits_models(glob) is fits


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("redis://h:1/0", "0"),
        ("redis://h:1", ""),
        ("unix:///run/redis.sock", ""),
        ("redis+sentinel://a:1,b:2/main/0", ""),
        ("rediss://h/x", "x"),
    ],
)
def test_database(url, database):
    """A socket's path names no database, nor does the name of a primary."""
    assert database_of(url) == database


def test_key_with_its_name(tmp_path):
    """A file that sets a variable is no key, and what is used instead is said."""
    (tmp_path / "key").write_text("ANTHROPIC_API_KEY=sk-1\n")
    (tmp_path / "key").chmod(0o600)
    environ = KEY | {"HEADRACE_UPSTREAM__API_KEY_FILE": str(tmp_path / "key")}
    settings = config.load(None, environ)
    [warning] = config.warnings(settings, environ)
    assert warning.endswith("key: has NAME= in front of the key; the key comes from ANTHROPIC_API_KEY")
    assert config.api_key(settings, environ) == "k"
